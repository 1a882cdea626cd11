//! Raw entries of the sources of an inventory, before the merge: shared by `hosts.toml` and dynamic inventories.

use std::path::PathBuf;
use std::time::Duration;

use super::byte_size::ByteSize;
use super::host_key::HostKey;
use super::source::Located;
use super::vars::Vars;

/// Connection settings of a host; an absent field comes from a wider scope.
#[derive(Clone, Debug, Default)]
pub(super) struct ConnectionSettings {
    pub user: Option<Located<String>>,
    pub become_root: Option<Located<bool>>,
    pub key: Option<Located<PathBuf>>,
    pub port: Option<Located<u16>>,
    pub jump: Option<Located<RawJump>>,
    pub ssh_config: Option<Located<PathBuf>>,
    pub connect_timeout: Option<Located<Duration>>,
}

/// A jump before the names are resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RawJump {
    /// `jump = false`: none, whatever a wider scope says.
    Disabled,
    /// A bare name: a host of the inventory, or one that the ssh config knows.
    Name(String),
    /// `user@host:port`.
    Address { user: Option<String>, host: String, port: Option<u16> },
}

impl ConnectionSettings {
    /// Lays a narrower scope over this one.
    pub fn override_with(&mut self, narrower: &Self) {
        fn set<T: Clone>(wide: &mut Option<T>, narrow: &Option<T>) {
            if narrow.is_some() {
                wide.clone_from(narrow);
            }
        }
        set(&mut self.user, &narrower.user);
        set(&mut self.become_root, &narrower.become_root);
        set(&mut self.key, &narrower.key);
        set(&mut self.port, &narrower.port);
        set(&mut self.jump, &narrower.jump);
        set(&mut self.ssh_config, &narrower.ssh_config);
        set(&mut self.connect_timeout, &narrower.connect_timeout);
    }
}

#[derive(Clone, Debug)]
pub(super) struct RawHost {
    pub name: Located<String>,
    pub connection: ConnectionSettings,
    pub address: Option<Located<String>>,
    /// The host has an address, even an invalid one.
    pub has_address: bool,
    pub host_keys: Vec<Located<HostKey>>,
    pub zone: Option<Located<String>>,
    pub memory: Option<Located<ByteSize>>,
    pub weight: Option<Located<f64>>,
    pub drain: bool,
    pub vars: Vars,
}

impl RawHost {
    pub fn with_name(name: Located<String>) -> Self {
        Self {
            name,
            connection: ConnectionSettings::default(),
            address: None,
            has_address: false,
            host_keys: Vec::new(),
            zone: None,
            memory: None,
            weight: None,
            drain: false,
            vars: Vars::new(),
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct RawGroup {
    pub name: Located<String>,
    /// Ranges already expanded.
    pub members: Vec<Located<String>>,
    pub children: Vec<Located<String>>,
    pub connection: ConnectionSettings,
    pub vars: Vars,
}

/// Everything one source says.
#[derive(Clone, Debug, Default)]
pub(super) struct RawInventory {
    pub defaults: ConnectionSettings,
    pub default_vars: Vars,
    pub groups: Vec<RawGroup>,
    pub hosts: Vec<RawHost>,
}

impl RawInventory {
    /// Adds what a further source says; its defaults are laid over.
    pub fn merge_source(&mut self, other: Self) {
        self.defaults.override_with(&other.defaults);
        self.default_vars.extend(other.default_vars);
        self.groups.extend(other.groups);
        self.hosts.extend(other.hosts);
    }
}
