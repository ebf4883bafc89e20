//! A connection to one MySQL server.

mod execute;
mod observe;
mod promote;
mod user_data;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, DriverError, Error, IoError, Opts, OptsBuilder, SslOpts, Value};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use super::facts::SourceFacts;
use super::password::{shortened, verifier};
use super::plan::Step;
use crate::engine::{Endpoint, Identity, Key, Position, ReplicaSummary, Session, SessionError};

/// No answer within this time counts as unreachable.
const CONNECT: Duration = Duration::from_secs(3);
/// The server ends a statement that takes longer, where it can, and so do we a moment later.
const STATEMENT: Duration = Duration::from_secs(10);
/// Settings of our sessions: literals are read as [`literal`] writes them, nobody is waited for without end, and asking writes no statistics.
const OPTIONS: &str = "SET SESSION sql_mode = '', autocommit = 1, lock_wait_timeout = 10, innodb_lock_wait_timeout = 10, max_execution_time = 10000, information_schema_stats_expiry = 0";
/// The largest packet that is taken: a GTID set, or a list of tables.
const PACKET: usize = 64 << 20;

/// A login that will not do: user, password, host, database, expired password, encryption required (manual, "Server Error Message Reference").
const REFUSED: [u16; 12] = [1044, 1045, 1049, 1129, 1130, 1251, 1524, 1698, 1820, 1862, 3118, 3159];
/// A server that is full, starts, stops or was told to end this connection.
const AWAY: [u16; 8] = [1040, 1053, 1077, 1152, 1203, 1317, 3032, 4031];

/// What a user lacks the privilege for, or the version does not have.
const LACKING: [&str; 4] = ["(1142)", "(1143)", "(1146)", "(1227)"];

/// A connection as the administrator. It ends with this value.
pub struct MySqlSession {
    connection: Conn,
    place: String,
    endpoint: Option<Endpoint>,
    encrypted: bool,
}

pub(super) use observe::telling;

/// A row of text values by name.
pub(super) struct Row(Vec<(String, Option<String>)>);

impl Row {
    fn text(&self, name: &str) -> Option<String> {
        self.0.iter().find(|(column, _)| column.eq_ignore_ascii_case(name)).and_then(|(_, value)| value.clone())
    }

    pub(super) fn word(&self, name: &str) -> String {
        self.text(name).unwrap_or_default()
    }

    fn number<N: std::str::FromStr + Default>(&self, name: &str) -> N {
        self.text(name).and_then(|text| text.parse().ok()).unwrap_or_default()
    }

    /// `1`, `ON` or `YES`.
    fn yes(&self, name: &str) -> bool {
        matches!(self.word(name).as_str(), "1" | "ON" | "YES")
    }

    /// The first column.
    fn first(&self) -> Option<String> {
        self.0.first().and_then(|(_, value)| value.clone())
    }
}

impl From<mysql_async::Row> for Row {
    fn from(row: mysql_async::Row) -> Self {
        let names: Vec<String> = row.columns_ref().iter().map(|column| column.name_str().into_owned()).collect();
        let text = |value| match value {
            Value::NULL => None,
            Value::Bytes(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
            // Not in answers to plain queries, which are text.
            other => Some(other.as_sql(true)),
        };
        Self(names.into_iter().zip(row.unwrap().into_iter().map(text)).collect())
    }
}

/// Sorts an error: no connection, a login that will not do, or a request that failed.
fn sorted(place: &str, doing: &str, error: &Error) -> SessionError {
    let unreachable = |why: &dyn std::fmt::Display| SessionError::Unreachable(format!("{place}: {why}"));
    match error {
        Error::Server(answer) if REFUSED.contains(&answer.code) => SessionError::Refused(answer.message.clone()),
        Error::Server(answer) if AWAY.contains(&answer.code) => unreachable(&answer.message),
        Error::Server(answer) => SessionError::Failed { doing: doing.to_owned(), message: format!("{} ({})", answer.message, answer.code) },
        Error::Driver(why @ (DriverError::UnknownAuthPlugin { .. } | DriverError::CleartextPluginDisabled | DriverError::MysqlOldPasswordDisabled)) => {
            SessionError::Refused(why.to_string())
        }
        Error::Io(IoError::Io(why)) => unreachable(why),
        Error::Driver(why) => unreachable(why),
        other => unreachable(other),
    }
}

/// A quoted literal, as it is read without `NO_BACKSLASH_ESCAPES`.
pub(super) fn literal(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('\'');
    for c in text.chars() {
        match c {
            '\0' => quoted.push_str("\\0"),
            '\'' | '\\' => quoted.extend(['\\', c]),
            c => quoted.push(c),
        }
    }
    quoted.push('\'');
    quoted
}

/// A quoted identifier.
pub(super) fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// The account of our user.
fn account(user: &str) -> String {
    format!("{}@'%'", identifier(user))
}

impl MySqlSession {
    /// Executes SQL and gives its rows as text.
    pub(super) async fn rows(&mut self, doing: &str, sql: &str) -> Result<Vec<Row>, SessionError> {
        self.rows_within(doing, sql, STATEMENT).await
    }

    /// As [`Self::rows`], where the server may take `limit` for it.
    async fn rows_within(&mut self, doing: &str, sql: &str, limit: Duration) -> Result<Vec<Row>, SessionError> {
        let answered = tokio::time::timeout(limit + CONNECT, self.connection.query::<mysql_async::Row, _>(sql)).await;
        let rows = answered
            .map_err(|_| SessionError::Unreachable(format!("{}: no answer while: {doing}", self.place)))?
            .map_err(|error| sorted(&self.place, doing, &error))?;
        Ok(rows.into_iter().map(Row::from).collect())
    }

    /// Executes SQL that takes as long as it takes: a copy.
    pub(super) async fn run(&mut self, doing: &str, sql: &str) -> Result<(), SessionError> {
        self.connection.query_drop(sql).await.map_err(|error| sorted(&self.place, doing, &error))
    }

    /// The first column of the first row.
    pub(super) async fn value(&mut self, doing: &str, sql: &str) -> Result<Option<String>, SessionError> {
        Ok(self.rows(doing, sql).await?.first().and_then(Row::first))
    }

    /// The rows, or none where this user may not see them.
    async fn visible(&mut self, doing: &str, sql: &str) -> Result<Vec<Row>, SessionError> {
        self.visible_or(doing, sql, &mut None).await
    }

    /// As [`Self::visible`], with what the server answered where this user may not see them.
    async fn visible_or(&mut self, doing: &str, sql: &str, hidden: &mut Option<String>) -> Result<Vec<Row>, SessionError> {
        match self.rows(doing, sql).await {
            Err(SessionError::Failed { message, .. }) if LACKING.iter().any(|code| message.ends_with(code)) => *hidden = Some(message),
            Err(SessionError::Refused(message)) => *hidden = Some(message),
            other => return other,
        }
        Ok(Vec::new())
    }

    /// Why the source can't be cloned; none where its clone plugin is active.
    pub(super) async fn clone_refusal(&mut self) -> Result<Option<String>, SessionError> {
        execute::clone_refusal(self).await
    }

    /// The session's traffic is encrypted.
    pub(super) fn encrypted(&self) -> bool {
        self.encrypted
    }

    /// What of the data can't be copied: see [`SourceFacts::other_tables`] and the following.
    pub(super) async fn inspect_data(&mut self, facts: &mut SourceFacts) -> Result<(), SessionError> {
        observe::data(self, facts).await
    }

    /// Connects to a server of our own, through its socket, without a password.
    ///
    /// # Errors
    /// [`SessionError::Unreachable`] while it does not answer yet.
    pub(super) async fn local(socket: &Path) -> Result<Self, SessionError> {
        let place = socket.display().to_string();
        let options = common().socket(Some(place.clone())).user(Some("root"));
        let connection = open(options.into()).await.map_err(|error| error.sorted(&place))?;
        Self { connection, place, endpoint: None, encrypted: false }.prepared().await
    }

    /// Takes leave of the server, and waits until it has noticed.
    pub(super) async fn close(self) {
        // A server that is gone needs no farewell.
        let _ = tokio::time::timeout(CONNECT, self.connection.disconnect()).await;
    }

    /// As the administrator, or another user.
    async fn login(endpoint: &Endpoint) -> Result<Self, SessionError> {
        let place = format!("{}:{}", endpoint.host, endpoint.port);
        let options = common()
            .ip_or_hostname(endpoint.host.clone())
            .tcp_port(endpoint.port)
            .user(Some(endpoint.username.clone()))
            .pass(Some(endpoint.password.clone()))
            .db_name(Some(endpoint.database.clone()).filter(|name| !name.is_empty()));
        // Encrypted if the server can, and no check of who it is: databases in a cluster sign their own certificates. Otherwise plain, as the servers' own
        // clients do by default; the password is then encrypted with the server's public key.
        let tls = SslOpts::default().with_danger_accept_invalid_certs(true).with_danger_skip_domain_validation(true);
        let attempt = open(options.clone().ssl_opts(Some(tls)).into()).await;
        let (connection, encrypted) = match attempt {
            Err(Failed::Driver(Error::Driver(DriverError::NoClientSslFlagFromServer) | Error::Io(IoError::Tls(_)))) => {
                (open(options.into()).await.map_err(|error| error.sorted(&place))?, false)
            }
            other => (other.map_err(|error| error.sorted(&place))?, true),
        };
        Self { connection, place, endpoint: Some(endpoint.clone()), encrypted }.prepared().await
    }

    async fn prepared(mut self) -> Result<Self, SessionError> {
        self.rows("preparing the session", OPTIONS).await?;
        Ok(self)
    }

    /// Sets the password of our user, as a verifier computed here, and lets it in.
    async fn set_password(&mut self, user: &str, password: &str) -> Result<(), SessionError> {
        let sql = format!("ALTER USER {} IDENTIFIED WITH caching_sha2_password AS {} ACCOUNT UNLOCK", account(user), literal(&verifier(password)));
        self.rows("setting the replication password", &sql).await.map(drop)
    }
}

fn common() -> OptsBuilder {
    OptsBuilder::default()
        .prefer_socket(Some(false))
        .max_allowed_packet(Some(PACKET))
        .wait_timeout(Some(28_800))
        .stmt_cache_size(Some(0))
        .tcp_keepalive(Some(STATEMENT))
}

/// Why a connection was not opened.
enum Failed {
    Late,
    Driver(Error),
}

impl Failed {
    fn sorted(&self, place: &str) -> SessionError {
        match self {
            Self::Late => SessionError::Unreachable(format!("{place}: no answer")),
            Self::Driver(error) => match sorted(place, "connecting", error) {
                // Whatever a server answers to a login, it did not let us in.
                SessionError::Failed { message, .. } => SessionError::Refused(message),
                other => other,
            },
        }
    }
}

async fn open(options: Opts) -> Result<Conn, Failed> {
    tokio::time::timeout(CONNECT, Conn::new(options)).await.map_err(|_| Failed::Late)?.map_err(Failed::Driver)
}

impl Session for MySqlSession {
    type SourceFacts = SourceFacts;
    type Step = Step;

    async fn connect(endpoint: &Endpoint) -> Result<Self, SessionError> {
        Self::login(endpoint).await
    }

    async fn connect_replica(endpoint: &Endpoint, _key: Option<&Key>) -> Result<Self, SessionError> {
        // A replica has the source's users from its restore.
        Self::connect(endpoint).await
    }

    async fn observe_source(&mut self, identity: Option<&Identity>) -> Result<SourceFacts, SessionError> {
        observe::source(self, identity).await
    }

    async fn identities(&mut self) -> Result<BTreeSet<Identity>, SessionError> {
        let users = self.rows("looking for our users", r"SELECT User FROM mysql.user WHERE User LIKE 'understudy\_%' AND Host = '%'").await?;
        Ok(users.iter().filter_map(Row::first).filter_map(|user| Identity::of_role(&user)).collect())
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
        self.set_password(&identity.role(), shortened(password)).await
    }

    /// `FLUSH OPTIMIZER_COSTS` is written to the binary log with a GTID of its own, and has the server read a table of its own anew: nothing of the user's
    /// is changed or waited for.
    async fn write_mark(&mut self) -> Result<Position, SessionError> {
        let doing = "writing a mark";
        self.rows(doing, "FLUSH OPTIMIZER_COSTS").await?;
        let text = self.value(doing, "SELECT @@GLOBAL.gtid_executed").await?.unwrap_or_default();
        observe::position(doing, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_and_literals_are_quoted() {
        assert_eq!(identifier("a`b"), "`a``b`");
        assert_eq!(literal("it's"), r"'it\'s'");
        assert_eq!(literal(r"\'; DROP USER root; -- "), r"'\\\'; DROP USER root; -- '");
        assert_eq!(literal("a\0ü"), "'a\\0ü'");
        assert_eq!(account("understudy_k3x9q2ab"), "`understudy_k3x9q2ab`@'%'");
    }

    #[test]
    fn errors_are_sorted_by_whose_fault_they_are() {
        let answer = |code| sorted("h:1", "asking", &Error::Server(mysql_async::ServerError { code, message: "words".into(), state: "HY000".into() }));
        assert_eq!(answer(1045), SessionError::Refused("words".into()));
        assert_eq!(answer(1040), SessionError::Unreachable("h:1: words".into()));
        assert_eq!(answer(1064), SessionError::Failed { doing: "asking".into(), message: "words (1064)".into() });
    }
}
