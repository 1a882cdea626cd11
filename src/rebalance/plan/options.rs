//! The options of a plan: tolerance, targets, limits, and how transfers run.

use std::str::FromStr;

use dunlin_shards::ShardId;
use serde::{Deserialize, Serialize};

/// The rules and limits of a plan. `PlanOptions::default()` balances bytes to within 5 %.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PlanOptions {
    /// Maximum deviation of a host from its share, as a fraction: 0.05 is 5 %.
    pub tolerance: f64,
    /// The resources to balance.
    pub balance: Balance,
    /// Hosts to drain, in addition to those that the observation marks.
    pub drain: Vec<String>,
    /// Selection of the shards that move.
    pub shards: ShardSelection,
    /// The only hosts that may receive shards; `None`: any host that is not drained.
    pub targets: Option<Vec<String>>,
    /// Maximum number of moves.
    pub max_moves: Option<usize>,
    /// Maximum bytes to transfer.
    pub max_bytes: Option<u64>,
    /// Maximum share of a host's shard memory to use, in (0, 1].
    pub max_utilization: f64,
    /// Maximum number of shards per host, primaries and replicas together.
    pub max_shards_per_host: Option<usize>,
    /// True if copies of a shard must be in different zones (they are always on different hosts).
    pub separate_zones: bool,
    /// True if replicas may move for balance; otherwise they only leave drained hosts and the zones of other copies.
    pub move_replicas: bool,
    /// Seed of the search. The same observation, options and seed give the same plan.
    pub seed: u64,
    /// Concurrency and rates of transfers, which decide the waves and the estimated time.
    pub transfer: TransferLimits,
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self {
            tolerance: 0.05,
            balance: Balance::default(),
            drain: Vec::new(),
            shards: ShardSelection::default(),
            targets: None,
            max_moves: None,
            max_bytes: None,
            max_utilization: 0.9,
            max_shards_per_host: None,
            separate_zones: true,
            move_replicas: false,
            seed: 1,
            transfer: TransferLimits::default(),
        }
    }
}

/// Concurrency and rates of transfers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TransferLimits {
    /// Maximum concurrent moves out of one host.
    pub max_outgoing: usize,
    /// Maximum concurrent moves into one host.
    pub max_incoming: usize,
    /// Maximum concurrent moves between the same two hosts.
    pub max_per_link: usize,
    /// Maximum concurrent moves of a wave, over all hosts; 0: no limit.
    pub max_concurrent: usize,
    /// Rate of one move in bytes per second.
    pub move_rate: u64,
    /// Rate of one host in bytes per second, over all its moves in the same direction.
    pub host_rate: u64,
    /// Memory in bytes that a move needs at its target in addition to the shard: replication backlog and buffers.
    pub buffer_bytes: u64,
    /// Seconds per move that do not depend on its size: start of the instance, verification, cutover.
    pub fixed_seconds: f64,
}

impl Default for TransferLimits {
    fn default() -> Self {
        Self {
            max_outgoing: 2,
            max_incoming: 2,
            max_per_link: 2,
            max_concurrent: 0,
            move_rate: 60_000_000,
            host_rate: 100_000_000,
            buffer_bytes: 64 << 20,
            fixed_seconds: 2.0,
        }
    }
}

/// Selection of the shards that a plan moves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShardSelection {
    /// Shards whose moves balance the fleet.
    #[default]
    ForBalance,
    /// The shards with these ids, whatever that does to the balance.
    Named(Vec<ShardId>),
    /// This many shards, those with the most operations per second.
    Hottest(usize),
}

/// The resources to balance over the hosts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// Memory of primaries and replicas.
    #[default]
    Bytes,
    /// Commands per second at primaries.
    Ops,
    /// Both.
    Both,
}

impl Balance {
    /// Returns whether bytes are balanced.
    pub fn includes_bytes(self) -> bool {
        matches!(self, Self::Bytes | Self::Both)
    }

    /// Returns whether operations are balanced.
    pub fn includes_ops(self) -> bool {
        matches!(self, Self::Ops | Self::Both)
    }
}

impl std::fmt::Display for Balance {
    /// Writes what [`Balance::from_str`] reads.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Bytes => "bytes",
            Self::Ops => "ops",
            Self::Both => "bytes,ops",
        })
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
