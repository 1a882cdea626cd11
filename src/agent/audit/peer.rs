//! Finds out who is behind the SSH connection that this agent was started over.

use std::fmt;
use std::fs;
use std::time::Duration;

use serde::Serialize;

use crate::process::Program;

/// sshd answers from its journal at once, or not at all.
const JOURNAL_TIMEOUT: Duration = Duration::from_secs(2);
const MAX_ANCESTORS: usize = 16;

/// The other end of an SSH connection, as sshd logged it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SshPeer {
    /// The account that logged in.
    pub user: String,
    /// Its address.
    pub address: String,
    /// The fingerprint of its key: `SHA256:…`; `None` for another method than a key.
    pub key: Option<String>,
}

impl SshPeer {
    /// Returns the other end; `None` without SSH, or where sshd's log cannot be read.
    pub fn find() -> Option<Self> {
        let servers = sshd_ancestors();
        if servers.is_empty() {
            return None;
        }
        let program = Program::new("journalctl").args(journal_arguments(&servers));
        let said = program.timeout(JOURNAL_TIMEOUT).max_output(1 << 20).run().ok()?;
        String::from_utf8_lossy(&said).lines().rev().find_map(Self::parse)
    }

    /// Reads sshd's line `Accepted publickey for USER from ADDRESS port PORT ssh2: TYPE SHA256:…`.
    fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.strip_prefix("Accepted ")?.split(' ').collect();
        let after = |word: &str| words.iter().position(|one| *one == word).and_then(|at| words.get(at + 1));
        let key = words.iter().find(|word| word.starts_with("SHA256:"));
        Some(Self {
            user: (*after("for")?).to_owned(),
            address: (*after("from")?).to_owned(),
            key: key.map(|key| (*key).to_owned()),
        })
    }
}

impl fmt::Display for SshPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{} ({})", self.user, self.address, self.key.as_deref().unwrap_or("without a key"))
    }
}

/// Returns the arguments that select what these processes logged as root. Another user's process may have had one of
/// the numbers before, and may have logged a line like sshd's.
fn journal_arguments(servers: &[u32]) -> Vec<String> {
    let mut arguments = ["--quiet", "--no-pager", "--output=cat", "--boot"].map(str::to_owned).to_vec();
    for (index, pid) in servers.iter().enumerate() {
        arguments.extend((index > 0).then(|| "+".to_owned()));
        arguments.extend(["_UID=0".to_owned(), format!("_PID={pid}")]);
    }
    arguments
}

/// Returns the processes of sshd above this one: the one that checked the key is among them.
fn sshd_ancestors() -> Vec<u32> {
    let mut found = Vec::new();
    let mut pid = std::os::unix::process::parent_id();
    for _ in 0..MAX_ANCESTORS {
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { break };
        // `PID (NAME) STATE PPID …`; a name may have brackets itself.
        let Some((head, tail)) = stat.rsplit_once(')') else { break };
        let name = head.split_once('(').map(|(_, name)| name).unwrap_or_default();
        if name.starts_with("sshd") {
            found.push(pid);
        }
        match tail.split_whitespace().nth(1).and_then(|parent| parent.parse().ok()) {
            Some(parent) if parent > 1 => pid = parent,
            _ => break,
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_are_read_from_the_log_of_sshd() {
        let line = "Accepted publickey for root from 192.0.2.7 port 40132 ssh2: ED25519 SHA256:abc/+1";
        let peer = SshPeer::parse(line).unwrap();
        assert_eq!(peer.to_string(), "root@192.0.2.7 (SHA256:abc/+1)");
        let peer = SshPeer::parse("Accepted password for ops from 2001:db8::1 port 2 ssh2").unwrap();
        assert_eq!((peer.address.as_str(), peer.key), ("2001:db8::1", None));
        let words = journal_arguments(&[7, 9]).join(" ");
        assert_eq!(words, "--quiet --no-pager --output=cat --boot _UID=0 _PID=7 + _UID=0 _PID=9");
        assert_eq!(SshPeer::parse("Failed password for root from 192.0.2.7 port 1 ssh2"), None);
    }
}
