//! The replica variables: which keys, with which values.

use std::collections::BTreeMap;

/// Key of the master's address.
#[must_use]
pub fn address_key(prefix: &str) -> String {
    format!("{prefix}_ADDRESS")
}

/// The variables of the source's application. `replicas` are addresses inside the cluster.
#[must_use]
pub fn variables(prefix: &str, primary: &str, replicas: &[String]) -> BTreeMap<String, String> {
    BTreeMap::from([
        (address_key(prefix), primary.to_owned()),
        (format!("{prefix}_SLAVE_ADDRESSES_INT"), replicas.join(",")),
        (format!("{prefix}_SLAVE_ADDRESSES_EXT"), String::new()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_slave_is_appended_and_none_leaves_an_empty_value() {
        let addresses = ["a".to_owned(), "b".to_owned()];
        assert_eq!(variables("PG", "p", &addresses)["PG_SLAVE_ADDRESSES_INT"], "a,b");
        assert_eq!(variables("PG", "p", &[])["PG_SLAVE_ADDRESSES_INT"], "");
    }
}
