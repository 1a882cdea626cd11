//! The journals of moves on a host: where they are, and what they say.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::failover;
use super::moving::Credentials;
use super::observed::Role;
use crate::wire::sparing::Sparing;

/// Where the host half keeps its journals unless told otherwise.
pub const MOVES: &str = "/var/lib/dunlin/moves";

/// [`MOVES`] as a path.
pub fn moves_folder() -> PathBuf {
    PathBuf::from(MOVES)
}

/// Which journals to read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Moves {
    /// How instances are entered.
    pub credentials: Credentials,
    /// Where the journals are.
    #[serde(default = "moves_folder")]
    pub journals: PathBuf,
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
    pub others: Vec<String>,
    /// The epoch it is for; of a replica that the map names, the one that named it.
    pub epoch: u64,
    /// The application's ACL user.
    pub app_user: String,
    /// The target instance as it was asked for, so that another operator can go on.
    pub instance: Value,
    /// What it leaves to the source's clients.
    #[serde(default)]
    pub sparing: Sparing,
    /// The last step in the journal.
    pub step: String,
    /// `intent`, `done` or `failed`.
    pub mark: String,
    /// When that was noted, RFC 3339.
    pub at: String,
    /// Is it a replica that is made, and not the primary that moves? The source is the primary then, and `others` the
    /// replica that is replaced.
    #[serde(default)]
    pub replica: bool,
    /// Has it come to an end, at the source or at the target?
    pub finished: bool,
    /// Is it a failover? Then the source was given up, and the target may have been opened where that is said.
    #[serde(default)]
    pub failover: Option<failover::Begun>,
    /// The source's role now.
    pub source: Role,
    /// The target's role now.
    pub target: Role,
}

/// A move in the journal of its target's host, as it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logged {
    /// The run.
    pub run: String,
    /// Who ran it.
    pub by: String,
    /// The shard.
    pub shard: u32,
    /// Source, `ip:port`.
    pub from: String,
    /// Target, `ip:port`.
    pub to: String,
    /// The epoch it was for.
    pub epoch: u64,
    /// When it was begun, RFC 3339.
    pub begun: String,
    /// When the last record was made.
    pub ended: String,
    /// `moved`, `failed over`, `replica made`, `taken back`, or `open`.
    pub end: String,
}

/// Where recovery left a move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recovered {
    /// The source serves; the copy, if there is one, follows it.
    AtSource {
        /// Why.
        why: String,
    },
    /// The target serves.
    AtTarget {
        /// Why.
        why: String,
        /// What remains to be done.
        pending: Vec<String>,
    },
    /// Nothing was changed: a person has to decide.
    Undecided {
        /// What was found, and what there is to choose from.
        why: String,
    },
}
