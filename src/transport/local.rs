//! An agent on this machine, as a child process: for a host whose address is this machine, and for tests.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use super::{Channel, ConnectError, ConnectErrorKind};

/// Starts `PROGRAM agent` as a child.
///
/// # Errors
/// Returns an error if the program cannot be started.
pub fn spawn_local_agent(name: &str, program: &Path) -> Result<Channel, ConnectError> {
    let started = Command::new(program)
        .arg("agent")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(false)
        .spawn();
    let mut child =
        started.map_err(|error| ConnectError::new(name, ConnectErrorKind::AgentFailed, error.to_string()))?;
    match (child.stdin.take(), child.stdout.take()) {
        (Some(writer), Some(reader)) => Ok(Channel {
            reader: Box::new(reader),
            writer: Box::new(writer),
            guard: Box::new(child),
            agent_pushed: false,
        }),
        _ => Err(ConnectError::new(name, ConnectErrorKind::AgentFailed, "the child has no pipes")),
    }
}
