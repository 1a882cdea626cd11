//! Rounds of annealing with varied temperatures and weights, each from the best assignment so far.

use super::annealing::{Annealer, MoveBudget, PenaltyWeights, annealing_steps, cooling_schedule, is_large};
use super::assignment::{Assignment, Penalty, is_within};
use super::model::Model;
use super::resource::LoadRange;
use super::step_budget::StepBudget;

/// A plan this close to the bound is not searched further: one thousandth of it.
pub(crate) const CLOSE_TO_BOUND: i64 = 1000;

/// End of a search, and the weights of its rounds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SearchBudget {
    /// Moved bytes at which an assignment within the ranges is good enough.
    pub goal: i64,
    /// Maximum number of rounds.
    pub rounds: u64,
    /// Rounds without success after which the search ends.
    pub patience: u64,
    /// Cost of a moved byte: 1 to minimize bytes, less to reach the ranges first.
    pub moved_weight: f64,
}

/// Anneals from the best assignment so far, every fourth time from the start, each round with other weights and
/// temperatures.
pub(crate) fn search_locally(
    model: &Model,
    ranges: &[LoadRange],
    start: Assignment,
    until: SearchBudget,
    steps: &mut StepBudget,
    seed: u64,
) -> Assignment {
    let penalty = Penalty::new(model, ranges);
    let large = is_large(model);
    let (mut best, start) = (start.clone(), start);
    let mut idle = 0;
    for round in 0..until.rounds {
        if idle >= until.patience || steps.is_spent() || (is_within(&best, ranges) && best.moved <= until.goal) {
            break;
        }
        let turn = (round % 4) as usize;
        let mut cooling = cooling_schedule(model, steps.take(annealing_steps(model)));
        cooling.start_temperature *= if large { 0.1 } else { [1.0, 0.4, 2.0, 3.0][turn] };
        let outside = [4.0, 8.0, 16.0, 32.0, 6.0][(round % 5) as usize];
        let weights = PenaltyWeights::constant(until.moved_weight, outside);
        let from = if turn == 3 && !large { start.clone() } else { best.clone() };
        let mut annealer = Annealer::new(model, &penalty, from, seed.wrapping_mul(31).wrapping_add(round))
            .with_weights(weights, MoveBudget::NONE);
        steps.give_back(annealer.anneal(cooling, until.goal).steps);
        let found = annealer.into_best();
        idle += 1;
        if is_better(&penalty, &found, &best) {
            // A gain below a thousandth does not keep the search going.
            let small = is_within(&best, ranges) && best.moved - found.moved < best.moved / CLOSE_TO_BOUND;
            idle = if small { idle } else { 0 };
            best = found;
        }
    }
    best
}

/// Returns whether an assignment is closer to the ranges than another, or within them with fewer moved bytes.
pub(crate) fn is_better(penalty: &Penalty, found: &Assignment, best: &Assignment) -> bool {
    let (new, old) = (penalty.total(found), penalty.total(best));
    if new == 0.0 && old == 0.0 { found.moved < best.moved } else { new < old }
}
