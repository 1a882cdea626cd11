//! Requests and replies of a failover, for the hosts that are still reachable.
//!
//! All but [`ReplicaProbeRequest`] are idempotent steps of a run, like those of a move.

use std::path::PathBuf;

use dunlin_shards::{InstanceAddress, ShardId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Credentials, MoveRecord, ReplicationRole, StepHeader, default_journal_dir};

/// Probes replicas of shards, and their primaries from this host; changes nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReplicaProbeRequest {
    /// Replicas to probe on this host.
    pub targets: Vec<ProbeTarget>,
    /// Credentials for the instances.
    pub credentials: Credentials,
    /// Directory of the journals.
    #[serde(default = "default_journal_dir")]
    pub journal_dir: PathBuf,
}

/// Names a possible replica of a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeTarget {
    /// The shard.
    pub shard: ShardId,
    /// Address on this host.
    pub address: InstanceAddress,
    /// The shard's primary, to probe from this host; not probed if it is this address.
    pub primary: Option<InstanceAddress>,
}

/// Result of probing one replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProbeResult {
    /// The shard.
    pub shard: ShardId,
    /// Its address.
    pub address: InstanceAddress,
    /// Reason why the instance did not answer; the other fields are empty then.
    pub error: Option<String>,
    /// Its role.
    pub role: ReplicationRole,
    /// Replication ID of its offset (`master_replid`).
    pub replication_id: String,
    /// Previous replication ID and its last offset, for a replica that was promoted.
    pub previous_history: Option<(String, u64)>,
    /// Seconds since the last byte from its primary, or since the link went down.
    pub silent_for_s: Option<u64>,
    /// True during a full sync or while it loads its data.
    pub is_syncing: bool,
    /// True if the append-only file is on and its last write succeeded.
    pub is_durable: bool,
    /// Uptime of the process, in seconds.
    pub uptime_s: u64,
    /// Keys.
    pub keys: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// Average bytes per second received from its primary since its start.
    pub stream_bytes_per_s: u64,
    /// Its `min-replicas-to-write`; all instances of a shard share one template.
    pub min_replicas: u32,
    /// Its `min-replicas-max-lag`, in seconds.
    pub min_replicas_max_lag_s: u64,
    /// Role of the primary as seen from this host; `Unreachable` if it was not probed.
    pub primary_role: ReplicationRole,
    /// Last failover to this address in the journal of this host.
    pub failover: Option<FailoverRecord>,
}

/// Describes a failover in the journal of the promoted replica's host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverRecord {
    /// The primary that it replaces.
    pub from: InstanceAddress,
    /// True if the replica may hold writes that only it has.
    pub promotion_started: bool,
    /// True if it was completed or reverted.
    pub is_finished: bool,
}

/// Promotes a replica whose primary is lost. Goes to the replica's host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PromoteReplica {
    /// Run and shard of the step.
    pub header: StepHeader,
    /// The failover, from the lost primary to the replica. The other replicas leave the old primary before the new one
    /// is opened.
    pub record: MoveRecord,
    /// Replication offset in the plan; a replica with a lower offset is not promoted.
    pub offset: u64,
    /// True if the old primary's host has stopped it permanently; otherwise the agent waits until it accepts no writes.
    pub old_primary_is_stopped: bool,
}

/// Result of a promotion.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromoteResult {
    /// Replication offset at which its history branches off.
    pub offset: u64,
    /// True if it had been promoted before this request.
    pub already_promoted: bool,
    /// Milliseconds waited until the old primary could no longer accept writes.
    pub waited_ms: u64,
}

/// Names one instance on this host for a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceRef {
    /// Run and shard of the step.
    pub header: StepHeader,
    /// The instance.
    pub address: InstanceAddress,
    /// The shard's primary in the map.
    pub primary: InstanceAddress,
    /// The map's epoch.
    pub epoch: u64,
    /// Its `redis_shard` as it was provisioned.
    pub instance: Value,
}

/// Lets a primary accept writes with the remaining replicas.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LowerMinReplicasRequest {
    /// The primary.
    pub primary: InstanceRef,
    /// Number of remaining replicas.
    pub replicas: u32,
}

/// Result of archiving an old primary.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchivedInstance {
    /// Directory of its archived files; `None` if there were none.
    pub archive_dir: Option<PathBuf>,
    /// Bytes of its replication stream that the new primary never received; `None` if it was restarted since.
    pub bytes_ahead: Option<u64>,
}
