//! Applies the waves of a plan to the observed placement.

use std::collections::{BTreeMap, BTreeSet};

use dunlin_shards::ShardId;

use super::{CheckedRule, PlanChecker, human_size};
use crate::rebalance::plan::Role;

impl PlanChecker<'_> {
    /// Applies the waves in order. Checks that each copy is where the plan says, that targets have the memory, and that
    /// no host gets two copies of a shard.
    pub(super) fn replay_waves(&mut self) {
        let mut used = self.observed_bytes();
        let last = self.plan.moves.iter().map(|m| m.wave + 1).max().unwrap_or(0);
        for wave in 0..last {
            let moves: Vec<_> = self.plan.moves.iter().filter(|m| m.wave == wave).collect();
            let listed: Vec<ShardId> = moves.iter().map(|m| m.shard).collect();
            if self.plan.waves.get(wave) != Some(&listed) {
                self.add_violation(CheckedRule::Sums, format!("wave {wave} does not list the moves that name it"));
            }
            let shards: BTreeSet<ShardId> = listed.iter().copied().collect();
            if shards.len() < listed.len() {
                self.add_violation(CheckedRule::Waves, format!("two copies of one shard move in wave {wave}"));
            }
            for m in &moves {
                *used.entry(m.to.clone()).or_default() += m.bytes;
                self.check_fits(&used, &m.to);
                self.apply_move(m.shard, m.role, &m.from, &m.to);
            }
            for m in &moves {
                let left = used.entry(m.from.clone()).or_default();
                *left = left.saturating_sub(m.bytes);
            }
        }
        if self.plan.waves.len() != last {
            self.add_violation(
                CheckedRule::Sums,
                format!("there are {} waves, but moves name {last}", self.plan.waves.len()),
            );
        }
    }

    fn check_fits(&mut self, used: &BTreeMap<String, u64>, host: &str) {
        let Some(capacity) = self.hosts.get(host).map(|host| host.capacity_bytes) else { return };
        let used = used.get(host).copied().unwrap_or(0);
        if used > capacity {
            self.add_violation(
                CheckedRule::Capacity,
                format!("{host} would hold {} while the plan runs, of {}", human_size(used), human_size(capacity)),
            );
        }
        let peak = self.plan.hosts.iter().find(|h| h.name == host).map_or(0, |h| h.peak_bytes);
        if used > peak {
            self.add_violation(
                CheckedRule::Sums,
                format!("{host} would hold {}, above the predicted peak of {}", human_size(used), human_size(peak)),
            );
        }
    }

    fn apply_move(&mut self, shard: ShardId, role: Role, from: &str, to: &str) {
        if !self.hosts.contains_key(to) {
            self.add_violation(
                CheckedRule::Map,
                format!("shard {shard} would go to {to}, which is not among the hosts"),
            );
        }
        let Some(copies) = self.placements.get_mut(&shard) else {
            return self.add_violation(CheckedRule::Map, format!("shard {shard} is not in the observation"));
        };
        if copies.iter().any(|copy| copy == to) {
            let message = format!("shard {shard} would have two copies on {to}");
            return self.add_violation(CheckedRule::Zones, message);
        }
        let candidates = if role == Role::Primary { 0..1 } else { 1..copies.len() };
        match candidates.into_iter().find(|copy| copies[*copy] == from) {
            Some(copy) => copies[copy] = to.to_owned(),
            None => self.add_violation(
                CheckedRule::Map,
                format!(
                    "the {} of shard {shard} is not on {from}",
                    if role == Role::Primary { "primary" } else { "replica" }
                ),
            ),
        }
    }
}
