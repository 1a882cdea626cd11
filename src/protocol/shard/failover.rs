//! A failover: what hosts that live are asked after another one's death, and what they answer.
//!
//! All but [`Survey`] are idempotent steps of a run, as those of a move are.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Credentials, ReplicationRole, StepHeader, default_journal_dir};

/// Look closely at copies of shards, and at their primaries from here; changes nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeReplicas {
    /// The places to look at, on the host that is asked.
    pub targets: Vec<ProbeTarget>,
    /// How instances are entered.
    pub credentials: Credentials,
    /// Where the journals are.
    #[serde(default = "default_journal_dir")]
    pub journal_dir: PathBuf,
}

/// Where a copy of a shard may be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeTarget {
    /// The shard.
    pub shard: u32,
    /// `ip:port` on the host that is asked.
    pub address: String,
    /// The shard's primary, `ip:port`, to be tried from here; nothing is tried where this is that very place.
    pub primary: Option<String>,
}

/// A copy as a survey found it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProbeResult {
    /// The shard.
    pub shard: u32,
    /// `ip:port`.
    pub address: String,
    /// Why nothing more is known, where it did not answer.
    pub error: Option<String>,
    /// Its role.
    pub role: ReplicationRole,
    /// The history that its offset counts in (`master_replid`).
    pub replication_id: String,
    /// The history before that, and where it ended: of a replica that was promoted.
    pub previous_history: Option<(String, u64)>,
    /// Seconds since it last heard of its primary: the link's last byte, or its end.
    pub silent_for_s: Option<u64>,
    /// A first or full sync is under way, or its data are still being loaded.
    pub is_syncing: bool,
    /// Is the append-only file on and its last write good?
    pub is_durable: bool,
    /// How long the process runs, in seconds.
    pub uptime_s: u64,
    /// Keys.
    pub keys: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// Bytes a second that it took in from its primary, on average since it was started.
    pub stream_bytes_per_s: u64,
    /// Its `min-replicas-to-write`: copies of a shard have one template.
    pub min_replicas: u32,
    /// Its `min-replicas-max-lag`, in seconds.
    pub min_replicas_max_lag_s: u64,
    /// What the primary answered to this host; unreachable where it was not tried.
    pub primary_role: ReplicationRole,
    /// The failover to this place that the journal here knows, last.
    pub failover: Option<FailoverRecord>,
}

/// A failover in the journal of the promoted copy's host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverRecord {
    /// The primary that it replaces, `ip:port`.
    pub from: String,
    /// May the copy hold writes of its own since?
    pub promotion_started: bool,
    /// Has it come to its end, or been taken back?
    pub is_finished: bool,
}

/// Promote a copy whose primary is gone. Goes to the copy's host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PromoteReplica {
    /// Whose step it is.
    pub header: StepHeader,
    /// Who runs it: `user@machine`.
    #[serde(default)]
    pub operator: String,
    /// The primary that is gone, `ip:port`.
    pub from: String,
    /// The copy, `ip:port`.
    pub to: String,
    /// The other copies that live, `ip:port`: they leave the old primary before the new one is opened.
    pub other_replicas: Vec<String>,
    /// The epoch under which it will be published.
    pub epoch: u64,
    /// The application's ACL user on this shard.
    pub app_user: String,
    /// The copy's `redis_shard`.
    pub instance: Value,
    /// Its offset as the plan showed it; one that is lower now is not promoted.
    pub offset: u64,
    /// Was the old primary stopped for good by its own host? Otherwise it is waited for until it accepts no writes.
    pub old_primary_is_stopped: bool,
}

/// A promoted copy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromoteResult {
    /// Where its history branches off.
    pub offset: u64,
    /// Was it promoted when this was asked?
    pub already_promoted: bool,
    /// Milliseconds that the old primary's last right to write was waited for.
    pub waited_ms: u64,
}

/// Work on one instance of the host that is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceRef {
    /// Whose step it is.
    pub header: StepHeader,
    /// The instance, `ip:port`.
    pub address: String,
    /// The shard's owner by the map, `ip:port`.
    pub primary: String,
    /// The map's epoch.
    pub epoch: u64,
    /// Its `redis_shard` as it was provisioned.
    pub instance: Value,
}

/// Have a primary go on with the replicas that are left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LowerMinReplicas {
    /// The primary.
    pub primary: InstanceRef,
    /// How many replicas it has from now on.
    pub replicas: u32,
}

/// An old primary that was set aside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchivedInstance {
    /// Where its files are; empty where there was nothing.
    pub archive_dir: Option<PathBuf>,
    /// Bytes of its replication stream that the new owner never got; unknown where it was started anew since.
    pub bytes_ahead: Option<u64>,
}
