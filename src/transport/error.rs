//! Why a host could not be reached: a cause that a caller can branch on, and what ssh or the host said.

use std::fmt;

/// The cause, as far as the output of ssh and the host shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectErrorKind {
    /// The host is unreachable: no answer, no route, unknown name, or connection refused.
    Unreachable,
    /// The inventory pins no key for this host.
    UnknownHostKey,
    /// The host shows another key than the pinned one.
    ChangedHostKey,
    /// The host does not let this user in with this key.
    AccessDenied,
    /// `sudo -n` wants a password or is not allowed.
    SudoDenied,
    /// The login works, but no agent starts.
    AgentFailed,
}

/// A host that could not be reached.
#[derive(Clone, Debug)]
pub struct ConnectError {
    /// The host's name in the inventory.
    pub host: String,
    /// Cause of the error.
    pub kind: ConnectErrorKind,
    /// Message of ssh or the host, in one line.
    pub detail: String,
    /// Jump host that caused the error, if it is not the host itself.
    pub jump_host: Option<String>,
}

impl ConnectError {
    /// Creates a failure of that host.
    pub fn new(host: &str, kind: ConnectErrorKind, detail: impl Into<String>) -> Self {
        Self { host: host.to_owned(), kind, detail: detail.into(), jump_host: None }
    }

    /// Creates the failure of a host that a failure of the jump host causes.
    pub fn over(host: &str, error: Self) -> Self {
        let jump_host = Some(error.jump_host.unwrap_or(error.host));
        Self { host: host.to_owned(), jump_host, ..error }
    }

    /// Tells the cause from the log of ssh's master process.
    pub fn from_ssh_log(host: &str, log: &str) -> Self {
        const PATTERNS: &[(&str, ConnectErrorKind)] = &[
            ("REMOTE HOST IDENTIFICATION HAS CHANGED", ConnectErrorKind::ChangedHostKey),
            ("Host key verification failed", ConnectErrorKind::ChangedHostKey),
            ("host key is known for", ConnectErrorKind::UnknownHostKey),
            ("Permission denied (", ConnectErrorKind::AccessDenied),
            ("Too many authentication failures", ConnectErrorKind::AccessDenied),
        ];
        // An unknown key also ends in "verification failed": look for what is special first.
        let is_unknown_key = log.contains("host key is known for");
        let pattern = PATTERNS
            .iter()
            .find(|(sign, kind)| log.contains(sign) && !(is_unknown_key && *kind == ConnectErrorKind::ChangedHostKey));
        let cause = pattern.map_or(ConnectErrorKind::Unreachable, |(_, cause)| *cause);
        let line = log.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("no answer");
        Self::new(host, cause, line)
    }

    /// Returns the next step for the operator.
    pub fn hint(&self) -> String {
        let host = self.jump_host.as_ref().unwrap_or(&self.host);
        match self.kind {
            ConnectErrorKind::Unreachable => format!("is it up? try: ssh -v to the address of {host} in hosts.toml"),
            ConnectErrorKind::UnknownHostKey => format!(
                "compare the key on the host's console (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), then pin it: set host_key of {host} in hosts.toml, or add the line `{host} ssh-ed25519 AAAA…` to known_hosts in the same folder"
            ),
            ConnectErrorKind::ChangedHostKey => format!(
                "if the host was reinstalled, compare its key on its console and replace host_key of {host} in hosts.toml or known_hosts; otherwise the connection may be intercepted"
            ),
            ConnectErrorKind::AccessDenied => {
                format!("check user and key of {host} in hosts.toml, and authorized_keys on the host")
            }
            ConnectErrorKind::SudoDenied => format!(
                "give the login user password-less sudo on {host} (`USER ALL=(ALL) NOPASSWD: ALL`), or set become = false"
            ),
            ConnectErrorKind::AgentFailed => format!("try: dunlin exec {host} -- true, with -v"),
        }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            ConnectErrorKind::Unreachable => "cannot be reached",
            ConnectErrorKind::UnknownHostKey => "its host key is not pinned in the inventory",
            ConnectErrorKind::ChangedHostKey => "its host key is not the pinned one",
            ConnectErrorKind::AccessDenied => "rejects the login",
            ConnectErrorKind::SudoDenied => "does not allow sudo without a password",
            ConnectErrorKind::AgentFailed => "does not start dunlin's agent",
        };
        match &self.jump_host {
            Some(over) => write!(f, "{}: cannot connect through {over}: {what}: {}", self.host, self.detail),
            None => write!(f, "{}: {what}: {}", self.host, self.detail),
        }
    }
}

impl std::error::Error for ConnectError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ssh_logs_determine_the_error_kind() {
        let cases = [
            ("ssh: connect to host 10.0.0.1 port 22: Connection refused", ConnectErrorKind::Unreachable),
            ("ssh: Could not resolve hostname x: Name or service not known", ConnectErrorKind::Unreachable),
            (
                "No ED25519 host key is known for a and you have requested strict checking.\nHost key verification failed.",
                ConnectErrorKind::UnknownHostKey,
            ),
            (
                "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.",
                ConnectErrorKind::ChangedHostKey,
            ),
            ("deploy@10.0.0.1: Permission denied (publickey).", ConnectErrorKind::AccessDenied),
        ];
        for (log, cause) in cases {
            assert_eq!(ConnectError::from_ssh_log("a", log).kind, cause, "{log}");
        }
    }
}
