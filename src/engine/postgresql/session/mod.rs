//! A connection to one PostgreSQL server.

mod execute;
mod observe;
mod promote;
mod tls;
mod user_data;

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, SimpleQueryMessage, SimpleQueryRow};

use super::facts::SourceFacts;
use super::plan::Step;
use crate::engine::{Endpoint, Identity, Key, Position, ReplicaSummary, Session, SessionError};

pub(super) use tls::client_config;

/// No answer within this time counts as unreachable.
pub(super) const CONNECT: Duration = Duration::from_secs(3);
/// The server ends a statement that takes longer, and so do we a moment later.
const STATEMENT: Duration = Duration::from_secs(10);
/// Settings of our sessions. Only the server's own functions and operators: a user of the database may have made others with the same names, and we
/// are the administrator. No commit of ours waits for a synchronous standby, which may be gone.
const OPTIONS: &str = "-c search_path=pg_catalog -c synchronous_commit=local -c idle_in_transaction_session_timeout=60000";

/// A connection as the administrator. It ends with this value.
pub struct PostgreSqlSession {
    client: Client,
    connection: JoinHandle<()>,
    endpoint: Endpoint,
}

/// Sorts an error: no connection, a login that will not do, or a request that failed.
fn sorted(endpoint: &Endpoint, doing: &str, error: &tokio_postgres::Error) -> SessionError {
    let Some(answer) = error.as_db_error() else {
        let cause = std::error::Error::source(error).map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
        // The driver finds a missing method or a wrong password of ours before the server does.
        if cause.contains("password") || cause.contains("SCRAM") {
            return SessionError::Refused(cause);
        }
        return SessionError::Unreachable(format!("{}:{}: {cause}", endpoint.host, endpoint.port));
    };
    let code = answer.code();
    let message = answer.detail().map_or_else(|| answer.message().to_owned(), |detail| format!("{} ({detail})", answer.message()));
    if code.code().starts_with("28") || *code == SqlState::INVALID_CATALOG_NAME {
        SessionError::Refused(message)
    } else if [SqlState::CANNOT_CONNECT_NOW, SqlState::TOO_MANY_CONNECTIONS, SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN].contains(code) {
        SessionError::Unreachable(format!("{}:{}: {message}", endpoint.host, endpoint.port))
    } else {
        SessionError::Failed { doing: doing.to_owned(), message }
    }
}

impl PostgreSqlSession {
    /// Executes SQL and gives its rows as text.
    async fn rows(&mut self, doing: &str, sql: &str) -> Result<Vec<SimpleQueryRow>, SessionError> {
        self.rows_within(doing, sql, STATEMENT).await
    }

    /// As [`Self::rows`], where the server may take `limit` for it: the statement has to say so to the server as well.
    async fn rows_within(&mut self, doing: &str, sql: &str, limit: Duration) -> Result<Vec<SimpleQueryRow>, SessionError> {
        let answered = tokio::time::timeout(limit + CONNECT, self.client.simple_query(sql)).await;
        let messages = answered
            .map_err(|_| SessionError::Unreachable(format!("{}:{}: no answer while: {doing}", self.endpoint.host, self.endpoint.port)))?
            .map_err(|error| sorted(&self.endpoint, doing, &error))?;
        Ok(messages
            .into_iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(row),
                _ => None,
            })
            .collect())
    }

    /// The first column of the first row.
    async fn value(&mut self, doing: &str, sql: &str) -> Result<Option<String>, SessionError> {
        let rows = self.rows(doing, sql).await?;
        Ok(rows.first().and_then(|row| row.try_get(0).ok().flatten()).map(str::to_owned))
    }

    /// Ends the session now, and not when its task happens to run: as long as there is one with a database, no other can be made from it.
    async fn leave(self) {
        drop(self.client);
        // The server is told, or the connection is gone.
        let _ = tokio::time::timeout(CONNECT, self.connection).await;
    }

    /// The directory of the server's programs; none where it can't be read. In the server's own image its tools are there.
    pub(super) async fn program_directory(&mut self) -> Option<String> {
        self.value("reading pg_config", "SELECT setting FROM pg_config WHERE name = 'BINDIR'").await.ok().flatten()
    }

    /// Sets the password of a role, as a SCRAM verifier computed here.
    async fn set_password(&mut self, role: &str, password: &str) -> Result<(), SessionError> {
        let verifier = postgres_protocol::password::scram_sha_256(password.as_bytes());
        let sql = format!("ALTER ROLE {} PASSWORD {}", identifier(role), literal(&verifier));
        self.rows("setting the replication password", &sql).await.map(drop)
    }
}

/// A quoted identifier.
fn identifier(name: &str) -> String {
    postgres_protocol::escape::escape_identifier(name)
}

/// A quoted literal.
fn literal(text: &str) -> String {
    postgres_protocol::escape::escape_literal(text)
}

impl Session for PostgreSqlSession {
    type SourceFacts = SourceFacts;
    type Step = Step;

    async fn connect(endpoint: &Endpoint) -> Result<Self, SessionError> {
        let mut config = Config::new();
        config
            .host(&endpoint.host)
            .port(endpoint.port)
            .dbname(&endpoint.database)
            .user(&endpoint.username)
            .password(&endpoint.password)
            .application_name("understudy")
            .connect_timeout(CONNECT)
            // A peer that fell silent does not keep the connection's task for ever.
            .keepalives_idle(STATEMENT)
            .tcp_user_timeout(STATEMENT * 2)
            .ssl_mode(SslMode::Prefer)
            .options(format!("{OPTIONS} -c statement_timeout={}", STATEMENT.as_millis()));
        let tls = tokio_postgres_rustls::MakeRustlsConnect::new(client_config());
        let connected = tokio::time::timeout(CONNECT * 2, config.connect(tls)).await;
        let (client, connection) = connected
            .map_err(|_| SessionError::Unreachable(format!("{}:{}: no answer", endpoint.host, endpoint.port)))?
            .map_err(|error| sorted(endpoint, "connecting", &error))?;
        // It ends when the client is dropped.
        let connection = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
        });
        Ok(Self { client, connection, endpoint: endpoint.clone() })
    }

    async fn connect_replica(endpoint: &Endpoint, _key: Option<&Key>) -> Result<Self, SessionError> {
        // A standby has the source's users from its restore.
        Self::connect(endpoint).await
    }

    async fn observe_source(&mut self, identity: Option<&Identity>) -> Result<SourceFacts, SessionError> {
        observe::source(self, identity).await
    }

    async fn identities(&mut self) -> Result<BTreeSet<Identity>, SessionError> {
        observe::identities(self).await
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
        self.set_password(&identity.role(), password).await
    }

    async fn write_mark(&mut self) -> Result<Position, SessionError> {
        let doing = "writing a mark";
        // Transactional: its commit is flushed, and so sent at once on an idle server too. What it gives is the end of its record.
        let position = self.value(doing, "SELECT pg_logical_emit_message(true, 'understudy', '') - '0/0'").await?;
        let position = position.and_then(|text| text.parse().ok());
        position.map(Position::Bytes).ok_or_else(|| SessionError::Failed { doing: doing.to_owned(), message: "the server gave no position".to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_and_literals_are_quoted() {
        assert_eq!(identifier(r#"a"b"#), r#""a""b""#);
        assert_eq!(literal("it's"), "'it''s'");
        assert!(literal(r"back\slash").contains("E'back\\\\slash'"));
    }
}
