//! What no plan can beat, by prices: the Lagrangian dual of the assignment.
//!
//! Each host charges a price for a byte and for an operation that it ends with, above 0 where it would have too much and
//! below 0 where it would lack some. Every shard then chooses the cheapest legal places for its copies on its own. What
//! the choices cost, less what the bands are worth at these prices, is a lower bound for any prices (Geoffrion,
//! "Lagrangean relaxation for integer programming", 1974); subgradient steps look for prices that make it large.
//! With the best prices, how much dearer than the cheapest each place is tells which places a good plan can use.

use super::model::{BYTES, Band, Model, NO_LIMIT, OPS, Weight};

/// The price of a unit of each resource on each host, in moved bytes, and the bound that the prices prove.
#[derive(Debug, Clone)]
pub(crate) struct Multipliers {
    pub of: Vec<[f64; 2]>,
    pub bound: f64,
}

/// A copy that can move: its places, each legal beside the copies of its shard that cannot.
#[derive(Debug, Clone)]
pub(crate) struct Choice {
    pub item: usize,
    pub hosts: Vec<usize>,
}

/// The copies of one shard that can move.
type Unit = Vec<Choice>;

/// A model's choices.
pub(crate) struct Dual<'m> {
    pub model: &'m Model<'m>,
    pub bands: &'m [Band],
    units: Vec<Unit>,
    /// Loads by copies that cannot move.
    fixed: Vec<Weight>,
}

/// Steps without a better bound after which they get shorter.
const PATIENCE: usize = 12;
/// A bound so near to what some plan moves is not raised further, as a fraction.
const ENOUGH: f64 = 0.0003;
/// Steps get no shorter than this fraction of the first.
const SHORTEST: f64 = 0.002;

impl<'m> Dual<'m> {
    pub(crate) fn new(model: &'m Model<'m>, bands: &'m [Band]) -> Self {
        let mut fixed = vec![[0, 0]; model.hosts.len()];
        let mut units: Vec<Unit> = Vec::new();
        let mut shard = usize::MAX;
        for (item, data) in model.items.iter().enumerate() {
            if !data.movable {
                fixed[data.home][BYTES] += data.weight[BYTES];
                fixed[data.home][OPS] += data.weight[OPS];
                continue;
            }
            if data.shard != shard {
                shard = data.shard;
                units.push(Vec::new());
            }
            let held = |host: usize| {
                data.mates.iter().any(|mate| !model.items[*mate].movable && model.clash(host, model.items[*mate].home))
            };
            let hosts = (0..model.hosts.len()).filter(|host| model.allowed(item, *host) && !held(*host)).collect();
            units.last_mut().expect("a unit was begun").push(Choice { item, hosts });
        }
        Self { model, bands, units, fixed }
    }

    /// Steps from the prices towards better ones. `known`: bytes that some plan within the bands moves.
    pub(crate) fn ascend(&self, start: Multipliers, known: i64, steps: usize) -> Multipliers {
        let mut now = start;
        self.price(&mut now);
        let mut best = now.clone();
        let mut heading: Vec<[f64; 2]> = vec![[0.0; 2]; self.bands.len()];
        let (mut length, mut idle) = (1.0, 0);
        for _ in 0..steps {
            let load = self.price(&mut now);
            if now.bound > best.bound {
                idle = if now.bound - best.bound > 1e-4 * now.bound.abs() { 0 } else { idle + 1 };
                best = now.clone();
            } else {
                idle += 1;
            }
            if best.bound >= known as f64 * (1.0 - ENOUGH) {
                break;
            }
            if idle > PATIENCE {
                (idle, length) = (0, length / 2.0);
                now = best.clone();
                heading.fill([0.0; 2]);
                self.price(&mut now);
                if length < SHORTEST {
                    break;
                }
            }
            let goal = known as f64;
            if !self.step(&mut now, &load, &mut heading, (length, goal)) {
                break;
            }
        }
        best
    }

    /// One step along the subgradient, bent by the one before. `false` if the prices are the best there are.
    fn step(
        &self,
        now: &mut Multipliers,
        load: &[[f64; 2]],
        heading: &mut [[f64; 2]],
        (length, goal): (f64, f64),
    ) -> bool {
        let mut square = 0.0;
        for host in (0..self.bands.len()).filter(|host| !self.model.hosts[*host].drained) {
            let unit = self.unit();
            for resource in [BYTES, OPS] {
                let slope = self.slope(host, resource, load[host][resource], now.of[host][resource]);
                let bent = slope * unit[resource] + 0.5 * heading[host][resource];
                heading[host][resource] = bent;
                square += bent * bent;
            }
        }
        if square == 0.0 {
            return false;
        }
        let step = length * (goal - now.bound).max(1e-6 * goal.abs()) / square;
        let unit = self.unit();
        for (price, slope) in now.of.iter_mut().zip(heading.iter()) {
            for resource in [BYTES, OPS] {
                price[resource] += step * slope[resource] * unit[resource];
            }
        }
        true
    }

    /// Bytes that a unit of each resource stands for.
    fn unit(&self) -> [f64; 2] {
        let total = self.model.total;
        [1.0, if total[OPS] > 0 { total[BYTES] as f64 / total[OPS] as f64 } else { 0.0 }]
    }

    /// How the bound changes with the price, where the choices put so much on the host.
    fn slope(&self, host: usize, resource: usize, load: f64, price: f64) -> f64 {
        let (lo, hi) = (self.bands[host].lo[resource] as f64, self.bands[host].hi[resource]);
        let over = if hi >= NO_LIMIT { f64::MIN } else { load - hi as f64 };
        if price > 0.0 {
            over
        } else if price < 0.0 {
            load - lo
        } else {
            over.max(0.0) + (load - lo).min(0.0)
        }
    }

    /// The bound at these prices, and the loads that the choices make.
    fn price(&self, prices: &mut Multipliers) -> Vec<[f64; 2]> {
        let (mut bound, mut load) = (0.0, vec![[0.0; 2]; self.bands.len()]);
        for (host, weight) in self.fixed.iter().enumerate() {
            for resource in [BYTES, OPS] {
                load[host][resource] += weight[resource] as f64;
                bound += weight[resource] as f64 * prices.of[host][resource];
            }
        }
        for unit in &self.units {
            for (item, host, cost) in self.cheapest(unit, &prices.of) {
                bound += cost;
                for resource in [BYTES, OPS] {
                    load[host][resource] += self.model.items[item].weight[resource] as f64;
                }
            }
        }
        for (price, (band, host)) in prices.of.iter_mut().zip(self.bands.iter().zip(&self.model.hosts)) {
            for resource in [BYTES, OPS] {
                if host.drained || (band.hi[resource] >= NO_LIMIT && price[resource] > 0.0) {
                    price[resource] = 0.0;
                }
                let edge = if price[resource] > 0.0 { band.hi[resource] } else { band.lo[resource] };
                bound -= price[resource] * edge as f64;
            }
        }
        prices.bound = bound;
        load
    }

    /// What the copy costs on the host.
    pub(crate) fn cost(&self, item: usize, host: usize, prices: &[[f64; 2]]) -> f64 {
        let data = &self.model.items[item];
        let bytes = data.weight[BYTES] as f64;
        let moved = if host == data.home { 0.0 } else { bytes };
        moved + bytes * prices[host][BYTES] + data.weight[OPS] as f64 * prices[host][OPS]
    }

    /// The cheapest places for the copies of a shard: item, host, cost. Three copies or more that can all move are looked
    /// at one by one, which makes the bound lower but no less true.
    fn cheapest(&self, unit: &Unit, prices: &[[f64; 2]]) -> impl Iterator<Item = (usize, usize, f64)> {
        let mut found = [None, None];
        let mut rest = Vec::new();
        match unit.as_slice() {
            [one] => found[0] = self.best(one, prices, None),
            [one, two] => {
                let (a, b) = (self.best(one, prices, None), self.best(two, prices, None));
                found = [a, b];
                if let (Some(a), Some(b)) = (a, b)
                    && self.model.clash(a.1, b.1)
                {
                    let (other_a, other_b) = (self.best(one, prices, Some(b.1)), self.best(two, prices, Some(a.1)));
                    let with = |x: Option<(usize, usize, f64)>, y: f64| x.map_or(f64::MAX, |x| x.2 + y);
                    found =
                        if with(other_a, b.2) < with(other_b, a.2) { [other_a, Some(b)] } else { [Some(a), other_b] };
                }
            }
            many => rest.extend(many.iter().filter_map(|choice| self.best(choice, prices, None))),
        }
        found.into_iter().flatten().chain(rest)
    }

    /// The cheapest place for a copy that is apart from the given host.
    fn best(&self, choice: &Choice, prices: &[[f64; 2]], apart: Option<usize>) -> Option<(usize, usize, f64)> {
        let mut best: Option<(usize, usize, f64)> = None;
        for host in &choice.hosts {
            let cost = self.cost(choice.item, *host, prices);
            if best.is_none_or(|(.., least)| cost < least) && !apart.is_some_and(|other| self.model.clash(*host, other))
            {
                best = Some((choice.item, *host, cost));
            }
        }
        best
    }
}

impl Multipliers {
    /// The bound in whole bytes. Floating point adds up some ten thousand terms; a byte in a million is more than that
    /// can be wrong.
    pub(crate) fn bytes(&self) -> i64 {
        (self.bound - 1e-6 * self.bound.abs()).floor() as i64
    }

    /// Nothing costs anything.
    pub(crate) fn none(model: &Model) -> Self {
        Self { of: vec![[0.0; 2]; model.hosts.len()], bound: 0.0 }
    }
}
