//! The inventory as the rest of dunlin sees it: complete, checked, in the order of its files.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::byte_size::ByteSize;
use super::host_key::HostKey;
use super::secrets::Secrets;
use super::source::{Located, Origin};
use super::vars::Vars;

/// Route to a host that is not reached directly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProxyJump {
    /// Over another host of this inventory, with all that it says about itself (its own jump too).
    Host(String),
    /// Over a host that the inventory does not have.
    Address {
        /// The user there; ssh's own choice where absent.
        user: Option<String>,
        /// A host name, an address, or a name from the ssh config.
        host: String,
        /// The port; ssh's own choice where absent.
        port: Option<u16>,
    },
}

/// A host with everything that applies to it: its own table over its groups over the defaults.
#[derive(Clone, Debug)]
pub struct InventoryHost {
    /// Its name in the inventory.
    pub name: String,
    /// Place where a file first names the host.
    pub origin: Origin,
    /// A host name, an IPv4 or IPv6 address (no brackets), or a name from the ssh config. The host's name where not
    /// given.
    pub address: String,
    /// The port; ssh's own choice where absent.
    pub port: Option<u16>,
    /// The user to log in as; ssh's own choice where absent.
    pub user: Option<String>,
    /// The agent is started with `sudo -n`.
    pub become_root: bool,
    /// The private key's file, absolute. May hold blanks: quote it in a configuration file.
    pub key: Option<PathBuf>,
    /// The pinned public keys; empty where none is known yet.
    pub host_keys: Vec<Located<HostKey>>,
    /// The host to go over.
    pub jump: Option<ProxyJump>,
    /// The failure zone, which is also the group `zone_NAME`.
    pub zone: Option<String>,
    /// Memory limit for shards.
    pub memory: Option<ByteSize>,
    /// The share of load relative to other hosts; 1.0 where not given, always above 0 and finite.
    pub weight: f64,
    /// The planner moves shards off this host.
    pub drain: bool,
    /// An ssh configuration file to read, absolute. May hold blanks.
    pub ssh_config: Option<PathBuf>,
    /// Time limit of a connection; the caller's default if absent.
    pub connect_timeout: Option<Duration>,
    pub(super) vars: Vars,
    /// Indices of its groups, lowest precedence first.
    pub(super) groups: Vec<usize>,
}

/// A group with all its hosts, those of its children included.
#[derive(Clone, Debug)]
pub struct HostGroup {
    /// Its name.
    pub name: String,
    /// Place of the definition.
    pub origin: Origin,
    /// 0 for `all`, 1 for a group without parents, else one more than its deepest parent.
    pub depth: usize,
    /// The names of its direct children.
    pub children: Vec<String>,
    /// The variables set on it, not inherited ones.
    pub vars: Vars,
    /// Indices of its hosts, ascending, so in the order of the inventory.
    pub(super) members: Vec<usize>,
}

/// Hosts of an environment.
#[derive(Clone, Debug)]
pub struct Inventory {
    pub(super) dir: PathBuf,
    pub(super) hosts: Vec<InventoryHost>,
    pub(super) host_index: HashMap<String, usize>,
    pub(super) groups: Vec<HostGroup>,
    pub(super) group_index: HashMap<String, usize>,
    pub(super) zones: BTreeMap<String, Vec<usize>>,
    /// `zone_NAME` for each zone.
    pub(super) zone_groups: Vec<String>,
    pub(super) default_vars: Vars,
    pub(super) secrets: Secrets,
}

impl Inventory {
    /// Returns the folder from which it was read.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the hosts in the order in which the files first name them.
    pub fn hosts(&self) -> &[InventoryHost] {
        &self.hosts
    }

    /// Returns a host by name.
    pub fn find_host(&self, name: &str) -> Option<&InventoryHost> {
        self.host_index.get(name).map(|index| &self.hosts[*index])
    }

    /// Returns the defined groups in the order of the files; `all` and the groups of zones only if a file defines them.
    pub fn groups(&self) -> &[HostGroup] {
        &self.groups
    }

    /// Returns a defined group by name.
    pub fn find_group(&self, name: &str) -> Option<&HostGroup> {
        self.group_index.get(name).map(|index| &self.groups[*index])
    }

    /// Returns the hosts of a group, of `all` or of a zone's group (`zone_a`); `None` if there is no such group.
    pub fn hosts_in(&self, group: &str) -> Option<Vec<&InventoryHost>> {
        self.member_indices(group).map(|members| members.iter().map(|index| &self.hosts[*index]).collect())
    }

    /// Returns the zones in alphabetical order.
    pub fn zones(&self) -> impl Iterator<Item = &str> {
        self.zones.keys().map(String::as_str)
    }

    /// Returns the names of a host's groups, lowest precedence first, without `all` and the zone's group; none for an
    /// unknown host.
    pub fn groups_of(&self, host: &str) -> Vec<&str> {
        let groups = self.find_host(host).map(|host| host.groups.as_slice()).unwrap_or_default();
        groups.iter().map(|index| self.groups[*index].name.as_str()).filter(|name| *name != "all").collect()
    }

    /// Merges the variables of a host, each with the place that won. Lowest precedence first: `[defaults] vars` <
    /// `[groups.all]` < groups by depth (a child overrides its parents), at equal depth by name < `[hosts.NAME] vars`.
    /// A table is replaced as a whole. Empty for an unknown host.
    pub fn merged_vars(&self, host: &str) -> Vars {
        let Some(host) = self.find_host(host) else { return Vars::new() };
        let mut merged = self.default_vars.clone();
        for group in &host.groups {
            merged.extend(self.groups[*group].vars.clone());
        }
        merged.extend(host.vars.clone());
        merged
    }

    /// Returns the secrets of `secrets.toml`; empty without the file.
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// Indices of a group's hosts, implicit groups included.
    pub(super) fn member_indices(&self, group: &str) -> Option<Vec<usize>> {
        if group == "all" {
            return Some((0..self.hosts.len()).collect());
        }
        if let Some(index) = self.group_index.get(group) {
            return Some(self.groups[*index].members.clone());
        }
        group.strip_prefix("zone_").and_then(|zone| self.zones.get(zone).cloned())
    }
}
