//! How the source's container starts its server: whether arguments can be added. Pure.

use k8s_openapi::api::core::v1::Container;

use crate::engine::Finding;
use crate::resources::Shape;

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// What is appended to the container's arguments reaches the server: it is started by its name, or by the official image's entrypoint, which puts its name
/// before arguments that begin with `-`.
fn understood(container: &Container) -> bool {
    let command: Vec<&str> = container.command.iter().flatten().map(String::as_str).collect();
    let arguments: Vec<&str> = container.args.iter().flatten().map(String::as_str).collect();
    let server = |words: &[&str]| words.first().is_some_and(|first| file_name(first) == "mongod");
    let options = |words: &[&str]| words.first().is_none_or(|first| first.starts_with('-'));
    match command.split_first() {
        // The image's own scripts start others, with what variables say.
        None => (server(&arguments) || options(&arguments)) && !container.image.as_deref().unwrap_or_default().contains("bitnami"),
        Some((first, _)) if file_name(first) == "mongod" => true,
        Some((first, rest)) if file_name(first) == "docker-entrypoint.sh" => {
            let words = [rest, &arguments].concat();
            server(&words) || options(&words)
        }
        Some(_) => false,
    }
}

/// See [`crate::engine::Engine::preflight_shape`].
pub fn preflight(shape: &Shape) -> Vec<Finding> {
    let container = &shape.container;
    if understood(container) {
        return Vec::new();
    }
    // No more is shown than the program's name: what follows may hold a secret.
    let program = container.command.iter().chain(&container.args).flatten().next().and_then(|word| word.split_whitespace().next()).map(file_name);
    let shown =
        program.map_or_else(|| format!("what its image {} does by default", container.image.as_deref().unwrap_or_default()), |word| format!("`{word} …`"));
    vec![Finding::new(
        "CommandNotUnderstood",
        format!("container {} starts {shown}: how to add to the server's arguments there cannot be told", container.name),
        r#"start the server itself, for example with args: ["mongod", "--config", "/etc/mongod.conf"]"#,
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(image: &str, command: &[&str], args: &[&str]) -> Container {
        let words = |words: &[&str]| (!words.is_empty()).then(|| words.iter().map(|word| (*word).to_owned()).collect());
        Container { name: "db".into(), image: Some(image.into()), command: words(command), args: words(args), ..Container::default() }
    }

    #[test]
    fn arguments_are_added_only_where_they_reach_the_server() {
        for (command, args) in [
            (&[][..], &[][..]),
            (&[], &["--auth"]),
            (&[], &["mongod", "--config", "/etc/mongod.conf"]),
            (&["mongod"], &["--auth"]),
            (&["/usr/bin/mongod", "--auth"], &[]),
            (&["docker-entrypoint.sh"], &["mongod"]),
            (&["/usr/local/bin/docker-entrypoint.sh", "--auth"], &[]),
        ] {
            assert!(understood(&container("mongo:6.0", command, args)), "{command:?} {args:?}");
        }
        for (command, args) in [
            (&["sh", "-c", "exec mongod --auth"][..], &[][..]),
            (&["sh", "-c"], &["mongod"]),
            (&[], &["sh", "-c", "mongod"]),
            (&["numactl", "--interleave=all"], &["mongod"]),
            (&["docker-entrypoint.sh"], &["sh"]),
        ] {
            assert!(!understood(&container("mongo:6.0", command, args)), "{command:?} {args:?}");
        }
        assert!(!understood(&container("docker.io/bitnami/mongodb:6.0", &[], &[])));
    }
}
