//! Looks for what users made. Changes nothing.

use mongodb::bson::{Document, doc};

use super::MongoSession;
use super::observe::{documents, number, text};
use crate::engine::SessionError;
use crate::engine::user_data::{Holding, told};

/// See [`crate::engine::Session::user_data`].
pub async fn find(session: &mut MongoSession) -> Result<Vec<String>, SessionError> {
    let doing = "looking for databases";
    // Unless told so, a server lists to a user that may not see all of them those that it may see.
    let listed = session.run("admin", doing, doc! {"listDatabases": 1, "authorizedDatabases": false}).await?;
    let mut held = Vec::new();
    for database in documents(&listed, "databases") {
        let name = text(database, "name");
        // The server's own, for sharding and sessions.
        if name == "config" {
            continue;
        }
        let doing = &format!("looking into the database {name}");
        let collections = session.run(&name, doing, doc! {"listCollections": 1, "nameOnly": true, "cursor": {"batchSize": 1_000_000}}).await?;
        let batch = collections.get_document("cursor").ok().into_iter().flat_map(|cursor| documents(cursor, "firstBatch"));
        let count = batch.filter(|collection| is_users(&name, collection)).count();
        if count > 0 {
            let kinds = [("collection".to_owned(), u64::try_from(count).unwrap_or(u64::MAX))].into();
            held.push(Holding::database(&name, &kinds, u64::try_from(number(database, "sizeOnDisk")).unwrap_or_default()));
        }
    }
    Ok(told(held))
}

/// None of the server's own (manual, "System Collections", "The Local Database"); `system.js` holds functions of users.
fn is_users(database: &str, collection: &Document) -> bool {
    let name = text(collection, "name");
    let of_local = database == "local" && (name == "startup_log" || ["oplog.", "replset."].iter().any(|prefix| name.starts_with(prefix)));
    name == "system.js" || !of_local && !name.starts_with("system.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_own_collections_are_told_apart() {
        let users = |database: &str, name: &str| is_users(database, &doc! {"name": name});
        assert!(users("shop", "orders") && users("admin", "orders") && users("local", "orders") && users("shop", "startup_log") && users("shop", "system.js"));
        assert!(!users("shop", "system.views") && !users("admin", "system.users") && !users("local", "startup_log") && !users("local", "replset.minvalid"));
    }
}
