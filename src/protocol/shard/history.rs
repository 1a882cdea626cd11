//! The journals of moves on a host: where they are, and what they say.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::failover;
use super::moves::Credentials;
use super::observed::ReplicationRole;
use crate::protocol::throttle::ThrottleLimits;

/// Where the host half keeps its journals unless told otherwise.
pub const DEFAULT_JOURNAL_DIR: &str = "/var/lib/dunlin/moves";

/// [`MOVES`] as a path.
pub fn default_journal_dir() -> PathBuf {
    PathBuf::from(DEFAULT_JOURNAL_DIR)
}

/// Which journals to read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ListMoves {
    /// How instances are entered.
    pub credentials: Credentials,
    /// Where the journals are.
    #[serde(default = "default_journal_dir")]
    pub journal_dir: PathBuf,
}

/// One move in the journal of its target's host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MoveState {
    /// The run.
    pub run: String,
    /// The shard.
    pub shard: u32,
    /// Source.
    pub from: String,
    /// Target.
    pub to: String,
    /// The source's other replicas.
    pub other_replicas: Vec<String>,
    /// The epoch it is for; of a replica that the map names, the one that named it.
    pub epoch: u64,
    /// The application's ACL user.
    pub app_user: String,
    /// The target instance as it was asked for, so that another operator can go on.
    pub instance: Value,
    /// What it leaves to the source's clients.
    #[serde(default)]
    pub throttle: ThrottleLimits,
    /// The last step in the journal.
    pub phase: String,
    /// `intent`, `done` or `failed`.
    pub phase_state: String,
    /// When that was noted, RFC 3339.
    pub recorded_at: String,
    /// Is it a replica that is made, and not the primary that moves? The source is the primary then, and `others` the
    /// replica that is replaced.
    #[serde(default)]
    pub is_replica: bool,
    /// Has it come to an end, at the source or at the target?
    pub is_finished: bool,
    /// Is it a failover? Then the source was given up, and the target may have been opened where that is said.
    #[serde(default)]
    pub failover: Option<failover::FailoverRecord>,
    /// The source's role now.
    pub source_role: ReplicationRole,
    /// The target's role now.
    pub target_role: ReplicationRole,
}

/// A move in the journal of its target's host, as it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveHistoryEntry {
    /// The run.
    pub run: String,
    /// Who ran it.
    pub operator: String,
    /// The shard.
    pub shard: u32,
    /// Source, `ip:port`.
    pub from: String,
    /// Target, `ip:port`.
    pub to: String,
    /// The epoch it was for.
    pub epoch: u64,
    /// When it was begun, RFC 3339.
    pub started_at: String,
    /// When the last record was made.
    pub last_recorded_at: String,
    /// `moved`, `failed over`, `replica made`, `taken back`, or `open`.
    pub outcome: String,
}

/// Where recovery left a move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecoveryResult {
    /// The source serves; the copy, if there is one, follows it.
    AtSource {
        /// Why.
        reason: String,
    },
    /// The target serves.
    AtTarget {
        /// Why.
        reason: String,
        /// What remains to be done.
        follow_ups: Vec<String>,
    },
    /// Nothing was changed: a person has to decide.
    Undecided {
        /// What was found, and what there is to choose from.
        reason: String,
    },
}
