//! Who may use a database of another namespace: its owner says so on the Secret with its credentials, and on each ConfigMap that is to be written. Nothing of a
//! source is read before that, and who is not allowed learns nothing of what is there.

use std::collections::BTreeMap;

use crate::engine::Finding;

/// Annotation of a Secret: namespaces whose DatabaseReplications may use these credentials, separated by commas, or `*` for all. Of a ConfigMap: those whose
/// DatabaseReplications may write their variables there.
pub const ALLOWED: &str = "understudy.dev/allowed-namespaces";
/// Reason: the owner of the source has not agreed.
pub const NOT_ALLOWED: &str = "NamespaceNotAllowed";

/// Reason: the owner of a ConfigMap has not agreed.
pub const CONFIG_MAP_NOT_ALLOWED: &str = "ConfigMapNotAllowed";

/// Whether the annotations of an object allow a namespace. Names are compared whole.
#[must_use]
pub fn allows(annotations: &BTreeMap<String, String>, namespace: &str) -> bool {
    let entries = annotations.get(ALLOWED).map_or("", String::as_str).split(',').map(str::trim);
    entries.into_iter().any(|entry| entry == "*" || entry == namespace)
}

/// What is said to whoever is not allowed: the same whether or not there is such a Secret.
#[must_use]
pub fn refusal(secret: &str, owner: &str, namespace: &str) -> Finding {
    let message = format!("namespace {owner} has no Secret {secret} that lets namespace {namespace} use its database: nothing of it was looked at");
    Finding::new(NOT_ALLOWED, message, format!("the owner of the database runs: {}", commands("secret", secret, owner, namespace)))
}

/// The same of the Secret with what the source's application logs in with.
#[must_use]
pub fn refusal_of_login(secret: &str, owner: &str, namespace: &str) -> Finding {
    let message = format!("namespace {owner} has no Secret {secret} that lets namespace {namespace} use what the source's application logs in with");
    Finding::new(NOT_ALLOWED, message, format!("its owner runs: {}", commands("secret", secret, owner, namespace)))
}

/// The same of a ConfigMap that is to be written.
#[must_use]
pub fn refusal_of_config_map(config_map: &str, owner: &str, namespace: &str) -> Finding {
    let message = format!("namespace {owner} has no ConfigMap {config_map} that lets namespace {namespace} write its variables: nothing is written there");
    Finding::new(CONFIG_MAP_NOT_ALLOWED, message, format!("its owner runs: {}", commands("configmap", config_map, owner, namespace)))
}

/// How the owner of an object looks who is allowed, and allows a namespace.
fn commands(kind: &str, name: &str, owner: &str, namespace: &str) -> String {
    let key = ALLOWED.replace('.', "\\.");
    format!(
        "kubectl -n {owner} get {kind} {name} -o jsonpath='{{.metadata.annotations.{key}}}' (who may use it now), and \
         kubectl -n {owner} annotate --overwrite {kind} {name} {ALLOWED}={namespace} (all who shall, separated by commas)"
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
        let refused = refusal_of_config_map("shop-env", "shop", "reports");
        assert_eq!(refused.reason, "ConfigMapNotAllowed");
        let remedy = refused.remedy;
        assert!(remedy.contains("kubectl -n shop annotate --overwrite configmap shop-env understudy.dev/allowed-namespaces=reports"), "{remedy}");
        assert!(
            remedy.contains(r"kubectl -n shop get configmap shop-env -o jsonpath='{.metadata.annotations.understudy\.dev/allowed-namespaces}'"),
            "{remedy}"
        );
    }
}
