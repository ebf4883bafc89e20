//! Looks for what users made. Changes nothing.

use super::answer::{Info, elements, pairs, text, texts};
use super::{DEFAULT_USER, RedisSession};
use crate::engine::SessionError;
use crate::engine::user_data::{Holding, about, counted, told};

/// See [`crate::engine::Session::user_data`].
pub async fn find(session: &mut RedisSession) -> Result<Vec<String>, SessionError> {
    let doing = "looking for keys, functions and users";
    let said = session.ask(doing, &["INFO"]).await?;
    // A sentinel says nothing of keys, and has what it watches instead.
    if !text(&said).lines().any(|line| line == "# Keyspace") {
        return Err(SessionError::Failed { doing: doing.to_owned(), message: "the server does not say whether it holds keys".to_owned() });
    }
    let info = Info::parse(&said);
    let mut held: Vec<Holding> =
        info.databases().into_iter().map(|(number, keys)| Holding::new(keys, format!("database {number}: {}", about(keys, "key")))).collect();
    // Since 7.0.
    if info.word("redis_version").split('.').next().and_then(|major| major.parse::<u32>().ok()).is_none_or(|major| major >= 7) {
        for library in elements(&session.ask(doing, &["FUNCTION", "LIST"]).await?) {
            let said = pairs(library);
            let name = said.get("library_name").map(|name| text(name)).unwrap_or_default();
            let functions = said.get("functions").map_or(0, |functions| elements(functions).len());
            held.push(Holding::named(format!("function library {name} ({})", counted(u64::try_from(functions).unwrap_or_default(), "function"))));
        }
    }
    // The administrator of this session is known to its owner.
    let administrator = session.endpoint.username.clone();
    let users = texts(&session.ask(doing, &["ACL", "USERS"]).await?);
    let others = users.iter().filter(|name| *name != DEFAULT_USER && **name != administrator);
    held.extend(others.map(|name| Holding::named(format!("ACL user {name}"))));
    Ok(told(held))
}
