//! Many starts: the fewest moves are often far from what a search finds that only continues from its best.
//!
//! First long walks that all begin at the same assignment, then short ones that begin at the best so far with some copies
//! elsewhere (iterated local search; Lourenço, Martin, Stützle, "Iterated local search", 2003). Branch and bound
//! improves what each walk finds.

use super::annealing::{Annealer, MoveLimits, PenaltyWeights, cooling_schedule, problem_size};
use super::assignment::{Assignment, Penalty, is_within};
use super::lagrangian::{Lagrangian, Multipliers};
use super::local_search::is_better;
use super::model::Model;
use super::neighborhood_search::{self, Neighborhood};
use super::rng::Rng;
use super::step_budget::StepBudget;

/// Number of long walks, and their steps: so many per item and host, within these limits.
const RESTARTS: u64 = 8;
const RESTART_STEPS: usize = 300;
const RESTART_STEPS_RANGE: (usize, usize) = (100_000, 640_000);
/// Steps of a short walk, and one in so many items that it begins with elsewhere.
const KICK_STEPS: usize = 40_000;
const KICKED: usize = 10;
/// Maximum number of short walks.
const KICKS: u64 = 200;
/// Factors on the temperatures: a short walk begins at a low one; all end at a high one, as branch and bound does the rest.
const KICK_TEMPERATURE: f64 = 0.3;
const END_TEMPERATURE: f64 = 5.0;
/// A walk that moves more than the best by one part in so many is not improved further.
const HOPELESS: i64 = 25;

/// What all walks have in common.
pub(crate) struct Multistart<'a> {
    pub lagrangian: &'a Lagrangian<'a>,
    pub multipliers: &'a Multipliers,
    pub neighborhood: Neighborhood,
    pub seed: u64,
}

impl Multistart<'_> {
    /// Returns the best of all walks and of `best`.
    pub(crate) fn run(&self, start: &Assignment, mut best: Assignment, steps: &mut StepBudget) -> Assignment {
        let (model, ranges) = (self.lagrangian.model, self.lagrangian.ranges);
        let penalty = Penalty::new(model, ranges);
        for round in 0..RESTARTS + KICKS {
            if steps.is_spent() || (is_within(&best, ranges) && best.moved <= self.neighborhood.goal) {
                break;
            }
            let seed = self.seed.wrapping_add(round.wrapping_mul(0x5151));
            let mut found = if round < RESTARTS {
                self.walk_far(&penalty, if round % 2 == 0 { start } else { &best }, round, seed, steps)
            } else {
                self.walk_near(&penalty, &best, seed, steps)
            };
            if is_within(&found, ranges) && found.moved <= best.moved + best.moved / HOPELESS {
                neighborhood_search::improve(
                    self.lagrangian,
                    self.multipliers,
                    &mut found,
                    self.neighborhood,
                    steps,
                    seed,
                );
            }
            let is_equal = is_within(&found, ranges) && found.moved == best.moved;
            if is_equal || is_better(&penalty, &found, &best) {
                best = found;
            }
        }
        best
    }

    fn walk_far(&self, penalty: &Penalty, start: &Assignment, round: u64, seed: u64, steps: &mut StepBudget) -> Assignment {
        let (least, most) = RESTART_STEPS_RANGE;
        let model = self.lagrangian.model;
        let length = (RESTART_STEPS * problem_size(model)).clamp(least, most);
        self.walk(penalty, start.clone(), length, if round % 4 == 3 { 2.0 } else { 1.0 }, seed, steps)
    }

    fn walk_near(&self, penalty: &Penalty, best: &Assignment, seed: u64, steps: &mut StepBudget) -> Assignment {
        let state = kick(self.lagrangian.model, best.clone(), seed);
        self.walk(penalty, state, KICK_STEPS, KICK_TEMPERATURE, seed, steps)
    }

    fn walk(
        &self,
        penalty: &Penalty,
        state: Assignment,
        length: usize,
        temperature: f64,
        seed: u64,
        steps: &mut StepBudget,
    ) -> Assignment {
        let model = self.lagrangian.model;
        let mut cooling = cooling_schedule(model, steps.take(length));
        cooling.start_temperature *= temperature;
        cooling.end_temperature *= END_TEMPERATURE;
        let growth = if (seed / 2).is_multiple_of(2) { PenaltyWeights::ADAPTIVE } else { 1.0 };
        let weights = PenaltyWeights { growth, ..PenaltyWeights::constant(1.0, 4.0) };
        let mut annealer = Annealer::new(model, penalty, state, seed).with_weights(weights, MoveLimits::NONE);
        steps.give_back(annealer.anneal(cooling, self.neighborhood.goal).steps);
        annealer.into_best()
    }
}

/// Returns the assignment with some items at home or on other hosts.
fn kick(model: &Model, mut state: Assignment, seed: u64) -> Assignment {
    let mut rng = Rng::new(seed);
    let movable: Vec<usize> = (0..state.host_of.len()).filter(|item| model.items[*item].movable).collect();
    for _ in 0..movable.len() / KICKED {
        let item = movable[rng.below(movable.len())];
        let host = if rng.below(2) == 0 { model.items[item].home } else { rng.below(model.hosts.len()) };
        if state.is_legal(model, item, host) {
            state.reassign(model, item, host);
        }
    }
    state
}
