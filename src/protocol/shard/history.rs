//! The journals of moves on a host: their directory and their contents.

use std::path::PathBuf;

use dunlin_shards::{InstanceAddress, ShardId};
use serde::{Deserialize, Serialize};

use super::failover;
use super::moves::{Credentials, default_journal_dir};
use super::observed::ReplicationRole;
use super::phase::{MoveOutcome, MovePhase, PhaseState};
use super::record::MoveRecord;

/// Selects the journals to read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JournalQuery {
    /// Credentials for the instances.
    pub credentials: Credentials,
    /// Directory of the journals.
    #[serde(default = "default_journal_dir")]
    pub journal_dir: PathBuf,
}

/// Describes one move in the journal of its target's host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MoveState {
    /// ID of the run.
    pub run: String,
    /// The shard.
    pub shard: ShardId,
    /// The move; for a replica in the map, with the epoch that added it.
    #[serde(flatten)]
    pub record: MoveRecord,
    /// The last step in the journal.
    pub phase: MovePhase,
    /// State of the last step.
    pub phase_state: PhaseState,
    /// Time of that entry, RFC 3339.
    pub recorded_at: String,
    /// True if it has ended, at the source or at the target.
    pub is_finished: bool,
    /// True if the journal has a promotion of the target that was not rolled back: only then may it have accepted
    /// writes.
    #[serde(default)]
    pub promotion_started: bool,
    /// Set for a failover: the source is lost, and the record says whether the target may have been opened.
    #[serde(default)]
    pub failover: Option<failover::FailoverRecord>,
    /// The source's role now.
    pub source_role: ReplicationRole,
    /// The target's role now.
    pub target_role: ReplicationRole,
}

/// Describes a move in the journal of its target's host, with its outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveHistoryEntry {
    /// ID of the run.
    pub run: String,
    /// Operator who started it.
    pub operator: String,
    /// The shard.
    pub shard: ShardId,
    /// Source.
    pub from: InstanceAddress,
    /// Target.
    pub to: InstanceAddress,
    /// Map epoch of the move.
    pub epoch: u64,
    /// Start time, RFC 3339.
    pub started_at: String,
    /// Time of the last entry, RFC 3339.
    pub last_recorded_at: String,
    /// Outcome of the move.
    pub outcome: MoveOutcome,
}

/// Result of the recovery of a move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecoveryResult {
    /// The source serves; the copy, if there is one, follows it.
    AtSource {
        /// Reason for the decision.
        reason: String,
    },
    /// The target serves.
    AtTarget {
        /// Reason for the decision.
        reason: String,
        /// Remaining work.
        follow_ups: Vec<String>,
    },
    /// The operator has to decide; recovery changed nothing.
    Undecided {
        /// Roles that were found, and the possible choices.
        reason: String,
    },
}
