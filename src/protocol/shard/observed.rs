//! Observation of a host's shard instances: request and result.

use crate::plan::format_count;
use std::fmt;

use dunlin_shards::{InstanceAddress, ShardId};
use serde::{Deserialize, Serialize};

use super::moves::Credentials;

/// Selects the instances to observe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ObserveInstances {
    /// Shard number and address.
    pub instances: Vec<(ShardId, InstanceAddress)>,
    /// Credentials for the instances.
    pub credentials: Credentials,
    /// Window for rates, in milliseconds; 0: no rates.
    pub window_ms: u64,
    /// Number of keys to sample per instance; 0: no sample.
    #[serde(default)]
    pub sampled_keys: u32,
}

/// Counts over the sampled keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySample {
    /// Sorted sets among them.
    pub sorted_sets: u64,
    /// Their entries.
    pub entries: u64,
    /// Sorted sets encoded as listpacks.
    pub listpacks: u64,
}

impl KeySample {
    /// Adds the counts of another sample.
    pub fn add_counts(&mut self, other: &Self) {
        self.sorted_sets += other.sorted_sets;
        self.entries += other.entries;
        self.listpacks += other.listpacks;
    }

    /// Returns the average number of entries per sorted set.
    #[expect(clippy::cast_precision_loss, reason = "counts of a sample")]
    pub fn mean_entries(&self) -> Option<f64> {
        (self.sorted_sets > 0).then(|| self.entries as f64 / self.sorted_sets as f64)
    }
}

/// The observed state of one instance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ObservedInstance {
    /// The shard.
    pub shard: ShardId,
    /// The address that was queried.
    pub address: InstanceAddress,
    /// Reason why the instance did not answer; the other fields are empty then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Its role.
    pub role: ReplicationRole,
    /// Product and version of the server: `Redis 7.0.15`, `Valkey 8.1.1`.
    pub version: String,
    /// Bytes of keys and values, without the server's own memory.
    pub bytes: u64,
    /// Total bytes of memory (`used_memory`).
    pub used_memory: u64,
    /// Peak of `used_memory` since the server started, in bytes.
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
    /// True if the append-only file is on and its last write succeeded.
    pub durable: bool,
    /// Attached replicas required to accept writes (`min-replicas-to-write`).
    #[serde(default)]
    pub min_replicas: u64,
    /// Attached replicas that count for it (`min_slaves_good_slaves`).
    #[serde(default)]
    pub good_replicas: u64,
    /// Counts over the sampled keys, if requested.
    #[serde(default)]
    pub sample: KeySample,
    /// Sync policy of the append-only file: `always`, `everysec` or `no`.
    pub appendfsync: String,
    /// Duration of the last fork, in microseconds.
    pub fork_us: u64,
    /// `zset-max-listpack-entries`.
    pub listpack_entries: u64,
}

impl ObservedInstance {
    /// Returns why acknowledged writes of this primary may not survive a crash, independent of moves; `None` if they
    /// do.
    pub fn durability_risk(&self) -> Option<&'static str> {
        match (self.durable, self.appendfsync.as_str()) {
            (false, _) => Some("the append-only file is off, or the last write to it failed; a restart loses writes"),
            (true, "no") => Some("appendfsync is `no`; a loss of power loses acknowledged writes"),
            (true, _) => None,
        }
    }
}

/// Replication role of an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "snake_case")]
pub enum ReplicationRole {
    /// The instance did not answer.
    #[default]
    Unreachable,
    /// A primary; accepts writes if enough replicas are attached.
    Primary {
        /// End of its replication stream.
        offset: u64,
        /// Replicas that are attached.
        replicas: u64,
    },
    /// A replica.
    Replica {
        /// Its primary.
        primary: InstanceAddress,
        /// True if the link to the primary is up.
        link_is_up: bool,
        /// Replication offset that it has processed.
        offset: u64,
    },
}

impl fmt::Display for ReplicationRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable => write!(f, "does not answer"),
            Self::Primary { offset, replicas } => {
                write!(f, "primary at offset {offset}, {} attached", format_count(*replicas, "replica"))
            }
            Self::Replica { primary, link_is_up, offset } => {
                write!(f, "replica of {primary} at offset {offset}, link {}", if *link_is_up { "up" } else { "down" })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_primary_is_at_risk_without_its_file_or_without_fsync() {
        let risk = |durable, policy: &str| {
            ObservedInstance { durable, appendfsync: policy.to_owned(), ..ObservedInstance::default() }
                .durability_risk()
        };
        assert!(risk(false, "always").is_some_and(|text| text.contains("append-only file is off")));
        assert!(risk(true, "no").is_some_and(|text| text.contains("loss of power")));
        assert_eq!([risk(true, "always"), risk(true, "everysec")], [None, None]);
    }
}
