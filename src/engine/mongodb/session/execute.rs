//! Executes steps on a source. Each may be repeated.

use mongodb::bson::{Bson, Document, doc};

use super::super::plan::Step;
use super::{MongoSession, answer, sorted};
use crate::engine::{Position, SessionError};

/// Of a configuration that was changed a moment ago, and has not reached the majority yet (`CurrentConfigNotCommittedYet`, `ConfigurationInProgress`).
const TOO_EARLY: [i32; 2] = [308, 109];
/// `AlreadyInitialized`.
const INITIATED: i32 = 23;
/// A role or a privilege that is there already (`Location51002`), or no longer (`RoleNotFound`).
const ROLE_EXISTS: i32 = 51_002;
const ROLE_NOT_FOUND: i32 = 31;

/// Priority of the source: where it can take the writes, it does.
const PREFERRED: i32 = 2;

fn failed(doing: &str, message: &str) -> SessionError {
    SessionError::Failed { doing: doing.to_owned(), message: message.to_owned() }
}

/// See [`crate::engine::Session::execute`].
pub async fn execute(session: &mut MongoSession, step: &Step) -> Result<(), SessionError> {
    let doing = &step.to_string();
    match step {
        Step::Initiate { set, host } => initiate(session, doing, set, host).await,
        Step::Add { id, host } => {
            let member = doc! {"_id": *id, "host": host.clone(), "votes": 0, "priority": 0};
            let add = |members: &mut Vec<Document>| {
                if !members.iter().any(|member| is(member, *id)) {
                    members.push(member);
                }
            };
            reconfigure(session, doing, false, add).await
        }
        Step::Raise { id } => vote(session, doing, *id, 1).await,
        Step::Lower { id } => vote(session, doing, *id, 0).await,
        Step::Remove { id } => reconfigure(session, doing, false, |members| members.retain(|member| !is(member, *id))).await,
        Step::Reclaim => reconfigure(session, doing, true, |members| members.retain(|member| is(member, 0))).await,
        Step::LookAgain => reconfigure(session, doing, true, |_| {}).await,
        Step::ClearLocal { role } => clear_local(session, doing, role).await,
    }
}

/// A member by its number, of whichever width.
fn is(member: &Document, id: u32) -> bool {
    match member.get("_id") {
        Some(Bson::Int32(found)) => u32::try_from(*found) == Ok(id),
        Some(Bson::Int64(found)) => u32::try_from(*found) == Ok(id),
        #[expect(clippy::float_cmp, reason = "small whole numbers")]
        Some(Bson::Double(found)) => *found == f64::from(id),
        _ => false,
    }
}

async fn initiate(session: &MongoSession, doing: &str, set: &str, host: &str) -> Result<(), SessionError> {
    let configuration = doc! {"_id": set, "members": [{"_id": 0, "host": host, "priority": PREFERRED}]};
    match session.try_run("admin", doc! {"replSetInitiate": configuration}).await? {
        Ok(_) => Ok(()),
        Err(error) if answer(&error).is_some_and(|(code, _)| code == INITIATED) => Ok(()),
        Err(error) => Err(sorted(&session.endpoint, doing, &error)),
    }
}

async fn vote(session: &MongoSession, doing: &str, id: u32, votes: i32) -> Result<(), SessionError> {
    let change = |members: &mut Vec<Document>| {
        for member in members.iter_mut().filter(|member| is(member, id)) {
            member.insert("votes", votes);
            member.insert("priority", votes);
        }
    };
    reconfigure(session, doing, false, change).await
}

/// Reads the configuration, changes its members, and gives it to the server with the next version. A change that comes too early is not made: the next look
/// finds that it is still wanted.
async fn reconfigure(session: &MongoSession, doing: &str, force: bool, change: impl FnOnce(&mut Vec<Document>)) -> Result<(), SessionError> {
    let answered = session.run("admin", doing, doc! {"replSetGetConfig": 1}).await?;
    let mut configuration = answered.get_document("config").map_err(|error| failed(doing, &error.to_string()))?.clone();
    let mut members: Vec<Document> = configuration.get_array("members").into_iter().flatten().filter_map(|member| member.as_document().cloned()).collect();
    let before = members.clone();
    change(&mut members);
    if members == before && !force {
        return Ok(());
    }
    let version = match configuration.get("version") {
        Some(Bson::Int64(version)) => *version,
        Some(Bson::Int32(version)) => i64::from(*version),
        _ => return Err(failed(doing, "the configuration has no version")),
    };
    configuration.insert("version", version + 1);
    configuration.insert("members", members);
    match session.try_run("admin", doc! {"replSetReconfig": configuration, "force": force}).await? {
        Ok(_) => Ok(()),
        Err(error) if answer(&error).is_some_and(|(code, _)| TOO_EARLY.contains(&code)) => Ok(()),
        Err(error) => Err(sorted(&session.endpoint, doing, &error)),
    }
}

/// Runs a command whose work may be done already, which the server says with this code.
async fn unless(session: &MongoSession, doing: &str, done: i32, command: Document) -> Result<(), SessionError> {
    match session.try_run("admin", command).await? {
        Err(error) if answer(&error).is_none_or(|(code, _)| code != done) => Err(sorted(&session.endpoint, doing, &error)),
        _ => Ok(()),
    }
}

async fn clear_local(session: &MongoSession, doing: &str, role: &str) -> Result<(), SessionError> {
    let database = &session.endpoint.database;
    let login = !session.endpoint.password.is_empty();
    if login {
        // No built-in role allows this (manual, "Built-In Roles"): root neither. The name is that of the enabling, so that a crash leaves nothing unknown.
        let privilege = doc! {"resource": {"db": "local", "collection": ""}, "actions": ["dropDatabase"]};
        unless(session, doing, ROLE_EXISTS, doc! {"createRole": role, "privileges": [privilege], "roles": []}).await?;
        let granted = doc! {"grantRolesToUser": &session.endpoint.username, "roles": [{"role": role, "db": "admin"}]};
        session.run(database, doing, granted).await?;
    }
    session.run("local", doing, doc! {"dropDatabase": 1}).await?;
    if login {
        // Takes it off every user that has it, too.
        unless(session, doing, ROLE_NOT_FOUND, doc! {"dropRole": role}).await?;
    }
    Ok(())
}

/// See [`crate::engine::Session::write_mark`]: a note in the oplog, which no client sees.
pub async fn mark(session: &mut MongoSession) -> Result<Position, SessionError> {
    let doing = "writing a mark";
    session.run("admin", doing, doc! {"appendOplogNote": 1, "data": {"understudy": "mark"}}).await?;
    // Asked after it: at or behind the note.
    let status = session.run("admin", doing, doc! {"hello": 1}).await?;
    let written = status.get_document("lastWrite").and_then(|last| last.get_document("opTime")).and_then(|optime| optime.get_timestamp("ts"));
    let written = written.map_err(|error| failed(doing, &error.to_string()))?;
    Ok(Position::Timestamp { seconds: written.time, increment: written.increment })
}
