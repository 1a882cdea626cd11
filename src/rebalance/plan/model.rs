//! The observation as integers: items (copies of shards), hosts with limits and ranges, conflicts between copies.

use std::collections::{BTreeMap, BTreeSet};

use super::options::{Balance, PlanOptions};
use super::rebalance_plan::Role;
use super::resource::HostResource::{self, Bytes, Ops, Shards};
use super::resource::{LoadRange, PerResource, Weight};
use crate::rebalance::observation::{HostLoad, Observation, ShardLoad};

/// A limit above every real load.
pub(crate) const NO_LIMIT: i64 = i64::MAX / 4;

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
    /// The load that it must not exceed; 0 of everything if drained.
    pub limits: Weight,
    /// The load that corresponds to its share.
    pub target: PerResource<f64>,
}

impl Host {
    /// Returns the first resource whose limit the load exceeds.
    pub(crate) fn exceeded_limit(&self, load: Weight) -> Option<HostResource> {
        HostResource::ALL.into_iter().find(|resource| load[*resource] > self.limits[*resource])
    }
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
    pub balanced: PerResource<bool>,
    /// The resources that the operator asked to balance.
    pub balance: Balance,
    pub tolerance: f64,
    pub separate_zones: bool,
    pub max_shards_per_host: Option<usize>,
}

impl<'a> Model<'a> {
    pub(crate) fn new(observation: &'a Observation, options: &PlanOptions) -> Self {
        let mut hosts = build_hosts(observation, options);
        let mut items = build_items(observation);
        let is_empty = items.iter().all(|item| item.weight[Bytes] == 0);
        if is_empty {
            items.iter_mut().for_each(|item| item.weight[Bytes] = NOMINAL_BYTES);
        }
        let total = items.iter().fold(Weight::default(), |sum, item| sum + item.weight);
        for host in &mut hosts {
            host.target = PerResource::from_fn(|resource| host.share * total[resource] as f64);
            if is_empty && !host.drained {
                host.limits[Bytes] = total[Bytes];
            }
        }
        let mut balanced = PerResource::from_fn(|resource| match resource {
            Bytes => options.balance.includes_bytes() && !is_empty,
            Ops => options.balance.includes_ops() && total[Ops] > 0,
            Shards => false,
        });
        if is_empty && !balanced[Ops] {
            balanced[Bytes] = true;
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
            max_shards_per_host: options.max_shards_per_host,
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
    pub(crate) fn bytes_per_unit(&self) -> PerResource<f64> {
        PerResource::from_fn(|resource| match resource {
            Bytes => 1.0,
            Ops if self.total[Ops] == 0 => 0.0,
            Ops => self.total[Bytes] as f64 / self.total[Ops] as f64,
            // The largest copy: no gain in bytes outweighs one copy too many.
            Shards => self.items.iter().map(|item| item.weight[Bytes]).max().unwrap_or(0) as f64,
        })
    }

    /// Returns the noun for a resource in messages.
    pub(crate) fn resource_noun(&self, resource: HostResource) -> &'static str {
        match resource {
            Ops => "operations",
            Bytes if self.is_empty => "copies",
            Bytes => "bytes",
            Shards => "shards",
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

    /// Returns whether an item on a host keeps another copy of its shard off a host: the two clash, or would only have
    /// exchanged hosts, for which neither can go first.
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

    /// Returns the ranges that the limits of the hosts allow.
    pub(crate) fn hard_limits(&self) -> Vec<LoadRange> {
        self.hosts.iter().map(|host| LoadRange { min: Weight::default(), max: host.limits }).collect()
    }

    /// Returns the range of one host for the given tolerance.
    pub(crate) fn load_range(&self, host: &Host, tolerance: f64) -> LoadRange {
        let mut range = LoadRange { min: Weight::default(), max: host.limits };
        for resource in HostResource::ALL {
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
            limits: if drained { Weight::default() } else { host_limits(host, options) },
            target: PerResource::default(),
        });
    }
    list
}

/// Returns the load that a host must not exceed, whatever its share.
fn host_limits(host: &HostLoad, options: &PlanOptions) -> Weight {
    PerResource::from_fn(|resource| match resource {
        Bytes => (host.capacity_bytes as f64 * options.max_utilization) as i64,
        Ops => NO_LIMIT,
        Shards => options.max_shards_per_host.map_or(NO_LIMIT, |most| most as i64),
    })
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
                weight: PerResource::from_fn(|resource| match resource {
                    Bytes => shard.bytes as i64,
                    Ops => ops,
                    Shards => 1,
                }),
                movable: false,
                siblings: (first..first + copies).filter(|sibling| *sibling != first + copy).collect(),
            });
        }
    }
    items
}
