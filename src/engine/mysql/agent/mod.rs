//! Backup with CLONE, or mysqldump where the source has none, and restore, by servers of our own inside Jobs that run the source's image.

mod dump;
mod pipe;
mod server;
mod settings;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::password::shortened;
use super::session::{MySqlSession, Row, literal};
use super::{MySql, SourceFacts};
use crate::agent::checksums::{FILES, check_files, list_files};
use crate::agent::swap::{Keystones, list};
use crate::agent::{AgentError, Backup, Filled, Manifest, Restore, Tools, blocking, checksum, kept_password, write_durably};
use crate::engine::{Position, Session, TransactionSet};
use crate::resources::format_bytes;
use server::{Purpose, Server};
use settings::Settings;
pub(super) use settings::{LAST, persists};

/// Directories of databases that the server makes itself (manual, "The MySQL Data Directory").
const SYSTEM: [&str; 3] = ["mysql", "performance_schema", "sys"];

/// What the restore has to know of the source, beside the data.
const SETTINGS: &str = "settings.json";
/// How often the progress of a copy is logged.
const PROGRESS: Duration = Duration::from_secs(5);
/// A copy may take as long as it takes, as long as it moves: a source whose node is gone says nothing more.
const STALLED: Duration = Duration::from_mins(15);

impl Tools for MySql {
    /// The server that receives the copy has a data directory of its own, and the log that is written meanwhile comes along.
    const BACKUP_EXTRA: u64 = 256 << 20;
    const SEEDS: bool = true;
    // The first is read before anything else, by the entrypoint's look at the configuration as well. Where what is persisted is not read, InnoDB refuses the
    // second before it changes anything; with mysql.ibd alone in its place it would first write to its logs. `--initialize` refuses a directory with a file.
    const KEYSTONES: Keystones = Keystones { named: &["mysqld-auto.cnf", "ibdata1"], every_name: false };
    const SIGN: Option<&'static str> = Some("mysql.ibd");

    async fn fill(request: &Backup, mut session: MySqlSession, password: &str, partial: &Path) -> Result<Filled, AgentError> {
        let mut facts = session.observe_source(Some(&request.identity)).await?;
        session.inspect_data(&mut facts).await?;
        refuse_what_is_lost(&facts)?;
        let settings = Settings::of(&facts);
        let data = partial.join("data");
        let refusal = session.clone_refusal().await?;
        if let Some(why) = &refusal {
            tracing::warn!(why, "CLONE can't be used: mysqldump is");
            dump::load(request, session, &facts, &settings, &data).await?;
        } else {
            drop(session);
            receive(request, &facts, &settings, shortened(password), partial, &data).await?;
        }
        let set = finish(&settings, &data).await?;
        if !set.reaches(&facts.position) {
            return Err(AgentError::Refused("the copy lacks transactions that the source had before it was taken".to_owned()));
        }
        let position = Self::format(&set);
        write_durably(&partial.join(SETTINGS), 0o600, &settings.to_json()?)?;
        let list = blocking({
            let data = data.clone();
            move || list_files(&data)
        })
        .await?;
        write_durably(&partial.join(FILES), 0o600, list.as_bytes())?;
        Ok(Filled { version: facts.version, position, checksum: checksum(list.as_bytes()), note: refusal.map(|why| format!("copied with mysqldump: {why}")) })
    }

    async fn become_replica(request: &Restore, manifest: &Manifest) -> Result<(), AgentError> {
        let data = request.data_directory.clone();
        let backup = request.volume.join(&request.directory);
        let path = backup.join(FILES);
        let list = fs::read_to_string(&path).map_err(AgentError::file("reading", &path))?;
        if checksum(list.as_bytes()) != manifest.checksum {
            return Err(AgentError::Refused(format!("{} is not what was verified when the backup was taken", path.display())));
        }
        tracing::info!("comparing with the checksums of the backup");
        blocking(move || check_files(&data, &list)).await?;
        let settings = Settings::read(&backup.join(SETTINGS))?;
        let password = kept_password(&request.volume, &request.identity)?;
        let purpose = Purpose::Replica { server_id: settings.replica_id(request), relay_log: settings.relay_log(&request.name) };
        let mut server = Server::start(&settings, &request.data_directory, &purpose).await?;
        let doing = "making a replica of the copy";
        for (sql, tolerated) in settings::replica_statements(request, &settings, shortened(&password)) {
            match server.session().rows(doing, &sql).await {
                Err(error) if tolerated => tracing::info!(%error, "not in this version"),
                other => drop(other?),
            }
        }
        server.stop().await?;
        let path = request.data_directory.join("mysqld-auto.cnf");
        let text = fs::read(&path).map_err(AgentError::file("reading", &path))?;
        let Some(tree) = serde_json::from_slice(&text).ok().and_then(settings::known_first) else {
            return Err(AgentError::Refused(format!("{} is written in a way that is not known here", path.display())));
        };
        write_durably(&path, 0o640, tree.to_string().as_bytes())?;
        remove_keys(&request.data_directory)?;
        Self::guard(&request.data_directory, false)
    }

    fn is_empty(data: &Path) -> Result<bool, AgentError> {
        for name in list(data)? {
            let path = data.join(&name);
            let theirs = if path.is_dir() {
                // An empty database is one of the image's.
                !SYSTEM.contains(&name.as_str()) && !name.starts_with("#innodb_") && list(&path)?.iter().any(|file| file != "db.opt")
            } else {
                Path::new(&name).extension().is_some_and(|extension| extension == "ibd") && name != "mysql.ibd"
            };
            if theirs {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn guard(data: &Path, released: bool) -> Result<(), AgentError> {
        let refuse = |why: &str| Err(AgentError::Refused(format!("{} {why}: a server started here would take writes", data.display())));
        if !data.join("mysql.ibd").exists() {
            return refuse("has no mysql.ibd");
        }
        if released {
            return Ok(());
        }
        let path = data.join("mysqld-auto.cnf");
        let Ok(text) = fs::read(&path) else { return refuse("has no mysqld-auto.cnf") };
        let persisted: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        if settings::persisted(&persisted, "super_read_only") != Some("ON") {
            return refuse("does not say super_read_only in mysqld-auto.cnf");
        }
        if settings::persisted(&persisted, "server_id").is_none() {
            return refuse("does not say server_id in mysqld-auto.cnf");
        }
        Ok(())
    }

    fn prepare_swap(_staged: &Path, _data: &Path, _names: &BTreeSet<String>) -> Result<(), AgentError> {
        // What makes a replica lies in its data directory.
        Ok(())
    }

    fn release(_data: &Path) -> Result<(), AgentError> {
        // What makes a replica its server takes back itself.
        Ok(())
    }

    fn clear(_data: &Path) -> Result<(), AgentError> {
        Ok(())
    }
}

/// A table that has been made since the preflight and would be copied empty.
fn refuse_what_is_lost(facts: &SourceFacts) -> Result<(), AgentError> {
    let findings = super::preflight::data(facts);
    let said: Vec<String> = findings.iter().map(|finding| format!("{} (what to do: {})", finding.message, finding.remedy)).collect();
    if said.is_empty() { Ok(()) } else { Err(AgentError::Refused(said.join("; "))) }
}

/// Has a server of our own clone the source into the directory `data`.
async fn receive(request: &Backup, facts: &SourceFacts, settings: &Settings, password: &str, partial: &Path, data: &Path) -> Result<(), AgentError> {
    let scratch = partial.join("scratch");
    server::initialize(settings, &scratch).await?;
    let mut server = Server::start(settings, &scratch, &Purpose::Clone { plugins: facts.plugin_libraries.clone() }).await?;
    let donor = format!("{}:{}", request.host, request.port);
    server.session().rows("naming the source", &format!("SET GLOBAL clone_valid_donor_list = {}", literal(&donor))).await?;
    let sql = format!(
        "CLONE INSTANCE FROM {}@{}:{} IDENTIFIED BY {} DATA DIRECTORY = {} REQUIRE {}",
        literal(&request.identity.role()),
        literal(&request.host),
        request.port,
        literal(password),
        literal(&data.to_string_lossy()),
        if settings.encrypted { "SSL" } else { "NO SSL" }
    );
    let mut onlooker = server.connect().await?;
    let (mut seen, mut moved) = (String::new(), Instant::now());
    let copied = {
        let copy = server.session().run("cloning the source", &sql);
        tokio::pin!(copy);
        loop {
            tokio::select! {
                done = &mut copy => break done,
                () = tokio::time::sleep(PROGRESS) => {
                    let now = progress(&mut onlooker).await;
                    if now != seen {
                        tracing::info!(progress = now, "cloning");
                        (seen, moved) = (now, Instant::now());
                    } else if moved.elapsed() > STALLED {
                        return Err(AgentError::Refused(format!("the copy has stood still for {} minutes: {seen}", STALLED.as_secs() / 60)));
                    }
                }
            }
        }
    };
    copied?;
    let end = progress(&mut onlooker).await;
    tracing::info!(progress = end, "cloned");
    // What it was made for lies beside its own data, and was synchronised before CLONE ended.
    server.abandon().await?;
    fs::remove_dir_all(&scratch).map_err(AgentError::file("removing", &scratch))
}

/// How far the copy is, as its recipient knows: a word for each stage that has begun.
async fn progress(session: &mut MySqlSession) -> String {
    let sql = "SELECT STAGE AS stage, STATE AS state, DATA AS data, ESTIMATE AS estimate FROM performance_schema.clone_progress WHERE STATE <> 'Not Started'";
    let rows = session.rows("asking for the progress", sql).await.unwrap_or_default();
    let bytes = |row: &Row, name: &str| format_bytes(row.word(name).parse().unwrap_or(0));
    let stage = |row: &Row| match row.word("state").as_str() {
        "In Progress" => format!("{} {} of {} ({} bytes)", row.word("stage"), bytes(row, "data"), bytes(row, "estimate"), row.word("data")),
        state => format!("{} {state}", row.word("stage")),
    };
    rows.iter().map(stage).collect::<Vec<_>>().join(", ").to_lowercase()
}

/// Starts the copy once, which ends its recovery, looks at every table, and gives the transactions that it holds.
async fn finish(settings: &Settings, data: &Path) -> Result<Position, AgentError> {
    let mut server = Server::start(settings, data, &Purpose::Finish).await?;
    let doing = "checking the copy";
    let executed = server.session().value(doing, "SELECT @@GLOBAL.gtid_executed").await?.unwrap_or_default();
    let Some(set) = TransactionSet::parse(&executed) else { return Err(AgentError::Refused(format!("the copy names no position: {executed}"))) };
    let tables = "SELECT CONCAT('`', REPLACE(TABLE_SCHEMA, '`', '``'), '`.`', REPLACE(TABLE_NAME, '`', '``'), '`') AS name FROM information_schema.TABLES \
        WHERE TABLE_TYPE = 'BASE TABLE' AND ENGINE = 'InnoDB' AND TABLE_SCHEMA NOT IN ('sys', 'information_schema', 'performance_schema')";
    let names: Vec<String> = server.session().rows(doing, tables).await?.iter().map(|row| row.word("name")).collect();
    for name in &names {
        // A row read has the tablespace opened, and its pages' checksums compared.
        server.session().rows(&format!("{doing}: {name}"), &format!("SELECT 1 FROM {name} LIMIT 1")).await?;
    }
    tracing::info!(tables = names.len(), "every table of the copy can be read");
    server.stop().await?;
    let own = data.join("auto.cnf");
    if own.exists() {
        // Every server that is made of the copy gets a UUID of its own.
        fs::remove_file(&own).map_err(AgentError::file("removing", &own))?;
    }
    remove_keys(data)?;
    Ok(Position::Transactions(set))
}

impl MySql {
    fn format(position: &Position) -> String {
        <Self as crate::engine::Engine>::format_position(position)
    }
}

/// Keys that a server of ours made for itself: a replica makes its own.
fn remove_keys(data: &Path) -> Result<(), AgentError> {
    for entry in fs::read_dir(data).map_err(AgentError::file("reading", data))? {
        let path = entry.map_err(AgentError::file("reading", data))?.path();
        if path.is_file() && path.extension().is_some_and(|extension| extension == "pem") {
            fs::remove_file(&path).map_err(AgentError::file("removing", &path))?;
        }
    }
    Ok(())
}

/// The directory of mysqld: below the source's, or else where programs are looked for.
fn programs(base_directory: &str) -> Option<PathBuf> {
    directory_of(base_directory, "mysqld")
}

fn directory_of(base_directory: &str, program: &str) -> Option<PathBuf> {
    let below = ["bin", "sbin", "libexec"].map(|name| Path::new(base_directory).join(name));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/usr/bin", "/usr/libexec"].map(PathBuf::from);
    below.into_iter().chain(std::env::split_paths(&path)).chain(usual).find(|directory| directory.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_whose_server_would_take_writes_is_not_started() {
        let root = tempfile::tempdir().unwrap();
        let guard = || MySql::guard(root.path(), false);
        let persist = |text: &str| fs::write(root.path().join("mysqld-auto.cnf"), text).unwrap();
        let sound =
            r#"{"Version": 2, "mysql_static_variables": {"server_id": {"Value": "77"}}, "mysql_dynamic_variables": {"super_read_only": {"Value": "ON"}}}"#;
        persist(sound);
        assert!(guard().is_err(), "without mysql.ibd the entrypoint makes a new database");
        fs::write(root.path().join("mysql.ibd"), "").unwrap();
        guard().unwrap();
        for broken in [sound.replace("ON", "OFF"), sound.replace("server_id", "other"), sound.replace("super_read_only", "read_only"), "{".to_owned()] {
            persist(&broken);
            assert!(guard().is_err(), "{broken}");
        }
        // As 8.0 writes it.
        persist(r#"{"Version": 1, "mysql_server": {"super_read_only": {"Value": "ON"}, "mysql_server_static_options": {"server_id": {"Value": "7"}}}}"#);
        guard().unwrap();
        fs::remove_file(root.path().join("mysqld-auto.cnf")).unwrap();
        assert!(guard().is_err());
    }

    #[test]
    fn a_table_made_since_the_preflight_is_not_copied_empty() {
        let facts = SourceFacts { other_tables: vec!["shop.log (MyISAM)".into()], other_tables_count: 1, ..SourceFacts::default() };
        assert!(refuse_what_is_lost(&facts).unwrap_err().to_string().contains("shop.log (MyISAM)"));
        refuse_what_is_lost(&SourceFacts::default()).unwrap();
    }
}
