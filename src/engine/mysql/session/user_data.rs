//! Looks for what users made. Changes nothing.

use std::collections::BTreeMap;

use super::super::preflight;
use super::observe::{MEASURE, numbers, privileges};
use super::{MySqlSession, Row};
use crate::engine::SessionError;
use crate::engine::user_data::{Holding, told};

/// The schemas that the server makes.
const SYSTEM: &str = "('mysql', 'sys', 'information_schema', 'performance_schema')";

/// Kinds of things that users made, with their number and size, by schema. In the schemas of the server's own they are told from its own things by the
/// tablespace, which is one for all of the server's own tables (`0xFFFFFFFE`), or by whose they are.
fn objects(version: (u32, u32, u32)) -> String {
    let libraries =
        if version < (9, 2, 0) { "" } else { "UNION ALL SELECT LIBRARY_SCHEMA, 'library', COUNT(*), 0 FROM information_schema.LIBRARIES GROUP BY 1" };
    format!(
        "SELECT /*+ MAX_EXECUTION_TIME({}) */ TABLE_SCHEMA AS name, IF(TABLE_TYPE = 'VIEW', 'view', 'table') AS kind, COUNT(*) AS n, \
             CAST(SUM(COALESCE(DATA_LENGTH, 0) + COALESCE(INDEX_LENGTH, 0)) AS UNSIGNED) AS bytes \
             FROM information_schema.TABLES WHERE TABLE_SCHEMA NOT IN {SYSTEM} GROUP BY 1, 2 \
         UNION ALL SELECT 'mysql', 'table', COUNT(*), 0 FROM information_schema.INNODB_TABLES WHERE NAME LIKE 'mysql/%' AND SPACE <> 4294967294 HAVING COUNT(*) > 0 \
         UNION ALL SELECT TABLE_SCHEMA, 'table', COUNT(*), 0 FROM information_schema.TABLES WHERE TABLE_TYPE = 'BASE TABLE' \
             AND (TABLE_SCHEMA = 'sys' AND TABLE_NAME <> 'sys_config' \
                 OR TABLE_SCHEMA = 'mysql' AND ENGINE <> 'InnoDB' AND TABLE_NAME NOT IN ('general_log', 'slow_log')) GROUP BY 1 \
         UNION ALL SELECT TABLE_SCHEMA, 'view', COUNT(*), 0 FROM information_schema.VIEWS \
             WHERE TABLE_SCHEMA IN ('mysql', 'sys') AND DEFINER <> 'mysql.sys@localhost' GROUP BY 1 \
         UNION ALL SELECT ROUTINE_SCHEMA, 'routine', COUNT(*), 0 FROM information_schema.ROUTINES \
             WHERE ROUTINE_SCHEMA <> 'sys' OR DEFINER <> 'mysql.sys@localhost' GROUP BY 1 \
         UNION ALL SELECT EVENT_SCHEMA, 'event', COUNT(*), 0 FROM information_schema.EVENTS GROUP BY 1 {libraries}",
        MEASURE.as_millis()
    )
}

/// Accounts, and roles, which are accounts too. The server's own and root are there from the beginning; the administrator of this session is the image's or
/// known to its owner. The user that the image makes where it is told to (`MYSQL_USER`) is one like any other, and may be an application's.
const ACCOUNTS: &str = "SELECT CONCAT(User, '@', Host) AS name FROM mysql.user WHERE User <> 'root' AND CONCAT(User, '@', Host) <> CURRENT_USER() \
    AND NOT (Host = 'localhost' AND User IN ('mysql.infoschema', 'mysql.session', 'mysql.sys'))";

/// See [`crate::engine::Session::user_data`].
pub async fn find(session: &mut MySqlSession) -> Result<Vec<String>, SessionError> {
    let doing = "looking for databases and accounts";
    may_look(session, doing).await?;
    let version = session.value(doing, "SELECT VERSION()").await?.unwrap_or_default();
    let mut schemas: BTreeMap<String, (BTreeMap<String, u64>, u64)> = BTreeMap::new();
    for row in session.rows_within(doing, &objects(numbers(&version)), MEASURE).await? {
        let (kinds, bytes) = schemas.entry(row.word("name")).or_default();
        *kinds.entry(row.word("kind")).or_default() += row.number::<u64>("n");
        *bytes += row.number::<u64>("bytes");
    }
    let mut held: Vec<Holding> = schemas.iter().map(|(name, (kinds, bytes))| Holding::database(name, kinds, *bytes)).collect();
    held.extend(session.rows(doing, ACCOUNTS).await?.iter().map(|row| Holding::named(format!("account {}", row.word("name")))));
    Ok(told(held))
}

/// Fails for a user from whom something is kept, which would otherwise look as if it were not there.
async fn may_look(session: &mut MySqlSession, doing: &str) -> Result<(), SessionError> {
    let grants: Vec<String> = session.rows(doing, "SHOW GRANTS").await?.iter().filter_map(Row::first).collect();
    let held: Vec<String> = grants.iter().flat_map(|line| privileges(line)).collect();
    let lacking = preflight::lacking_to_look(&held);
    let refused = |message| Err(SessionError::Failed { doing: doing.to_owned(), message });
    if !lacking.is_empty() {
        return refused(format!("the user lacks on *.*: {}", lacking.join(", ")));
    }
    // With partial_revokes.
    if grants.iter().any(|line| line.starts_with("REVOKE ")) {
        return refused("privileges of the user are revoked on some databases".to_owned());
    }
    Ok(())
}
