//! Commands, waiting, and what the API server was asked.

use serde_json::Value;
use std::io::Write;
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
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Write requests of the operator to this namespace since a line of the audit log.
pub fn writes_since(namespace: &str, mark: usize) -> Vec<String> {
    audit_lines()
        .into_iter()
        .skip(mark)
        .filter(|line| line["user"]["username"].as_str().is_some_and(|user| user == "system:serviceaccount:understudy-system:understudy"))
        .filter(|line| line["objectRef"]["namespace"] == namespace)
        .filter(|line| !matches!(line["verb"].as_str(), Some("get" | "list" | "watch")))
        .map(|line| format!("{} {} {}", line["verb"], line["objectRef"]["resource"], line["objectRef"]["name"]))
        .collect()
}

/// The API server's audit log.
pub fn audit_lines() -> Vec<Value> {
    let state = std::env::var("UNDERSTUDY_CLUSTER_STATE").expect("the local cluster's state directory");
    let text = std::fs::read_to_string(format!("{state}/audit.log")).unwrap();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}
