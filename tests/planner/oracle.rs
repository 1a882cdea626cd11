//! What an integer programme says about a fleet, formulated from the observation and the wishes alone.
//!
//! Each question is a minimum: of the bytes that move within given bands, or of the distance from the wished ones. A
//! solver ([`super::ask`]) answers with a range, what it proved to be the least and the best that it found, so that an
//! answer which time cut short is still worth something.

use std::collections::BTreeMap;
use std::fmt::Write;

use dunlin::rebalance::observation::Observation;
use dunlin::rebalance::plan::{RebalancePlan, Role, Wishes};

use crate::generate::MIB;

/// What the oracle found out about a minimum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Known {
    /// Proven: nothing is below this. Infinite where nothing keeps the rules.
    pub least: f64,
    /// The best that was found, if anything was.
    pub best: Option<f64>,
}

impl Known {
    /// Whether this tells if anything is below `most`.
    pub fn decides(&self, most: f64) -> bool {
        self.least >= most || self.best.is_some_and(|best| best < most)
    }
}

/// Loads that each host may end with: bytes in MiB and operations, inclusive.
pub type Band = [(f64, f64); 2];

/// An integer programme in the LP format of CPLEX.
pub struct Question {
    objective: String,
    rules: String,
}

impl Question {
    /// What tells this question from others: FNV-1a of its text.
    pub fn key(&self) -> u64 {
        let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        self.objective.bytes().chain(self.rules.bytes()).fold(0xcbf2_9ce4_8422_2325, mix)
    }

    /// The programme; with `most` only for something below that.
    pub fn text(&self, most: f64) -> String {
        let Self { objective, rules } = self;
        let cut = if most.is_finite() { format!("{objective} <= {most}\n") } else { String::new() };
        format!("Minimize\nobj: {objective}\nSubject To\n{cut}{rules}")
    }
}

/// One copy of a shard.
struct Copy {
    shard: usize,
    home: usize,
    mib: f64,
    ops: f64,
    free: bool,
}

/// The fleet as an integer programme.
pub struct Oracle<'a> {
    observation: &'a Observation,
    wishes: &'a Wishes,
    copies: Vec<Copy>,
    drained: Vec<bool>,
    zones: Vec<usize>,
}

impl<'a> Oracle<'a> {
    pub fn new(observation: &'a Observation, wishes: &'a Wishes) -> Self {
        let hosts = &observation.hosts;
        let at = |name: &String| hosts.iter().position(|host| host.name == *name).unwrap();
        let drained: Vec<bool> = hosts.iter().map(|host| host.drain || wishes.drain.contains(&host.name)).collect();
        let mut names: BTreeMap<String, usize> = BTreeMap::new();
        let zone = |n: usize| match &hosts[n].zone {
            Some(zone) if wishes.zones => zone.clone(),
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
                let clash = homes.iter().enumerate().any(|(m, other)| m != n && zones[*other] == zones[*home]);
                copies.push(Copy {
                    shard: index,
                    home: *home,
                    mib: shard.bytes as f64 / MIB as f64,
                    ops: if n == 0 { shard.ops_per_s } else { 0.0 },
                    free: !shard.pinned && (n == 0 || wishes.move_replicas || drained[*home] || clash),
                });
            }
        }
        Self { observation, wishes, copies, drained, zones }
    }

    /// The bands of the wished tolerance.
    pub fn bands(&self) -> Vec<Band> {
        let staying = || self.observation.hosts.iter().zip(&self.drained).filter(|(_, drained)| !**drained);
        let weight: f64 = staying().map(|(host, _)| host.weight).sum();
        let mib: f64 = self.copies.iter().map(|copy| copy.mib).sum();
        let ops: f64 = self.copies.iter().map(|copy| copy.ops).sum();
        let tolerance = self.wishes.tolerance;
        let band = |(n, cap): (usize, f64)| {
            let share = self.observation.hosts[n].weight / weight;
            let around = |total: f64| (share * total * (1.0 - tolerance), share * total * (1.0 + tolerance));
            let mut band = [(0.0, cap), (0.0, f64::MAX)];
            if self.wishes.balance.bytes() {
                let (lo, hi) = around(mib);
                band[0] = (lo.min(cap), hi.min(cap));
            }
            if self.wishes.balance.ops() {
                band[1] = around(ops);
            }
            band
        };
        self.caps().into_iter().enumerate().map(band).collect()
    }

    /// The host of each copy once a plan is carried out.
    pub fn after(&self, plan: &RebalancePlan) -> Vec<usize> {
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

    /// The bands that a plan which missed the wished ones may use, and how far out it is, in thousandths of a share.
    ///
    /// All loads of a kind may be as far out as the worst of them; but where one copy, or what cannot leave the host, is
    /// too much by itself, or the host may receive nothing, that load tells nothing about the others.
    pub fn given_way(&self, at: &[usize]) -> (Vec<Band>, f64) {
        let (wished, shares, caps) = (self.bands(), self.shares(), self.caps());
        let (mut bands, mut farthest) = (wished.clone(), 0.0f64);
        for resource in 0..2 {
            let (mut free, mut worst) = (Vec::new(), 0.0f64);
            for (host, band) in wished.iter().enumerate().filter(|(host, _)| !self.drained[*host]) {
                let (lo, hi) = band[resource];
                let (load, helpless) = self.stands(at, (host, resource), (lo, hi));
                let outside = (load - hi).max(lo - load);
                let part = if outside < 1e-5 { 0.0 } else { outside / shares[host][resource].max(1e-9) };
                farthest = farthest.max(part);
                if part > 0.0 {
                    bands[host][resource] = (lo.min(load - 1e-6), hi.max(load + 1e-6));
                }
                if part == 0.0 || !helpless {
                    free.push(host);
                    worst = worst.max(part);
                }
            }
            for host in free.into_iter().filter(|_| worst > 0.0) {
                let (share, more) = (shares[host][resource], self.wishes.tolerance + worst);
                let (lo, hi) = &mut bands[host][resource];
                let cap = if resource == 0 { caps[host] } else { f64::MAX };
                *lo = lo.min(share * (1.0 - more));
                *hi = hi.max((share * (1.0 + more)).min(cap));
            }
        }
        (bands, 1000.0 * farthest)
    }

    /// Whether all copies may be where they are: none on a drained host, no two of a shard in one zone.
    pub fn keeps_apart(&self, at: &[usize]) -> bool {
        let together = |n: usize| {
            let mates = (0..n).rev().take_while(|m| self.copies[*m].shard == self.copies[n].shard);
            mates.into_iter().any(|m| self.zones[at[m]] == self.zones[at[n]])
        };
        (0..at.len()).all(|n| !self.drained[at[n]] && !together(n))
    }

    /// The load of a host, and whether it would be out of its band whatever became of the others.
    fn stands(&self, at: &[usize], (host, resource): (usize, usize), (lo, hi): (f64, f64)) -> (f64, bool) {
        let weight = |copy: &Copy| if resource == 0 { copy.mib } else { copy.ops };
        let here = || self.copies.iter().zip(at).filter(|(_, at)| **at == host).map(|(copy, _)| copy);
        let load = here().map(weight).sum::<f64>();
        let largest = here().map(weight).fold(0.0, f64::max);
        let fixed: f64 = here().filter(|copy| !copy.free).map(weight).sum();
        let closed = self.wishes.to.as_ref().is_some_and(|to| !to.contains(&self.observation.hosts[host].name));
        (load, if load < lo { closed } else { largest.max(fixed) > hi })
    }

    /// No bands but what the hosts can hold.
    pub fn walls(&self) -> Vec<Band> {
        self.caps().into_iter().map(|cap| [(0.0, cap), (0.0, f64::MAX)]).collect()
    }

    fn caps(&self) -> Vec<f64> {
        let cap = |bytes: u64| bytes as f64 * self.wishes.headroom / MIB as f64;
        self.observation.hosts.iter().map(|host| cap(host.capacity_bytes)).collect()
    }

    /// MiB that must move by adding up alone: what is over the bands, or below them, in sum.
    pub fn added_up(&self, bands: &[Band]) -> f64 {
        let needs = self.needs(bands);
        let sum = |which: fn(&(f64, f64)) -> f64| needs.iter().map(which).sum::<f64>();
        f64::max(sum(|need| need.0), sum(|need| need.1))
    }

    /// MiB that must move by counting alone: of the copies on a host that is over its band, the set that is just enough;
    /// or, of all others, the set that is just enough for a host below its band.
    pub fn counted(&self, bands: &[Band]) -> f64 {
        let (mut leave, mut arrive) = (0.0, 0.0);
        for (host, (over, under)) in self.needs(bands).into_iter().enumerate() {
            let free = |here: bool| {
                let copies = self.copies.iter().filter(move |copy| copy.free && (copy.home == host) == here);
                copies.map(|copy| copy.mib).collect::<Vec<f64>>()
            };
            leave += just_enough(&free(true), over);
            arrive += just_enough(&free(false), under);
        }
        f64::max(leave, arrive)
    }

    /// How many MiB each host is over its band, and below it.
    fn needs(&self, bands: &[Band]) -> Vec<(f64, f64)> {
        let mut load = vec![0.0; bands.len()];
        for copy in &self.copies {
            load[copy.home] += copy.mib;
        }
        let need = |(n, band): (usize, &Band)| {
            let (lo, hi) = if self.drained[n] { (0.0, 0.0) } else { band[0] };
            (f64::max(load[n] - hi, 0.0), f64::max(lo - load[n], 0.0))
        };
        bands.iter().enumerate().map(need).collect()
    }

    /// The fewest MiB that move within the bands.
    pub fn least_moved(&self, bands: &[Band]) -> Question {
        let mut moved = Sum::default();
        for (copy, hosts) in self.choices() {
            for host in hosts.into_iter().filter(|host| *host != self.copies[copy].home) {
                moved.add(self.copies[copy].mib, &chosen(copy, host));
            }
        }
        Question { objective: moved.0, rules: self.rules(bands, None) }
    }

    /// The least distance from the wished bands that all hosts can keep, in thousandths of a share.
    pub fn least_outside(&self) -> Question {
        let mut outside = Sum::default();
        outside.add(1000.0, OUTSIDE);
        Question { objective: outside.0, rules: self.rules(&self.bands(), Some(&self.shares())) }
    }

    /// MiB and operations that each host's weight asks for.
    pub fn shares(&self) -> Vec<[f64; 2]> {
        let mib: f64 = self.copies.iter().map(|copy| copy.mib).sum();
        let ops: f64 = self.copies.iter().map(|copy| copy.ops).sum();
        let part = |n: usize| if self.drained[n] { 0.0 } else { self.observation.hosts[n].weight };
        let weight: f64 = (0..self.drained.len()).map(part).sum();
        (0..self.drained.len()).map(|n| [part(n) / weight * mib, part(n) / weight * ops]).collect()
    }

    fn may(&self, copy: &Copy, host: usize) -> bool {
        let open = self.wishes.to.as_ref().is_none_or(|to| to.contains(&self.observation.hosts[host].name));
        !self.drained[host] && (host == copy.home || (copy.free && open))
    }

    /// The hosts that each copy may be on.
    fn choices(&self) -> impl Iterator<Item = (usize, Vec<usize>)> {
        let hosts = |copy: &Copy| (0..self.zones.len()).filter(|host| self.may(copy, *host)).collect();
        self.copies.iter().enumerate().map(move |(n, copy)| (n, hosts(copy)))
    }

    /// The rules. With `shares`, bands give way by the part [`OUTSIDE`] of them.
    fn rules(&self, bands: &[Band], shares: Option<&[[f64; 2]]>) -> String {
        let mut text = String::new();
        let mut loads: Vec<[Sum; 2]> = vec![Default::default(); bands.len()];
        let mut crowd: BTreeMap<(usize, usize), Sum> = BTreeMap::new();
        let mut binaries = String::new();
        for (n, hosts) in self.choices() {
            let (copy, mut one) = (&self.copies[n], Sum::default());
            for host in hosts {
                let name = chosen(n, host);
                one.add(1.0, &name);
                loads[host][0].add(copy.mib, &name);
                loads[host][1].add(copy.ops, &name);
                crowd.entry((copy.shard, self.zones[host])).or_default().add(1.0, &name);
                let _ = writeln!(binaries, "{name}");
            }
            one.rule(&mut text, "=", 1.0);
        }
        crowd.values().filter(|together| together.1 > 1).for_each(|together| together.rule(&mut text, "<=", 1.0));
        let walls = self.walls();
        for host in (0..bands.len()).filter(|host| !self.drained[*host]) {
            for (resource, (lo, hi)) in bands[host].into_iter().enumerate() {
                let (mut above, mut below) = (loads[host][resource].clone(), loads[host][resource].clone());
                if let Some(shares) = shares {
                    above.add(-shares[host][resource], OUTSIDE);
                    below.add(shares[host][resource], OUTSIDE);
                    let wall = walls[host][resource].1;
                    loads[host][resource].rule(&mut text, "<=", wall);
                }
                above.rule(&mut text, "<=", hi);
                below.rule(&mut text, ">=", lo);
            }
        }
        let _ = writeln!(text, "Binaries\n{binaries}End");
        text
    }
}

/// The least sum of a set of the sizes, which are whole numbers, that reaches `need`; all of them if none does.
fn just_enough(sizes: &[f64], need: f64) -> f64 {
    let need = (need - 1e-6).ceil().max(0.0) as usize;
    // Nothing is gained by a set that would be enough without its smallest member.
    let most = need + sizes.iter().fold(0.0, |a, b| f64::max(a, *b)) as usize;
    let mut reached = vec![false; most + 1];
    reached[0] = true;
    for size in sizes {
        let size = *size as usize;
        for sum in (size..=most).rev() {
            reached[sum] = reached[sum] || reached[sum - size];
        }
    }
    let least = (need..=most).find(|sum| reached[*sum]);
    least.map_or(sizes.iter().sum(), |sum| sum as f64)
}

/// How far bands give way, as a fraction of a share.
const OUTSIDE: &str = "outside";

/// The variable that is 1 where the copy is on the host.
fn chosen(copy: usize, host: usize) -> String {
    format!("x{copy}_{host}")
}

/// A linear expression and its number of terms.
#[derive(Clone, Default)]
struct Sum(String, usize);

impl Sum {
    fn add(&mut self, factor: f64, name: &str) {
        if factor != 0.0 {
            let line = if self.1 % 8 == 7 { "\n" } else { " " };
            let _ = write!(self.0, "{factor:+} {name}{line}");
            self.1 += 1;
        }
    }

    /// Writes the rule down unless it holds anyway.
    fn rule(&self, text: &mut String, relation: &str, value: f64) {
        let holds = (relation == "<=" && value == f64::MAX) || (relation == ">=" && value <= 0.0);
        if !holds {
            let all = if self.1 == 0 { "0 nothing" } else { &self.0 };
            let _ = writeln!(text, "{all} {relation} {value}");
        }
    }
}
