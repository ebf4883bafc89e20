//! Backup and restore with PostgreSQL's own tools, inside Jobs that run the source's image.

use serde::Deserialize;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{PostgreSql, PostgreSqlSession};
use crate::agent::swap::{Keystones, list};
use crate::agent::{AgentError, Backup, Filled, Manifest, Restore, Tools, checksum, kept_password, remove, tool, write_durably};
use crate::engine::Session;

/// Where the replica's password is kept, inside the data directory so that it goes where the data goes.
pub(super) const PASSFILE: &str = "understudy.pgpass";
/// Settings besides those that name the source, whatever the source's own configuration says of them: a standby goes along when its source is promoted, and
/// answers queries. Of no matter to a server that is no standby.
pub(super) const FOLLOWING: [(&str, &str); 2] = [("recovery_target_timeline", "latest"), ("hot_standby", "on")];

/// What a server makes of itself has lower numbers (`FirstNormalObjectId`, access/transam.h); the files of a table are called by one.
const FIRST_NORMAL: u32 = 16_384;
/// The file of the table of large objects, in every database (`LargeObjectRelationId`, `pg_largeobject.h`).
const LARGE_OBJECTS: &str = "2613";

/// The part of pg_basebackup's own manifest that says where the backup is consistent.
#[derive(Deserialize)]
struct BackupManifest {
    #[serde(rename = "WAL-Ranges")]
    wal_ranges: Vec<WalRange>,
}

#[derive(Deserialize)]
struct WalRange {
    #[serde(rename = "End-LSN")]
    end: String,
}

impl Tools for PostgreSql {
    /// The log that is written meanwhile, in segments of 16 MiB by default.
    const BACKUP_EXTRA: u64 = 32 << 20;
    const SEEDS: bool = true;
    // The entrypoint looks for it, and the server reads it before anything else; initdb refuses a directory that is not empty.
    const KEYSTONES: Keystones = Keystones { named: &["PG_VERSION"], every_name: false };
    const SIGN: Option<&'static str> = Some("PG_VERSION");

    async fn fill(request: &Backup, mut session: PostgreSqlSession, password: &str, partial: &Path) -> Result<Filled, AgentError> {
        let version = session.observe_source(Some(&request.identity)).await?.version;
        let programs = session.program_directory().await.map(PathBuf::from);
        drop(session);
        let role = request.identity.role();
        let passfile = partial.join("pgpass");
        write_durably(&passfile, 0o600, passfile_line(&request.host, request.port, &role, password).as_bytes())?;
        let conninfo = conninfo(&[
            ("host", &request.host),
            ("port", &request.port.to_string()),
            ("user", &role),
            ("passfile", &passfile.to_string_lossy()),
            ("application_name", "understudy_backup"),
            // A source whose node is gone says nothing more: without these the tool would wait for hours.
            ("keepalives_idle", "30"),
            ("keepalives_interval", "10"),
            ("keepalives_count", "3"),
        ]);
        let data = partial.join("data");
        let directory = data.to_string_lossy();
        let arguments = [
            &["--pgdata", &directory, "--format", "plain", "--wal-method", "stream", "--checkpoint", "fast", "--manifest-checksums", "SHA256"][..],
            // Synchronised at once, instead of file by file.
            &["--no-sync", "--no-password", "--label", &request.directory, "--dbname", &conninfo],
        ];
        tool::run(programs.as_deref(), "pg_basebackup", &arguments.concat()).await?;
        tool::run(programs.as_deref(), "pg_verifybackup", &["--quiet", &directory]).await?;
        fs::remove_file(&passfile).map_err(AgentError::file("removing", &passfile))?;
        describe(&data, version)
    }

    async fn become_replica(request: &Restore, manifest: &Manifest) -> Result<(), AgentError> {
        let data = &request.data_directory;
        // The server has no use for the list of files; before it goes, it shows that this is the backup that the manifest means.
        let list = data.join("backup_manifest");
        if checksum(&fs::read(&list).map_err(AgentError::file("reading", &list))?) != manifest.checksum {
            return Err(AgentError::Refused(format!("{} is not what was verified when the backup was taken", list.display())));
        }
        fs::remove_file(&list).map_err(AgentError::file("removing", &list))?;
        let password = kept_password(&request.volume, &request.identity)?;
        let line = passfile_line(&request.primary_host, request.primary_port, &request.identity.role(), &password);
        write_durably(&data.join(PASSFILE), 0o600, line.as_bytes())?;
        let auto = data.join("postgresql.auto.conf");
        let append = || fs::OpenOptions::new().append(true).create(true).open(&auto)?.write_all(standby_settings(request).as_bytes());
        append().map_err(AgentError::file("writing", &auto))?;
        write_durably(&data.join("standby.signal"), 0o600, b"")
    }

    fn is_empty(data: &Path) -> Result<bool, AgentError> {
        // A server that has not ended by itself may have the last in its log only; elsewhere there are only tables.
        if data.join("postmaster.pid").exists() || !list(&data.join("pg_tblspc"))?.is_empty() {
            return Ok(false);
        }
        for database in list(&data.join("base"))? {
            let directory = data.join("base").join(database);
            for name in list(&directory)? {
                let number: String = name.chars().take_while(char::is_ascii_digit).collect();
                let path = directory.join(&name);
                let length = || fs::metadata(&path).map(|metadata| metadata.len()).map_err(AgentError::file("looking at", &path));
                if number.parse().is_ok_and(|number: u32| number >= FIRST_NORMAL) || name == LARGE_OBJECTS && length()? > 0 {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn guard(data: &Path, released: bool) -> Result<(), AgentError> {
        for name in ["PG_VERSION", "standby.signal"].into_iter().take(if released { 1 } else { 2 }) {
            if !data.join(name).exists() {
                return Err(AgentError::Refused(format!("{} has no {name}: a server started here would take writes", data.display())));
            }
        }
        // With an fsGroup every mount opens all files to the group: then the server does not start, and the password file is ignored.
        keep_private(data, 0o700, 0o027)?;
        keep_private(&data.join(PASSFILE), 0o600, 0o077)
    }

    fn prepare_swap(_staged: &Path, _data: &Path, _names: &BTreeSet<String>) -> Result<(), AgentError> {
        // What makes a standby lies in its data directory.
        Ok(())
    }

    fn release(_data: &Path) -> Result<(), AgentError> {
        // What makes a standby its server takes back itself.
        Ok(())
    }

    fn clear(data: &Path) -> Result<(), AgentError> {
        remove(&data.join(PASSFILE))
    }
}

/// Sets a mode if any of the bits `never` is set.
fn keep_private(path: &Path, mode: u32, never: u32) -> Result<(), AgentError> {
    let found = fs::metadata(path).map_err(AgentError::file("looking at", path))?.permissions().mode();
    if found & never == 0 {
        return Ok(());
    }
    match fs::set_permissions(path, fs::Permissions::from_mode(mode)) {
        // The directory is not ours where it is the mount point itself: there the image's entrypoint sets it.
        Err(error) if path.is_dir() => tracing::warn!(%error, "the mode of the data directory stays"),
        done => done.map_err(AgentError::file("setting the mode of", path))?,
    }
    Ok(())
}

/// A line of a password file (manual, "The Password File"): `:` and `\` are escaped.
fn passfile_line(host: &str, port: u16, user: &str, password: &str) -> String {
    let escape = |text: &str| text.replace('\\', r"\\").replace(':', r"\:");
    format!("{}:{port}:*:{}:{}\n", escape(host), escape(user), escape(password))
}

/// A connection string (manual, "Connection Strings"): values in single quotes.
fn conninfo(values: &[(&str, &str)]) -> String {
    let quote = |value: &str| value.replace('\\', r"\\").replace('\'', r"\'");
    values.iter().map(|(key, value)| format!("{key}='{}'", quote(value))).collect::<Vec<_>>().join(" ")
}

/// What the tool's own manifest says of a verified backup.
fn describe(data: &Path, version: String) -> Result<Filled, AgentError> {
    let path = data.join("backup_manifest");
    let text = fs::read(&path).map_err(AgentError::file("reading", &path))?;
    let own: BackupManifest = serde_json::from_slice(&text).map_err(|error| AgentError::Refused(format!("{}: {error}", path.display())))?;
    let position = own.wal_ranges.last().map(|range| range.end.clone());
    let position = position.ok_or_else(|| AgentError::Refused(format!("{} names no position", path.display())))?;
    Ok(Filled { version, position, checksum: checksum(&text), note: None })
}

/// The settings of a standby, appended to postgresql.auto.conf: the last value of a setting counts.
fn standby_settings(request: &Restore) -> String {
    let conninfo = conninfo(&[
        ("host", &request.primary_host),
        ("port", &request.primary_port.to_string()),
        ("user", &request.identity.role()),
        ("passfile", &request.served_at().join(PASSFILE).to_string_lossy()),
        ("application_name", &request.name),
        ("sslmode", "prefer"),
    ]);
    let slot = request.identity.slot(request.replica);
    let source = [("primary_conninfo", conninfo.as_str()), ("primary_slot_name", &slot)];
    // In the configuration file a backslash begins an escape, and a quote is doubled (manual, "Parameter Names and Values").
    let quote = |value: &str| value.replace('\\', r"\\").replace('\'', "''");
    let lines: Vec<String> = source.iter().chain(&FOLLOWING).map(|(name, value)| format!("{name} = '{}'\n", quote(value))).collect();
    format!("\n# Added by understudy: this directory is a standby.\n{}", lines.concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::EngineKind;
    use crate::engine::Identity;

    #[test]
    fn passwords_and_paths_survive_their_files() {
        assert_eq!(passfile_line("h", 5432, "u", r"a:b\c"), "h:5432:*:u:a\\:b\\\\c\n");
        assert_eq!(conninfo(&[("host", "it's"), ("x", r"a\b")]), r"host='it\'s' x='a\\b'");
    }

    #[test]
    fn a_directory_without_standby_signal_is_not_started() {
        let root = tempfile::tempdir().unwrap();
        let guard = || PostgreSql::guard(root.path(), false);
        fs::write(root.path().join(PASSFILE), "").unwrap();
        fs::write(root.path().join("PG_VERSION"), "17").unwrap();
        assert!(guard().is_err());
        fs::write(root.path().join("standby.signal"), "").unwrap();
        assert!(guard().is_ok());
        fs::remove_file(root.path().join("PG_VERSION")).unwrap();
        assert!(guard().is_err());
    }

    #[test]
    fn what_a_mount_opened_to_the_group_is_closed_again() {
        let root = tempfile::tempdir().unwrap();
        for name in [PASSFILE, "PG_VERSION", "standby.signal"] {
            fs::write(root.path().join(name), "").unwrap();
        }
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        set(root.path(), 0o2770);
        set(&root.path().join(PASSFILE), 0o660);
        PostgreSql::guard(root.path(), false).unwrap();
        assert_eq!((mode(root.path()), mode(&root.path().join(PASSFILE))), (0o700, 0o600));
        set(root.path(), 0o750);
        PostgreSql::guard(root.path(), false).unwrap();
        assert_eq!(mode(root.path()), 0o750, "the server takes this one");
    }

    #[test]
    fn settings_of_a_standby_survive_the_configuration_file() {
        let request = Restore {
            common: crate::agent::Common { engine: EngineKind::PostgreSQL, termination_message: "none".into() },
            volume: "backup".into(),
            directory: "k3x9q2ab-1".into(),
            data_directory: "/staged".into(),
            final_directory: Some(r"/it's a\directory".into()),
            identity: Identity::parse("k3x9q2ab").unwrap(),
            replica: 1,
            name: "orders-replica-1".into(),
            primary_host: "orders-primary".into(),
            primary_port: 5432,
        };
        let text = standby_settings(&request);
        assert!(text.contains(r"passfile=''/it\\''s a\\\\directory/understudy.pgpass''"), "where the server will find it: {text}");
        assert!(text.contains("primary_slot_name = 'understudy_k3x9q2ab_1'"), "{text}");
    }
}
