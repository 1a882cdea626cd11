//! A plan in a file, and whether the world is still the one that it was made for.
//!
//! The file is the plan's JSON with what it was made from beside it: the wishes, the observation, and a fingerprint
//! over both and the moves. What does not change by itself (the map, the hosts) must be the same to the letter. Sizes
//! change all the time: the moves have to keep the rules with what the shards weigh now, and no shard that is to be
//! moved may have grown by more than [`GROWN`].

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::check::check;
use super::observation::{HostLoad, Observation, ShardLoad};
use super::plan::{Move, PlanOptions, RebalancePlan, Role};
use crate::inventory::Bytes;
use crate::plan::{Digest, digest_of};

/// The part of its size by which a shard may have grown between plan and apply.
pub const GROWN: f64 = 0.25;
/// Growth below so many bytes never counts: a small shard doubles easily, and no host minds.
pub const GROWN_BYTES: u64 = 16 << 20;
/// Differences of one kind that are told one by one; the rest is counted.
const TOLD: usize = 8;

/// What `--out` writes and `--plan` reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SavedPlan {
    /// The plan as it was shown.
    #[serde(flatten)]
    pub plan: RebalancePlan,
    /// What was asked of it.
    pub wishes: PlanOptions,
    /// What it was made from.
    pub observation: Observation,
    /// What was supposed of the fleet; such a plan is only for looking at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub simulated: Option<String>,
    /// Over everything above; a file that somebody edited is not the plan that was shown.
    pub fingerprint: Fingerprint,
}

/// Digests of what a plan rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Of the cluster, the epoch, and every shard's slots, hosts and pin.
    pub map: Digest,
    /// Of the whole observation: the map, the hosts, and what the shards weighed.
    pub observation: Digest,
    /// Of the moves and the wishes.
    pub moves: Digest,
}

/// One way in which the world is not that of the plan any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stale {
    /// `file`, `map`, `hosts`, `sizes`, or the rule of [`check`] that the plan would break.
    pub what: &'static str,
    /// What was, and what is.
    pub message: String,
}

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.message)
    }
}

impl SavedPlan {
    /// A plan with what it was made from.
    pub fn new(plan: RebalancePlan, wishes: PlanOptions, observation: Observation, simulated: Option<String>) -> Self {
        let fingerprint = fingerprint(&plan, &wishes, &observation);
        Self { plan, wishes, observation, simulated, fingerprint }
    }

    /// All reasons why the plan must not be applied to the fleet as it is now; none for a plan that still holds.
    ///
    /// Sizes are only looked at where map and hosts are the same: otherwise they tell nothing more.
    pub fn stale(&self, now: &Observation) -> Vec<Stale> {
        let mut found = Found::default();
        if self.fingerprint != fingerprint(&self.plan, &self.wishes, &self.observation) {
            found.add("file", "it was changed after it was saved".to_owned());
        }
        if let Some(what) = &self.simulated {
            found.add("file", format!("it was made for a fleet that was only supposed (--simulate {what})"));
        }
        self.map(now, &mut found);
        self.hosts(now, &mut found);
        if found.is_empty() {
            self.sizes(now, &mut found);
            self.rules(now, &mut found);
        }
        found.told()
    }

    /// What the drift of sizes does to the balance; that is no reason to refuse.
    pub fn drift(&self, now: &Observation) -> Vec<String> {
        let violations = check(now, &self.wishes, &self.weighed(now));
        violations.into_iter().filter(|found| found.rule == "tolerance").map(|found| found.message).collect()
    }

    /// The same moves with what the shards weigh now.
    fn weighed(&self, now: &Observation) -> RebalancePlan {
        let mut plan = self.plan.clone();
        for step in &mut plan.moves {
            if let Some(shard) = now.shard(step.shard) {
                step.bytes = shard.bytes;
                step.ops_per_s = if step.role == Role::Primary { shard.ops_per_s } else { 0.0 };
            }
        }
        plan
    }

    fn map(&self, now: &Observation, found: &mut Found) {
        let was = &self.observation;
        found.differs("map", "the cluster", &was.cluster, &now.cluster);
        found.differs("map", "the epoch", &was.epoch, &now.epoch);
        if let (Some(was), Some(now)) = (was.port_base, now.port_base) {
            found.differs("map", "port_base", &was, &now);
        }
        let (before, after) = (by_id(was), by_id(now));
        for (id, shard) in &before {
            match after.get(id) {
                Some(other) => one_shard(shard, other, found),
                None => found.add("map", format!("shard {id} is gone")),
            }
        }
        for id in after.keys().filter(|id| !before.contains_key(*id)) {
            found.add("map", format!("shard {id} is new"));
        }
    }

    fn hosts(&self, now: &Observation, found: &mut Found) {
        for host in &self.observation.hosts {
            match now.host(&host.name) {
                Some(other) => one_host(host, other, found),
                None => found.add("hosts", format!("{} is gone", host.name)),
            }
        }
        for host in now.hosts.iter().filter(|host| self.observation.host(&host.name).is_none()) {
            found.add("hosts", format!("{} is new", host.name));
        }
    }

    fn sizes(&self, now: &Observation, found: &mut Found) {
        let mut seen = Vec::new();
        for step in &self.plan.moves {
            let sizes = self.observation.shard(step.shard).zip(now.shard(step.shard));
            let Some((was, is)) = sizes.filter(|_| !seen.contains(&step.shard)) else { continue };
            seen.push(step.shard);
            let more = is.bytes.saturating_sub(was.bytes);
            if more > GROWN_BYTES && more as f64 > GROWN * was.bytes as f64 {
                let (id, was, is) = (step.shard, Bytes(was.bytes).human(), Bytes(is.bytes).human());
                let most = GROWN * 100.0;
                found.add("sizes", format!("shard {id} has grown from {was} to {is}, by more than {most:.0} %"));
            }
        }
    }

    /// The rules about places and memory; how even the fleet ends is [`SavedPlan::drift`], and limits on moves and bytes
    /// were those of the day on which the plan was made.
    fn rules(&self, now: &Observation, found: &mut Found) {
        for violation in check(now, &self.wishes, &self.weighed(now)) {
            if ["map", "pinned", "drain", "to", "zones", "capacity"].contains(&violation.rule) {
                found.add(violation.rule, violation.message);
            }
        }
    }
}

/// Rates and weights count in thousandths: the last digits of a fraction need not survive a file.
#[expect(clippy::cast_possible_truncation, reason = "far below what an i64 holds")]
fn fingerprint(plan: &RebalancePlan, wishes: &PlanOptions, observation: &Observation) -> Fingerprint {
    let thousandths = |value: f64| (value * 1000.0).round() as i64;
    let place =
        |shard: &ShardLoad| (shard.id, shard.slots.clone(), shard.host.clone(), shard.replicas.clone(), shard.pinned);
    let places: Vec<_> = observation.shards.iter().map(place).collect();
    let map = digest_of(&(&observation.cluster, observation.epoch, observation.port_base, places));
    let host = |host: &HostLoad| {
        (host.name.clone(), host.zone.clone(), host.capacity_bytes, thousandths(host.weight), host.drain)
    };
    let hosts: Vec<_> = observation.hosts.iter().map(host).collect();
    let load = |shard: &ShardLoad| (shard.id, shard.bytes, thousandths(shard.ops_per_s));
    let loads: Vec<_> = observation.shards.iter().map(load).collect();
    let step = |m: &Move| (m.shard, m.role, m.from.clone(), m.to.clone(), m.bytes, m.wave);
    let steps: Vec<_> = plan.moves.iter().map(step).collect();
    Fingerprint { observation: digest_of(&(&map, hosts, loads)), map, moves: digest_of(&(&plan.waves, steps, wishes)) }
}

fn by_id(observation: &Observation) -> BTreeMap<u32, &ShardLoad> {
    observation.shards.iter().map(|shard| (shard.id, shard)).collect()
}

fn one_shard(was: &ShardLoad, now: &ShardLoad, found: &mut Found) {
    let of = |what: &str| format!("the {what} of shard {}", was.id);
    let list = |hosts: &[String]| if hosts.is_empty() { "none".to_owned() } else { hosts.join(", ") };
    let pin = |shard: &ShardLoad| if shard.pinned { "pinned" } else { "not pinned" };
    found.differs("map", &of("host"), &was.host, &now.host);
    found.differs("map", &of("replicas"), &list(&was.replicas), &list(&now.replicas));
    found.differs("map", &format!("shard {}", was.id), &pin(was), &pin(now));
    // An observation from elsewhere may not have them.
    if let (Some(was), Some(now)) = (&was.slots, &now.slots) {
        found.differs("map", &of("slots"), was, now);
    }
}

fn one_host(was: &HostLoad, now: &HostLoad, found: &mut Found) {
    let of = |what: &str| format!("the {what} of {}", was.name);
    let zone = |host: &HostLoad| host.zone.clone().unwrap_or_else(|| "unknown".to_owned());
    let drain = |host: &HostLoad| if host.drain { "to be drained" } else { "not to be drained" };
    found.differs("hosts", &of("zone"), &zone(was), &zone(now));
    if (was.weight - now.weight).abs() > 1e-9 * was.weight {
        found.differs("hosts", &of("weight"), &was.weight, &now.weight);
    }
    found.differs("hosts", &was.name, &drain(was), &drain(now));
    if was.capacity_bytes != now.capacity_bytes {
        let (was, now) = (Bytes(was.capacity_bytes), Bytes(now.capacity_bytes));
        found.differs("hosts", &of("memory for shards"), &was, &now);
    }
}

/// What was found, by kind, in the order of the kinds' first finding.
#[derive(Default)]
struct Found(Vec<(&'static str, Vec<String>)>);

impl Found {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn add(&mut self, what: &'static str, message: String) {
        match self.0.iter_mut().find(|(kind, _)| *kind == what) {
            Some((_, messages)) => messages.push(message),
            None => self.0.push((what, vec![message])),
        }
    }

    fn differs<T: PartialEq + fmt::Display>(&mut self, kind: &'static str, what: &str, was: &T, now: &T) {
        if was != now {
            self.add(kind, format!("{what} was {was}, now {now}"));
        }
    }

    fn told(self) -> Vec<Stale> {
        let mut all = Vec::new();
        for (what, messages) in self.0 {
            let more = messages.len().saturating_sub(TOLD);
            all.extend(messages.into_iter().take(TOLD).map(|message| Stale { what, message }));
            if more > 0 {
                all.push(Stale { what, message: format!("and {more} more") });
            }
        }
        all
    }
}
