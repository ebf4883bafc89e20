//! Who may use a database of another namespace: its owner says so on the Secret with its credentials. Nothing of a source is read before that, and who is not
//! allowed learns nothing of what is there.

use std::collections::BTreeMap;

use crate::engine::Finding;

/// Annotation of a Secret: namespaces whose DatabaseReplications may use these credentials, separated by commas, or `*` for all.
pub const ALLOWED: &str = "understudy.dev/allowed-namespaces";
/// Reason: the owner of the source has not agreed.
pub const NOT_ALLOWED: &str = "NamespaceNotAllowed";

/// Whether the annotations of a Secret allow a namespace. Names are compared whole.
#[must_use]
pub fn allows(annotations: &BTreeMap<String, String>, namespace: &str) -> bool {
    let entries = annotations.get(ALLOWED).map_or("", String::as_str).split(',').map(str::trim);
    entries.into_iter().any(|entry| entry == "*" || entry == namespace)
}

/// What is said to whoever is not allowed: the same whether or not there is such a Secret.
#[must_use]
pub fn refusal(secret: &str, owner: &str, namespace: &str) -> Finding {
    let key = ALLOWED.replace('.', "\\.");
    Finding::new(
        NOT_ALLOWED,
        format!("namespace {owner} has no Secret {secret} that lets namespace {namespace} use its database: nothing of it was looked at"),
        format!(
            "the owner of the database runs: kubectl -n {owner} get secret {secret} -o jsonpath='{{.metadata.annotations.{key}}}' (who may use it now), and \
             kubectl -n {owner} annotate --overwrite secret {secret} {ALLOWED}={namespace} (all who shall, separated by commas)"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_allowed_by_its_whole_name_only() {
        let says = |text: &str, namespace: &str| allows(&BTreeMap::from([(ALLOWED.to_owned(), text.to_owned())]), namespace);
        for text in ["reports", "analytics,reports", " reports , analytics", "*", "a,*"] {
            assert!(says(text, "reports"), "{text}");
        }
        for text in ["", ",", "report", "reports2", "my-reports", "Reports", "re*", "reports*", "reports/x", "reports analytics", "!reports", "'reports'"] {
            assert!(!says(text, "reports"), "{text}");
        }
        assert!(!allows(&BTreeMap::new(), "reports"));
        assert!(!allows(&BTreeMap::from([("allowed-namespaces".to_owned(), "*".to_owned())]), "reports"));
    }

    #[test]
    fn the_owner_is_told_two_commands() {
        let remedy = refusal("orders-db", "shop", "reports").remedy;
        assert!(remedy.contains("kubectl -n shop annotate --overwrite secret orders-db understudy.dev/allowed-namespaces=reports"), "{remedy}");
        assert!(remedy.contains(r"jsonpath='{.metadata.annotations.understudy\.dev/allowed-namespaces}'"), "{remedy}");
    }
}
