//! Makes a stand-alone server of a standby of ours.

use std::time::Instant;

use super::super::agent::{FOLLOWING, PASSFILE};
use super::execute::{PATIENCE, PAUSE, failed, reload};
use super::{PostgreSqlSession, identifier, literal};
use crate::engine::{Identity, SessionError};

/// What ends the standby's settings: as long as one of them is ours, the others may be.
const TELLING: [&str; 2] = ["primary_slot_name", "primary_conninfo"];

/// See [`crate::engine::Session::promote`]. The server first: with its settings and without `standby.signal` it is no standby, and without them and with that
/// file it would be one that follows nobody.
pub async fn promote(session: &mut PostgreSqlSession) -> Result<(), SessionError> {
    let doing = "promoting the standby";
    let (standby, begun) = ("SELECT pg_is_in_recovery()", Instant::now());
    if session.value(doing, standby).await?.as_deref() == Some("t") {
        session.rows(doing, "SELECT pg_promote(wait => false)").await?;
    }
    while session.value(doing, standby).await?.as_deref() == Some("t") {
        if begun.elapsed() > PATIENCE {
            return Err(failed(doing, "it still applies what it has received; it is waited for again"));
        }
        tokio::time::sleep(PAUSE).await;
    }
    let doing = "taking back the settings of the standby";
    let names: Vec<String> = names().map(literal).collect();
    let list =
        format!("SELECT name, setting FROM pg_file_settings WHERE sourcefile LIKE '%/postgresql.auto.conf' AND name IN ({}) ORDER BY seqno", names.join(", "));
    let rows = session.rows(doing, &list).await?;
    let entries: Vec<(&str, &str)> = rows.iter().filter_map(|row| Some((row.get(0)?, row.get(1).unwrap_or_default()))).collect();
    let changes = taken_back(&entries);
    for (name, own) in &changes {
        let name = identifier(name);
        let sql = own.map_or_else(|| format!("ALTER SYSTEM RESET {name}"), |own| format!("ALTER SYSTEM SET {name} = {}", literal(own)));
        session.rows(doing, &sql).await?;
    }
    if changes.is_empty() { Ok(()) } else { reload(session, doing).await }
}

/// Settings that the restore writes, those that tell that it was one last.
fn names() -> impl Iterator<Item = &'static str> {
    FOLLOWING.iter().map(|(name, _)| *name).chain(TELLING)
}

/// Names the source as the restore does.
fn tells(name: &str, value: &str) -> bool {
    match name {
        "primary_conninfo" => value.contains(PASSFILE),
        "primary_slot_name" => value.rsplit_once('_').is_some_and(|(role, _)| Identity::of_role(role).is_some()),
        _ => false,
    }
}

/// From the entries of `postgresql.auto.conf` in their order, which settings are to have another value in it, or none: what the restore has added goes, and
/// what stood there before, of which the backup has brought a copy, counts again.
fn taken_back<'a>(entries: &[(&'a str, &'a str)]) -> Vec<(&'a str, Option<&'a str>)> {
    if !entries.iter().any(|(name, value)| tells(name, value)) {
        return Vec::new();
    }
    let change = |wanted: &str| {
        let values: Vec<_> = entries.iter().filter(|(name, _)| *name == wanted).collect();
        let ((name, value), before) = values.split_last()?;
        // ALTER SYSTEM leaves one entry: what comes last and is not ours was set since.
        let ours = tells(name, value) || FOLLOWING.contains(&(*name, *value));
        ours.then(|| (*name, before.iter().rfind(|(name, value)| !tells(name, value)).map(|(_, value)| *value)))
    };
    names().filter_map(change).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: [(&str, &str); 4] = [
        ("primary_conninfo", "host='h' passfile='/d/understudy.pgpass'"),
        ("primary_slot_name", "understudy_k3x9q2ab_1"),
        ("recovery_target_timeline", "latest"),
        ("hot_standby", "on"),
    ];

    #[test]
    fn what_the_restore_has_added_goes_and_tells_to_the_end_that_it_is_there() {
        let changes = taken_back(&OURS);
        assert_eq!(
            changes.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
            ["recovery_target_timeline", "hot_standby", "primary_slot_name", "primary_conninfo"]
        );
        assert!(changes.iter().all(|(_, own)| own.is_none()));
        // Cut off after each of them.
        for done in 1..=4 {
            let left: Vec<_> = OURS.into_iter().filter(|(name, _)| !changes[..done].iter().any(|(gone, _)| gone == name)).collect();
            assert_eq!(taken_back(&left), changes[done..]);
        }
    }

    #[test]
    fn what_the_source_had_set_counts_again() {
        let own = [("hot_standby", "off"), ("primary_conninfo", "host=old"), ("primary_slot_name", "old")];
        let changes = taken_back(&[&own[..], &OURS].concat());
        let wanted =
            [("recovery_target_timeline", None), ("hot_standby", Some("off")), ("primary_slot_name", Some("old")), ("primary_conninfo", Some("host=old"))];
        assert_eq!(changes, wanted);
        assert_eq!(taken_back(&own), [], "done is done");
        // A copy of a copy.
        assert_eq!(taken_back(&[OURS, OURS].concat()).iter().filter(|(name, own)| TELLING.contains(name) && own.is_some()).count(), 0);
    }

    #[test]
    fn what_was_set_since_is_not_ours() {
        let others = [("hot_standby", "on"), ("recovery_target_timeline", "latest"), ("primary_conninfo", "host=new"), ("primary_slot_name", "understudy_x_1")];
        assert_eq!(taken_back(&others), []);
        let mixed = [OURS[1], OURS[2], ("primary_conninfo", "host=new")];
        assert_eq!(taken_back(&mixed), [("recovery_target_timeline", None), ("primary_slot_name", None)]);
    }
}
