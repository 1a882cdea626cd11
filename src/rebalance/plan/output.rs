//! The plan as a value, with the JSON of the contract.

use serde::{Deserialize, Serialize};

/// Which shards move where, what that costs, and how every host stands before and after.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RebalancePlan {
    /// Of this JSON.
    pub format_version: u32,
    /// The cluster's name.
    pub cluster: String,
    /// The epoch of the map that was planned from.
    pub epoch: u64,
    /// Shard n listens on this port + n; absent: the observation did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_base: Option<u16>,
    /// The moves in the order in which they start.
    pub moves: Vec<Move>,
    /// Bytes of all moves.
    pub bytes_moved: u64,
    /// Bytes of all copies of all shards.
    pub bytes_total: u64,
    /// No plan that keeps these rules moves fewer bytes.
    pub lower_bound_bytes: u64,
    /// How far the plan is over that bound at most: `bytes_moved / lower_bound_bytes − 1`, 0 if nothing has to move.
    pub gap: f64,
    /// Every host, in the order of the observation.
    pub hosts: Vec<HostPlan>,
    /// Ids of the shards that may move at the same time; a wave starts when the one before has made room.
    pub waves: Vec<Vec<u32>>,
    /// How long each wave takes, in seconds.
    #[serde(default)]
    pub wave_seconds: Vec<f64>,
    /// From the first copy to the last switch, at the pace that was wished.
    pub estimated_seconds: f64,
    /// Milliseconds for which a shard's writes are held at its switch; 0 where no primary moves.
    #[serde(default)]
    pub predicted_write_gap_ms: f64,
    /// What an operator should know: a tolerance that cannot be met, limits that cut the plan short, detours.
    pub notes: Vec<String>,
}

/// One copy of a shard goes from one host to another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Move {
    /// The shard's number.
    pub shard: u32,
    /// The host that gives it away.
    pub from: String,
    /// The host that takes it.
    pub to: String,
    /// Size of its dataset.
    pub bytes: u64,
    /// Commands a second that go along; 0 for a replica.
    pub ops_per_s: f64,
    /// Which copy moves.
    pub role: Role,
    /// Why.
    pub reason: String,
    /// Index into [`RebalancePlan::waves`].
    pub wave: usize,
    /// How long it takes beside the other moves of its wave, in seconds.
    #[serde(default)]
    pub estimated_seconds: f64,
}

/// The role of a copy of a shard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The one that takes writes.
    #[default]
    Primary,
    /// A copy that follows the primary.
    Replica,
}

/// One host before and after.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostPlan {
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
    /// The most its shards, buffers and arriving copies will take while the plan runs.
    pub peak_bytes: u64,
}

/// What a host carries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// Bytes of all copies.
    pub bytes: u64,
    /// Commands a second of primaries.
    pub ops_per_s: f64,
    /// Copies.
    pub shards: usize,
}

impl RebalancePlan {
    /// Whether the fleet stays as it is.
    pub fn is_empty(&self) -> bool {
        self.moves.is_empty()
    }

    /// One line for people: `moves 3 shards, 19.82 % of bytes; no plan can move less than 19.80 %`.
    pub fn summary_line(&self) -> String {
        if self.moves.is_empty() {
            return "nothing to move".to_owned();
        }
        let mut shards: Vec<(u32, Role)> = self.moves.iter().map(|m| (m.shard, m.role)).collect();
        shards.sort_unstable();
        shards.dedup();
        let noun = if shards.len() == 1 { "copy" } else { "copies" };
        let noun = if self.moves.iter().all(|m| m.role == Role::Primary) {
            if shards.len() == 1 { "shard" } else { "shards" }
        } else {
            noun
        };
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
