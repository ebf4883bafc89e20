//! Looks for what users made, in every database. Changes nothing.

use std::collections::BTreeMap;

use super::observe::{MEASURE, Row};
use super::{PostgreSqlSession, literal};
use crate::engine::user_data::{Holding, told};
use crate::engine::{Endpoint, Session, SessionError};

/// What is made after the server's own objects has a number from this one on (`FirstNormalObjectId`).
const FIRST: u32 = 16_384;

/// What the database of this session holds, by kind. Whatever lies in a temporary schema goes with its session, and members of an extension with the extension,
/// of which `plpgsql` is there from the beginning (an upgrade makes it anew). Large objects have the numbers that their users choose.
fn objects() -> String {
    let others = ["pg_operator", "pg_cast", "pg_collation", "pg_conversion", "pg_ts_config", "pg_ts_dict", "pg_language", "pg_foreign_data_wrapper"];
    let others = others.into_iter().chain(["pg_foreign_server", "pg_event_trigger", "pg_publication"]);
    let others = others.map(|catalog| format!("UNION ALL SELECT tableoid, oid, 'other object' FROM {catalog}")).collect::<Vec<_>>().join(" ");
    format!(
        "WITH space AS (SELECT tableoid, oid, nspname FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp_'), \
         made AS (SELECT c.tableoid, c.oid, CASE WHEN relkind IN ('r', 'p', 'f') THEN 'table' WHEN relkind IN ('v', 'm') THEN 'view' \
             WHEN relkind = 'S' THEN 'sequence' ELSE 'type' END AS kind \
             FROM pg_class c JOIN space ON relnamespace = space.oid WHERE relkind IN ('r', 'p', 'f', 'v', 'm', 'S', 'c') \
         UNION ALL SELECT t.tableoid, t.oid, 'type' FROM pg_type t JOIN space ON typnamespace = space.oid WHERE typtype IN ('d', 'e', 'r') \
         UNION ALL SELECT p.tableoid, p.oid, 'function' FROM pg_proc p JOIN space ON pronamespace = space.oid \
         UNION ALL SELECT tableoid, oid, 'schema' FROM space WHERE nspname <> 'public' \
         UNION ALL SELECT tableoid, oid, 'extension' FROM pg_extension WHERE extname <> 'plpgsql' {others}) \
         SELECT kind, count(*) AS n FROM made WHERE oid >= {FIRST} \
             AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = made.tableoid AND d.objid = made.oid AND d.deptype = 'e') GROUP BY kind \
         UNION ALL SELECT 'large object', count(*) FROM pg_largeobject_metadata HAVING count(*) > 0"
    )
}

/// See [`crate::engine::Session::user_data`].
pub async fn find(session: &mut PostgreSqlSession) -> Result<Vec<String>, SessionError> {
    let doing = "looking for databases and roles";
    // The administrator itself is the image's (POSTGRES_USER), or known to its owner. Roles that can't log in count as well: no image makes any.
    let sql = format!(
        "SELECT 'role' AS kind, rolname::text AS name, false AS open FROM pg_roles WHERE oid >= {FIRST} AND rolname <> session_user \
         UNION ALL SELECT 'database', datname::text, datallowconn FROM pg_database WHERE datname <> 'template0' OR datallowconn"
    );
    let mut held = Vec::new();
    for row in session.rows(doing, &sql).await?.into_iter().map(Row) {
        let name = row.word("name");
        if row.word("kind") == "role" {
            held.push(Holding::named(format!("role {name}")));
        } else if row.yes("open") {
            held.extend(database(session, &name).await?);
        } else {
            held.push(hidden(&name, "it allows no connections"));
        }
    }
    Ok(told(held))
}

/// What can't be looked into may hold anything.
fn hidden(name: &str, why: &str) -> Holding {
    Holding::named(format!("database {name}, which can't be looked into: {why}"))
}

/// What one database holds; none if nothing. A session sees its own database only.
async fn database(session: &mut PostgreSqlSession, name: &str) -> Result<Option<Holding>, SessionError> {
    if name == session.endpoint.database {
        return look(session, name).await;
    }
    match PostgreSqlSession::connect(&Endpoint { database: name.to_owned(), ..session.endpoint.clone() }).await {
        Ok(mut inside) => {
            let found = look(&mut inside, name).await;
            inside.leave().await;
            found
        }
        Err(SessionError::Refused(why) | SessionError::Failed { message: why, .. }) => Ok(Some(hidden(name, &why))),
        Err(unreachable @ SessionError::Unreachable(_)) => Err(unreachable),
    }
}

/// What the database of this session holds; none if nothing.
async fn look(session: &mut PostgreSqlSession, name: &str) -> Result<Option<Holding>, SessionError> {
    let doing = &format!("looking into the database {name}");
    let rows = session.rows(doing, &objects()).await?.into_iter().map(Row);
    let kinds: BTreeMap<String, u64> = rows.map(|row| (row.word("kind"), row.number("n"))).collect();
    if kinds.is_empty() {
        return Ok(None);
    }
    // Every file is looked at.
    let size = format!("SET LOCAL statement_timeout = {}; SELECT pg_database_size({})", MEASURE.as_millis(), literal(name));
    let rows = session.rows_within(doing, &size, MEASURE).await?;
    let bytes = rows.first().and_then(|row| row.try_get(0).ok().flatten()).and_then(|text| text.parse().ok()).unwrap_or_default();
    Ok(Some(Holding::database(name, &kinds, bytes)))
}
