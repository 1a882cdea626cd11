//! Facts that an agent reports about its host; conditions and templates read them as `facts`.

use serde::{Deserialize, Serialize};

/// The operating system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OsFacts {
    /// `debian` for Debian and what is like it, else the distribution's id.
    pub family: String,
    /// The distribution's id: `debian`, `ubuntu`.
    pub id: String,
    /// Its version: `12`.
    pub version: String,
    /// Its code name: `bookworm`.
    pub codename: String,
    /// The kernel's release.
    pub kernel: String,
    /// The machine's architecture: `x86_64`.
    pub arch: String,
}

/// A network interface with its first IPv4 address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkInterface {
    /// Its name: `eth0`.
    pub name: String,
    /// Its address.
    pub address: String,
}

/// Facts of one host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// The host's own idea of its name.
    pub hostname: String,
    /// The operating system.
    pub os: OsFacts,
    /// Processors.
    pub cpus: u32,
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// Free bytes on the file system of `/var/lib`.
    pub disk_free_bytes: u64,
    /// True if systemd is the init process.
    pub systemd: bool,
}

/// Current load of a host. Not a fact: conditions and templates do not see it, since it differs in each run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SystemLoad {
    /// Load average of the last minute.
    pub load_1m: f64,
    /// Memory that can be had without swapping, in bytes.
    pub memory_available_bytes: u64,
}
