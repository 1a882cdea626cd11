//! What an operator asks of a plan.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The rules and limits of a plan. `Wishes::default()` balances bytes and operations to within 5 %.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Wishes {
    /// How far a host may be from its share, as a fraction: 0.05 is 5 %.
    pub tolerance: f64,
    /// What is made even.
    pub balance: Balance,
    /// Hosts to empty, besides those that the observation marks.
    pub drain: Vec<String>,
    /// The only hosts that may receive shards; `None`: any that is not drained.
    pub to: Option<Vec<String>>,
    /// At most so many moves.
    pub max_moves: Option<usize>,
    /// At most so many bytes over the network.
    pub max_bytes: Option<u64>,
    /// The part of a host's capacity that shards may fill, in (0, 1].
    pub headroom: f64,
    /// Whether copies of a shard must stand in different zones (they always stand on different hosts).
    pub zones: bool,
    /// Whether replicas may be moved for balance; otherwise they move only off drained hosts and out of their
    /// primary's zone.
    pub move_replicas: bool,
    /// Seed of the search. The same observation, wishes and seed give the same plan.
    pub seed: u64,
    /// How moves are run, which decides waves and the estimated time.
    pub pace: Pace,
}

impl Default for Wishes {
    fn default() -> Self {
        Self {
            tolerance: 0.05,
            balance: Balance::Both,
            drain: Vec::new(),
            to: None,
            max_moves: None,
            max_bytes: None,
            headroom: 0.9,
            zones: true,
            move_replicas: false,
            seed: 1,
            pace: Pace::default(),
        }
    }
}

/// How many moves run at once and how fast.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pace {
    /// Moves that leave one host at a time.
    pub slots_out: usize,
    /// Moves that reach one host at a time.
    pub slots_in: usize,
    /// Moves between the same two hosts at a time.
    pub slots_link: usize,
    /// Moves of a wave at a time, over all hosts; 0: all of them.
    pub at_once: usize,
    /// Rate of one move in bytes a second.
    pub move_rate: u64,
    /// Rate of one host in bytes a second, over all its moves in the same direction.
    pub host_rate: u64,
    /// Memory in bytes that a move needs at its target beyond the shard: replication backlog and buffers.
    pub buffer_bytes: u64,
    /// Seconds per move that do not depend on its size: birth, verification, the switch.
    pub fixed_seconds: f64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            slots_out: 2,
            slots_in: 2,
            slots_link: 2,
            at_once: 0,
            move_rate: 60_000_000,
            host_rate: 100_000_000,
            buffer_bytes: 64 << 20,
            fixed_seconds: 2.0,
        }
    }
}

/// The resources that are made even over the hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// Memory of primaries and replicas.
    Bytes,
    /// Commands a second at primaries.
    Ops,
    /// Both of them.
    Both,
}

impl Balance {
    /// Whether bytes are made even.
    pub fn bytes(self) -> bool {
        matches!(self, Self::Bytes | Self::Both)
    }

    /// Whether operations are made even.
    pub fn ops(self) -> bool {
        matches!(self, Self::Ops | Self::Both)
    }
}

impl FromStr for Balance {
    type Err = String;

    /// Reads `bytes`, `ops` or `bytes,ops`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (mut bytes, mut ops) = (false, false);
        for word in text.split(',') {
            match word.trim() {
                "bytes" => bytes = true,
                "ops" => ops = true,
                other => return Err(format!("cannot balance `{other}`: choose bytes, ops or bytes,ops")),
            }
        }
        Ok(match (bytes, ops) {
            (true, false) => Self::Bytes,
            (false, _) => Self::Ops,
            (true, true) => Self::Both,
        })
    }
}
