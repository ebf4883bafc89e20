//! What the documentation says is compared with the code: the reference with the definition, the reasons with the sources, links with the files.
//!
//! `UPDATE_DOCS=1 cargo test --test docs` writes what is generated: `docs/reference.md`.

#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const DEFINITION: &str = "databasereplications.understudy.dev.yaml";
/// Fields whose parts are those of Kubernetes, and described there.
const OF_KUBERNETES: [(&str, &str); 4] = [
    ("affinity", "Affinity of a pod"),
    ("resources", "resources of a container"),
    ("tolerations", "list of tolerations of a pod"),
    ("conditions", "list of Condition"),
];
/// Words in the sources that look like a reason and are none: kinds, words of Kubernetes, of the status and of the engines.
const NO_REASONS: [&str; 38] = [
    "Apply",
    "Complete",
    "ConfigMap",
    "ContainerCreating",
    "Copying",
    "Diverged",
    "Failed",
    "False",
    "Job",
    "Lost",
    "Memory",
    "MongoDB",
    "MySQL",
    "Never",
    "None",
    "NotReplicating",
    "OnDelete",
    "OnRootMismatch",
    "Parallel",
    "Password",
    "Pending",
    "PersistentVolumeClaim",
    "PodInitializing",
    "PodScheduled",
    "PostgreSQL",
    "ReadWriteOnce",
    "Redis",
    "Removing",
    "Running",
    "RuntimeDefault",
    "Secret",
    "Service",
    "Starting",
    "StatefulSet",
    "Succeeded",
    "True",
    "Unknown",
    "Value",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn definition() -> Value {
    serde_json::to_value(understudy::api::definition()).unwrap()
}

/// All files below a directory with one of these endings.
fn files(directory: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![root().join(directory)];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|extension| extension == ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

// The definition

#[test]
fn the_committed_definitions_are_those_of_the_code() {
    for directory in ["crds", "charts/understudy/files"] {
        let committed: Value = serde_yaml::from_str(&read(Path::new(directory).join(DEFINITION))).unwrap();
        assert!(committed == definition(), "{directory}/{DEFINITION} is out of date: `understudy crds` prints it, and deploy/render copies it to the chart");
    }
}

#[test]
fn what_is_rendered_from_the_chart_is_up_to_date() {
    // Rendering needs helm: the system's, or that of the local cluster where one runs.
    let answers = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
    let local = root().join("deploy/local/cluster");
    if !answers(Command::new("helm").arg("version")) && !answers(Command::new(local).args(["enter", "helm", "version"])) {
        eprintln!("not checked: there is no helm here, and no local cluster that brings one along");
        return;
    }
    let output = Command::new(root().join("deploy/render")).arg("--check").output().unwrap();
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
}

// The reference

fn text<'a>(schema: &'a Value, key: &str) -> &'a str {
    schema[key].as_str().unwrap_or_default()
}

/// As it stands in a cell of a table.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn kind(schema: &Value) -> String {
    match text(schema, "type") {
        "array" => format!("list of {}", kind(&schema["items"])),
        "object" if schema["additionalProperties"].is_object() => format!("map of {}", kind(&schema["additionalProperties"])),
        "string" if text(schema, "format") == "date-time" => "time".to_owned(),
        "" if schema["x-kubernetes-int-or-string"] == true => "quantity".to_owned(),
        other => other.to_owned(),
    }
}

fn limits(schema: &Value) -> String {
    let mut all = Vec::new();
    let number = |key: &str| schema[key].as_f64();
    match (number("minimum"), number("maximum")) {
        (Some(least), Some(most)) => all.push(format!("{least} to {most}")),
        (Some(least), None) if least != 0.0 => all.push(format!("at least {least}")),
        (None, Some(most)) => all.push(format!("at most {most}")),
        _ => {}
    }
    match (number("minLength"), number("maxLength")) {
        (Some(least), Some(most)) => all.push(format!("{least} to {most} characters")),
        (Some(least), None) => all.push(format!("at least {least} characters")),
        (None, Some(most)) => all.push(format!("at most {most} characters")),
        (None, None) => {}
    }
    all.extend(number("maxItems").map(|most| format!("at most {most}")));
    all.extend(schema["pattern"].as_str().map(|pattern| format!("`{pattern}`")));
    if let Some(values) = schema["enum"].as_array() {
        all.push(values.iter().filter_map(Value::as_str).map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", "));
    }
    all.join("; ")
}

fn default(schema: &Value, required: bool, of_status: bool) -> String {
    match &schema["default"] {
        _ if of_status => String::new(),
        _ if required => "required".to_owned(),
        Value::Null => String::new(),
        value if value.as_array().is_some_and(Vec::is_empty) => "none".to_owned(),
        Value::String(value) => format!("`{value}`"),
        value => format!("`{value}`"),
    }
}

/// The fields below a schema, one row each, and the rules on the way.
fn fields(path: &str, schema: &Value, rows: &mut Vec<[String; 5]>, rules: &mut Vec<[String; 3]>) {
    let of_status = path == "status" || path.starts_with("status.");
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        rules.push([path.to_owned(), text(rule, "message").to_owned(), text(rule, "rule").to_owned()]);
    }
    let required: BTreeSet<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let below = format!("{path}.{name}");
        let of_kubernetes = OF_KUBERNETES.iter().find(|(known, _)| known == name).map(|(_, word)| (*word).to_owned());
        let known = of_kubernetes.is_some();
        rows.push([
            below.clone(),
            of_kubernetes.unwrap_or_else(|| kind(field)),
            default(field, required.contains(name.as_str()), of_status),
            limits(field),
            text(field, "description").to_owned(),
        ]);
        if known {
            continue;
        }
        fields(&below, field, rows, rules);
        if field["items"].is_object() {
            fields(&format!("{below}[]"), &field["items"], rows, rules);
        }
    }
}

fn reference() -> String {
    let definition = definition();
    let (spec, version) = (&definition["spec"], &definition["spec"]["versions"][0]);
    let schema = &version["schema"]["openAPIV3Schema"];
    let (mut wanted, mut answered, mut rules) = (Vec::new(), Vec::new(), Vec::new());
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        rules.push(["metadata".to_owned(), text(rule, "message").to_owned(), text(rule, "rule").to_owned()]);
    }
    fields("spec", &schema["properties"]["spec"], &mut wanted, &mut rules);
    fields("status", &schema["properties"]["status"], &mut answered, &mut rules);

    let mut page = format!(
        "# The resource\n\n<!-- Generated from the definition by tests/docs.rs: UPDATE_DOCS=1 cargo test --test docs -->\n\n\
         `{}`, `apiVersion: {}/{}`, {}; for `kubectl`: `{}`, short `{}`. `kubectl explain {}.spec` says the same.\n\n{}\n",
        text(&spec["names"], "kind"),
        text(spec, "group"),
        text(version, "name"),
        if text(spec, "scope") == "Namespaced" { "in a namespace" } else { "of the cluster" },
        text(&spec["names"], "plural"),
        spec["names"]["shortNames"][0].as_str().unwrap_or_default(),
        spec["names"]["shortNames"][0].as_str().unwrap_or_default(),
        cell(text(schema, "description")),
    );
    page.push_str("\n## spec: what you ask for\n\n| field | type | default | limits | |\n|---|---|---|---|---|\n");
    for [path, kind, default, limits, about] in &wanted {
        let path = path.trim_start_matches("spec.");
        writeln!(page, "| `{path}` | {kind} | {} | {} | {} |", cell(default), cell(limits), cell(about)).unwrap();
    }
    page.push_str(
        "\n## Rules\n\nA resource that breaks one of these is refused by the API server, with this message.\n\n| about | message | rule |\n|---|---|---|\n",
    );
    for [path, message, rule] in &rules {
        writeln!(page, "| `{path}` | {} | `{}` |", cell(message), cell(rule)).unwrap();
    }
    page.push_str("\nUnknown fields are refused by `kubectl`, too.\n");
    page.push_str("\n## Columns of `kubectl get dbrep`\n\n| column | from | |\n|---|---|---|\n");
    for column in version["additionalPrinterColumns"].as_array().into_iter().flatten() {
        let wide = if column["priority"] == 1 { "with `-o wide`" } else { "" };
        let about = [text(column, "description"), wide].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ");
        writeln!(page, "| {} | `{}` | {} |", text(column, "name"), cell(text(column, "jsonPath")), cell(&about)).unwrap();
    }
    page.push_str(
        "\n## status: what the operator answers\n\n[Phases, conditions and reasons](conditions.md) have a page of their own. Nothing in the status ticks.\n\n",
    );
    page.push_str("| field | type | values | |\n|---|---|---|---|\n");
    for [path, kind, _, limits, about] in &answered {
        let path = path.trim_start_matches("status.");
        writeln!(page, "| `{path}` | {kind} | {} | {} |", cell(limits), cell(about)).unwrap();
    }
    page
}

#[test]
fn the_reference_is_that_of_the_definition() {
    let (path, wanted) = ("docs/reference.md", reference());
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(root().join(path), &wanted).unwrap();
    }
    assert!(fs::read_to_string(root().join(path)).is_ok_and(|committed| committed == wanted), "{path} is out of date: UPDATE_DOCS=1 cargo test --test docs");
}

// Reasons

/// A word in the form of a reason: more than three letters, a capital first, not all of them capitals.
fn is_camel(word: &str) -> bool {
    word.len() > 3
        && word.starts_with(|c: char| c.is_ascii_uppercase())
        && word.chars().all(|c| c.is_ascii_alphanumeric())
        && word.chars().any(|c| c.is_ascii_lowercase())
}

/// Every literal in the sources that has the form of a reason, whatever it is an argument of; unit tests and comments are left out.
fn words_in_sources() -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    let paths = ["src/controller", "src/engine", "src/resources"].into_iter().flat_map(|directory| files(directory, "rs"));
    for path in paths.chain([root().join("src/events.rs")]) {
        if path.components().any(|part| part.as_os_str() == "tests") || path.ends_with("tests.rs") {
            continue;
        }
        let source = fs::read_to_string(&path).unwrap();
        let code = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            words.extend(line.split('"').skip(1).step_by(2).filter(|word| is_camel(word)).map(str::to_owned));
        }
    }
    words
}

/// The words in code in the first cell of the rows of a page's tables.
fn words_in_tables(page: &str) -> BTreeSet<String> {
    let cells = page.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).filter(|word| is_camel(word)).map(str::to_owned).collect()
}

#[test]
fn every_reason_of_the_code_is_explained_and_no_other() {
    let page = read("docs/conditions.md");
    let (mut words, told) = (words_in_sources(), words_in_tables(&page));
    words.retain(|word| !NO_REASONS.contains(&word.as_str()));
    assert!(words.len() > 50 && words.contains("WalLevelMinimal") && words.contains("RestoreFailed"), "the scan finds too little: {words:?}");
    let phases = definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]["phase"]["enum"].clone();
    words.extend(phases.as_array().unwrap().iter().filter_map(Value::as_str).map(str::to_owned));
    let missing: Vec<_> = words.difference(&told).collect();
    assert!(missing.is_empty(), "docs/conditions.md does not explain {missing:?}; what is no reason belongs into NO_REASONS of this test");
    let surplus: Vec<_> = told.difference(&words).collect();
    assert!(surplus.is_empty(), "docs/conditions.md explains what the code does not say: {surplus:?}");
}

#[test]
fn the_page_of_conditions_lists_the_phases_in_their_order() {
    let page = read("docs/conditions.md");
    let section = page.split("## Phases").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows: Vec<&str> = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let phases = definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]["phase"]["enum"].clone();
    let phases: Vec<&str> = phases.as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(rows, phases);
}

// Links

/// The targets of a page's links, without those in code.
fn links(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut code = false;
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            code = !code;
        }
        if code {
            continue;
        }
        let plain: String = line.split('`').enumerate().map(|(n, part)| if n % 2 == 0 { part } else { "code" }).collect();
        found.extend(plain.split("](").skip(1).filter_map(|rest| rest.split(')').next()).map(str::to_owned));
    }
    found
}

/// The anchors of a page's headings, as they are made by those who show Markdown.
fn anchors(page: &str) -> BTreeSet<String> {
    let plain = |heading: &str| -> String {
        let kept = heading.trim().to_lowercase().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_')).collect::<String>();
        kept.replace(' ', "-")
    };
    page.lines().filter_map(|line| line.strip_prefix('#')).map(|line| plain(line.trim_start_matches('#'))).collect()
}

#[test]
fn every_relative_link_leads_somewhere() {
    let pages = files("docs", "md").into_iter().chain(files("deploy", "md")).chain([root().join("README.md")]);
    let (mut broken, mut seen) = (Vec::new(), 0);
    for page in pages {
        let source = fs::read_to_string(&page).unwrap();
        for link in links(&source).into_iter().filter(|link| !link.contains("://")) {
            seen += 1;
            let (path, anchor) = link.split_once('#').map_or((link.as_str(), None), |(path, anchor)| (path, Some(anchor)));
            let target = if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
            let there = target.exists() && anchor.is_none_or(|anchor| fs::read_to_string(&target).is_ok_and(|text| anchors(&text).contains(anchor)));
            if !there {
                broken.push(format!("{}: {link}", page.strip_prefix(root()).unwrap().display()));
            }
        }
    }
    assert!(seen > 10, "the scan finds too little: {seen}");
    assert!(broken.is_empty(), "{broken:#?}");
}
