//! A move, step by step: what is to be done, and how it ended.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::history::default_journal_dir;
use crate::protocol::throttle::ThrottleLimits;

/// A run begins to move shards on this host, under the host's lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartRun {
    /// The run.
    pub run: String,
    /// Where the journals are.
    #[serde(default = "default_journal_dir")]
    pub journal_dir: PathBuf,
}

/// What every step of a run on one shard carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepHeader {
    /// The run.
    pub run: String,
    /// The run's number on the host that is asked, from [`Request::Begin`](super::Request::Begin); with one that is not
    /// the latest any more, no step is begun.
    #[serde(default)]
    pub generation: u64,
    /// The shard's number.
    pub shard: u32,
    /// How its instances are entered.
    pub credentials: Credentials,
    /// Where the host's journals are.
    #[serde(default = "default_journal_dir")]
    pub journal_dir: PathBuf,
}

/// How dunlin enters an instance.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// The ACL user; it may do everything.
    pub user: String,
    /// Its password.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({})", self.user)
    }
}

/// Bounds of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MoveLimits {
    /// Longest time that writes are held, in milliseconds; past half of it the switch gives up and tries again.
    pub max_write_pause_ms: u64,
    /// How often the switch is tried before the move is rolled back.
    pub max_cutover_attempts: u32,
    /// Longest time without progress while copying, in seconds.
    pub copy_stall_timeout_s: u64,
    /// How far behind, in bytes, the target may be when the switch begins.
    pub max_lag_bytes: u64,
    /// Keys compared per second; 0: as fast as it goes.
    pub verify_keys_per_s: u64,
    /// Go on although the target's listpack limits differ from the source's: the move re-encodes.
    pub allow_reencoding: bool,
    /// What is left to the source's clients.
    pub throttle: ThrottleLimits,
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
            throttle: ThrottleLimits::default(),
        }
    }
}

/// One shard's move.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MoveSpec {
    /// Whose step it is.
    pub header: StepHeader,
    /// Who runs it: `user@machine`, for the log.
    #[serde(default)]
    pub operator: String,
    /// The source, `ip:port`.
    pub from: String,
    /// The target on the host that is asked, `ip:port`.
    pub to: String,
    /// The source's other replicas, `ip:port`; they follow the new owner.
    #[serde(default)]
    pub other_replicas: Vec<String>,
    /// The epoch under which the new owner will be published.
    pub epoch: u64,
    /// The application's ACL user on this shard.
    pub app_user: String,
    /// The target instance: the desired state of its `redis_shard`, contents by digest.
    pub instance: Value,
    /// Did [`Request::Arm`](super::Request::Arm) make the source's file ready for this switch?
    #[serde(default)]
    pub source_file_requires_replicas: bool,
    /// Bounds.
    #[serde(default)]
    pub limits: MoveLimits,
}

/// One reason against a move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreflightIssue {
    /// The rule: `memory`, `eviction`, `version`, `target`, `password`, `acl`, `encoding`, `disk`, `buffer`,
    /// `overcommit`, `source`, `replica`, `stranger`, `port`.
    pub rule: String,
    /// What was found and what would do.
    pub reason: String,
}

impl fmt::Display for PreflightIssue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.reason)
    }
}

/// A copy's end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CopyResult {
    /// Bytes of the target's data set.
    pub bytes: u64,
    /// Seconds from birth to the last comparison.
    pub seconds: f64,
    /// The comparison.
    pub verification: VerifyResult,
}

/// What a comparison found; equal where the three lists are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyResult {
    /// Keys compared.
    pub keys: u64,
    /// How many of them were asked of both servers; the others are equal by the target's files.
    #[serde(default)]
    pub compared_live: u64,
    /// Keys whose bytes differ but whose contents are the same: another encoding.
    pub reencoded: u64,
    /// Comparisons that had to be repeated because the key was being written to.
    pub retried: u64,
    /// Keys whose contents or times to live differ; at most 20 of each list are named.
    pub differing: Vec<String>,
    /// Keys that the target lacks.
    pub missing: Vec<String>,
    /// Keys that only the target has.
    pub extra: Vec<String>,
}

impl VerifyResult {
    /// Are source and target equal?
    pub fn is_equal(&self) -> bool {
        self.differing.is_empty() && self.missing.is_empty() && self.extra.is_empty()
    }
}

/// Arm a source's file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequireReplicas {
    /// Whose step it is.
    pub header: StepHeader,
    /// The source on the host that is asked, `ip:port`.
    pub address: String,
    /// How many replicas it must have to accept writes: the move's target, and the others of the map.
    pub replicas: u32,
    /// Its `redis_shard` as it was provisioned.
    pub instance: Value,
}

/// A switch's end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutoverResult {
    /// Microseconds from the pause of writes at the source to the opening of the target, as this host saw it.
    pub gap_us: u64,
    /// The offset at which the source was fenced.
    pub offset: u64,
    /// How many attempts were given up before.
    pub retries: u32,
    /// Was the shard already handed over when this was asked?
    pub already_cut_over: bool,
    /// What remains to be done: a source or a replica that did not answer.
    pub follow_ups: Vec<String>,
}

/// Retire an instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetireInstance {
    /// Whose step it is.
    pub header: StepHeader,
    /// The instance on this host, `ip:port`.
    pub address: String,
    /// The new owner, `ip:port`.
    pub primary: String,
    /// The map's epoch.
    pub epoch: u64,
    /// The application's ACL user.
    pub app_user: String,
    /// Its `redis_shard` as it was provisioned.
    pub instance: Value,
    /// How long the files are kept, in hours; a note beside them says until when.
    pub retention_hours: u64,
}

/// A retired instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetireResult {
    /// Where its files are kept; empty where it had been retired before.
    pub archive_dir: Option<PathBuf>,
}
