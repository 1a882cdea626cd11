//! The plan as a value; its JSON is a contract with users.

use dunlin_shards::ShardId;
use serde::{Deserialize, Serialize};

use super::options::Balance;

/// The moves, their cost, and the load of every host before and after.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RebalancePlan {
    /// Version of this JSON format.
    pub format_version: u32,
    /// The cluster's name.
    pub cluster: String,
    /// The epoch of the map that was planned from.
    pub epoch: u64,
    /// Shard n listens on this port + n; absent: the observation did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_base: Option<u16>,
    /// The resources that are balanced.
    #[serde(default)]
    pub balance: Balance,
    /// The moves in the order in which they start.
    pub moves: Vec<Move>,
    /// Bytes of all moves.
    pub bytes_moved: u64,
    /// Bytes of all copies of all shards.
    pub bytes_total: u64,
    /// Lower bound: every plan that keeps these rules moves at least this many bytes.
    pub lower_bound_bytes: u64,
    /// Relative distance to that bound: `bytes_moved / lower_bound_bytes − 1`, 0 if nothing has to move.
    pub gap: f64,
    /// Every host, in the order of the observation.
    pub hosts: Vec<HostBalance>,
    /// Ids of the shards that may move concurrently; a wave starts when the previous one is done.
    pub waves: Vec<Vec<ShardId>>,
    /// Duration of each wave in seconds.
    #[serde(default)]
    pub wave_seconds: Vec<f64>,
    /// Seconds from the first copy to the last cutover, within the transfer limits.
    pub estimated_seconds: f64,
    /// Milliseconds for which writes of a shard are paused at its cutover; 0 if no primary moves.
    #[serde(default)]
    pub predicted_write_gap_ms: f64,
    /// Notes for the operator: a tolerance that cannot be met, limits that end the plan early, detours.
    pub notes: Vec<String>,
}

/// A move of one copy of a shard from one host to another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Move {
    /// The shard's number.
    pub shard: ShardId,
    /// The host it leaves.
    pub from: String,
    /// The host it goes to.
    pub to: String,
    /// Size of its dataset.
    pub bytes: u64,
    /// Commands per second of the primary; 0 for a replica.
    pub ops_per_s: f64,
    /// Role of the copy that moves.
    pub role: Role,
    /// The reason for the move.
    pub reason: String,
    /// Index into [`RebalancePlan::waves`].
    pub wave: usize,
    /// Duration in seconds, given the other moves of its wave.
    #[serde(default)]
    pub estimated_seconds: f64,
}

/// The role of a copy of a shard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The copy that accepts writes.
    #[default]
    Primary,
    /// A copy that follows the primary.
    Replica,
}

/// A host before and after the plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostBalance {
    /// Its name.
    pub name: String,
    /// Its zone, where known.
    pub zone: Option<String>,
    /// Its load as observed.
    pub before: Load,
    /// Its load when all moves are done.
    pub after: Load,
    /// Bytes before, as a fraction of the fleet's.
    pub share_before: f64,
    /// Bytes after, as a fraction of the fleet's.
    pub share_after: f64,
    /// The fraction of the fleet that its weight asks for; 0 for a drained host.
    pub share_wanted: f64,
    /// Memory for shards.
    pub capacity_bytes: u64,
    /// Peak bytes of its shards, buffers and incoming copies while the plan runs.
    pub peak_bytes: u64,
}

/// The load of a host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// Bytes of all copies.
    pub bytes: u64,
    /// Commands per second of primaries.
    pub ops_per_s: f64,
    /// Copies.
    pub shards: usize,
}

impl RebalancePlan {
    /// Returns whether the plan has no moves.
    pub fn is_empty(&self) -> bool {
        self.moves.is_empty()
    }

    /// Returns a summary in one line: `moves 3 shards, 19.82 % of bytes; no plan can move less than 19.80 %`.
    pub fn summary_line(&self) -> String {
        if self.moves.is_empty() {
            return "nothing to move".to_owned();
        }
        let mut shards: Vec<(ShardId, Role)> = self.moves.iter().map(|m| (m.shard, m.role)).collect();
        shards.sort_unstable();
        shards.dedup();
        let noun = if shards.len() == 1 { "copy" } else { "copies" };
        let noun = if self.moves.iter().all(|m| m.role == Role::Primary) {
            if shards.len() == 1 { "shard" } else { "shards" }
        } else {
            noun
        };
        if self.bytes_total == 0 {
            return format!("moves {} {noun} without data", shards.len());
        }
        format!(
            "moves {} {noun}, {:.2} % of bytes; no plan can move less than {:.2} %",
            shards.len(),
            self.percent(self.bytes_moved),
            self.percent(self.lower_bound_bytes),
        )
    }

    fn percent(&self, bytes: u64) -> f64 {
        if self.bytes_total == 0 { 0.0 } else { bytes as f64 * 100.0 / self.bytes_total as f64 }
    }
}
