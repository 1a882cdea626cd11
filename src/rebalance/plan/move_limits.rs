//! Plans that `--max-moves` or `--max-bytes` end early: as close to the ranges as the limits allow.

use super::annealing::{Annealer, MoveBudget, PenaltyWeights, annealing_steps, cooling_schedule};
use super::assignment::{Assignment, Penalty};
use super::greedy::place_misplaced_within;
use super::model::Model;
use super::resource::LoadRange;

/// Places what cannot stay first; the rest of the limits goes to the hosts that are furthest outside their ranges.
pub(crate) fn search_within_limits(
    model: &Model,
    requested: &[LoadRange],
    limits: MoveBudget,
    seed: u64,
) -> Assignment {
    let penalty = Penalty::new(model, requested);
    let mut state = Assignment::new(model);
    place_misplaced_within(model, &penalty, &mut state, limits);
    for round in 0..6 {
        let weights = PenaltyWeights::constant(0.02, 4.0);
        let mut annealer =
            Annealer::new(model, &penalty, state, seed.wrapping_add(round)).with_weights(weights, limits);
        annealer.anneal(cooling_schedule(model, annealing_steps(model)), i64::MAX);
        state = annealer.into_best();
    }
    state
}
