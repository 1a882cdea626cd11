//! Describes the target of an ssh connection.

use std::path::PathBuf;
use std::time::Duration;

/// The host that a connection goes over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JumpHost {
    /// Another target of the same run, by name.
    Target(String),
    /// `user@host:port`, as ssh's ProxyJump takes it.
    Destination(String),
}

/// Describes a host to connect to. The inventory loader validates all strings: none can become an ssh option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshTarget {
    /// Name in the inventory.
    pub name: String,
    /// Host name or address.
    pub address: String,
    /// Port; ssh's own choice where absent.
    pub port: Option<u16>,
    /// User to log in as; ssh's own choice where absent.
    pub user: Option<String>,
    /// Private key.
    pub identity_file: Option<PathBuf>,
    /// Pinned public keys, as `ssh-ed25519 AAAA…`.
    pub host_keys: Vec<String>,
    /// Jump host, if the connection is not direct.
    pub jump: Option<JumpHost>,
    /// Additional ssh configuration file.
    pub ssh_config: Option<PathBuf>,
    /// Starts the agent through `sudo -n` if set.
    pub become_root: bool,
    /// Time limit for the connection setup.
    pub connect_timeout: Duration,
}
