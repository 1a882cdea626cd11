//! From the present assignment to one within the ranges that moves few bytes.
//!
//! Greedy, then annealing and branch and bound in turns until the lower bound is near or the work is used up. Where the
//! ranges cannot be met, the closest ones that can ([`super::relax_tolerance`]); where the operator limits moves or
//! bytes, as close as the limits allow ([`super::move_limits`]).

use super::annealing::{
    Annealer, MoveLimits, PenaltyWeights, annealing_steps, cooling_schedule, is_large, problem_size,
};
use super::assignment::{Assignment, Penalty, is_within};
use super::canonicalize::canonicalize;
use super::greedy::{place_misplaced, reduce_penalty};
use super::infeasible::{Infeasible, over_capacity};
use super::lagrangian::{Lagrangian, Multipliers};
use super::local_search::{CLOSE_TO_BOUND, SearchBudget, is_better, search_locally};
use super::lower_bound;
use super::model::{LoadRange, Model};
use super::move_limits;
use super::neighborhood_search::{self, Neighborhood};
use super::options::PlanOptions;
use super::relax_tolerance;
use super::undo_redundant::undo_redundant_moves;

/// The assignment that was found, and what it was compared with.
#[derive(Debug)]
pub(crate) struct Solution {
    pub state: Assignment,
    /// The ranges of the requested tolerance.
    pub requested: Vec<LoadRange>,
    /// The ranges that the assignment keeps: wider than requested where those cannot be met.
    pub ranges: Vec<LoadRange>,
    /// No assignment within `ranges` moves fewer bytes.
    pub bound: i64,
    /// Whether the operator's limits on moves or bytes ended the plan early.
    pub limited: bool,
}

/// Walks without success after which the search before any multipliers are known ends.
const FIRST_WALKS: u64 = 6;
/// Subgradient steps per ascent.
const ASCENT_STEPS: usize = 500;
/// Maximum number of times that annealing and branch and bound take turns.
const MAX_CYCLES: u64 = 6;
/// Walks of one turn that may find nothing.
const CYCLE_WALKS: u64 = 20;
/// The neighborhoods that branch and bound searches.
const NEIGHBORHOOD: Neighborhood = Neighborhood { hosts: 6, items: 48, goal: 0, patience: 200 };
/// Walks of a multistart, and their steps per item and host.
const RESTARTS: u64 = 10;
const RESTART_STEPS: usize = 1000;
/// Factor on the final temperature of such a walk: branch and bound does the rest.
const RESTART_END_TEMPERATURE: f64 = 5.0;

/// Searches for the assignment.
///
/// # Errors
/// The hard rules (capacity, zones, drain) cannot be kept.
pub(crate) fn solve(model: &Model, options: &PlanOptions) -> Result<Solution, Infeasible> {
    let requested = model.load_ranges();
    let start = find_feasible(model, &requested, options.seed)?;
    let mut ranges = requested.clone();
    let (mut state, mut bound) = minimize_moves(model, &ranges, start, options.seed);
    if !is_within(&state, &ranges) {
        (state, ranges) = relax_tolerance::find_nearest(model, &ranges, state, options.seed);
        (state, bound) = minimize_moves(model, &ranges, state, options.seed);
    }
    let limits = MoveLimits::new(model, options);
    let limited = !limits.allows(&state);
    if limited {
        state = move_limits::search_within_limits(model, &requested, limits, options.seed);
        ranges = relax_tolerance::widen_to_fit(&state, &requested);
    }
    undo_redundant_moves(model, &ranges, &mut state);
    if limited {
        bound = lower_bound::counting_bound(model, &ranges).min(state.moved);
    } else {
        canonicalize(model, &ranges, &mut state);
    }
    Ok(Solution { state, requested, ranges, bound, limited })
}

/// Finds an assignment that keeps the hard rules, and as much of the ranges as greedy steps reach.
fn find_feasible(model: &Model, ranges: &[LoadRange], seed: u64) -> Result<Assignment, Infeasible> {
    let penalty = Penalty::new(model, ranges);
    let mut state = Assignment::new(model);
    place_misplaced(model, &penalty, &mut state)?;
    reduce_penalty(model, &penalty, &mut state);
    let hard_limits = model.hard_limits();
    if is_within(&state, &hard_limits) {
        return Ok(state);
    }
    let hard = Penalty::new(model, &hard_limits);
    for round in 0..6 {
        let weights = PenaltyWeights { moved: 0.01, outside: 4.0 };
        let mut annealer =
            Annealer::new(model, &hard, state, seed.wrapping_add(round)).with_weights(weights, MoveLimits::NONE);
        annealer.anneal(cooling_schedule(model, annealing_steps(model)), i64::MAX);
        state = annealer.into_best();
        if is_within(&state, &hard_limits) {
            return Ok(state);
        }
    }
    Err(over_capacity(model, &state))
}

/// Returns the assignment within the ranges that moves the fewest bytes, as far as the work allows, or the closest to
/// them; and the bytes that every assignment within the ranges moves.
fn minimize_moves(model: &Model, ranges: &[LoadRange], start: Assignment, seed: u64) -> (Assignment, i64) {
    let mut bound = lower_bound::counting_bound(model, ranges);
    let goal = |bound: i64| bound + bound / CLOSE_TO_BOUND;
    let budget = |bound: i64, walks: u64| SearchBudget {
        goal: goal(bound),
        rounds: 5 * walks,
        patience: walks,
        moved_weight: 1.0,
        length: 1,
    };
    if is_large(model) {
        let budget = SearchBudget { rounds: 3, ..budget(bound, 3) };
        return (search_locally(model, ranges, start, budget, seed), bound);
    }
    let mut best = search_locally(model, ranges, start.clone(), budget(bound, FIRST_WALKS), seed);
    let lagrangian = Lagrangian::new(model, ranges);
    let mut multipliers = Multipliers::zero(model);
    let mut restarted = false;
    for cycle in 0..MAX_CYCLES {
        if is_within(&best, ranges) {
            if best.moved <= goal(bound) {
                break;
            }
            multipliers = lagrangian.subgradient_ascent(multipliers, best.moved, ASCENT_STEPS);
            bound = bound.max(multipliers.to_bytes());
        }
        let before = (is_within(&best, ranges), best.moved);
        let neighborhood = Neighborhood { goal: goal(bound), ..NEIGHBORHOOD };
        best = search_locally(model, ranges, best, budget(bound, CYCLE_WALKS), seed.wrapping_add(1000 * (cycle + 1)));
        neighborhood_search::improve(&lagrangian, &multipliers, &mut best, neighborhood, seed.wrapping_add(cycle));
        if (is_within(&best, ranges), best.moved) == before {
            if restarted {
                break;
            }
            let multistart = Multistart { lagrangian: &lagrangian, multipliers: &multipliers, neighborhood };
            best = multistart.run(&start, best, seed);
            restarted = true;
        }
    }
    (best, bound)
}

/// Long walks that all begin at the same assignment, each improved by branch and bound: the fewest moves are often far
/// from what a search finds that only continues from its best.
struct Multistart<'a> {
    lagrangian: &'a Lagrangian<'a>,
    multipliers: &'a Multipliers,
    neighborhood: Neighborhood,
}

impl Multistart<'_> {
    /// Returns the best of all walks and of `best`.
    fn run(&self, start: &Assignment, mut best: Assignment, seed: u64) -> Assignment {
        let (model, ranges) = (self.lagrangian.model, self.lagrangian.ranges);
        let penalty = Penalty::new(model, ranges);
        for round in 0..RESTARTS {
            let seed = seed.wrapping_add(round.wrapping_mul(0x5151));
            let mut cooling = cooling_schedule(model, RESTART_STEPS * problem_size(model));
            cooling.end_temperature *= RESTART_END_TEMPERATURE;
            cooling.start_temperature *= if round % 4 == 3 { 2.0 } else { 1.0 };
            let mut annealer = Annealer::new(model, &penalty, start.clone(), seed);
            annealer.anneal(cooling, self.neighborhood.goal);
            let mut found = annealer.into_best();
            neighborhood_search::improve(self.lagrangian, self.multipliers, &mut found, self.neighborhood, seed);
            if is_better(&penalty, &found, &best) {
                best = found;
            }
        }
        best
    }
}
