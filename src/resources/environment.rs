//! The variables: which keys, with which values.

use std::collections::BTreeMap;

/// Key of the address of who takes an application's writes.
#[must_use]
pub fn address_key(prefix: &str) -> String {
    format!("{prefix}_ADDRESS")
}

/// Keys of the slaves' addresses, inside the cluster and outside of it.
#[must_use]
pub fn slave_keys(prefix: &str) -> [String; 2] {
    [format!("{prefix}_SLAVE_ADDRESSES_INT"), format!("{prefix}_SLAVE_ADDRESSES_EXT")]
}

/// Keys of database and user name.
fn login_keys(prefix: &str) -> [String; 2] {
    [format!("{prefix}_DATABASE"), format!("{prefix}_USERNAME")]
}

/// Key of the password, in a Secret.
#[must_use]
pub fn password_key(prefix: &str) -> String {
    format!("{prefix}_PASSWORD")
}

/// It is one of the keys that may be ours in a ConfigMap.
#[must_use]
pub fn is_key(prefix: &str, key: &str) -> bool {
    key == address_key(prefix) || slave_keys(prefix).iter().chain(&login_keys(prefix)).any(|ours| key == ours)
}

/// The variables of the source's application. `replicas` are addresses inside the cluster.
#[must_use]
pub fn variables(prefix: &str, primary: &str, replicas: &[String]) -> BTreeMap<String, String> {
    let [inside, outside] = slave_keys(prefix);
    BTreeMap::from([(address_key(prefix), primary.to_owned()), (inside, replicas.join(",")), (outside, String::new())])
}

/// The variables of a target's application: the `address` of its own server, and as `login` the database and the user name of the source's application, where
/// there are variables for them.
#[must_use]
pub fn target_variables(prefix: &str, address: &str, login: Option<[&str; 2]>) -> BTreeMap<String, String> {
    let mut all = variables(prefix, address, &[]);
    all.extend(login.into_iter().flat_map(|login| login_keys(prefix).into_iter().zip(login.map(str::to_owned))));
    all
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

    #[test]
    fn a_targets_application_is_told_of_its_own_server_and_of_no_other() {
        let told = target_variables("PG", "own", Some(["shop", "clerk"]));
        let wanted = [("PG_ADDRESS", "own"), ("PG_DATABASE", "shop"), ("PG_SLAVE_ADDRESSES_EXT", ""), ("PG_SLAVE_ADDRESSES_INT", ""), ("PG_USERNAME", "clerk")];
        assert_eq!(told.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect::<Vec<_>>(), wanted);
        assert_eq!(target_variables("PG", "own", None).len(), 3);
        assert!(told.keys().all(|key| is_key("PG", key) && !is_key("P", key) && !is_key("PG_SLAVE", key)));
        assert!(!is_key("PG", &password_key("PG")), "that is for Secrets alone");
    }
}
