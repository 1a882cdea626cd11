//! The steps of a move: their inputs and their results.

use std::fmt;
use std::path::PathBuf;

use dunlin_shards::{InstanceAddress, ShardId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::record::MoveRecord;

/// Default directory of the journals on a host.
pub const DEFAULT_JOURNAL_DIR: &str = "/var/lib/dunlin/moves";

/// Returns [`DEFAULT_JOURNAL_DIR`] as a path.
pub fn default_journal_dir() -> PathBuf {
    PathBuf::from(DEFAULT_JOURNAL_DIR)
}

/// Starts a run that moves shards on this host, under the host's lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunStart {
    /// ID of the run.
    pub run: String,
    /// Directory of the journals.
    #[serde(default = "default_journal_dir")]
    pub journal_dir: PathBuf,
}

/// Holds the fields that every step of a run on one shard shares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepHeader {
    /// ID of the run.
    pub run: String,
    /// Generation of the run on this host, from [`ShardRequest::StartRun`](super::ShardRequest::StartRun); the host
    /// rejects a step of any run but the latest.
    #[serde(default)]
    pub generation: u64,
    /// Number of the shard.
    pub shard: ShardId,
    /// Credentials for its instances.
    pub credentials: Credentials,
    /// Directory of the host's journals.
    #[serde(default = "default_journal_dir")]
    pub journal_dir: PathBuf,
}

/// Holds the credentials that dunlin uses for an instance.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// ACL user with all permissions.
    pub user: String,
    /// Its password.
    pub password: String,
    /// The CA that signed the certificates of the instances, as PEM text. With it, connections use TLS only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_ca: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({})", self.user)
    }
}

/// Limits of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MoveLimits {
    /// Longest write pause, in milliseconds; a target that needs more than half of it to catch up ends the attempt.
    pub max_write_pause_ms: u64,
    /// Maximum number of cutover attempts.
    pub max_cutover_attempts: u32,
    /// Longest time without progress while copying, in seconds.
    pub copy_stall_timeout_s: u64,
    /// Maximum lag of the target, in bytes, at the start of the cutover.
    pub max_lag_bytes: u64,
    /// Keys compared per second; 0: unlimited.
    pub verify_keys_per_s: u64,
    /// Allow a move that re-encodes data because the target's listpack limits differ from the source's.
    pub allow_reencoding: bool,
}

impl Default for MoveLimits {
    fn default() -> Self {
        Self {
            max_write_pause_ms: 200,
            max_cutover_attempts: 5,
            copy_stall_timeout_s: 60,
            max_lag_bytes: 1 << 20,
            verify_keys_per_s: 0,
            allow_reencoding: false,
        }
    }
}

/// Asks for one step of a move.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MoveSpec {
    /// Run and shard of the step.
    pub header: StepHeader,
    /// The move; the target is on this host.
    pub record: MoveRecord,
    /// True if [`ShardRequest::RequireReplicas`](super::ShardRequest::RequireReplicas) prepared the source's file.
    #[serde(default)]
    pub source_file_requires_replicas: bool,
    /// Limits of the move.
    #[serde(default)]
    pub limits: MoveLimits,
}

/// Names the instance that keeps its writes, of a move that recovery cannot decide.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceChoice {
    /// The move.
    pub spec: MoveSpec,
    /// Its source or its target.
    pub chosen: InstanceAddress,
}

impl InstanceChoice {
    /// Returns true if the target keeps its writes.
    pub fn chooses_target(&self) -> bool {
        self.chosen == self.spec.record.to
    }

    /// Returns the other instance.
    pub fn discarded(&self) -> &InstanceAddress {
        if self.chooses_target() { &self.spec.record.from } else { &self.spec.record.to }
    }
}

/// Result of a copy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CopyResult {
    /// Bytes of the target's data set.
    pub bytes: u64,
    /// Seconds from the target's start to the end of the verification.
    pub seconds: f64,
    /// The comparison.
    pub verification: VerifyResult,
    /// Duration of the source's fork for the full sync, in microseconds: no client was served meanwhile. 0 without a
    /// full sync.
    #[serde(default)]
    pub fork_us: u64,
}

impl CopyResult {
    /// Returns the longest time that a client of the source waited for the copy, in microseconds.
    pub fn longest_wait_us(&self) -> u64 {
        self.fork_us.max(self.verification.longest_pause_us).max(self.verification.longest_wait_us)
    }
}

/// Result of a comparison; source and target are equal if all three lists are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyResult {
    /// Keys compared.
    pub keys: u64,
    /// Keys compared by querying both servers; the others are equal in the target's files.
    #[serde(default)]
    pub compared_live: u64,
    /// Keys whose bytes differ but whose contents are the same: another encoding.
    pub reencoded: u64,
    /// Comparisons that had to be repeated because the key was being written to.
    pub retried: u64,
    /// Longest pause of writes for the comparison, in microseconds.
    #[serde(default)]
    pub longest_pause_us: u64,
    /// Longest time until the source replied to a request of the comparison, in microseconds: an upper limit of the
    /// time that other clients waited for it, outside of a pause.
    #[serde(default)]
    pub longest_wait_us: u64,
    /// Keys whose contents or times to live differ; at most 20 of each list are named.
    pub differing: Vec<String>,
    /// Keys that the target lacks.
    pub missing: Vec<String>,
    /// Keys that only the target has.
    pub extra: Vec<String>,
}

impl VerifyResult {
    /// Returns true if source and target are equal.
    pub fn is_equal(&self) -> bool {
        self.differing.is_empty() && self.missing.is_empty() && self.extra.is_empty()
    }
}

/// Sets `min-replicas-to-write` in a primary's file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MinReplicasRequest {
    /// Run and shard of the step.
    pub header: StepHeader,
    /// The source on this host.
    pub address: InstanceAddress,
    /// Replicas required to accept writes: the move's target and the others in the map.
    pub replicas: u32,
    /// Its `redis_shard` as it was provisioned.
    pub instance: Value,
}

/// Result of a cutover.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutoverResult {
    /// The longest time for which an attempt held writes, in microseconds, measured on this host: from the write pause to
    /// the promotion of the target, or to the rollback.
    pub gap_us: u64,
    /// Replication offset at which the source was demoted.
    pub offset: u64,
    /// Number of failed attempts before this one.
    pub retries: u32,
    /// True if the shard had been cut over before this request.
    pub already_cut_over: bool,
    /// Remaining work, such as a source or a replica that did not answer.
    pub follow_ups: Vec<String>,
}

/// Stops an instance and archives its files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetireInstance {
    /// Run and shard of the step.
    pub header: StepHeader,
    /// The instance on this host.
    pub address: InstanceAddress,
    /// The new primary.
    pub primary: InstanceAddress,
    /// The map's epoch.
    pub epoch: u64,
    /// The application's ACL user.
    pub app_user: String,
    /// Its `redis_shard` as it was provisioned.
    pub instance: Value,
    /// Retention of the files, in hours; a note in the archive gives the end date.
    pub retention_hours: u64,
}

/// Result of retiring an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetireResult {
    /// Directory of its archived files; `None` if it had been retired before.
    pub archive_dir: Option<PathBuf>,
}
