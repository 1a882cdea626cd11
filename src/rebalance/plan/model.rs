//! The observation as integers: items (copies of shards), hosts with ranges, conflicts between copies.
//!
//! Loads have two resources: bytes at index [`BYTES`], thousandths of operations per second at [`OPS`]. Integers keep
//! sums exact, so that an assignment's feasibility does not depend on the order in which it was reached.

use std::collections::{BTreeMap, BTreeSet};

use super::options::{Balance, PlanOptions};
use super::rebalance_plan::Role;
use crate::rebalance::observation::{Observation, ShardLoad};

/// Index of bytes in a load.
pub(crate) const BYTES: usize = 0;
/// Index of thousandths of operations per second in a load.
pub(crate) const OPS: usize = 1;
/// A load above every real one.
pub(crate) const NO_LIMIT: i64 = i64::MAX / 4;

/// The load of a copy or a host: `[bytes, thousandths of operations per second]`.
pub(crate) type Weight = [i64; 2];

/// Adds two weights.
pub(crate) fn add(a: Weight, b: Weight) -> Weight {
    [a[BYTES] + b[BYTES], a[OPS] + b[OPS]]
}

/// Subtracts a weight from another.
pub(crate) fn sub(a: Weight, b: Weight) -> Weight {
    [a[BYTES] - b[BYTES], a[OPS] - b[OPS]]
}

/// A copy of a shard.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    /// Index of its shard in the observation.
    pub shard: usize,
    pub role: Role,
    /// Index of the host that has it now.
    pub home: usize,
    pub weight: Weight,
    /// True if it may move at all.
    pub movable: bool,
    /// The other copies of its shard, as indexes of items.
    pub siblings: Vec<usize>,
}

/// A host and its share of the load.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    pub zone: Option<usize>,
    /// True if all copies must leave it.
    pub drained: bool,
    /// True if it may receive copies.
    pub can_receive: bool,
    /// Fraction of the fleet's load that it should have; 0 if drained.
    pub share: f64,
    /// Bytes that it must not exceed: maximum utilization × capacity.
    pub max_bytes: i64,
    /// The load that corresponds to its share.
    pub target: [f64; 2],
}

/// The loads that a host may end with, inclusive, per resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LoadRange {
    pub min: Weight,
    pub max: Weight,
}

/// The whole problem.
#[derive(Debug)]
pub(crate) struct Model<'a> {
    pub observation: &'a Observation,
    pub items: Vec<Item>,
    pub hosts: Vec<Host>,
    pub total: Weight,
    /// True if no shard contains data: every copy then has the same nominal size.
    pub is_empty: bool,
    /// The resources to balance.
    pub balanced: [bool; 2],
    /// The resources that the operator asked to balance.
    pub balance: Balance,
    pub tolerance: f64,
    pub separate_zones: bool,
}

impl<'a> Model<'a> {
    pub(crate) fn new(observation: &'a Observation, options: &PlanOptions) -> Self {
        let mut hosts = build_hosts(observation, options);
        let mut items = build_items(observation);
        let is_empty = items.iter().all(|item| item.weight[BYTES] == 0);
        if is_empty {
            items.iter_mut().for_each(|item| item.weight[BYTES] = NOMINAL_BYTES);
        }
        let total = items.iter().fold([0, 0], |sum, item| add(sum, item.weight));
        for host in &mut hosts {
            host.target = [host.share * total[BYTES] as f64, host.share * total[OPS] as f64];
            if is_empty {
                host.max_bytes = total[BYTES];
            }
        }
        let mut balanced =
            [options.balance.includes_bytes() && !is_empty, options.balance.includes_ops() && total[OPS] > 0];
        if is_empty && balanced == [false, false] {
            balanced[BYTES] = true;
        }
        let mut model = Self {
            observation,
            items: Vec::new(),
            hosts,
            total,
            is_empty,
            balanced,
            balance: options.balance,
            tolerance: options.tolerance,
            separate_zones: options.separate_zones,
        };
        for index in 0..items.len() {
            let shard = &observation.shards[items[index].shard];
            items[index].movable = !shard.pinned && model.is_movable(&items, index, options);
        }
        model.items = items;
        model
    }

    /// Returns the bytes of data in a load: 0 where no shard contains data.
    pub(crate) fn data_bytes(&self, load: i64) -> i64 {
        if self.is_empty { 0 } else { load }
    }

    /// Returns the bytes that one unit of each resource corresponds to.
    pub(crate) fn bytes_per_unit(&self) -> [f64; 2] {
        let ops = if self.total[OPS] > 0 { self.total[BYTES] as f64 / self.total[OPS] as f64 } else { 0.0 };
        [1.0, ops]
    }

    /// Returns the noun for a resource in messages.
    pub(crate) fn resource_noun(&self, resource: usize) -> &'static str {
        match resource {
            OPS => "operations",
            _ if self.is_empty => "copies",
            _ => "bytes",
        }
    }

    /// Returns whether a copy may move: a primary, or a replica where the options allow it or where it cannot stay.
    fn is_movable(&self, items: &[Item], index: usize, options: &PlanOptions) -> bool {
        let item = &items[index];
        let clashes = |sibling: &usize| self.clashes(item.home, items[*sibling].home);
        item.role == Role::Primary
            || options.move_replicas
            || self.hosts[item.home].drained
            || item.siblings.iter().any(clashes)
    }

    /// Returns whether two copies of a shard may not be on these two hosts.
    pub(crate) fn clashes(&self, a: usize, b: usize) -> bool {
        a == b || (self.separate_zones && self.hosts[a].zone.is_some() && self.hosts[a].zone == self.hosts[b].zone)
    }

    /// Returns whether an item on a host keeps another copy of its shard off a host: the two clash, or would only have exchanged
    /// hosts, for which neither can go first.
    pub(crate) fn excludes(&self, item: usize, host: usize, sibling: usize, there: usize) -> bool {
        self.clashes(host, there) || (there == self.items[item].home && host == self.items[sibling].home)
    }

    /// Returns whether the item may be on the host, regardless of other copies.
    pub(crate) fn is_allowed(&self, item: usize, host: usize) -> bool {
        let item = &self.items[item];
        if self.hosts[host].drained {
            return false;
        }
        host == item.home || (item.movable && self.hosts[host].can_receive)
    }

    pub(crate) fn shard_of(&self, item: usize) -> &'a ShardLoad {
        &self.observation.shards[self.items[item].shard]
    }

    pub(crate) fn host_name(&self, host: usize) -> &'a str {
        &self.observation.hosts[host].name
    }

    /// Returns the range of each host for the requested tolerance.
    pub(crate) fn load_ranges(&self) -> Vec<LoadRange> {
        self.hosts.iter().map(|host| self.load_range(host, self.tolerance)).collect()
    }

    /// Returns the ranges that the capacities of the hosts allow.
    pub(crate) fn hard_limits(&self) -> Vec<LoadRange> {
        let hi = |host: &Host| if host.drained { [0, 0] } else { [host.max_bytes, NO_LIMIT] };
        self.hosts.iter().map(|host| LoadRange { min: [0, 0], max: hi(host) }).collect()
    }

    /// Returns the range of one host for the given tolerance.
    pub(crate) fn load_range(&self, host: &Host, tolerance: f64) -> LoadRange {
        let mut range = LoadRange { min: [0, 0], max: [host.max_bytes, NO_LIMIT] };
        if host.drained {
            return LoadRange { min: [0, 0], max: [0, 0] };
        }
        for resource in [BYTES, OPS] {
            if self.balanced[resource] {
                let target = host.target[resource];
                let hi = ((1.0 + tolerance) * target + ROUNDING).floor() as i64;
                let lo = ((1.0 - tolerance) * target - ROUNDING).ceil() as i64;
                range.max[resource] = range.max[resource].min(hi);
                range.min[resource] = lo.clamp(0, range.max[resource]);
            }
        }
        range
    }
}

/// Size of a copy where no shard contains data, in bytes: such a fleet is balanced by number of copies.
const NOMINAL_BYTES: i64 = 1 << 20;

/// Less than one unit: keeps a load that is exactly on the edge inside its range.
const ROUNDING: f64 = 1e-6;

fn build_hosts(observation: &Observation, options: &PlanOptions) -> Vec<Host> {
    let mut zones = BTreeMap::new();
    let drain: BTreeSet<&str> = options.drain.iter().map(String::as_str).collect();
    let to: Option<BTreeSet<&str>> = options.targets.as_ref().map(|to| to.iter().map(String::as_str).collect());
    let drained: Vec<bool> =
        observation.hosts.iter().map(|host| host.drain || drain.contains(host.name.as_str())).collect();
    let weight: f64 =
        observation.hosts.iter().zip(&drained).filter(|(_, drained)| !**drained).map(|(host, _)| host.weight).sum();
    let mut list = Vec::new();
    for (host, drained) in observation.hosts.iter().zip(drained) {
        let next = zones.len();
        let zone = host.zone.as_deref().map(|zone| *zones.entry(zone).or_insert(next));
        list.push(Host {
            zone,
            drained,
            can_receive: !drained && to.as_ref().is_none_or(|to| to.contains(host.name.as_str())),
            share: if drained { 0.0 } else { host.weight / weight },
            max_bytes: (host.capacity_bytes as f64 * options.max_utilization) as i64,
            target: [0.0; 2],
        });
    }
    list
}

fn build_items(observation: &Observation) -> Vec<Item> {
    let index: BTreeMap<&str, usize> =
        observation.hosts.iter().enumerate().map(|(at, host)| (host.name.as_str(), at)).collect();
    let mut items: Vec<Item> = Vec::new();
    for (at, shard) in observation.shards.iter().enumerate() {
        let first = items.len();
        let copies = 1 + shard.replicas.len();
        for (copy, name) in std::iter::once(&shard.host).chain(&shard.replicas).enumerate() {
            let primary = copy == 0;
            let ops = if primary { (shard.ops_per_s * 1000.0).round() as i64 } else { 0 };
            let home = index[name.as_str()];
            items.push(Item {
                shard: at,
                role: if primary { Role::Primary } else { Role::Replica },
                home,
                weight: [shard.bytes as i64, ops],
                movable: false,
                siblings: (first..first + copies).filter(|sibling| *sibling != first + copy).collect(),
            });
        }
    }
    items
}
