//! A lower bound on moved bytes by multipliers: the Lagrangian relaxation of the assignment.
//!
//! Each host has a price per unit of each resource that it ends with: positive if it would have too much, negative if
//! it would have too little. Every shard then chooses the cheapest legal hosts for its copies independently. The cost
//! of these choices, less the value of the ranges at these multipliers, is a lower bound for any multipliers
//! (Geoffrion, "Lagrangean relaxation for integer programming", 1974); subgradient steps look for multipliers that make
//! it large. With the best multipliers, the cost of a host above that of the cheapest shows which hosts a good plan can
//! use.
//!
//! An LP solver proves the same bound, but only for small fleets: microlp 0.7 (release build, one resource, one replica)
//! takes 0.05 s for 256 shards on 16 hosts, 0.3 s for 512 on 32 and 1.6 s for 1,024 on 64, each step five times as long
//! as the one before; 16,384 on 1,000 have 250 times as many variables as the last, and two seconds. The multipliers
//! also guide the search. So there is one bound for all sizes, and no solver.

use super::model::{Model, NO_LIMIT};
use super::resource::HostResource::{self, Bytes};
use super::resource::{LoadRange, PerResource, Weight};

/// The price of a unit of each resource on each host, in moved bytes, and the bound that these prices prove.
#[derive(Debug, Clone)]
pub(crate) struct Multipliers {
    pub per_host: Vec<PerResource<f64>>,
    pub bound: f64,
}

/// A copy that can move, and the hosts that it may be on given the copies of its shard that cannot move.
#[derive(Debug, Clone)]
pub(crate) struct CopyOptions {
    pub item: usize,
    pub hosts: Vec<usize>,
}

/// A host for a copy, and its cost.
#[derive(Debug, Clone, Copy)]
struct Placement {
    item: usize,
    host: usize,
    cost: f64,
}

/// The copies of one shard that can move.
type ShardCopies = Vec<CopyOptions>;

/// The dual problem of a model.
pub(crate) struct Lagrangian<'m> {
    pub model: &'m Model<'m>,
    pub ranges: &'m [LoadRange],
    units: Vec<ShardCopies>,
    /// Loads by copies that cannot move.
    fixed: Vec<Weight>,
}

/// Steps without a better bound after which the step length is halved.
const STEP_PATIENCE: usize = 12;
/// Distance of the bound to a known plan at which the ascent ends, as a fraction.
const CLOSE_ENOUGH: f64 = 0.0003;
/// Step length at which the ascent ends, relative to the first.
const MIN_STEP_LENGTH: f64 = 0.002;

impl<'m> Lagrangian<'m> {
    pub(crate) fn new(model: &'m Model<'m>, ranges: &'m [LoadRange]) -> Self {
        let mut fixed = vec![Weight::default(); model.hosts.len()];
        let mut units: Vec<ShardCopies> = Vec::new();
        let mut shard = usize::MAX;
        for (item, data) in model.items.iter().enumerate() {
            if !data.movable {
                fixed[data.home] = fixed[data.home] + data.weight;
                continue;
            }
            if data.shard != shard {
                shard = data.shard;
                units.push(Vec::new());
            }
            let held = |host: usize| {
                data.siblings
                    .iter()
                    .any(|sibling| !model.items[*sibling].movable && model.clashes(host, model.items[*sibling].home))
            };
            let hosts = (0..model.hosts.len()).filter(|host| model.is_allowed(item, *host) && !held(*host)).collect();
            units.last_mut().expect("a unit was begun").push(CopyOptions { item, hosts });
        }
        Self { model, ranges, units, fixed }
    }

    /// Improves the multipliers by subgradient steps. `known`: bytes that some plan within the ranges moves.
    pub(crate) fn subgradient_ascent(&self, start: Multipliers, known: i64, steps: usize) -> Multipliers {
        let mut now = start;
        self.evaluate(&mut now);
        let mut best = now.clone();
        let mut heading: Vec<PerResource<f64>> = vec![PerResource::default(); self.ranges.len()];
        let (mut length, mut idle) = (1.0, 0);
        for _ in 0..steps {
            let load = self.evaluate(&mut now);
            if now.bound > best.bound {
                idle = if now.bound - best.bound > 1e-4 * now.bound.abs() { 0 } else { idle + 1 };
                best = now.clone();
            } else {
                idle += 1;
            }
            if best.bound >= known as f64 * (1.0 - CLOSE_ENOUGH) {
                break;
            }
            if idle > STEP_PATIENCE {
                (idle, length) = (0, length / 2.0);
                now = best.clone();
                heading.fill(PerResource::default());
                self.evaluate(&mut now);
                if length < MIN_STEP_LENGTH {
                    break;
                }
            }
            let goal = known as f64;
            if !self.take_step(&mut now, &load, &mut heading, length, goal) {
                break;
            }
        }
        best
    }

    /// Takes one step along the subgradient with momentum. `false` if the multipliers are optimal.
    fn take_step(
        &self,
        now: &mut Multipliers,
        load: &[PerResource<f64>],
        heading: &mut [PerResource<f64>],
        length: f64,
        goal: f64,
    ) -> bool {
        let mut square = 0.0;
        for host in (0..self.ranges.len()).filter(|host| !self.model.hosts[*host].drained) {
            let unit = self.resource_scale();
            for resource in HostResource::ALL {
                let slope = self.subgradient(host, resource, load[host][resource], now.per_host[host][resource]);
                let bent = slope * unit[resource] + 0.5 * heading[host][resource];
                heading[host][resource] = bent;
                square += bent * bent;
            }
        }
        if square == 0.0 {
            return false;
        }
        let step = length * (goal - now.bound).max(1e-6 * goal.abs()) / square;
        let unit = self.resource_scale();
        for (price, slope) in now.per_host.iter_mut().zip(heading.iter()) {
            for resource in HostResource::ALL {
                price[resource] += step * slope[resource] * unit[resource];
            }
        }
        true
    }

    /// Returns the bytes that one unit of each resource corresponds to.
    fn resource_scale(&self) -> PerResource<f64> {
        self.model.bytes_per_unit()
    }

    /// Returns the derivative of the bound by the multiplier of the host, given the load that the choices put on it.
    fn subgradient(&self, host: usize, resource: HostResource, load: f64, price: f64) -> f64 {
        let (lo, hi) = (self.ranges[host].min[resource] as f64, self.ranges[host].max[resource]);
        let over = if hi >= NO_LIMIT { f64::MIN } else { load - hi as f64 };
        if price > 0.0 {
            over
        } else if price < 0.0 {
            load - lo
        } else {
            over.max(0.0) + (load - lo).min(0.0)
        }
    }

    /// Computes the bound at these multipliers, and returns the loads of the choices.
    fn evaluate(&self, multipliers: &mut Multipliers) -> Vec<PerResource<f64>> {
        let (mut bound, mut load) = (0.0, vec![PerResource::default(); self.ranges.len()]);
        for (host, weight) in self.fixed.iter().enumerate() {
            for resource in HostResource::ALL {
                load[host][resource] += weight[resource] as f64;
                bound += weight[resource] as f64 * multipliers.per_host[host][resource];
            }
        }
        for unit in &self.units {
            for Placement { item, host, cost } in self.cheapest_hosts(unit, &multipliers.per_host) {
                bound += cost;
                for resource in HostResource::ALL {
                    load[host][resource] += self.model.items[item].weight[resource] as f64;
                }
            }
        }
        for (price, (range, host)) in multipliers.per_host.iter_mut().zip(self.ranges.iter().zip(&self.model.hosts)) {
            for resource in HostResource::ALL {
                if host.drained || (range.max[resource] >= NO_LIMIT && price[resource] > 0.0) {
                    price[resource] = 0.0;
                }
                let edge = if price[resource] > 0.0 { range.max[resource] } else { range.min[resource] };
                bound -= price[resource] * edge as f64;
            }
        }
        multipliers.bound = bound;
        load
    }

    /// Returns the cost of the copy on the host.
    pub(crate) fn placement_cost(&self, item: usize, host: usize, multipliers: &[PerResource<f64>]) -> f64 {
        let data = &self.model.items[item];
        let moved = if host == data.home { 0.0 } else { data.weight[Bytes] as f64 };
        let price = |resource: HostResource| data.weight[resource] as f64 * multipliers[host][resource];
        HostResource::ALL.into_iter().fold(moved, |cost, resource| cost + price(resource))
    }

    /// Returns the cheapest hosts for the copies of a shard. Three or more copies that can all move are placed
    /// independently, which makes the bound lower but not invalid.
    fn cheapest_hosts(&self, unit: &ShardCopies, multipliers: &[PerResource<f64>]) -> impl Iterator<Item = Placement> {
        let mut found = [None, None];
        let mut rest = Vec::new();
        match unit.as_slice() {
            [one] => found[0] = self.cheapest_host(one, multipliers, None),
            [one, two] => {
                let (a, b) = (self.cheapest_host(one, multipliers, None), self.cheapest_host(two, multipliers, None));
                found = [a, b];
                if let (Some(a), Some(b)) = (a, b)
                    && self.model.clashes(a.host, b.host)
                {
                    let (other_a, other_b) = (
                        self.cheapest_host(one, multipliers, Some(b.host)),
                        self.cheapest_host(two, multipliers, Some(a.host)),
                    );
                    let with = |x: Option<Placement>, y: f64| x.map_or(f64::MAX, |x| x.cost + y);
                    found = if with(other_a, b.cost) < with(other_b, a.cost) {
                        [other_a, Some(b)]
                    } else {
                        [Some(a), other_b]
                    };
                }
            }
            many => rest.extend(many.iter().filter_map(|choice| self.cheapest_host(choice, multipliers, None))),
        }
        found.into_iter().flatten().chain(rest)
    }

    /// Returns the cheapest host for a copy that does not clash with the given host.
    fn cheapest_host(
        &self,
        choice: &CopyOptions,
        multipliers: &[PerResource<f64>],
        apart: Option<usize>,
    ) -> Option<Placement> {
        let mut best: Option<Placement> = None;
        for host in &choice.hosts {
            let cost = self.placement_cost(choice.item, *host, multipliers);
            if best.is_none_or(|best| cost < best.cost) && !apart.is_some_and(|other| self.model.clashes(*host, other))
            {
                best = Some(Placement { item: choice.item, host: *host, cost });
            }
        }
        best
    }
}

impl Multipliers {
    /// Returns the bound in whole bytes. Floating point adds up some ten thousand terms; a byte in a million is more
    /// than that can be wrong.
    pub(crate) fn to_bytes(&self) -> i64 {
        (self.bound - 1e-6 * self.bound.abs()).floor() as i64
    }

    /// Creates multipliers that are all 0.
    pub(crate) fn zero(model: &Model) -> Self {
        Self { per_host: vec![PerResource::default(); model.hosts.len()], bound: 0.0 }
    }
}
