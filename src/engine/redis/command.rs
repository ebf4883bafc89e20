//! How the source's container starts its server, and how a replica's is made to read what makes it a replica. Pure.

use k8s_openapi::api::core::v1::Container;

use super::agent::CONFIGURATION;
use crate::engine::Finding;
use crate::resources::Shape;

/// Programs that take the server's command line as one word of theirs: what is appended would not reach it.
const SHELLS: [&str; 5] = ["sh", "bash", "ash", "dash", "busybox"];

/// The official image's entrypoint, and the server, take a first argument that ends like this for a configuration file.
fn is_configuration(word: &str) -> bool {
    word.strip_suffix(".conf").is_some()
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// What a container starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// The server: what follows its name are its arguments.
    Server,
    /// The official image's entrypoint with these arguments: it puts the server's name before them.
    Arguments,
    /// Whatever the image does without arguments: of the official one, the server without any.
    Default,
    /// Something else.
    Unknown,
}

fn start(container: &Container) -> Start {
    let command = container.command.as_deref().unwrap_or_default();
    let words: Vec<&str> = command.iter().chain(container.args.iter().flatten()).map(String::as_str).collect();
    if let Some(server) = words.iter().position(|word| file_name(word) == "redis-server") {
        let shell = words.iter().take(server).any(|word| SHELLS.contains(&file_name(word)));
        return if shell { Start::Unknown } else { Start::Server };
    }
    // The entrypoint by name, or by the image's default.
    let words = match words.split_first() {
        Some((first, rest)) if file_name(first) == "docker-entrypoint.sh" => rest,
        _ if !command.is_empty() => return Start::Unknown,
        _ => words.as_slice(),
    };
    match words.first() {
        None if starts_by_variables(container) => Start::Unknown,
        None => Start::Default,
        Some(first) if first.starts_with('-') || is_configuration(first) => Start::Arguments,
        Some(_) => Start::Unknown,
    }
}

/// An image whose own scripts start the server, with what variables say: arguments would take the place of those scripts.
fn starts_by_variables(container: &Container) -> bool {
    let image = container.image.as_deref().unwrap_or_default();
    let told = |name: &str| name == "ALLOW_EMPTY_PASSWORD" || name.starts_with("REDIS_PASSWORD") || name.starts_with("REDIS_REPLICATION_");
    image.contains("bitnami") || container.env.iter().flatten().any(|variable| told(&variable.name))
}

/// The beginning of a command, as far as it can't hold a secret: the program, short options and paths.
fn beginning(words: &[&str]) -> String {
    let plain = |word: &str| word.starts_with('/') || word.starts_with('-') && !word.contains('=') && word.len() <= 3;
    let shown = words.iter().skip(1).take_while(|word| plain(word) && !word.contains(char::is_whitespace)).count() + 1;
    let mut text = words.get(..shown).unwrap_or_default().join(" ");
    let line = words.first().and_then(|first| first.split_once(char::is_whitespace));
    if let Some((program, _)) = line {
        program.clone_into(&mut text);
    }
    if shown < words.len() || line.is_some() {
        text.push_str(" …");
    }
    text
}

/// See [`crate::engine::Engine::preflight_shape`].
pub fn preflight(shape: &Shape) -> Vec<Finding> {
    let container = &shape.container;
    let words: Vec<&str> = container.command.iter().chain(&container.args).flatten().map(String::as_str).collect();
    let mut found = Vec::new();
    if start(container) == Start::Unknown {
        let image = container.image.as_deref().unwrap_or_default();
        let shown = if words.is_empty() { format!("what its image {image} does by default") } else { format!("`{}`", beginning(&words)) };
        found.push(Finding::new(
            "CommandNotUnderstood",
            format!("container {} starts {shown}: how to add to the server's arguments there cannot be told", container.name),
            r#"start the server itself, for example with args: ["redis-server", "/etc/redis/redis.conf"]; a password goes into that file or an ACL file"#,
        ));
    }
    let directory = format!("{}/", shape.data_directory.trim_end_matches('/'));
    if let Some(file) = words.iter().find(|word| word.starts_with(&directory) && is_configuration(word)) {
        found.push(Finding::new(
            "ConfigurationOnDataVolume",
            format!("the server's configuration {file} lies in its data directory, of which a replica gets the data only"),
            "mount the configuration from a ConfigMap or a Secret",
        ));
    }
    found
}

/// See [`crate::engine::Engine::target_arguments`].
pub fn arguments(data_directory: &str) -> Vec<String> {
    vec!["--include".to_owned(), format!("{}/{CONFIGURATION}", data_directory.trim_end_matches('/'))]
}

/// See [`crate::engine::Engine::adapt_replica`]: the last value of a setting counts, so ours comes last.
pub fn adapt(container: &mut Container, data_directory: &str) {
    let mut words = container.args.take().unwrap_or_default();
    if start(&Container { args: Some(words.clone()), ..container.clone() }) == Start::Default {
        words.push("redis-server".to_owned());
    }
    words.extend(arguments(data_directory));
    container.args = Some(words);
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{EnvVar, PodTemplateSpec, VolumeMount};

    fn container(command: &[&str], args: &[&str]) -> Container {
        let words = |words: &[&str]| (!words.is_empty()).then(|| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        Container { name: "redis".into(), image: Some("redis:8".into()), command: words(command), args: words(args), ..Container::default() }
    }

    fn reasons(container: Container) -> Vec<&'static str> {
        let shape = Shape { template: PodTemplateSpec::default(), container, mount: VolumeMount::default(), claim: None, data_directory: "/data".into() };
        preflight(&shape).iter().map(|finding| finding.reason).collect()
    }

    #[test]
    fn ours_comes_last_in_every_way_to_start_the_server() {
        let ours = ["--include", "/data/understudy.conf"];
        let table: [(&[&str], &[&str], &[&str]); 9] = [
            (&[], &[], &["redis-server"]),
            (&[], &["redis-server"], &["redis-server"]),
            (&[], &["redis-server", "/etc/redis.conf", "--appendonly", "yes"], &["redis-server", "/etc/redis.conf", "--appendonly", "yes"]),
            (&[], &["--requirepass", "$(PASSWORD)"], &["--requirepass", "$(PASSWORD)"]),
            (&[], &["/etc/redis.conf"], &["/etc/redis.conf"]),
            (&["redis-server"], &[], &[]),
            (&["/usr/local/bin/redis-server", "/etc/redis.conf"], &["--save", ""], &["--save", ""]),
            (&["docker-entrypoint.sh"], &[], &["redis-server"]),
            (&["tini", "--", "docker-entrypoint.sh"], &["redis-server", "--port", "7000"], &["redis-server", "--port", "7000"]),
        ];
        for (command, args, before) in table {
            let mut replica = container(command, args);
            assert_eq!(reasons(replica.clone()), Vec::<&str>::new(), "{command:?} {args:?}");
            adapt(&mut replica, "/data/");
            assert_eq!(replica.command, container(command, &[]).command, "the command stays");
            assert_eq!(replica.args.unwrap(), [before, &ours].concat(), "{command:?} {args:?}");
            assert_eq!(arguments("/data/"), ours, "and so of a target");
        }
    }

    #[test]
    fn a_command_that_is_not_understood_is_shown() {
        for (command, args) in [
            (&["sh", "-c", "exec redis-server --requirepass \"$P\""][..], &[][..]),
            (&["sh", "-c"], &["redis-server /etc/redis.conf"]),
            (&["/bin/bash"], &["-c", "/opt/bitnami/scripts/start-scripts/start-master.sh"]),
            (&["/bin/sh", "/scripts/start.sh"], &["redis-server"]),
            (&[], &["sh", "-c", "redis-server"]),
            (&["/start.sh"], &[]),
        ] {
            assert_eq!(reasons(container(command, args)), ["CommandNotUnderstood"], "{command:?} {args:?}");
        }
        let told = Container { env: Some(vec![EnvVar { name: "REDIS_PASSWORD".into(), ..EnvVar::default() }]), ..container(&[], &[]) };
        assert_eq!(reasons(told), ["CommandNotUnderstood"], "its image's scripts start it");
        assert_eq!(reasons(Container { image: Some("docker.io/bitnami/redis:7".into()), ..container(&[], &[]) }), ["CommandNotUnderstood"]);
    }

    #[test]
    fn what_may_be_a_secret_is_not_shown() {
        for (words, shown) in [
            (&["sh", "-c", "redis-server --requirepass secret"][..], "sh -c …"),
            (&["/bin/sh", "/start.sh", "secret"], "/bin/sh /start.sh …"),
            (&["/start.sh", "--password", "secret"], "/start.sh …"),
            (&["/start.sh", "-p=secret"], "/start.sh …"),
            (&["/start.sh"], "/start.sh"),
            (&["start --requirepass secret", "/x"], "start …"),
        ] {
            assert_eq!(beginning(words), shown);
        }
    }

    #[test]
    fn a_configuration_that_a_replica_would_lack_is_said() {
        assert_eq!(reasons(container(&[], &["redis-server", "/data/redis.conf"])), ["ConfigurationOnDataVolume"]);
        assert_eq!(reasons(container(&[], &["redis-server", "/database/redis.conf"])), Vec::<&str>::new());
    }
}
