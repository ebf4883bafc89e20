//! Reads a server. Changes nothing.

use mongodb::bson::{Bson, Document, Timestamp, doc};
use mongodb::error::Error;

use super::super::facts::{Member, SourceFacts, Standing};
use super::{MongoSession, UNAUTHORIZED, WAITS, answer, copies, sorted};
use crate::engine::{Identity, Position, Progress, ReplicaSummary, SessionError};

/// `NotYetInitialized`: there is no configuration.
const NOT_INITIATED: i32 = 94;
/// `NoReplicationEnabled`: the server runs without `--replSet`.
const NO_REPLICATION: i32 = 76;
/// States as `myState` counts them (manual, "Replica Set Member States").
const PRIMARY: i64 = 1;
const SECONDARY: i64 = 2;
const RECOVERING: i64 = 3;
const STARTUP2: i64 = 5;
const REMOVED: i64 = 10;

/// What an administrator has to be allowed on the cluster, and on the database of users.
const ON_CLUSTER: [&str; 4] = ["replSetConfigure", "replSetGetStatus", "replSetGetConfig", "appendOplogNote"];
const ON_USERS: [&str; 3] = ["createRole", "grantRole", "dropRole"];

pub(super) fn text(document: &Document, key: &str) -> String {
    document.get_str(key).unwrap_or_default().to_owned()
}

/// A number, of whichever width.
pub(super) fn number(document: &Document, key: &str) -> i64 {
    match document.get(key) {
        Some(Bson::Int32(number)) => i64::from(*number),
        Some(Bson::Int64(number)) => *number,
        #[expect(clippy::cast_possible_truncation, reason = "the server counts in doubles here, far below their precision")]
        Some(Bson::Double(number)) => *number as i64,
        _ => 0,
    }
}

fn below<'a>(document: &'a Document, path: &[&str]) -> Option<&'a Document> {
    path.iter().try_fold(document, |document, key| document.get_document(key).ok())
}

fn time(timestamp: Timestamp) -> (u32, u32) {
    (timestamp.time, timestamp.increment)
}

/// The time of the last operation that a server has applied.
fn applied(status: &Document) -> (u32, u32) {
    below(status, &["optimes", "appliedOpTime"]).and_then(|optime| optime.get_timestamp("ts").ok()).map(time).unwrap_or_default()
}

/// What the server answers; none where it has no configuration, or no replication at all.
fn configured(session: &MongoSession, doing: &str, answered: Result<Document, Error>) -> Result<Option<Document>, SessionError> {
    match answered {
        Ok(document) => Ok(Some(document)),
        Err(error) => match answer(&error) {
            Some((NOT_INITIATED | NO_REPLICATION | UNAUTHORIZED, _)) => Ok(None),
            _ => Err(sorted(&session.endpoint, doing, &error)),
        },
    }
}

pub(super) fn documents<'a>(document: &'a Document, key: &str) -> impl Iterator<Item = &'a Document> {
    document.get_array(key).into_iter().flatten().filter_map(Bson::as_document)
}

/// The members of a configuration, with what the server knows of them.
fn members(configuration: Option<&Document>, status: Option<&Document>) -> Vec<Member> {
    let state = |id: i64| {
        let found = status.into_iter().flat_map(|status| documents(status, "members")).find(|member| number(member, "_id") == id);
        found.map(|member| text(member, "stateStr")).unwrap_or_default()
    };
    let all = configuration.into_iter().flat_map(|configuration| documents(configuration, "members"));
    all.filter_map(|member| {
        let id = number(member, "_id");
        Some(Member { id: u32::try_from(id).ok()?, host: text(member, "host"), votes: number(member, "votes") > 0, state: state(id) })
    })
    .collect()
}

/// What the user may not do, by the privileges that the server lists for the connection.
fn forbidden(privileges: &Document) -> Vec<String> {
    let listed: Vec<&Document> = documents(privileges, "authenticatedUserPrivileges").collect();
    let may = |on: &dyn Fn(&Document) -> bool, action: &str| {
        listed.iter().any(|privilege| {
            let Ok(resource) = privilege.get_document("resource") else { return false };
            let reaches = resource.get_bool("anyResource").unwrap_or(false) || on(resource);
            let mut actions = privilege.get_array("actions").into_iter().flatten().filter_map(Bson::as_str);
            reaches && actions.any(|found| found == action || found == "anyAction")
        })
    };
    let cluster = |resource: &Document| resource.get_bool("cluster").unwrap_or(false);
    let users = |resource: &Document| matches!(resource.get_str("db"), Ok("" | "admin")) && matches!(resource.get_str("collection"), Ok(""));
    let missing = ON_CLUSTER.iter().filter(|action| !may(&cluster, action)).chain(ON_USERS.iter().filter(|action| !may(&users, action)));
    missing.map(|action| (*action).to_owned()).collect()
}

/// What the user of this session lacks.
async fn privileges(session: &MongoSession, doing: &str) -> Result<Vec<String>, SessionError> {
    let status = session.run("admin", doing, doc! {"connectionStatus": 1, "showPrivileges": true}).await?;
    Ok(forbidden(&below(&status, &["authInfo"]).cloned().unwrap_or_default()))
}

/// See [`crate::engine::Session::observe_source`].
pub async fn source(session: &mut MongoSession, identity: Option<&Identity>) -> Result<SourceFacts, SessionError> {
    let doing = "reading the server's state";
    let hello = session.run("admin", doing, doc! {"hello": 1}).await?;
    let build = session.run("admin", doing, doc! {"buildInfo": 1}).await?;
    let user = if session.endpoint.password.is_empty() { String::new() } else { session.endpoint.username.clone() };
    let options = match session.try_run("admin", doc! {"getCmdLineOpts": 1}).await? {
        Err(error) if !user.is_empty() && answer(&error).is_some_and(|(code, _)| code == UNAUTHORIZED) => {
            // What it does not tell, its other answers would not either.
            let forbidden = [vec!["getCmdLineOpts".to_owned()], privileges(session, doing).await?].concat();
            let leads = hello.get_bool("isWritablePrimary").unwrap_or(false);
            let set_name = hello.get_str("setName").ok().map(str::to_owned);
            let standing = if set_name.is_none() {
                Standing::Standalone
            } else if leads {
                Standing::Primary
            } else {
                Standing::Secondary
            };
            return Ok(SourceFacts { version: text(&build, "version"), standing, set_name, authorization: true, user, forbidden, ..SourceFacts::default() });
        }
        answered => answered.map_err(|error| sorted(&session.endpoint, doing, &error))?,
    };
    let parsed = below(&options, &["parsed"]).cloned().unwrap_or_default();
    let status = configured(session, doing, session.try_run("admin", doc! {"replSetGetStatus": 1}).await?)?;
    let set_name = below(&parsed, &["replication"]).and_then(|replication| replication.get_str("replSetName").or(replication.get_str("replSet")).ok());
    let standing = match (&status, set_name) {
        (_, None) => Standing::Standalone,
        // Who may not ask is told by `hello` at least.
        (_, Some(_)) if hello.get_bool("isWritablePrimary").unwrap_or(false) => Standing::Primary,
        (None, Some(_)) if hello.contains_key("setName") => Standing::Secondary,
        (None, Some(_)) => Standing::Uninitiated,
        // Elected, and not through with it.
        (Some(status), Some(_)) => match number(status, "myState") {
            SECONDARY => Standing::Secondary,
            REMOVED => Standing::Removed,
            _ => Standing::Other,
        },
    };
    let mut facts = SourceFacts {
        version: text(&build, "version"),
        standing,
        set_name: set_name.map(str::to_owned),
        sharded: text(&hello, "msg") == "isdbgrid" || below(&parsed, &["sharding"]).is_some_and(|sharding| sharding.contains_key("clusterRole")),
        data_directory: below(&parsed, &["storage"]).and_then(|storage| storage.get_str("dbPath").ok()).unwrap_or("/data/db").to_owned(),
        authorization: below(&parsed, &["security"])
            .is_some_and(|security| matches!(security.get_str("authorization"), Ok("enabled")) || security.contains_key("keyFile")),
        key_file: below(&parsed, &["security"]).and_then(|security| security.get_str("keyFile").ok()).map(str::to_owned),
        storage_engine: below(&parsed, &["storage"]).map(|storage| text(storage, "engine")).unwrap_or_default(),
        user,
        ..SourceFacts::default()
    };
    if standing == Standing::Uninitiated {
        return Ok(facts);
    }
    if facts.authorization {
        facts.forbidden = privileges(session, doing).await?;
    }
    if let (Some(status), false) = (&status, facts.forbidden.iter().any(|action| action == "replSetGetConfig")) {
        let configuration = session.run("admin", doing, doc! {"replSetGetConfig": 1}).await?;
        facts.members = members(below(&configuration, &["config"]), Some(status));
        facts.applied = applied(status);
        if !facts.forbidden.is_empty() {
            return Ok(facts);
        }
        let oldest = session.run("local", doing, doc! {"find": "oplog.rs", "sort": {"$natural": 1}, "limit": 1, "projection": {"ts": 1}}).await?;
        let first = below(&oldest, &["cursor"]).and_then(|cursor| documents(cursor, "firstBatch").next());
        facts.oldest = first.and_then(|entry| entry.get_timestamp("ts").ok()).map(time).unwrap_or_default();
    }
    if standing == Standing::Standalone && facts.forbidden.is_empty() {
        let found = session.run("local", doing, doc! {"find": "system.replset", "limit": 1}).await?;
        let left = below(&found, &["cursor"]).and_then(|cursor| documents(cursor, "firstBatch").next());
        facts.left = left.map(|configuration| text(configuration, "_id"));
        if let Some(identity) = identity.filter(|_| facts.authorization) {
            let roles = session.run("admin", doing, doc! {"rolesInfo": identity.role()}).await?;
            facts.role = documents(&roles, "roles").next().is_some();
        }
    }
    Ok(facts)
}

/// See [`crate::engine::Session::measure`]: what all databases take on disk.
pub async fn measure(session: &mut MongoSession) -> Result<u64, SessionError> {
    let listed = session.run("admin", "measuring the data", doc! {"listDatabases": 1, "nameOnly": false}).await?;
    Ok(u64::try_from(number(&listed, "totalSize")).unwrap_or_default())
}

/// See [`crate::engine::Session::observe_replica`].
pub async fn replica(session: &mut MongoSession) -> Result<ReplicaSummary, SessionError> {
    let doing = "reading the replica's state";
    let hello = session.run("admin", doing, doc! {"hello": 1}).await?;
    let status = configured(session, doing, session.try_run("admin", doc! {"replSetGetStatus": 1}).await?)?;
    Ok(replica_summary(&hello, status.as_ref()))
}

/// How far an initial sync is. The sizes are the source's, from when it began; until it has asked for them, nothing is known (manual, "replSetGetStatus").
fn progress(status: &Document) -> Option<Progress> {
    let sync = below(status, &["initialSyncStatus"])?;
    let bytes = |key: &str| u64::try_from(number(sync, key)).ok();
    Some(Progress { copied: bytes("approxTotalBytesCopied").unwrap_or_default(), total: bytes("approxTotalDataSize").filter(|total| *total > 0) })
}

fn replica_summary(hello: &Document, status: Option<&Document>) -> ReplicaSummary {
    let writable = hello.get_bool("isWritablePrimary").unwrap_or(false);
    let Some(status) = status else {
        let trouble = (!writable).then(|| WAITS.to_owned());
        return ReplicaSummary { read_only: !writable, trouble, ..ReplicaSummary::default() };
    };
    let state = number(status, "myState");
    let progress = progress(status).filter(|_| state == STARTUP2);
    let (seconds, increment) = applied(status);
    let applied = if seconds == 0 { Position::default() } else { Position::Timestamp { seconds, increment } };
    ReplicaSummary {
        read_only: !writable,
        leads: writable,
        streaming: state == PRIMARY || state == SECONDARY && !text(status, "syncSourceHost").is_empty(),
        received: applied.clone(),
        applied,
        records: None,
        copy_progress: progress,
        trouble: match state {
            PRIMARY | SECONDARY => None,
            RECOVERING => Some("it recovers, or is too far behind the source's oplog (RECOVERING)".to_owned()),
            STARTUP2 => Some(copies(progress)),
            REMOVED => Some("it is not a member of the replica set (REMOVED)".to_owned()),
            _ => Some(format!(
                "its state is {}",
                status
                    .get_array("members")
                    .into_iter()
                    .flatten()
                    .filter_map(Bson::as_document)
                    .find(|member| member.get_bool("self").unwrap_or(false))
                    .map_or_else(|| state.to_string(), |member| text(member, "stateStr"))
            )),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_told_from_what_was_elected_or_stands_alone() {
        let status =
            |state: i32, from: &str| doc! {"myState": state, "syncSourceHost": from, "optimes": {"appliedOpTime": {"ts": Timestamp { time: 7, increment: 2 }}}};
        let at = Position::Timestamp { seconds: 7, increment: 2 };
        let secondary = replica_summary(&doc! {"isWritablePrimary": false}, Some(&status(2, "h:1")));
        assert_eq!(
            secondary,
            ReplicaSummary { read_only: true, leads: false, streaming: true, applied: at.clone(), received: at, ..ReplicaSummary::default() }
        );
        assert!(!replica_summary(&doc! {"isWritablePrimary": false}, Some(&status(2, ""))).streaming, "it reads from nobody");
        let elected = replica_summary(&doc! {"isWritablePrimary": true}, Some(&status(1, "")));
        assert!(elected.leads && !elected.read_only);
        let alone = replica_summary(&doc! {"isWritablePrimary": true}, None);
        assert!(!alone.leads && !alone.read_only, "without a set nobody elected it");
        assert!(replica_summary(&doc! {"isWritablePrimary": false}, Some(&status(3, ""))).trouble.is_some_and(|trouble| trouble.contains("RECOVERING")));
        assert!(replica_summary(&doc! {"isWritablePrimary": false}, Some(&status(5, ""))).trouble.is_some_and(|trouble| trouble.contains("copies")));
        assert!(replica_summary(&doc! {}, None).trouble.is_some_and(|trouble| trouble.contains("waits")));
    }

    #[test]
    fn a_copy_has_progress_while_it_is_made() {
        let of = |state: i32, sync: Document| replica_summary(&doc! {"isWritablePrimary": false}, Some(&doc! {"myState": state, "initialSyncStatus": sync}));
        let sizes = doc! {"approxTotalBytesCopied": 450_i64 << 20, "approxTotalDataSize": 1_i64 << 30};
        let copying = of(5, sizes.clone());
        assert_eq!(copying.copy_progress, Some(Progress { copied: 450 << 20, total: Some(1 << 30) }));
        assert_eq!(copying.trouble.as_deref(), Some("it copies everything from the source (initial sync, 40 % of 1.0 GiB)"));
        assert_eq!(of(5, doc! {"failedInitialSyncAttempts": 0}).copy_progress, Some(Progress::default()), "it has not asked yet");
        assert_eq!(of(2, sizes).copy_progress, None, "what is left of a copy that was made");
    }

    #[test]
    fn privileges_count_where_they_reach() {
        let privilege = |resource: Document, actions: &[&str]| doc! {"resource": resource, "actions": actions};
        let all = [&ON_CLUSTER[..], &ON_USERS[..]].concat();
        let of = |privileges: Vec<Document>| forbidden(&doc! {"authenticatedUserPrivileges": privileges});
        assert_eq!(of(vec![]), all);
        assert_eq!(of(vec![privilege(doc! {"cluster": true}, &ON_CLUSTER), privilege(doc! {"db": "", "collection": ""}, &ON_USERS)]), [""; 0]);
        assert_eq!(of(vec![privilege(doc! {"cluster": true}, &all), privilege(doc! {"db": "shop", "collection": ""}, &all)]), ON_USERS);
        assert_eq!(of(vec![privilege(doc! {"anyResource": true}, &["anyAction"])]), [""; 0]);
    }

    #[test]
    fn members_are_read_with_what_is_known_of_them() {
        let configuration = doc! {"members": [{"_id": 0, "host": "a:1", "votes": 1}, {"_id": 1, "host": "b:1", "votes": 0_i64}]};
        let status = doc! {"members": [{"_id": 1, "stateStr": "SECONDARY"}]};
        let found = members(Some(&configuration), Some(&status));
        assert_eq!(found[0], Member { id: 0, host: "a:1".into(), votes: true, state: String::new() });
        assert_eq!(found[1], Member { id: 1, host: "b:1".into(), votes: false, state: "SECONDARY".into() });
    }
}
