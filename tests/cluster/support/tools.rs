//! Commands, waiting, and what the API server was asked.

use serde_json::Value;
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Refuses to run outside the cluster's network.
pub fn guard() {
    let current = std::env::var("CLUSTER").is_ok_and(|cluster| cluster == "current");
    assert!(current || std::env::var("UNDERSTUDY_NETNS").is_ok(), "cluster tests talk to pods: run them with `make test`, inside the cluster's network");
}

/// Runs a command with text as its input; gives its output, or its complaint.
pub fn run(program: &str, arguments: &[&str], input: &str) -> Result<String, String> {
    guard();
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{program}: {error}"))?;
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// Waits until `look` gives a value; it says what it saw otherwise.
pub async fn wait<T>(what: &str, seconds: u64, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let begun = Instant::now();
    loop {
        match look().await {
            Ok(value) => return value,
            Err(seen) => assert!(begun.elapsed() < Duration::from_secs(seconds), "after {seconds} s still not: {what}; last seen: {seen}"),
        }
        // What takes long is looked at less often: looking takes from what is waited for.
        tokio::time::sleep((begun.elapsed() / 10).clamp(Duration::from_millis(100), Duration::from_millis(500))).await;
    }
}

/// Requests of the operator to this namespace since a mark in the audit log: verb, resource and name.
pub fn requests_since(namespace: &str, mark: u64) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    audit_lines(mark)
        .filter(|line| line["user"]["username"] == "system:serviceaccount:understudy-system:understudy")
        .filter(|line| line["objectRef"]["namespace"] == namespace)
        .map(|line| format!("{} {} {}", text(&line["verb"]), text(&line["objectRef"]["resource"]), text(&line["objectRef"]["name"])))
        .collect()
}

/// Those of them that write.
pub fn writes_since(namespace: &str, mark: u64) -> Vec<String> {
    let mut requests = requests_since(namespace, mark);
    requests.retain(|request| !["get", "list", "watch"].iter().any(|verb| request.starts_with(verb)));
    requests
}

fn audit_log() -> std::fs::File {
    let state = std::env::var("UNDERSTUDY_CLUSTER_STATE").expect("the local cluster's state directory");
    std::fs::File::open(format!("{state}/audit.log")).unwrap()
}

/// The end of the API server's audit log, as it is now.
pub fn audit_mark() -> u64 {
    audit_log().metadata().unwrap().len()
}

/// The API server's audit log since a mark. A log that is shorter was begun anew.
pub fn audit_lines(mark: u64) -> impl Iterator<Item = Value> {
    let mut log = audit_log();
    let begin = if mark <= audit_mark() { mark } else { 0 };
    log.seek(SeekFrom::Start(begin)).unwrap();
    BufReader::new(log).lines().map_while(Result::ok).filter_map(|line| serde_json::from_str(&line).ok())
}
