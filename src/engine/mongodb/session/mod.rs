//! A connection to one MongoDB server, and to no other of its set.

mod execute;
mod observe;
mod user_data;

use std::time::Duration;

use mongodb::bson::{Document, doc};
use mongodb::error::{Error, ErrorKind};
use mongodb::options::{ClientOptions, Credential, ServerAddress};
use mongodb::{Client, Database};

use super::facts::SourceFacts;
use super::plan::Step;
use crate::engine::{Endpoint, Identity, Position, ReplicaSummary, Session, SessionError};

/// No answer within this time counts as unreachable.
const CONNECT: Duration = Duration::from_secs(3);
/// How long an answer may take.
const STATEMENT: Duration = Duration::from_secs(10);

/// Codes of a server that starts, stops, elects or copies: they say nothing about the request (manual, "Error Codes").
const PASSING: [i32; 8] = [91, 94, 189, 10107, 11600, 11602, 13435, 13436];

/// What is said of a member that is not there yet.
const WAITS: &str = "it waits to be added to the replica set";
const COPIES: &str = "it copies everything from the source (initial sync)";

/// `Unauthorized`.
const UNAUTHORIZED: i32 = 13;

/// A connection as the administrator. It ends with this value.
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

impl MongoSession {
    fn options(endpoint: &Endpoint, login: bool) -> ClientOptions {
        let host = ServerAddress::Tcp { host: endpoint.host.clone(), port: Some(endpoint.port) };
        let mut options = ClientOptions::builder().hosts(vec![host]).build();
        options.direct_connection = Some(true);
        options.app_name = Some("understudy".to_owned());
        options.server_selection_timeout = Some(CONNECT);
        options.connect_timeout = Some(CONNECT);
        options.max_pool_size = Some(1);
        options.retry_reads = Some(false);
        options.retry_writes = Some(false);
        if login && !endpoint.password.is_empty() {
            let credential = Credential::builder().username(endpoint.username.clone()).password(endpoint.password.clone()).source(endpoint.database.clone());
            options.credential = Some(credential.build());
        }
        options
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

/// Why a login is refused by a server that has no users yet, or can't read them: it is a member that still copies, or waits to be added.
async fn explain(endpoint: &Endpoint, refused: SessionError) -> SessionError {
    let Ok(client) = Client::with_options(MongoSession::options(endpoint, false)) else { return refused };
    let session = MongoSession { client, endpoint: endpoint.clone() };
    match session.run("admin", "connecting", doc! {"hello": 1}).await {
        Ok(hello) if !hello.get_bool("isWritablePrimary").unwrap_or(true) && !hello.get_bool("secondary").unwrap_or(false) => {
            let waits = hello.get_bool("isreplicaset").unwrap_or(false);
            let why = if waits { WAITS } else { COPIES };
            SessionError::Unreachable(why.to_owned())
        }
        _ => refused,
    }
}

impl Session for MongoSession {
    type SourceFacts = SourceFacts;
    type Step = Step;

    async fn connect(endpoint: &Endpoint) -> Result<Self, SessionError> {
        let doing = "connecting";
        let client = Client::with_options(Self::options(endpoint, true)).map_err(|error| sorted(endpoint, doing, &error))?;
        let session = Self { client, endpoint: endpoint.clone() };
        let connected = tokio::time::timeout(CONNECT * 2, session.run("admin", doing, doc! {"ping": 1})).await;
        match connected.unwrap_or_else(|_| Err(SessionError::Unreachable(format!("{}:{}: no answer", endpoint.host, endpoint.port)))) {
            Ok(_) => Ok(session),
            Err(SessionError::Refused(why)) => Err(explain(endpoint, SessionError::Refused(why)).await),
            Err(SessionError::Failed { message, .. }) => Err(SessionError::Refused(message)),
            Err(other) => Err(other),
        }
    }

    async fn observe_source(&mut self, identity: Option<&Identity>) -> Result<SourceFacts, SessionError> {
        observe::source(self, identity).await
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

    async fn give_access(&mut self, _identity: &Identity, _password: &str) -> Result<(), SessionError> {
        // Members trust each other by the key file.
        Ok(())
    }

    async fn write_mark(&mut self) -> Result<Position, SessionError> {
        execute::mark(self).await
    }
}
