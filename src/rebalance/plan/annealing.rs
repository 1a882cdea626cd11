//! Simulated annealing over assignments: shifts, swaps, exchanges, two-for-one swaps and chains, from a seed.
//!
//! Work is bounded by a number of steps, never by a clock, so that the result is the same on every machine.

mod proposals;

use super::assignment::{Assignment, Penalty};
use super::model::Model;
use super::options::PlanOptions;
use super::resource::{HostResource::Bytes, Weight};
use super::rng::Rng;

/// Costs of the annealed objective.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PenaltyWeights {
    /// Cost of a moved byte.
    pub moved: f64,
    /// Cost of a byte outside the ranges.
    pub outside: f64,
    /// Factor by which `outside` rises after each temperature that ends outside the ranges, and falls after one that
    /// ends within them: the walk stays near their edge (strategic oscillation, Glover, "Future paths for integer
    /// programming and links to artificial intelligence", 1986). 1: `outside` is constant.
    pub growth: f64,
}

impl PenaltyWeights {
    /// Growth of weights that adapt.
    pub(crate) const ADAPTIVE: f64 = 1.003;

    /// Creates weights that stay the same.
    pub(crate) const fn constant(moved: f64, outside: f64) -> Self {
        Self { moved, outside, growth: 1.0 }
    }
}

/// The interval that an adapting weight stays in.
const OUTSIDE_WEIGHTS: (f64, f64) = (1.0, 1000.0);

/// Limits on the copies away from home.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MoveBudget {
    pub moves: usize,
    pub bytes: i64,
}

impl MoveBudget {
    pub(crate) const NONE: Self = Self { moves: usize::MAX, bytes: i64::MAX };

    /// Creates the limits that the options ask for.
    pub(crate) fn new(model: &Model, options: &PlanOptions) -> Self {
        // Copies of a fleet without data have a nominal size only: no limit on bytes stops them.
        let bytes = options.max_bytes.filter(|_| !model.is_empty).and_then(|bytes| i64::try_from(bytes).ok());
        Self { moves: options.max_moves.unwrap_or(usize::MAX), bytes: bytes.unwrap_or(i64::MAX) }
    }

    /// Returns whether the assignment is within the limits.
    pub(crate) fn allows(&self, state: &Assignment) -> bool {
        state.moves <= self.moves && state.moved <= self.bytes
    }
}

/// Items × hosts above which few long walks replace many short ones.
const LARGE: usize = 200_000;
/// Steps of one of many walks; those of a large fleet are ten times as long.
const STEPS: usize = 40_000;

/// Returns whether the model is so large that a search has to make do with few walks.
pub(crate) fn is_large(model: &Model) -> bool {
    problem_size(model) > LARGE
}

/// Returns the number of items that can move × hosts.
pub(crate) fn problem_size(model: &Model) -> usize {
    model.items.iter().filter(|item| item.movable).count() * model.hosts.len()
}

/// Returns the usual number of steps of one walk.
pub(crate) fn annealing_steps(model: &Model) -> usize {
    let size = problem_size(model);
    if size > LARGE { 10 * STEPS } else { (50 * size).clamp(2_000, STEPS) }
}

/// The temperatures of a walk, in bytes, and its number of steps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CoolingSchedule {
    pub steps: usize,
    pub start_temperature: f64,
    pub end_temperature: f64,
}

/// Returns temperatures in proportion to the mean size of the items that can move.
pub(crate) fn cooling_schedule(model: &Model, steps: usize) -> CoolingSchedule {
    let movable = model.items.iter().filter(|item| item.movable);
    let (count, bytes) = movable.fold((0i64, 0i64), |(n, sum), item| (n + 1, sum + item.weight[Bytes]));
    let mean = (bytes as f64 / count.max(1) as f64).max(1.0);
    CoolingSchedule { steps, start_temperature: 0.4 * mean, end_temperature: 0.006 * mean }
}

/// A new host for an item.
#[derive(Debug, Clone, Copy)]
struct Reassignment {
    item: usize,
    host: usize,
}

/// A walk over assignments, and the best one that it visited.
pub(crate) struct Annealer<'m> {
    model: &'m Model<'m>,
    penalty: &'m Penalty,
    weights: PenaltyWeights,
    limits: MoveBudget,
    state: Assignment,
    /// Cost of each host outside its range.
    cost: Vec<f64>,
    /// Hosts with a cost, in no particular order, and the position of each host in that list.
    violators: Vec<usize>,
    violator_position: Vec<usize>,
    movable: Vec<usize>,
    receivers: Vec<usize>,
    rng: Rng,
    best: Score,
    /// Hosts of the items in the best state, and the items that may be elsewhere now.
    best_host_of: Vec<usize>,
    changed: Vec<usize>,
    is_changed: Vec<bool>,
    proposal: Vec<Reassignment>,
    /// Hosts that the proposal touches, with their new loads.
    new_loads: Vec<(usize, Weight)>,
}

/// The quality of a state; smaller is better: first the cost outside the ranges, then the moves.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Score {
    outside: f64,
    moved: i64,
    moves: usize,
}

impl Score {
    fn is_better_than(&self, other: &Self) -> bool {
        let slack = 1e-9 * other.outside.abs() + 1e-6;
        if self.outside == 0.0 && other.outside == 0.0 || (self.outside - other.outside).abs() <= slack {
            return (self.moved, self.moves) < (other.moved, other.moves)
                && (self.outside == 0.0) >= (other.outside == 0.0);
        }
        self.outside < other.outside
    }
}

/// Position of a host that is not a violator.
const NO_POSITION: usize = usize::MAX;

impl<'m> Annealer<'m> {
    pub(crate) fn new(model: &'m Model<'m>, penalty: &'m Penalty, state: Assignment, seed: u64) -> Self {
        let cost: Vec<f64> = state.load.iter().enumerate().map(|(host, load)| penalty.of_host(host, *load)).collect();
        let mut annealer = Self {
            model,
            penalty,
            weights: PenaltyWeights::constant(1.0, 4.0),
            limits: MoveBudget::NONE,
            violators: Vec::new(),
            violator_position: vec![NO_POSITION; cost.len()],
            movable: (0..model.items.len()).filter(|item| model.items[*item].movable).collect(),
            receivers: (0..model.hosts.len()).filter(|host| model.hosts[*host].can_receive).collect(),
            rng: Rng::new(seed),
            best_host_of: state.host_of.clone(),
            changed: Vec::new(),
            is_changed: vec![false; state.host_of.len()],
            best: Score { outside: f64::MAX, moved: i64::MAX, moves: usize::MAX },
            proposal: Vec::with_capacity(4),
            new_loads: Vec::with_capacity(8),
            state,
            cost,
        };
        for host in 0..annealer.cost.len() {
            annealer.update_violators(host);
        }
        annealer.best = annealer.score();
        annealer
    }

    pub(crate) fn with_weights(mut self, weights: PenaltyWeights, limits: MoveBudget) -> Self {
        self.weights = weights;
        self.limits = limits;
        self
    }

    fn update_violators(&mut self, host: usize) {
        let position = self.violator_position[host];
        if self.cost[host] > 0.0 && position == NO_POSITION {
            self.violator_position[host] = self.violators.len();
            self.violators.push(host);
        } else if self.cost[host] <= 0.0 && position != NO_POSITION {
            self.violators.swap_remove(position);
            if let Some(other) = self.violators.get(position) {
                self.violator_position[*other] = position;
            }
            self.violator_position[host] = NO_POSITION;
        }
    }

    fn score(&self) -> Score {
        let outside =
            if self.violators.is_empty() { 0.0 } else { self.violators.iter().map(|host| self.cost[*host]).sum() };
        Score { outside, moved: self.state.moved, moves: self.state.moves }
    }

    /// Returns whether the best state so far keeps all ranges.
    fn is_best_within(&self) -> bool {
        self.best.outside == 0.0
    }

    /// Returns the best state that was visited.
    pub(crate) fn into_best(mut self) -> Assignment {
        self.restore_best();
        self.state
    }

    /// Returns to the best state.
    pub(crate) fn restore_best(&mut self) {
        for item in std::mem::take(&mut self.changed) {
            self.is_changed[item] = false;
            self.place(Reassignment { item, host: self.best_host_of[item] });
        }
    }

    /// Makes the current state the best one.
    fn store_best(&mut self, score: Score) {
        self.best = score;
        for item in self.changed.drain(..) {
            self.is_changed[item] = false;
            self.best_host_of[item] = self.state.host_of[item];
        }
    }

    fn reassign(&mut self, change: Reassignment) {
        if !self.is_changed[change.item] {
            self.is_changed[change.item] = true;
            self.changed.push(change.item);
        }
        self.place(change);
    }

    fn place(&mut self, Reassignment { item, host }: Reassignment) {
        let from = self.state.host_of[item];
        self.state.reassign(self.model, item, host);
        for host in [from, host] {
            self.cost[host] = self.penalty.of_host(host, self.state.load[host]);
            self.update_violators(host);
        }
    }

    /// Walks for the steps of the schedule; stops early once the best state is within its ranges and moves at most
    /// `goal` bytes. Returns the part of the schedule that is left.
    pub(crate) fn anneal(&mut self, mut schedule: CoolingSchedule, goal: i64) -> CoolingSchedule {
        if self.movable.is_empty() || self.receivers.is_empty() {
            return CoolingSchedule { steps: 0, ..schedule };
        }
        const STEPS_PER_TEMPERATURE: usize = 64;
        let levels = schedule.steps.div_ceil(STEPS_PER_TEMPERATURE).max(1);
        let cooling = (schedule.end_temperature / schedule.start_temperature).powf(1.0 / levels as f64);
        for _ in 0..levels {
            for _ in 0..STEPS_PER_TEMPERATURE {
                self.try_step(schedule.start_temperature);
            }
            schedule.start_temperature *= cooling;
            schedule.steps = schedule.steps.saturating_sub(STEPS_PER_TEMPERATURE);
            self.adapt_weights();
            if self.is_best_within() && self.best.moved <= goal {
                break;
            }
        }
        schedule
    }

    fn adapt_weights(&mut self) {
        let PenaltyWeights { outside, growth, .. } = &mut self.weights;
        let factor = if self.violators.is_empty() { 1.0 / *growth } else { *growth };
        *outside = (*outside * factor).clamp(OUTSIDE_WEIGHTS.0, OUTSIDE_WEIGHTS.1);
    }

    fn try_step(&mut self, temperature: f64) {
        self.propose_step();
        let Some(delta) = self.cost_change() else { return };
        if delta > 0.0 && self.rng.fraction() >= (-delta / temperature).exp() {
            return;
        }
        let mut proposal = std::mem::take(&mut self.proposal);
        for change in &mut proposal {
            let from = self.state.host_of[change.item];
            self.reassign(*change);
            change.host = from;
        }
        if !self.limits.allows(&self.state) {
            proposal.iter().rev().for_each(|change| self.reassign(*change));
        }
        self.proposal = proposal;
        let score = self.score();
        if score.is_better_than(&self.best) {
            self.store_best(score);
        }
    }

    /// Returns the change in cost of the proposal; `None` if it is not legal or changes nothing.
    fn cost_change(&mut self) -> Option<f64> {
        if self.proposal.is_empty() {
            return None;
        }
        self.new_loads.clear();
        let mut moved = 0;
        for n in 0..self.proposal.len() {
            let Reassignment { item, host } = self.proposal[n];
            let (data, from) = (&self.model.items[item], self.state.host_of[item]);
            let twice = self.proposal[..n].iter().any(|other| other.item == item);
            if from == host || twice || !self.is_legal(item, host) {
                return None;
            }
            if from == data.home {
                moved += data.weight[Bytes];
            } else if host == data.home {
                moved -= data.weight[Bytes];
            }
            self.add_load_change(from, data.weight, false);
            self.add_load_change(host, data.weight, true);
        }
        let mut outside = 0.0;
        for (host, load) in &self.new_loads {
            outside += self.penalty.of_host(*host, *load) - self.cost[*host];
        }
        Some(moved as f64 * self.weights.moved + outside * self.weights.outside)
    }

    /// Returns whether the item may be on the host once the proposal is applied.
    fn is_legal(&self, item: usize, host: usize) -> bool {
        let excludes = |sibling: &usize| {
            let moves = self.proposal.iter().find(|change| change.item == *sibling);
            let there = moves.map_or(self.state.host_of[*sibling], |change| change.host);
            self.model.excludes(item, host, *sibling, there)
        };
        self.model.is_allowed(item, host) && !self.model.items[item].siblings.iter().any(excludes)
    }

    fn add_load_change(&mut self, host: usize, weight: Weight, arrives: bool) {
        let change = |load: Weight| if arrives { load + weight } else { load - weight };
        match self.new_loads.iter_mut().find(|(other, _)| *other == host) {
            Some((_, load)) => *load = change(*load),
            None => self.new_loads.push((host, change(self.state.load[host]))),
        }
    }
}
