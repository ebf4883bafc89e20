//! Where a server is, and who to be there.

use std::fmt::{Debug, Formatter, Result};

/// Where a server is, and who to be there.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Address or name of the host.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The database to connect to.
    pub database: String,
    /// Name of the administrator.
    pub username: String,
    /// Password of the administrator. Never printed.
    pub password: String,
}

impl Debug for Endpoint {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{}@{}:{}/{}", self.username, self.host, self.port, self.database)
    }
}

/// What servers that have a key file trust each other by. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// From the file's content, in which white space has no meaning.
    #[must_use]
    pub fn new(content: &[u8]) -> Self {
        Self(String::from_utf8_lossy(content).split_whitespace().collect())
    }

    /// The key itself.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.0
    }
}

impl Debug for Key {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str("Key")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_secret_is_not_printed() {
        let endpoint = Endpoint { host: "h".into(), port: 1, database: "d".into(), username: "root".into(), password: "secret".into() };
        assert_eq!(format!("{endpoint:?}"), "root@h:1/d");
        let key = Key::new(b" ab\r\ncd \n");
        assert_eq!((key.secret(), format!("{:?}", Some(&key)).as_str()), ("abcd", "Some(Key)"));
    }
}
