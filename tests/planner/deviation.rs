//! How far a plan is from the tolerance, computed from the observation and the options alone.

use std::collections::BTreeMap;

use dunlin::rebalance::observation::Observation;
use dunlin::rebalance::plan::{PlanOptions, RebalancePlan, Role};

use crate::generate::MIB;

/// Loads that a host may end with, bytes in MiB and operations, inclusive.
type LoadRange = [(f64, f64); 2];

/// One copy of a shard.
struct Copy {
    shard: usize,
    home: usize,
    mib: f64,
    ops: f64,
}

/// A fleet and what is asked of it.
pub struct Reference<'a> {
    observation: &'a Observation,
    options: &'a PlanOptions,
    copies: Vec<Copy>,
    drained: Vec<bool>,
    zones: Vec<usize>,
}

impl<'a> Reference<'a> {
    pub fn new(observation: &'a Observation, options: &'a PlanOptions) -> Self {
        let hosts = &observation.hosts;
        let at = |name: &String| hosts.iter().position(|host| host.name == *name).unwrap();
        let drained: Vec<bool> = hosts.iter().map(|host| host.drain || options.drain.contains(&host.name)).collect();
        let mut names: BTreeMap<String, usize> = BTreeMap::new();
        let zone = |n: usize| match &hosts[n].zone {
            Some(zone) if options.separate_zones => zone.clone(),
            _ => format!("host {n}"),
        };
        let zones: Vec<usize> = (0..hosts.len())
            .map(|n| {
                let next = names.len();
                *names.entry(zone(n)).or_insert(next)
            })
            .collect();
        let mut copies = Vec::new();
        for (index, shard) in observation.shards.iter().enumerate() {
            let homes: Vec<usize> = std::iter::once(&shard.host).chain(&shard.replicas).map(at).collect();
            for (n, home) in homes.iter().enumerate() {
                copies.push(Copy {
                    shard: index,
                    home: *home,
                    mib: shard.bytes as f64 / MIB as f64,
                    ops: if n == 0 { shard.ops_per_s } else { 0.0 },
                });
            }
        }
        Self { observation, options, copies, drained, zones }
    }

    /// Returns the ranges of the requested tolerance.
    fn load_ranges(&self) -> Vec<LoadRange> {
        let staying = || self.observation.hosts.iter().zip(&self.drained).filter(|(_, drained)| !**drained);
        let weight: f64 = staying().map(|(host, _)| host.weight).sum();
        let mib: f64 = self.copies.iter().map(|copy| copy.mib).sum();
        let ops: f64 = self.copies.iter().map(|copy| copy.ops).sum();
        let tolerance = self.options.tolerance;
        let range = |(n, cap): (usize, f64)| {
            let share = self.observation.hosts[n].weight / weight;
            let around = |total: f64| (share * total * (1.0 - tolerance), share * total * (1.0 + tolerance));
            let mut range = [(0.0, cap), (0.0, f64::MAX)];
            if self.options.balance.includes_bytes() {
                let (lo, hi) = around(mib);
                range[0] = (lo.min(cap), hi.min(cap));
            }
            if self.options.balance.includes_ops() {
                range[1] = around(ops);
            }
            range
        };
        self.capacities().into_iter().enumerate().map(range).collect()
    }

    /// Returns the host of each copy once a plan is applied.
    pub fn hosts_after(&self, plan: &RebalancePlan) -> Vec<usize> {
        let mut at: Vec<usize> = self.copies.iter().map(|copy| copy.home).collect();
        let name = |host: usize| self.observation.hosts[host].name.as_str();
        for m in &plan.moves {
            let primary = |n: usize| n == 0 || self.copies[n - 1].shard != self.copies[n].shard;
            let is_it = |n: &usize| {
                let shard = self.observation.shards[self.copies[*n].shard].id;
                shard == m.shard && primary(*n) == (m.role == Role::Primary) && name(at[*n]) == m.from
            };
            let copy = (0..at.len()).find(is_it).expect("what moves is there");
            at[copy] = (0..self.zones.len()).find(|host| name(*host) == m.to).expect("its target is there");
        }
        at
    }

    /// Returns the largest deviation of a host from the tolerance, in thousandths of a share.
    pub fn worst_deviation(&self, at: &[usize]) -> f64 {
        let (ranges, shares) = (self.load_ranges(), self.shares());
        let mut worst = 0.0f64;
        for host in (0..ranges.len()).filter(|host| !self.drained[*host]) {
            let here = || self.copies.iter().zip(at).filter(|(_, at)| **at == host).map(|(copy, _)| copy);
            let loads = [here().map(|copy| copy.mib).sum::<f64>(), here().map(|copy| copy.ops).sum::<f64>()];
            for (resource, load) in loads.into_iter().enumerate() {
                let (min, max) = ranges[host][resource];
                let outside = (load - max).max(min - load);
                if outside >= 1e-5 {
                    worst = worst.max(outside / shares[host][resource].max(1e-9));
                }
            }
        }
        1000.0 * worst
    }

    /// Returns whether all copies may be on these hosts: none on a drained host, no two of a shard in one zone, and no
    /// host with more of them than the options allow.
    pub fn is_legal(&self, at: &[usize]) -> bool {
        let together = |n: usize| {
            let siblings = (0..n).rev().take_while(|m| self.copies[*m].shard == self.copies[n].shard);
            siblings.into_iter().any(|m| self.zones[at[m]] == self.zones[at[n]])
        };
        let is_crowded = |host: usize| {
            let count = at.iter().filter(|other| **other == host).count();
            self.options.max_shards_per_host.is_some_and(|limit| count > limit)
        };
        (0..at.len()).all(|n| !self.drained[at[n]] && !together(n) && !is_crowded(at[n]))
    }

    fn capacities(&self) -> Vec<f64> {
        let cap = |bytes: u64| bytes as f64 * self.options.max_utilization / MIB as f64;
        self.observation.hosts.iter().map(|host| cap(host.capacity_bytes)).collect()
    }

    /// Returns MiB and operations of each host's share.
    fn shares(&self) -> Vec<[f64; 2]> {
        let mib: f64 = self.copies.iter().map(|copy| copy.mib).sum();
        let ops: f64 = self.copies.iter().map(|copy| copy.ops).sum();
        let part = |n: usize| if self.drained[n] { 0.0 } else { self.observation.hosts[n].weight };
        let weight: f64 = (0..self.drained.len()).map(part).sum();
        (0..self.drained.len()).map(|n| [part(n) / weight * mib, part(n) / weight * ops]).collect()
    }
}
