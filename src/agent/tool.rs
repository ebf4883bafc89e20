//! Runs the database's own tools.

use std::path::Path;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::AgentError;

/// Runs one of the database's tools to its end, with its messages in our log; it ends with us. `programs` is where it is looked for first.
///
/// # Errors
/// [`AgentError::Tool`] with its last words if it can't be started or does not succeed.
pub async fn run(programs: Option<&Path>, name: &'static str, arguments: &[&str]) -> Result<(), AgentError> {
    run_with(programs, name, arguments, &[]).await
}

/// As [`run`], with variables for the tool alone: the way for a secret, which arguments would show to everybody.
///
/// # Errors
/// As [`run`].
pub async fn run_with(programs: Option<&Path>, name: &'static str, arguments: &[&str], variables: &[(&str, &str)]) -> Result<(), AgentError> {
    tracing::info!(tool = name, "begins");
    let failed = |message: String| AgentError::Tool { tool: name, message };
    let program = programs.map(|directory| directory.join(name)).filter(|path| path.exists()).unwrap_or_else(|| name.into());
    let mut child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(format!("{error}: does the source's image bring it along?")))?;
    let mut last: Vec<String> = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        let mut lines = BufReader::new(stderr).split(b'\n');
        while let Ok(Some(line)) = lines.next_segment().await {
            let line = String::from_utf8_lossy(&line).trim().to_owned();
            tracing::info!(tool = name, line);
            last.push(line);
            if last.len() > 20 {
                last.remove(0);
            }
        }
    }
    let status = child.wait().await.map_err(|error| failed(error.to_string()))?;
    if status.success() { Ok(()) } else { Err(failed(reason(name, &last).unwrap_or_else(|| status.to_string()))) }
}

/// Why a tool failed: its errors with what explains them, or else its last words.
fn reason(tool: &str, lines: &[String]) -> Option<String> {
    let prefix = format!("{tool}: ");
    // MongoDB's tools say the time first.
    let timed = |line: &'_ str| line.starts_with(|c: char| c.is_ascii_digit()).then(|| line.find('\t')).flatten().map_or(0, |tab| tab + 1);
    let words =
        || lines.iter().map(|line| line.strip_prefix(&prefix).unwrap_or(line)).filter_map(|line| line.get(timed(line)..)).filter(|line| !line.is_empty());
    let telling = |line: &&str| ["error: ", "fatal: ", "failed: ", "detail: ", "hint: "].iter().any(|kind| line.to_lowercase().starts_with(kind));
    let mut chosen: Vec<&str> = words().filter(telling).collect();
    if chosen.is_empty() {
        chosen = words().collect();
    }
    let from = chosen.len().saturating_sub(4);
    chosen.get(from..).filter(|lines| !lines.is_empty()).map(|lines| lines.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_that_fails_says_why() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let said = lines("pg_basebackup: error: could not write: No space left on device\npg_basebackup: removing data directory");
        assert_eq!(reason("pg_basebackup", &said).as_deref(), Some("error: could not write: No space left on device"));
        let said = lines("2026-01-01T00:00:00.000+0000\twriting shop.orders to x\n2026-01-01T00:00:00.001+0000\tFailed: error writing data: no space left");
        assert_eq!(reason("mongodump", &said).as_deref(), Some("Failed: error writing data: no space left"));
        assert_eq!(reason("pg_basebackup", &lines("killed")).as_deref(), Some("killed"));
        assert_eq!(reason("pg_basebackup", &[]), None);
    }
}
