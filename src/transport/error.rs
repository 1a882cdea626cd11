//! Why a host could not be reached: a cause that a caller can branch on, and what ssh or the host said.

use std::fmt;

/// The cause, as far as it can be told from what ssh and the host said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// No answer, no route, no such name, connection refused.
    Unreachable,
    /// The inventory pins no key for this host.
    UnknownKey,
    /// The host shows another key than the pinned one.
    ChangedKey,
    /// The host does not let this user in with this key.
    Denied,
    /// `sudo -n` wants a password or is not allowed.
    Sudo,
    /// The login works, but no agent starts.
    Agent,
}

/// A host that could not be reached.
#[derive(Clone, Debug)]
pub struct ConnectError {
    /// The host's name in the inventory.
    pub host: String,
    /// Why.
    pub cause: Cause,
    /// What was said, in one line.
    pub detail: String,
    /// The host on the way there that it is about, where it is not the host itself.
    pub over: Option<String>,
}

impl ConnectError {
    /// A failure of that host.
    pub fn new(host: &str, cause: Cause, detail: impl Into<String>) -> Self {
        Self { host: host.to_owned(), cause, detail: detail.into(), over: None }
    }

    /// A failure of the host that leads to this one.
    pub fn over(host: &str, error: Self) -> Self {
        let over = Some(error.over.unwrap_or(error.host));
        Self { host: host.to_owned(), over, ..error }
    }

    /// Tells the cause from the log of ssh's master process.
    pub fn from_ssh(host: &str, log: &str) -> Self {
        const SIGNS: &[(&str, Cause)] = &[
            ("REMOTE HOST IDENTIFICATION HAS CHANGED", Cause::ChangedKey),
            ("Host key verification failed", Cause::ChangedKey),
            ("host key is known for", Cause::UnknownKey),
            ("Permission denied (", Cause::Denied),
            ("Too many authentication failures", Cause::Denied),
        ];
        // An unknown key also ends in "verification failed": look for what is special first.
        let unknown = log.contains("host key is known for");
        let sign = SIGNS.iter().find(|(sign, cause)| log.contains(sign) && !(unknown && *cause == Cause::ChangedKey));
        let cause = sign.map_or(Cause::Unreachable, |(_, cause)| *cause);
        let line = log.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("no answer");
        Self::new(host, cause, line)
    }

    /// The next step for the person who reads this.
    pub fn hint(&self) -> String {
        let host = self.over.as_ref().unwrap_or(&self.host);
        match self.cause {
            Cause::Unreachable => format!("is it up? try: ssh -v to the address of {host} in hosts.toml"),
            Cause::UnknownKey => format!(
                "compare the key on the host's console (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), then set host_key under [hosts.{host}]"
            ),
            Cause::ChangedKey => format!(
                "if the host was reinstalled, compare its key on its console and replace host_key under [hosts.{host}]; otherwise somebody is in between"
            ),
            Cause::Denied => format!("check user and key of {host} in hosts.toml, and authorized_keys on the host"),
            Cause::Sudo => format!(
                "give the login user password-less sudo on {host} (`USER ALL=(ALL) NOPASSWD: ALL`), or set become = false"
            ),
            Cause::Agent => format!("try: dunlin exec {host} -- true, with -v"),
        }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.cause {
            Cause::Unreachable => "cannot be reached",
            Cause::UnknownKey => "its host key is not pinned in the inventory",
            Cause::ChangedKey => "its host key is not the pinned one",
            Cause::Denied => "does not let us in",
            Cause::Sudo => "does not allow sudo without a password",
            Cause::Agent => "does not start dunlin's agent",
        };
        match &self.over {
            Some(over) => write!(f, "{}: the way there leads over {over}: {what}: {}", self.host, self.detail),
            None => write!(f, "{}: {what}: {}", self.host, self.detail),
        }
    }
}

impl std::error::Error for ConnectError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ssh_logs_tell_their_cause() {
        let cases = [
            ("ssh: connect to host 10.0.0.1 port 22: Connection refused", Cause::Unreachable),
            ("ssh: Could not resolve hostname x: Name or service not known", Cause::Unreachable),
            (
                "No ED25519 host key is known for a and you have requested strict checking.\nHost key verification failed.",
                Cause::UnknownKey,
            ),
            ("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.", Cause::ChangedKey),
            ("deploy@10.0.0.1: Permission denied (publickey).", Cause::Denied),
        ];
        for (log, cause) in cases {
            assert_eq!(ConnectError::from_ssh("a", log).cause, cause, "{log}");
        }
    }
}
