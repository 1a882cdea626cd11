//! What an integer programme says about a fleet, formulated from the observation and the wishes alone.
//!
//! Solved by the program `cbc` through good_lp. The question asked is a decision: is there an assignment that keeps
//! all rules and moves at most so many bytes? A cut-off makes that much faster to refute than an optimum is to find.

use std::collections::BTreeMap;

use dunlin::rebalance::observation::Observation;
use dunlin::rebalance::plan::Wishes;
use good_lp::solvers::WithTimeLimit;
use good_lp::solvers::lp_solvers::{CbcSolver, LpSolver};
use good_lp::{Expression, ProblemVariables, ResolutionError, Solution, SolverModel, Variable, constraint, variable};

use crate::generate::MIB;

/// What the oracle found out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Answer {
    /// There is an assignment; it moves so many bytes.
    Yes(u64),
    /// There is none.
    No,
    /// The time was not enough to say.
    Unknown,
}

/// Loads that each host may end with: bytes and operations, inclusive.
pub type Band = [(f64, f64); 2];

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
    pub seconds: f64,
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
        Self { observation, wishes, copies, drained, zones, seconds: 2.0 }
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

    /// No bands but what the hosts can hold.
    pub fn walls(&self) -> Vec<Band> {
        self.caps().into_iter().map(|cap| [(0.0, cap), (0.0, f64::MAX)]).collect()
    }

    fn caps(&self) -> Vec<f64> {
        let cap = |bytes: u64| bytes as f64 * self.wishes.headroom / MIB as f64;
        self.observation.hosts.iter().map(|host| cap(host.capacity_bytes)).collect()
    }

    /// Bytes that must move by counting alone: what is over the bands, or below them, in sum.
    pub fn counted(&self, bands: &[Band]) -> f64 {
        let mut load = vec![0.0; bands.len()];
        for copy in &self.copies {
            load[copy.home] += copy.mib;
        }
        let (mut over, mut under) = (0.0, 0.0);
        for (n, band) in bands.iter().enumerate() {
            let (lo, hi) = if self.drained[n] { (0.0, 0.0) } else { band[0] };
            over += f64::max(load[n] - hi, 0.0);
            under += f64::max(lo - load[n], 0.0);
        }
        over.max(under) * MIB as f64
    }

    /// The fewest bytes within the wished bands, and whether the solver had the time to prove it.
    #[allow(dead_code, reason = "the benchmark compares with it; the tests ask whether there is anything cheaper")]
    pub fn optimum(&self) -> (Answer, bool) {
        let start = std::time::Instant::now();
        let answer = self.ask(&self.bands(), None);
        (answer, start.elapsed().as_secs_f64() < 0.8 * self.seconds)
    }

    /// Whether an assignment within the bands moves at most `most` bytes.
    pub fn ask(&self, bands: &[Band], most: Option<f64>) -> Answer {
        let mut variables = ProblemVariables::new();
        let mut may: Vec<Vec<(usize, Variable)>> = Vec::new();
        for copy in &self.copies {
            let hosts = (0..self.zones.len()).filter(|host| self.may(copy, *host));
            may.push(hosts.map(|host| (host, variables.add(variable().binary()))).collect());
        }
        if may.iter().any(Vec::is_empty) {
            return Answer::No;
        }
        let mut moved = Expression::with_capacity(may.len() * self.zones.len());
        for (copy, choices) in self.copies.iter().zip(&may) {
            for (host, chosen) in choices.iter().filter(|(host, _)| *host != copy.home) {
                let _ = host;
                moved.add_mul(copy.mib, chosen);
            }
        }
        let model = variables.minimise(moved.clone()).using(LpSolver(CbcSolver::new())).with_time_limit(self.seconds);
        let mut model = self.rules(model, &may, bands);
        if let Some(most) = most {
            model.add_constraint(constraint!(moved.clone() <= most / MIB as f64));
        }
        match model.solve() {
            Ok(solution) if self.whole(&solution, &may) => {
                Answer::Yes((solution.eval(&moved) * MIB as f64).round() as u64)
            }
            Ok(_) => Answer::Unknown,
            Err(ResolutionError::Infeasible) => Answer::No,
            Err(_) => Answer::Unknown,
        }
    }

    fn may(&self, copy: &Copy, host: usize) -> bool {
        let open = self.wishes.to.as_ref().is_none_or(|to| to.contains(&self.observation.hosts[host].name));
        !self.drained[host] && (host == copy.home || (copy.free && open))
    }

    fn rules<M: SolverModel>(&self, mut model: M, may: &[Vec<(usize, Variable)>], bands: &[Band]) -> M {
        let mut loads: Vec<[Expression; 2]> = vec![[Expression::default(), Expression::default()]; bands.len()];
        let mut crowd: BTreeMap<(usize, usize), Vec<Variable>> = BTreeMap::new();
        for (copy, choices) in self.copies.iter().zip(may) {
            model.add_constraint(constraint!(choices.iter().map(|(_, x)| x).sum::<Expression>() == 1.0));
            for (host, chosen) in choices {
                loads[*host][0].add_mul(copy.mib, chosen);
                loads[*host][1].add_mul(copy.ops, chosen);
                crowd.entry((copy.shard, self.zones[*host])).or_default().push(*chosen);
            }
        }
        let replicated = self.observation.shards.iter().any(|shard| !shard.replicas.is_empty());
        for together in crowd.values().filter(|_| replicated) {
            model.add_constraint(constraint!(together.iter().sum::<Expression>() <= 1.0));
        }
        for (n, (load, band)) in loads.into_iter().zip(bands).enumerate() {
            for (load, (lo, hi)) in load.into_iter().zip(band) {
                if !self.drained[n] && *hi < f64::MAX {
                    model.add_constraint(constraint!(load.clone() <= *hi));
                }
                if !self.drained[n] && *lo > 0.0 {
                    model.add_constraint(constraint!(load >= *lo));
                }
            }
        }
        model
    }

    /// Whether the solver's answer is a real assignment: one host for each copy.
    fn whole(&self, solution: &impl Solution, may: &[Vec<(usize, Variable)>]) -> bool {
        let chosen =
            |choices: &Vec<(usize, Variable)>| choices.iter().filter(|(_, x)| solution.value(*x) > 0.99).count();
        may.iter().all(|choices| chosen(choices) == 1)
    }
}
