//! Answers of a Redis server, taken apart. Pure.

use redis::Value;
use std::collections::BTreeMap;

/// An answer as text; empty for what has none.
pub fn text(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => text.clone(),
        Value::Int(number) => number.to_string(),
        Value::Okay => "OK".to_owned(),
        _ => String::new(),
    }
}

/// The elements of a list.
pub fn elements(value: &Value) -> &[Value] {
    match value {
        Value::Array(values) | Value::Set(values) => values,
        _ => &[],
    }
}

/// The elements of a list, as text.
pub fn texts(value: &Value) -> Vec<String> {
    elements(value).iter().map(text).collect()
}

/// Pairs of name and value, one after the other in a list.
pub fn pairs(value: &Value) -> BTreeMap<String, &Value> {
    elements(value).chunks_exact(2).filter_map(|pair| Some((text(pair.first()?), pair.get(1)?))).collect()
}

/// What `INFO` says; of each module it says so under the same name.
#[derive(Debug, Default)]
pub struct Info(BTreeMap<String, String>, Vec<String>);

impl Info {
    pub fn parse(value: &Value) -> Self {
        let text = text(value);
        let modules = text.lines().filter_map(|line| line.strip_prefix("module:name=")?.split(',').next());
        let modules = modules.map(str::to_owned).collect();
        Self(text.lines().filter_map(|line| line.split_once(':')).map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect(), modules)
    }

    /// Names of the modules that are loaded.
    pub fn modules(&self) -> Vec<String> {
        self.1.clone()
    }

    pub fn word(&self, key: &str) -> &str {
        self.0.get(key).map_or("", String::as_str)
    }

    pub fn number(&self, key: &str) -> u64 {
        self.word(key).parse().unwrap_or(0)
    }

    /// Databases that hold keys, by number, and how many.
    pub fn databases(&self) -> BTreeMap<u32, u64> {
        let databases = self.0.iter().filter_map(|(name, said)| Some((name.strip_prefix("db")?.parse().ok()?, said)));
        databases.filter_map(|(number, said)| Some((number, said.strip_prefix("keys=")?.split(',').next()?.parse().ok()?))).collect()
    }

    /// Keys in all databases.
    pub fn keys(&self) -> u64 {
        self.databases().values().sum()
    }

    pub fn yes(&self, key: &str) -> bool {
        self.word(key) == "1"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_info_says_is_found_by_name() {
        let info = Info::parse(&Value::BulkString(
            b"# Server\r\nredis_version:7.0.15\r\n\r\nrole:master\r\nx:1\r\nconfig_file:/a:b\r\ndb0:keys=5,expires=1\r\ndb12:keys=2,expires=0\r\n".to_vec(),
        ));
        assert_eq!((info.keys(), info.databases()), (7, [(0, 5), (12, 2)].into()));
        assert_eq!((info.word("redis_version"), info.word("config_file"), info.number("x"), info.yes("x")), ("7.0.15", "/a:b", 1, true));
        assert_eq!((info.word("none"), info.number("role"), info.yes("role")), ("", 0, false));
    }

    #[test]
    fn modules_are_told_by_their_names() {
        let info = Info::parse(&Value::BulkString(
            b"# Modules\r\nmodule:name=ReJSON,ver=20609,api=1,filters=0\r\nmodule:name=search,ver=21005,api=1\r\n\r\ndb0:keys=1\r\n".to_vec(),
        ));
        assert_eq!(info.modules(), ["ReJSON", "search"]);
    }

    #[test]
    fn pairs_are_read_from_a_list() {
        let word = |text: &str| Value::BulkString(text.into());
        let list = Value::Array(vec![word("dir"), word("/data"), word("flags"), Value::Array(vec![word("on")]), word("odd")]);
        let pairs = pairs(&list);
        assert_eq!(pairs.get("dir").map(|value| text(value)).as_deref(), Some("/data"));
        assert_eq!(pairs.get("flags").map(|value| texts(value)), Some(vec!["on".to_owned()]));
        assert!(!pairs.contains_key("odd"));
    }
}
