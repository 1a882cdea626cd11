//! What a host is asked about its instances, and how they are.

use serde::{Deserialize, Serialize};

use super::moves::Credentials;

/// What to observe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ObserveInstances {
    /// Shard number and address, `ip:port`.
    pub instances: Vec<(u32, String)>,
    /// How they are entered.
    pub credentials: Credentials,
    /// Over how many milliseconds rates are taken; 0: no rates.
    pub window_ms: u64,
    /// How many keys of each are looked at closely; 0: none.
    #[serde(default)]
    pub sampled_keys: u32,
}

/// Keys that were looked at closely.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySample {
    /// Sorted sets among them.
    pub sorted_sets: u64,
    /// Their entries.
    pub entries: u64,
    /// Those that are listpacks.
    pub listpacks: u64,
}

impl KeySample {
    /// Takes another's counts in.
    pub fn add_counts(&mut self, other: &Self) {
        self.sorted_sets += other.sorted_sets;
        self.entries += other.entries;
        self.listpacks += other.listpacks;
    }

    /// How many entries a set has on average.
    #[expect(clippy::cast_precision_loss, reason = "counts of a sample")]
    pub fn mean_entries(&self) -> Option<f64> {
        (self.sorted_sets > 0).then(|| self.entries as f64 / self.sorted_sets as f64)
    }
}

/// One instance as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ObservedInstance {
    /// The shard.
    pub shard: u32,
    /// The address asked.
    pub address: String,
    /// Why nothing more is known, where it did not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Its role.
    pub role: ReplicationRole,
    /// redis-server's version.
    pub version: String,
    /// Bytes of keys and values; 0 where there are none, whatever the server itself takes.
    pub bytes: u64,
    /// Bytes of memory in all (`used_memory`).
    pub used_memory: u64,
    /// The most that it has been since the server started.
    pub peak_memory: u64,
    /// Its `maxmemory`; 0: no limit.
    pub maxmemory: u64,
    /// Keys.
    pub keys: u64,
    /// Commands per second over the window, without those of replication and of observers.
    pub ops_per_s: f64,
    /// Bytes per second that are written to the replication stream.
    pub stream_bytes_per_s: f64,
    /// Connections of application users.
    pub clients: u64,
    /// Is the append-only file on and its last write good?
    pub durable: bool,
    /// How many replicas must be attached for it to accept writes (`min-replicas-to-write`).
    #[serde(default)]
    pub min_replicas: u64,
    /// Keys that were looked at closely, where that was asked for.
    #[serde(default)]
    pub sample: KeySample,
    /// When its file is synced: `always`, `everysec` or `no`.
    pub appendfsync: String,
    /// The last fork, in microseconds.
    pub fork_us: u64,
    /// `zset-max-listpack-entries`.
    pub listpack_entries: u64,
}

/// What an instance is in replication.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "snake_case")]
pub enum ReplicationRole {
    /// It did not answer.
    #[default]
    Unreachable,
    /// It accepts writes, as far as its rules let it.
    Primary {
        /// End of its replication stream.
        offset: u64,
        /// Replicas that are attached.
        replicas: u64,
    },
    /// It follows another.
    Replica {
        /// Whom, `ip:port`.
        primary: String,
        /// Is the link up?
        link_is_up: bool,
        /// How far it has come.
        offset: u64,
    },
}
