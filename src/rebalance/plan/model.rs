//! The observation as integers: items (copies of shards), hosts with bands, conflicts between copies.
//!
//! Loads have two resources: bytes at index [`BYTES`], thousandths of operations a second at [`OPS`]. Integers keep
//! sums exact, so that an assignment's feasibility does not depend on the order in which it was reached.

use std::collections::{BTreeMap, BTreeSet};

use super::output::Role;
use super::wishes::Wishes;
use crate::rebalance::observation::{Observation, ShardLoad};

/// Index of bytes in a load.
pub(crate) const BYTES: usize = 0;
/// Index of thousandths of operations a second in a load.
pub(crate) const OPS: usize = 1;
/// More than any load.
pub(crate) const NO_LIMIT: i64 = i64::MAX / 4;

/// What a copy or a host weighs: `[bytes, thousandths of operations a second]`.
pub(crate) type Weight = [i64; 2];

/// One copy of one shard.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    /// Index of its shard in the observation.
    pub shard: usize,
    pub role: Role,
    /// Index of the host that has it now.
    pub home: usize,
    pub weight: Weight,
    /// Whether it may move at all.
    pub movable: bool,
    /// The other copies of its shard, as indexes of items.
    pub mates: Vec<usize>,
}

/// One host and the loads that it may end with.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    pub zone: Option<usize>,
    /// Whether it must end empty.
    pub drained: bool,
    /// Whether it may receive copies.
    pub open: bool,
    /// Part of the fleet's load that it should have; 0 if drained.
    pub share: f64,
    /// Bytes that it must never exceed: headroom × capacity.
    pub cap: i64,
    /// The load that its share asks for.
    pub target: [f64; 2],
}

/// Which loads a host may end with, each resource inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Band {
    pub lo: Weight,
    pub hi: Weight,
}

/// The whole task.
#[derive(Debug)]
pub(crate) struct Model<'a> {
    pub observation: &'a Observation,
    pub items: Vec<Item>,
    pub hosts: Vec<Host>,
    pub total: Weight,
    /// Which resources are made even.
    pub balanced: [bool; 2],
    pub tolerance: f64,
    pub zones: bool,
}

impl<'a> Model<'a> {
    pub(crate) fn new(observation: &'a Observation, wishes: &Wishes) -> Self {
        let hosts = hosts(observation, wishes);
        let mut items = items(observation, &hosts);
        let total = items.iter().fold([0, 0], |sum, item| [sum[0] + item.weight[0], sum[1] + item.weight[1]]);
        let mut model = Self {
            observation,
            items: Vec::new(),
            hosts,
            total,
            balanced: [wishes.balance.bytes() && total[BYTES] > 0, wishes.balance.ops() && total[OPS] > 0],
            tolerance: wishes.tolerance,
            zones: wishes.zones,
        };
        for host in &mut model.hosts {
            host.target = [host.share * total[BYTES] as f64, host.share * total[OPS] as f64];
        }
        for index in 0..items.len() {
            let shard = &observation.shards[items[index].shard];
            items[index].movable = !shard.pinned && model.may_move(&items, index, wishes);
        }
        model.items = items;
        model
    }

    /// Primaries may; replicas where that is wished, or where they cannot stay.
    fn may_move(&self, items: &[Item], index: usize, wishes: &Wishes) -> bool {
        let item = &items[index];
        let clashes = |mate: &usize| self.clash(item.home, items[*mate].home);
        item.role == Role::Primary
            || wishes.move_replicas
            || self.hosts[item.home].drained
            || item.mates.iter().any(clashes)
    }

    /// Whether two copies of a shard may not stand on these two hosts.
    pub(crate) fn clash(&self, a: usize, b: usize) -> bool {
        a == b || (self.zones && self.hosts[a].zone.is_some() && self.hosts[a].zone == self.hosts[b].zone)
    }

    /// Whether an item on a host keeps another copy of its shard from a host: the two clash, or would only have changed
    /// places, for which neither can go first.
    pub(crate) fn rules_out(&self, item: usize, host: usize, mate: usize, there: usize) -> bool {
        self.clash(host, there) || (there == self.items[item].home && host == self.items[mate].home)
    }

    /// Whether the host can hold the item at all, other copies aside.
    pub(crate) fn allowed(&self, item: usize, host: usize) -> bool {
        let item = &self.items[item];
        if self.hosts[host].drained {
            return false;
        }
        host == item.home || (item.movable && self.hosts[host].open)
    }

    pub(crate) fn shard(&self, item: usize) -> &'a ShardLoad {
        &self.observation.shards[self.items[item].shard]
    }

    pub(crate) fn host_name(&self, host: usize) -> &'a str {
        &self.observation.hosts[host].name
    }

    /// The bands of the wished tolerance.
    pub(crate) fn bands(&self) -> Vec<Band> {
        self.hosts.iter().map(|host| self.band(host, self.tolerance)).collect()
    }

    /// What hosts can hold at all.
    pub(crate) fn walls(&self) -> Vec<Band> {
        let hi = |host: &Host| if host.drained { [0, 0] } else { [host.cap, NO_LIMIT] };
        self.hosts.iter().map(|host| Band { lo: [0, 0], hi: hi(host) }).collect()
    }

    /// The band of one host for the given tolerance.
    pub(crate) fn band(&self, host: &Host, tolerance: f64) -> Band {
        let mut band = Band { lo: [0, 0], hi: [host.cap, NO_LIMIT] };
        if host.drained {
            return Band { lo: [0, 0], hi: [0, 0] };
        }
        for resource in [BYTES, OPS] {
            if self.balanced[resource] {
                let target = host.target[resource];
                let hi = ((1.0 + tolerance) * target + ROUNDING).floor() as i64;
                let lo = ((1.0 - tolerance) * target - ROUNDING).ceil() as i64;
                band.hi[resource] = band.hi[resource].min(hi);
                band.lo[resource] = lo.clamp(0, band.hi[resource]);
            }
        }
        band
    }
}

/// Less than one unit: keeps a load that is exactly on the edge inside its band.
const ROUNDING: f64 = 1e-6;

fn hosts(observation: &Observation, wishes: &Wishes) -> Vec<Host> {
    let mut zones = BTreeMap::new();
    let drain: BTreeSet<&str> = wishes.drain.iter().map(String::as_str).collect();
    let to: Option<BTreeSet<&str>> = wishes.to.as_ref().map(|to| to.iter().map(String::as_str).collect());
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
            open: !drained && to.as_ref().is_none_or(|to| to.contains(host.name.as_str())),
            share: if drained { 0.0 } else { host.weight / weight },
            cap: (host.capacity_bytes as f64 * wishes.headroom) as i64,
            target: [0.0; 2],
        });
    }
    list
}

fn items(observation: &Observation, hosts: &[Host]) -> Vec<Item> {
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
            debug_assert!(home < hosts.len());
            items.push(Item {
                shard: at,
                role: if primary { Role::Primary } else { Role::Replica },
                home,
                weight: [shard.bytes as i64, ops],
                movable: false,
                mates: (first..first + copies).filter(|mate| *mate != first + copy).collect(),
            });
        }
    }
    items
}
