//! A connection to one MongoDB server, and to no other of its set.

mod execute;
mod observe;
mod user_data;

use std::collections::BTreeSet;
use std::time::Duration;

use mongodb::bson::{Document, doc};
use mongodb::error::{Error, ErrorKind};
use mongodb::options::{AuthMechanism, ClientOptions, Credential, ServerAddress};
use mongodb::{Client, Database};

use super::facts::SourceFacts;
use super::plan::Step;
use crate::engine::{Endpoint, Identity, Key, Position, Progress, ReplicaSummary, Session, SessionError};

/// No answer within this time counts as unreachable.
const CONNECT: Duration = Duration::from_secs(3);
/// How long an answer may take.
const STATEMENT: Duration = Duration::from_secs(10);

/// Codes of a server that starts, stops, elects or copies: they say nothing about the request (manual, "Error Codes").
const PASSING: [i32; 8] = [91, 94, 189, 10107, 11600, 11602, 13435, 13436];

/// What is said of a member that is not there yet.
const WAITS: &str = "it waits to be added to the replica set";

fn copies(progress: Option<Progress>) -> String {
    let far = progress.and_then(Progress::words).map(|words| format!(", {words}")).unwrap_or_default();
    format!("it copies everything from the source (initial sync{far})")
}

/// `Unauthorized`.
const UNAUTHORIZED: i32 = 13;

/// A connection as the administrator, or of a member to another one. It ends with this value.
pub struct MongoSession {
    client: Client,
    endpoint: Endpoint,
}

/// The code and the words of an error that the server answered.
fn answer(error: &Error) -> Option<(i32, &str)> {
    match error.kind.as_ref() {
        ErrorKind::Command(command) => Some((command.code, &command.message)),
        _ => None,
    }
}

/// Sorts an error: no connection, a login that will not do, or a request that failed.
fn sorted(endpoint: &Endpoint, doing: &str, error: &Error) -> SessionError {
    let at = |message: &str| SessionError::Unreachable(format!("{}:{}: {message}", endpoint.host, endpoint.port));
    match (answer(error), error.kind.as_ref()) {
        (Some((code, message)), _) if PASSING.contains(&code) => at(message),
        // Nobody who has logged in: the server wants a login, and the credentials have none.
        (Some((UNAUTHORIZED, message)), _) if endpoint.password.is_empty() => SessionError::Refused(message.to_owned()),
        (Some((_, message)), _) => SessionError::Failed { doing: doing.to_owned(), message: message.to_owned() },
        (None, ErrorKind::Authentication { message, .. }) => SessionError::Refused(message.clone()),
        (None, ErrorKind::ServerSelection { .. }) => at(innermost(&error.to_string())),
        (None, _) => at(&error.to_string()),
    }
}

/// What the driver found when it looked for the server, out of its description of all that it knows.
fn innermost(message: &str) -> &str {
    message.split_once("Error: ").map_or("no answer", |(_, rest)| rest.split(" }").next().unwrap_or(rest).trim_start_matches("Kind: "))
}

/// The administrator; nobody where there is no login.
fn administrator(endpoint: &Endpoint) -> Option<Credential> {
    let Endpoint { username, password, database, .. } = endpoint.clone();
    (!password.is_empty()).then(|| Credential::builder().username(username).password(password).source(database).build())
}

/// Who members are to each other: known to every server with the key file, without a database of users. It may do everything.
fn member(key: &Key) -> Credential {
    let credential = Credential::builder().username("__system".to_owned()).password(key.secret().to_owned()).source("local".to_owned());
    credential.mechanism(AuthMechanism::ScramSha256).build()
}

impl MongoSession {
    fn options(endpoint: &Endpoint, credential: Option<Credential>) -> ClientOptions {
        let host = ServerAddress::Tcp { host: endpoint.host.clone(), port: Some(endpoint.port) };
        let mut options = ClientOptions::builder().hosts(vec![host]).build();
        options.direct_connection = Some(true);
        options.app_name = Some("understudy".to_owned());
        options.server_selection_timeout = Some(CONNECT);
        options.connect_timeout = Some(CONNECT);
        options.max_pool_size = Some(1);
        options.retry_reads = Some(false);
        options.retry_writes = Some(false);
        options.credential = credential;
        options
    }

    fn new(endpoint: &Endpoint, credential: Option<Credential>) -> Result<Self, SessionError> {
        let client = Client::with_options(Self::options(endpoint, credential)).map_err(|error| sorted(endpoint, "connecting", &error))?;
        Ok(Self { client, endpoint: endpoint.clone() })
    }

    async fn log_in(endpoint: &Endpoint, credential: Option<Credential>) -> Result<Self, SessionError> {
        let session = Self::new(endpoint, credential)?;
        let connected = tokio::time::timeout(CONNECT * 2, session.run("admin", "connecting", doc! {"ping": 1})).await;
        match connected.unwrap_or_else(|_| Err(SessionError::Unreachable(format!("{}:{}: no answer", endpoint.host, endpoint.port)))) {
            Ok(_) => Ok(session),
            Err(SessionError::Failed { message, .. }) => Err(SessionError::Refused(message)),
            Err(other) => Err(other),
        }
    }

    /// Runs a command on a database.
    async fn run(&self, database: &str, doing: &str, command: Document) -> Result<Document, SessionError> {
        self.try_run(database, command).await?.map_err(|error| sorted(&self.endpoint, doing, &error))
    }

    /// Runs a command; what the server answers may be an error, which is not sorted yet.
    async fn try_run(&self, database: &str, command: Document) -> Result<Result<Document, Error>, SessionError> {
        let database: Database = self.client.database(database);
        let answered = tokio::time::timeout(STATEMENT, database.run_command(command)).await;
        answered.map_err(|_| SessionError::Unreachable(format!("{}:{}: no answer in {} s", self.endpoint.host, self.endpoint.port, STATEMENT.as_secs())))
    }
}

/// What a server that refuses a login tells anybody: it waits to be added to a set, or it is a member that copies the users, or can't read them.
enum Unfinished {
    Waits,
    Copies,
}

async fn unfinished(endpoint: &Endpoint) -> Option<Unfinished> {
    let hello = MongoSession::new(endpoint, None).ok()?.run("admin", "connecting", doc! {"hello": 1}).await.ok()?;
    let finished = hello.get_bool("isWritablePrimary").unwrap_or(true) || hello.get_bool("secondary").unwrap_or(false);
    let waits = hello.get_bool("isreplicaset").unwrap_or(false);
    (!finished).then_some(if waits { Unfinished::Waits } else { Unfinished::Copies })
}

impl Session for MongoSession {
    type SourceFacts = SourceFacts;
    type Step = Step;

    async fn connect(endpoint: &Endpoint) -> Result<Self, SessionError> {
        Self::connect_replica(endpoint, None).await
    }

    async fn connect_replica(endpoint: &Endpoint, key: Option<&Key>) -> Result<Self, SessionError> {
        let refused = match Self::log_in(endpoint, administrator(endpoint)).await {
            Err(refused @ SessionError::Refused(_)) => refused,
            other => return other,
        };
        let copying = || SessionError::Unreachable(copies(None));
        match (unfinished(endpoint).await, key) {
            (None, _) => Err(refused),
            (Some(Unfinished::Waits), _) => Err(SessionError::Unreachable(WAITS.to_owned())),
            (Some(Unfinished::Copies), None) => Err(copying()),
            (Some(Unfinished::Copies), Some(key)) => Self::log_in(endpoint, Some(member(key))).await.map_err(|_| copying()),
        }
    }

    async fn observe_source(&mut self, identity: Option<&Identity>) -> Result<SourceFacts, SessionError> {
        observe::source(self, identity).await
    }

    async fn identities(&mut self) -> Result<BTreeSet<Identity>, SessionError> {
        // Members have no users of ours.
        Ok(BTreeSet::new())
    }

    async fn measure(&mut self) -> Result<u64, SessionError> {
        observe::measure(self).await
    }

    async fn user_data(&mut self) -> Result<Vec<String>, SessionError> {
        user_data::find(self).await
    }

    async fn observe_replica(&mut self) -> Result<ReplicaSummary, SessionError> {
        observe::replica(self).await
    }

    async fn execute(&mut self, step: &Step) -> Result<(), SessionError> {
        execute::execute(self, step).await
    }

    async fn promote(&mut self) -> Result<(), SessionError> {
        let message = "who takes the writes, the members of a set elect: none is promoted from outside".to_owned();
        Err(SessionError::Failed { doing: "promoting the server".to_owned(), message })
    }

    async fn give_access(&mut self, _identity: &Identity, _password: &str) -> Result<(), SessionError> {
        // Members trust each other by the key file.
        Ok(())
    }

    async fn write_mark(&mut self) -> Result<Position, SessionError> {
        execute::mark(self).await
    }
}
