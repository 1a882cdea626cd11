//! A plan in a file, and the check that hosts and map are still those that it was made for.
//!
//! The file is the plan's JSON with its input: the options, the observation, and a fingerprint over both and the moves.
//! The map and the hosts must be unchanged. Sizes change constantly: the moves must satisfy the rules with the current
//! sizes, and no shard that is to be moved may have grown by more than [`MAX_GROWTH`].

use std::collections::BTreeMap;
use std::fmt;

use dunlin_shards::ShardId;
use serde::{Deserialize, Serialize};

use super::check::{CheckedRule, check_plan};
use super::observation::{HostLoad, Observation, ShardLoad};
use super::plan::{Move, PlanOptions, RebalancePlan, Role};
use crate::inventory::ByteSize;
use crate::plan::{Digest, digest_json};

/// Maximum growth of a shard between plan and apply, as a fraction of its size.
pub const MAX_GROWTH: f64 = 0.25;
/// Growth below this many bytes never counts: a small shard doubles easily, without effect on a host.
pub const IGNORED_GROWTH_BYTES: u64 = 16 << 20;
/// Differences of one kind that are listed individually; the rest is counted.
const MAX_LISTED: usize = 8;

/// A plan as `--out` writes it and `--plan` reads it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SavedPlan {
    /// The plan as it was shown.
    #[serde(flatten)]
    pub plan: RebalancePlan,
    /// Options of the plan.
    pub options: PlanOptions,
    /// Observation that it was made from.
    pub observation: Observation,
    /// Scenario of `--what-if`; such a plan cannot be applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scenario: Option<String>,
    /// Digests of the fields above: an edited file is not the plan that was shown.
    pub fingerprint: PlanFingerprint,
}

/// Digests of the input of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanFingerprint {
    /// Digest of the cluster, the epoch, and every shard's slots, hosts and pin.
    pub map: Digest,
    /// Digest of the whole observation: the map, the hosts, and the sizes of shards.
    pub observation: Digest,
    /// Digest of the moves and the options.
    pub moves: Digest,
}

/// A difference between the fleet now and the fleet of the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanMismatch {
    /// `file`, `map`, `hosts`, `sizes`, or the rule of [`check_plan`] that the plan would break.
    pub kind: &'static str,
    /// The difference, with the old and the new value.
    pub message: String,
}

impl fmt::Display for PlanMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.message)
    }
}

impl SavedPlan {
    /// Creates a saved plan from a plan and its input.
    pub fn new(plan: RebalancePlan, options: PlanOptions, observation: Observation, scenario: Option<String>) -> Self {
        let fingerprint = compute_fingerprint(&plan, &options, &observation);
        Self { plan, options, observation, scenario, fingerprint }
    }

    /// Returns all reasons why the plan must not be applied to the fleet as it is now.
    ///
    /// Compares sizes only if map and hosts are unchanged: otherwise they add nothing.
    pub fn find_mismatches(&self, now: &Observation) -> Vec<PlanMismatch> {
        let mut mismatches = MismatchList::default();
        if self.fingerprint != compute_fingerprint(&self.plan, &self.options, &self.observation) {
            mismatches.add_mismatch("file", "it was changed after it was saved".to_owned());
        }
        if let Some(what) = &self.scenario {
            mismatches.add_mismatch(
                "file",
                format!("it was made for a what-if scenario (--what-if {what}), not for the fleet"),
            );
        }
        self.compare_map(now, &mut mismatches);
        self.compare_hosts(now, &mut mismatches);
        if mismatches.is_empty() {
            self.compare_sizes(now, &mut mismatches);
            self.check_rules(now, &mut mismatches);
        }
        mismatches.into_mismatches()
    }

    /// Describes what changed sizes do to the balance, which is no reason to refuse.
    pub fn describe_drift(&self, now: &Observation) -> Vec<String> {
        let violations = check_plan(now, &self.options, &self.reweigh_plan(now));
        violations.into_iter().filter(|found| found.rule == CheckedRule::Tolerance).map(|found| found.message).collect()
    }

    /// Returns the same moves with the present sizes of the shards.
    fn reweigh_plan(&self, now: &Observation) -> RebalancePlan {
        let mut plan = self.plan.clone();
        for step in &mut plan.moves {
            if let Some(shard) = now.find_shard(step.shard) {
                step.bytes = shard.bytes;
                step.ops_per_s = if step.role == Role::Primary { shard.ops_per_s } else { 0.0 };
            }
        }
        plan
    }

    fn compare_map(&self, now: &Observation, mismatches: &mut MismatchList) {
        let was = &self.observation;
        mismatches.add_if_different("map", "the cluster", &was.cluster, &now.cluster);
        mismatches.add_if_different("map", "the epoch", &was.epoch, &now.epoch);
        if let (Some(was), Some(now)) = (was.port_base, now.port_base) {
            mismatches.add_if_different("map", "port_base", &was, &now);
        }
        let (before, after) = (shards_by_id(was), shards_by_id(now));
        for (id, shard) in &before {
            match after.get(id) {
                Some(other) => compare_shard(shard, other, mismatches),
                None => mismatches.add_mismatch("map", format!("shard {id} is gone")),
            }
        }
        for id in after.keys().filter(|id| !before.contains_key(*id)) {
            mismatches.add_mismatch("map", format!("shard {id} is new"));
        }
    }

    fn compare_hosts(&self, now: &Observation, mismatches: &mut MismatchList) {
        for host in &self.observation.hosts {
            match now.find_host(&host.name) {
                Some(other) => compare_host(host, other, mismatches),
                None => mismatches.add_mismatch("hosts", format!("{} is gone", host.name)),
            }
        }
        for host in now.hosts.iter().filter(|host| self.observation.find_host(&host.name).is_none()) {
            mismatches.add_mismatch("hosts", format!("{} is new", host.name));
        }
    }

    fn compare_sizes(&self, now: &Observation, mismatches: &mut MismatchList) {
        let mut seen = Vec::new();
        for step in &self.plan.moves {
            let sizes = self.observation.find_shard(step.shard).zip(now.find_shard(step.shard));
            let Some((was, is)) = sizes.filter(|_| !seen.contains(&step.shard)) else { continue };
            seen.push(step.shard);
            let more = is.bytes.saturating_sub(was.bytes);
            if more > IGNORED_GROWTH_BYTES && more as f64 > MAX_GROWTH * was.bytes as f64 {
                let (id, was, is) = (step.shard, ByteSize(was.bytes).to_human(), ByteSize(is.bytes).to_human());
                let most = MAX_GROWTH * 100.0;
                mismatches.add_mismatch(
                    "sizes",
                    format!("shard {id} has grown from {was} to {is}, by more than {most:.0} %"),
                );
            }
        }
    }

    /// Checks the rules about placement, memory and shards per host. [`SavedPlan::describe_drift`] describes the
    /// resulting balance; limits on moves and bytes applied when the plan was made.
    fn check_rules(&self, now: &Observation, mismatches: &mut MismatchList) {
        for violation in check_plan(now, &self.options, &self.reweigh_plan(now)) {
            if matches!(
                violation.rule,
                CheckedRule::Map
                    | CheckedRule::Pinned
                    | CheckedRule::Drain
                    | CheckedRule::Targets
                    | CheckedRule::Zones
                    | CheckedRule::Capacity
                    | CheckedRule::ShardsPerHost
            ) {
                mismatches.add_mismatch(violation.rule.as_str(), violation.message);
            }
        }
    }
}

/// Rates and weights count in thousandths: the last digits of a fraction need not survive a file.
#[expect(clippy::cast_possible_truncation, reason = "far below what an i64 holds")]
fn compute_fingerprint(plan: &RebalancePlan, options: &PlanOptions, observation: &Observation) -> PlanFingerprint {
    let thousandths = |value: f64| (value * 1000.0).round() as i64;
    let place =
        |shard: &ShardLoad| (shard.id, shard.slots.clone(), shard.host.clone(), shard.replicas.clone(), shard.pinned);
    let places: Vec<_> = observation.shards.iter().map(place).collect();
    let map = digest_json(&(&observation.cluster, observation.epoch, observation.port_base, places));
    let host = |host: &HostLoad| {
        (host.name.clone(), host.zone.clone(), host.capacity_bytes, thousandths(host.weight), host.drain)
    };
    let hosts: Vec<_> = observation.hosts.iter().map(host).collect();
    let load = |shard: &ShardLoad| (shard.id, shard.bytes, thousandths(shard.ops_per_s));
    let loads: Vec<_> = observation.shards.iter().map(load).collect();
    let step = |m: &Move| (m.shard, m.role, m.from.clone(), m.to.clone(), m.bytes, m.wave);
    let steps: Vec<_> = plan.moves.iter().map(step).collect();
    PlanFingerprint {
        observation: digest_json(&(&map, hosts, loads)),
        map,
        moves: digest_json(&(&plan.waves, steps, options)),
    }
}

fn shards_by_id(observation: &Observation) -> BTreeMap<ShardId, &ShardLoad> {
    observation.shards.iter().map(|shard| (shard.id, shard)).collect()
}

fn compare_shard(was: &ShardLoad, now: &ShardLoad, mismatches: &mut MismatchList) {
    let of = |what: &str| format!("the {what} of shard {}", was.id);
    let list = |hosts: &[String]| if hosts.is_empty() { "none".to_owned() } else { hosts.join(", ") };
    let pin = |shard: &ShardLoad| if shard.pinned { "pinned" } else { "not pinned" };
    mismatches.add_if_different("map", &of("host"), &was.host, &now.host);
    mismatches.add_if_different("map", &of("replicas"), &list(&was.replicas), &list(&now.replicas));
    mismatches.add_if_different("map", &format!("shard {}", was.id), &pin(was), &pin(now));
    // An observation from elsewhere may not have them.
    if let (Some(was), Some(now)) = (&was.slots, &now.slots) {
        mismatches.add_if_different("map", &of("slots"), was, now);
    }
}

fn compare_host(was: &HostLoad, now: &HostLoad, mismatches: &mut MismatchList) {
    let of = |what: &str| format!("the {what} of {}", was.name);
    let zone = |host: &HostLoad| host.zone.clone().unwrap_or_else(|| "unknown".to_owned());
    let drain = |host: &HostLoad| if host.drain { "to be drained" } else { "not to be drained" };
    mismatches.add_if_different("hosts", &of("zone"), &zone(was), &zone(now));
    if (was.weight - now.weight).abs() > 1e-9 * was.weight {
        mismatches.add_if_different("hosts", &of("weight"), &was.weight, &now.weight);
    }
    mismatches.add_if_different("hosts", &was.name, &drain(was), &drain(now));
    if was.capacity_bytes != now.capacity_bytes {
        let (was, now) = (ByteSize(was.capacity_bytes), ByteSize(now.capacity_bytes));
        mismatches.add_if_different("hosts", &of("memory for shards"), &was, &now);
    }
}

/// Differences by kind, in the order of the first one of each kind.
#[derive(Default)]
struct MismatchList(Vec<(&'static str, Vec<String>)>);

impl MismatchList {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn add_mismatch(&mut self, what: &'static str, message: String) {
        match self.0.iter_mut().find(|(kind, _)| *kind == what) {
            Some((_, messages)) => messages.push(message),
            None => self.0.push((what, vec![message])),
        }
    }

    fn add_if_different<T: PartialEq + fmt::Display>(&mut self, kind: &'static str, what: &str, was: &T, now: &T) {
        if was != now {
            self.add_mismatch(kind, format!("{what} was {was}, now {now}"));
        }
    }

    fn into_mismatches(self) -> Vec<PlanMismatch> {
        let mut all = Vec::new();
        for (what, messages) in self.0 {
            let more = messages.len().saturating_sub(MAX_LISTED);
            all.extend(messages.into_iter().take(MAX_LISTED).map(|message| PlanMismatch { kind: what, message }));
            if more > 0 {
                all.push(PlanMismatch { kind: what, message: format!("and {more} more") });
            }
        }
        all
    }
}
