//! Checks a plan against the rules it was made for, from the observation alone.
//!
//! No result of the planner is used here, so that its mistakes cannot hide themselves. The moves are applied one wave
//! after another to the observed placement (`waves`), and every figure of the plan is computed again.

mod waves;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use dunlin_shards::ShardId;

use super::observation::{HostLoad, Observation};
use super::plan::{OUTSIDE_TOLERANCE, PlanOptions, RebalancePlan, Role, ShardSelection};
use crate::inventory::ByteSize;
use crate::plan::{format_count, named_enum};

named_enum! {
    /// The rules that a plan has to keep.
    pub enum CheckedRule {
        /// The moves fit the observed placement and its epoch.
        Map = "map",
        /// Pinned shards stay.
        Pinned = "pinned",
        /// Drained hosts end without shards.
        Drain = "drain",
        /// Shards move to the targets only.
        Targets = "to",
        /// The copies of a shard are on different hosts, in different zones.
        Zones = "zones",
        /// The memory of the hosts suffices at all times.
        Capacity = "capacity",
        /// No host ends with more shards than its maximum.
        ShardsPerHost = "shards_per_host",
        /// The limits on moves and bytes are kept.
        Limits = "limits",
        /// Only selected shards move.
        Selection = "selection",
        /// The totals of the plan are right.
        Sums = "sums",
        /// A wave moves one copy of a shard at most.
        Waves = "waves",
        /// The load of each host ends within the tolerance.
        Tolerance = "tolerance",
    }
}

/// A rule that a plan breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The rule.
    pub rule: CheckedRule,
    /// Description, with ids and hosts.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.message)
    }
}

/// Returns every rule that the plan breaks; empty for a good plan.
///
/// A deviation from the tolerance counts only if no note of the plan declares it.
pub fn check_plan(observation: &Observation, options: &PlanOptions, plan: &RebalancePlan) -> Vec<Violation> {
    let mut checker = PlanChecker::new(observation, options, plan);
    checker.check_map();
    checker.replay_waves();
    checker.check_moved_shards();
    checker.check_selection();
    checker.check_final_placement();
    checker.check_capacity();
    checker.check_shards_per_host();
    checker.check_limits();
    checker.check_totals();
    checker.check_tolerance();
    checker.violations
}

/// The hosts of one shard: its primary's, then its replicas'.
type ShardHosts = Vec<String>;

struct PlanChecker<'a> {
    observation: &'a Observation,
    options: &'a PlanOptions,
    plan: &'a RebalancePlan,
    hosts: BTreeMap<&'a str, &'a HostLoad>,
    placements: BTreeMap<ShardId, ShardHosts>,
    violations: Vec<Violation>,
}

impl<'a> PlanChecker<'a> {
    fn new(observation: &'a Observation, options: &'a PlanOptions, plan: &'a RebalancePlan) -> Self {
        Self {
            observation,
            options,
            plan,
            hosts: observation.hosts.iter().map(|host| (host.name.as_str(), host)).collect(),
            placements: observation
                .shards
                .iter()
                .map(|shard| (shard.id, hosts_of_shard(&shard.host, &shard.replicas)))
                .collect(),
            violations: Vec::new(),
        }
    }

    fn add_violation(&mut self, rule: CheckedRule, message: String) {
        self.violations.push(Violation { rule, message });
    }

    fn check_map(&mut self) {
        let (plan, observation) = (self.plan, self.observation);
        if plan.cluster != observation.cluster || plan.epoch != observation.epoch {
            let of = |cluster: &str, epoch: u64| format!("{cluster} at epoch {epoch}");
            let (plan, seen) = (of(&plan.cluster, plan.epoch), of(&observation.cluster, observation.epoch));
            self.add_violation(CheckedRule::Map, format!("the plan is for {plan}, the observation shows {seen}"));
        }
    }

    fn check_moved_shards(&mut self) {
        let plan = self.plan;
        for m in &plan.moves {
            let Some(shard) = self.observation.find_shard(m.shard) else { continue };
            let ops = if m.role == Role::Primary { shard.ops_per_s } else { 0.0 };
            if m.bytes != shard.bytes || m.ops_per_s.to_bits() != ops.to_bits() {
                self.add_violation(
                    CheckedRule::Sums,
                    format!("the move of shard {} does not weigh what was observed", m.shard),
                );
            }
            if shard.pinned {
                self.add_violation(CheckedRule::Pinned, format!("shard {} is pinned and would move", m.shard));
            }
            if self.is_drained(&m.to) {
                self.add_violation(
                    CheckedRule::Drain,
                    format!("shard {} would go to {}, which is drained", m.shard, m.to),
                );
            }
        }
        let arrivals: Vec<(ShardId, String)> = self.list_arrivals();
        for (shard, host) in arrivals {
            if self.options.targets.as_ref().is_some_and(|to| !to.contains(&host)) {
                self.add_violation(
                    CheckedRule::Targets,
                    format!("shard {shard} would go to {host}, which is not among the targets"),
                );
            }
        }
    }

    /// Returns the copies that end on a host without a copy of their shard before.
    fn list_arrivals(&self) -> Vec<(ShardId, String)> {
        let mut arrivals = Vec::new();
        for shard in &self.observation.shards {
            let before = hosts_of_shard(&shard.host, &shard.replicas);
            let after = &self.placements[&shard.id];
            arrivals.extend(after.iter().filter(|host| !before.contains(host)).map(|host| (shard.id, host.clone())));
        }
        arrivals
    }

    /// Checks that only selected primaries move.
    fn check_selection(&mut self) {
        let moves: BTreeSet<(ShardId, Role)> = self.plan.moves.iter().map(|m| (m.shard, m.role)).collect();
        let selected = |id: &ShardId| match &self.options.shards {
            ShardSelection::ForBalance => true,
            ShardSelection::Named(ids) => ids.contains(id),
            // Which shards are hot changes by the second; only their number is fixed.
            ShardSelection::Hottest(count) => moves.len() <= *count,
        };
        let is_partial = self.options.shards != ShardSelection::ForBalance;
        let others: Vec<ShardId> = moves
            .iter()
            .filter(|(id, role)| is_partial && (!selected(id) || *role == Role::Replica))
            .map(|(id, _)| *id)
            .collect();
        for id in others {
            self.add_violation(CheckedRule::Selection, format!("shard {id} would move, but was not selected"));
        }
    }

    /// Returns whether the plan need not place every shard well: it is limited, or moves selected shards only.
    fn is_partial(&self) -> bool {
        let options = self.options;
        options.max_moves.is_some() || options.max_bytes.is_some() || options.shards != ShardSelection::ForBalance
    }

    fn check_final_placement(&mut self) {
        let limited = self.is_partial();
        let places = self.placements.clone();
        for (shard, hosts) in &places {
            let moved = self.plan.moves.iter().any(|m| m.shard == *shard);
            for (n, host) in hosts.iter().enumerate() {
                if self.is_drained(host) && !limited {
                    self.add_violation(
                        CheckedRule::Drain,
                        format!("shard {shard} would stay on {host}, which is drained"),
                    );
                }
                for other in &hosts[..n] {
                    if self.is_same_zone(host, other) && (moved || !limited) {
                        self.add_violation(
                            CheckedRule::Zones,
                            format!("shard {shard} would have copies on {other} and {host}"),
                        );
                    }
                }
            }
        }
    }

    fn is_same_zone(&self, a: &str, b: &str) -> bool {
        let zone = |name: &str| self.hosts.get(name).and_then(|host| host.zone.as_deref());
        a == b || (self.options.separate_zones && zone(a).is_some() && zone(a) == zone(b))
    }

    fn is_drained(&self, host: &str) -> bool {
        self.options.drain.iter().any(|name| name == host) || self.hosts.get(host).is_some_and(|host| host.drain)
    }

    fn check_capacity(&mut self) {
        let before = self.observed_bytes();
        let after = self.final_loads();
        let limited = self.is_partial();
        for host in &self.observation.hosts {
            let max_bytes = (host.capacity_bytes as f64 * self.options.max_utilization) as u64;
            let (bytes, bytes_before) = (after[&host.name].0, before.get(&host.name).copied().unwrap_or(0));
            if bytes > max_bytes && !(limited && bytes <= bytes_before) {
                self.add_violation(
                    CheckedRule::Capacity,
                    format!("{} would end with {}, above {}", host.name, human_size(bytes), human_size(max_bytes)),
                );
            }
        }
    }

    fn check_shards_per_host(&mut self) {
        let Some(limit) = self.options.max_shards_per_host else { return };
        let mut before: BTreeMap<String, usize> = BTreeMap::new();
        for shard in &self.observation.shards {
            for host in hosts_of_shard(&shard.host, &shard.replicas) {
                *before.entry(host).or_default() += 1;
            }
        }
        let is_partial = self.is_partial();
        for (host, (_, _, count)) in self.final_loads() {
            let stays_above = is_partial && count <= before.get(&host).copied().unwrap_or(0);
            if count > limit && !stays_above {
                let count = format_count(count, "shard");
                let message = format!("{host} would end with {count}, the maximum is {limit} per host");
                self.add_violation(CheckedRule::ShardsPerHost, message);
            }
        }
    }

    fn check_limits(&mut self) {
        let bytes: u64 = self.plan.moves.iter().map(|m| m.bytes).sum();
        if self.options.max_moves.is_some_and(|most| self.plan.moves.len() > most) {
            self.add_violation(
                CheckedRule::Limits,
                format!("the plan has {}, more than --max-moves", format_count(self.plan.moves.len(), "move")),
            );
        }
        if self.options.max_bytes.is_some_and(|most| bytes > most) {
            self.add_violation(
                CheckedRule::Limits,
                format!("the plan moves {}, more than --max-bytes", human_size(bytes)),
            );
        }
    }

    fn check_totals(&mut self) {
        let plan = self.plan;
        let moved: u64 = plan.moves.iter().map(|m| m.bytes).sum();
        let after = self.final_loads();
        let total: u64 = after.values().map(|(bytes, ..)| bytes).sum();
        if moved != plan.bytes_moved || total != plan.bytes_total {
            // To the byte: what is off by little would look the same in larger units.
            let message =
                format!("{moved} of {total} bytes move, the plan says {} of {}", plan.bytes_moved, plan.bytes_total);
            self.add_violation(CheckedRule::Sums, message);
        }
        if plan.lower_bound_bytes > plan.bytes_moved {
            self.add_violation(CheckedRule::Sums, "the lower bound is above what moves".to_owned());
        }
        let names: Vec<&str> = plan.hosts.iter().map(|host| host.name.as_str()).collect();
        let expected: Vec<&str> = self.observation.hosts.iter().map(|host| host.name.as_str()).collect();
        if names != expected {
            return self
                .add_violation(CheckedRule::Sums, "the plan's hosts are not those of the observation".to_owned());
        }
        for host in &plan.hosts {
            let (bytes, ops, copies) = after[&host.name];
            let same_ops = (host.after.ops_per_s - ops).abs() <= 0.001 * (copies + 1) as f64;
            if host.after.bytes != bytes || host.after.shards != copies || !same_ops {
                self.add_violation(CheckedRule::Sums, format!("{} would not end as the plan says", host.name));
            }
        }
    }

    fn check_tolerance(&mut self) {
        let is_declared = self.plan.notes.iter().any(|note| note.starts_with(OUTSIDE_TOLERANCE));
        if is_declared || self.options.shards != ShardSelection::ForBalance {
            return;
        }
        let after = self.final_loads();
        let staying = self.observation.hosts.iter().filter(|host| !self.is_drained(&host.name));
        let weight: f64 = staying.map(|host| host.weight).sum();
        let totals = after.values().fold((0.0, 0.0), |sum, load| (sum.0 + load.0 as f64, sum.1 + load.1));
        let mut violations = Vec::new();
        for host in self.observation.hosts.iter().filter(|host| !self.is_drained(&host.name)) {
            let (bytes, ops, _) = after[&host.name];
            let share = host.weight / weight;
            let cap = host.capacity_bytes as f64 * self.options.max_utilization;
            if self.options.balance.includes_bytes() && !self.is_within_tolerance(bytes as f64, share * totals.0, cap) {
                let (has, wanted) = (human_size(bytes), human_size((share * totals.0) as u64));
                violations.push(format!("{} ends with {has}, its share is {wanted}", host.name));
            }
            if self.options.balance.includes_ops() && !self.is_within_tolerance(ops, share * totals.1, f64::MAX) {
                violations.push(format!(
                    "{} ends with {ops} operations, its share is {:.1}",
                    host.name,
                    share * totals.1
                ));
            }
        }
        for message in violations {
            self.add_violation(CheckedRule::Tolerance, message);
        }
    }

    /// Returns whether a load is within the tolerance around the share, give or take one unit; a cap lowers the
    /// minimum.
    fn is_within_tolerance(&self, load: f64, share: f64, cap: f64) -> bool {
        let (lo, hi) = (share * (1.0 - self.options.tolerance), share * (1.0 + self.options.tolerance));
        load + 1.0 >= lo.min(cap) && load <= hi + 1.0
    }

    /// Returns the observed bytes of each host.
    fn observed_bytes(&self) -> BTreeMap<String, u64> {
        let mut used = BTreeMap::new();
        for shard in &self.observation.shards {
            for host in hosts_of_shard(&shard.host, &shard.replicas) {
                *used.entry(host).or_default() += shard.bytes;
            }
        }
        used
    }

    /// Returns bytes, operations and copies of each host after the moves.
    fn final_loads(&self) -> BTreeMap<String, (u64, f64, usize)> {
        let mut loads: BTreeMap<String, (u64, f64, usize)> =
            self.observation.hosts.iter().map(|host| (host.name.clone(), (0, 0.0, 0))).collect();
        for shard in &self.observation.shards {
            for (n, host) in self.placements[&shard.id].iter().enumerate() {
                let Some(load) = loads.get_mut(host) else { continue };
                load.0 += shard.bytes;
                load.1 += if n == 0 { shard.ops_per_s } else { 0.0 };
                load.2 += 1;
            }
        }
        loads
    }
}

fn human_size(bytes: u64) -> String {
    ByteSize(bytes).to_human()
}

fn hosts_of_shard(primary: &str, replicas: &[String]) -> ShardHosts {
    std::iter::once(primary.to_owned()).chain(replicas.iter().cloned()).collect::<Vec<_>>()
}

/// Returns the shards that a plan moves twice because they take a detour.
pub fn list_detours(plan: &RebalancePlan) -> BTreeSet<ShardId> {
    let mut seen = BTreeSet::new();
    plan.moves.iter().filter(|m| !seen.insert((m.shard, m.role))).map(|m| m.shard).collect()
}
