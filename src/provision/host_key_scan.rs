//! Asks a host for its key, before the key is trusted.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::inventory::HostKey;
use crate::process::Program;

/// Seconds that the host may take for an answer.
const ANSWER_TIMEOUT_S: &str = "10";
/// Time limit for the whole program: a name that cannot be resolved takes longer than an answer.
const SCAN_TIMEOUT: Duration = Duration::from_secs(60);

/// Returns the ed25519 key that a host offers; `None` if it offers none, or does not answer.
///
/// # Errors
/// ssh-keyscan cannot be started, or does not end.
pub async fn scan_host_key(address: String, port: u16) -> Result<Option<HostKey>> {
    tokio::task::spawn_blocking(move || {
        let output = Program::new("ssh-keyscan")
            .args(["-T", ANSWER_TIMEOUT_S, "-t", "ed25519", "-p", &port.to_string(), "--", &address])
            .timeout(SCAN_TIMEOUT)
            .output()
            .context("cannot ask for the host key with ssh-keyscan, which is part of the OpenSSH client")?;
        Ok(parse_host_key(&String::from_utf8_lossy(&output.stdout)))
    })
    .await?
}

/// Parses the first key of the output: `ADDRESS TYPE KEY`, beside comments.
fn parse_host_key(output: &str) -> Option<HostKey> {
    let line = output.lines().find(|line| !line.starts_with('#'))?;
    line.split_once(' ').and_then(|(_, key)| key.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_behind_the_address() {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPHioFyK2+ckjCSAwbhLix5/AwNtfk4OgTOaryCzfNXt";
        let output = format!("# 192.0.2.1:22 SSH-2.0-OpenSSH_9.2\n[192.0.2.1]:2222 {key}\n");
        assert_eq!(parse_host_key(&output), Some(key.parse().unwrap()));
        for without_key in ["", "# 192.0.2.1:22 SSH-2.0-OpenSSH_9.2\n", "192.0.2.1\n", "192.0.2.1 no key\n"] {
            assert_eq!(parse_host_key(without_key), None, "{without_key:?}");
        }
    }
}
