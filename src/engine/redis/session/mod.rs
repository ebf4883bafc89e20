//! A connection to one Redis server.

mod answer;
mod execute;
mod observe;
mod promote;
mod user_data;

use std::collections::BTreeSet;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo, RedisConnectionInfo, RedisError, Value};

use super::facts::SourceFacts;
use super::plan::Step;
use crate::engine::{Endpoint, Identity, Key, Position, ReplicaSummary, Session, SessionError};

/// No answer within this time counts as unreachable.
const CONNECT: Duration = Duration::from_secs(3);
/// How long an answer may take.
const STATEMENT: Duration = Duration::from_secs(10);
/// How long a snapshot is waited for at once.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(100);
/// The user that a connection has without a login.
const DEFAULT_USER: &str = "default";

/// A connection as the administrator. It ends with this value.
pub struct RedisSession {
    connection: MultiplexedConnection,
    endpoint: Endpoint,
}

/// The server's own words.
fn words(error: &RedisError) -> String {
    match (error.code(), error.detail()) {
        (Some("ERR"), Some(detail)) => detail.to_owned(),
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        _ => error.to_string(),
    }
}

/// Sorts an error: no connection, a login that will not do, or a request that failed.
fn sorted(endpoint: &Endpoint, doing: &str, error: &RedisError) -> SessionError {
    let message = words(error);
    match error.code() {
        // A server that loads its data, runs a script or waits for its own source says nothing about the request.
        None | Some("LOADING" | "BUSY" | "MASTERDOWN") => SessionError::Unreachable(format!("{}:{}: {message}", endpoint.host, endpoint.port)),
        Some(_) if message.contains("max number of clients") => SessionError::Unreachable(format!("{}:{}: {message}", endpoint.host, endpoint.port)),
        Some("NOAUTH" | "WRONGPASS" | "DENIED") => SessionError::Refused(message),
        Some(_) => SessionError::Failed { doing: doing.to_owned(), message },
    }
}

/// Why a login did not succeed. A server that does not know `AUTH` by this name repeats what it was sent.
fn refusal(error: SessionError, password: &str) -> SessionError {
    let (SessionError::Failed { message, .. } | SessionError::Refused(message)) = error else { return error };
    SessionError::Refused(if password.is_empty() { message } else { message.replace(password, "…") })
}

impl RedisSession {
    /// Executes a command.
    async fn ask(&mut self, doing: &str, words: &[&str]) -> Result<Value, SessionError> {
        let answers = self.ask_all(doing, &[words.to_vec()]).await?;
        answers.into_iter().next().unwrap_or(Ok(Value::Nil)).map_err(|error| sorted(&self.endpoint, doing, &error))
    }

    /// Executes commands one after the other, sent at once; what the server answers to each of them, which may be an error.
    async fn ask_all(&mut self, doing: &str, commands: &[Vec<&str>]) -> Result<Vec<Result<Value, RedisError>>, SessionError> {
        let mut pipeline = redis::pipe();
        pipeline.ignore_errors();
        for words in commands {
            if let [name, arguments @ ..] = words.as_slice() {
                pipeline.cmd(name).arg(arguments);
            }
        }
        let answered = tokio::time::timeout(STATEMENT, pipeline.query_async::<Vec<Result<Value, RedisError>>>(&mut self.connection)).await;
        answered
            .map_err(|_| SessionError::Unreachable(format!("{}:{}: no answer while: {doing}", self.endpoint.host, self.endpoint.port)))?
            .map_err(|error| sorted(&self.endpoint, doing, &error))
    }

    /// Logs in. Without a password the user `default` needs no login.
    async fn log_in(&mut self) -> Result<(), SessionError> {
        let doing = "logging in";
        let Endpoint { username, password, .. } = self.endpoint.clone();
        let login: &[&str] = match (username.as_str(), password.as_str()) {
            (DEFAULT_USER, "") => &[],
            (DEFAULT_USER, password) => &["AUTH", password],
            (username, password) => &["AUTH", username, password],
        };
        if !login.is_empty() {
            self.ask(doing, login).await.map_err(|error| refusal(error, &password))?;
        }
        match self.ask_all(doing, &[vec!["PING"]]).await?.into_iter().next() {
            // A replica that is cut off, and is to serve no stale data, still says what it is.
            Some(Err(error)) if error.code() == Some("MASTERDOWN") => Ok(()),
            Some(Err(error)) => match sorted(&self.endpoint, doing, &error) {
                // Who may not even do this is logged in all the same; what is missing is a finding.
                SessionError::Failed { .. } => Ok(()),
                other => Err(other),
            },
            _ => Ok(()),
        }
    }

    /// The users as they stand in an ACL file, one line each.
    pub(super) async fn acl_lines(&mut self) -> Result<Vec<String>, SessionError> {
        Ok(answer::texts(&self.ask("reading the users", &["ACL", "LIST"]).await?))
    }
}

impl Session for RedisSession {
    type SourceFacts = SourceFacts;
    type Step = Step;

    async fn connect(endpoint: &Endpoint) -> Result<Self, SessionError> {
        let doing = "connecting";
        let sort = |error: RedisError| sorted(endpoint, doing, &error);
        let settings = RedisConnectionInfo::default().set_skip_set_lib_name();
        let info = (endpoint.host.as_str(), endpoint.port).into_connection_info().map_err(sort)?.set_redis_settings(settings);
        let client = Client::open(info).map_err(sort)?;
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(Some(STATEMENT));
        let unanswered = |_| SessionError::Unreachable(format!("{}:{}: no answer", endpoint.host, endpoint.port));
        let connected = tokio::time::timeout(CONNECT, client.get_multiplexed_async_connection_with_config(&config)).await;
        let connection = connected.map_err(unanswered)?.map_err(sort)?;
        let mut session = Self { connection, endpoint: endpoint.clone() };
        tokio::time::timeout(CONNECT, session.log_in()).await.map_err(unanswered)??;
        Ok(session)
    }

    async fn connect_replica(endpoint: &Endpoint, _key: Option<&Key>) -> Result<Self, SessionError> {
        // A replica has its users from its configuration, before it copies anything.
        Self::connect(endpoint).await
    }

    async fn observe_source(&mut self, identity: Option<&Identity>) -> Result<SourceFacts, SessionError> {
        observe::source(self, identity).await
    }

    async fn identities(&mut self) -> Result<BTreeSet<Identity>, SessionError> {
        // Users are no data.
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
        promote::promote(self).await
    }

    async fn give_access(&mut self, identity: &Identity, password: &str) -> Result<(), SessionError> {
        execute::set_password(self, &identity.role(), password).await
    }

    async fn write_mark(&mut self) -> Result<Position, SessionError> {
        execute::mark(self).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redis::make_extension_error;

    #[test]
    fn errors_are_told_apart() {
        let endpoint = Endpoint { host: "h".into(), port: 1, database: String::new(), username: "default".into(), password: "secret".into() };
        let sort = |code: &str| sorted(&endpoint, "asking", &make_extension_error(code.to_owned(), Some("words".to_owned())));
        for code in ["LOADING", "BUSY", "MASTERDOWN"] {
            assert_eq!(sort(code), SessionError::Unreachable(format!("h:1: {code} words")));
        }
        for code in ["NOAUTH", "WRONGPASS", "DENIED"] {
            assert_eq!(sort(code), SessionError::Refused(format!("{code} words")));
        }
        assert_eq!(sort("NOPERM"), SessionError::Failed { doing: "asking".into(), message: "NOPERM words".into() });
        let gone = RedisError::from(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
        assert!(matches!(sorted(&endpoint, "asking", &gone), SessionError::Unreachable(_)));
    }
}
