//! From the present assignment to one within the ranges that moves few bytes.
//!
//! Greedy, then annealing and branch and bound in turns until the lower bound is near or the work is used up. Where the
//! ranges cannot be met, the closest ones that can ([`super::relax_tolerance`]); where the operator limits moves or
//! bytes, as close as the limits allow ([`super::move_limits`]).

use super::annealing::{
    Annealer, MoveBudget, PenaltyWeights, annealing_steps, cooling_schedule, is_large, problem_size,
};
use super::assignment::{Assignment, Penalty, is_within};
use super::canonicalize::canonicalize;
use super::greedy::{place_misplaced, reduce_penalty};
use super::infeasible::{Infeasible, over_limits};
use super::lagrangian::{Lagrangian, Multipliers};
use super::local_search::{CLOSE_TO_BOUND, SearchBudget, is_better, search_locally};
use super::lower_bound;
use super::model::Model;
use super::move_limits;
use super::multistart::Multistart;
use super::neighborhood_search::{self, Neighborhood};
use super::options::PlanOptions;
use super::relax_tolerance;
use super::resource::LoadRange;
use super::step_budget::StepBudget;
use super::undo_redundant::undo_redundant_moves;

/// The assignment that was found, and what it was compared with.
#[derive(Debug)]
pub(crate) struct Solution {
    pub state: Assignment,
    /// The ranges of the requested tolerance.
    pub requested: Vec<LoadRange>,
    /// The ranges that the assignment keeps: wider than requested where those cannot be met.
    pub ranges: Vec<LoadRange>,
    /// Lower bound: every assignment within `ranges` moves at least this many bytes.
    pub bound: i64,
    /// True if the operator's limits on moves or bytes ended the plan early.
    pub limited: bool,
    /// The reason of every move where the operator selected the shards.
    pub selection: Option<String>,
    /// Notes for the operator.
    pub notes: Vec<String>,
}

/// Walks without success after which the first search ends.
const FIRST_WALKS: u64 = 6;
/// Subgradient steps per ascent, and how many items × hosts of one take as long as a step of annealing.
const ASCENT_STEPS: usize = 500;
const ASCENT_ITEMS: usize = 16;
/// Maximum number of times that annealing and branch and bound take turns.
const MAX_CYCLES: u64 = 6;
/// Walks of one turn that may find nothing.
const CYCLE_WALKS: u64 = 8;
/// The neighborhoods that branch and bound searches.
const NEIGHBORHOOD: Neighborhood = Neighborhood { hosts: 6, items: 48, goal: 0, patience: 200 };
/// The same for each of many starts.
const RESTART_PATIENCE: usize = 80;
/// Maximum parts of the steps that the first search, the relaxation of the tolerance and one turn take.
const FIRST_PART: f64 = 0.15;
const RELAX_PART: f64 = 0.4;
const CYCLE_PART: f64 = 0.25;

/// Searches for the assignment.
///
/// # Errors
/// Returns an error if the hard rules (capacity, shards per host, zones, drain) cannot be kept.
pub(crate) fn solve(model: &Model, options: &PlanOptions) -> Result<Solution, Infeasible> {
    let requested = model.load_ranges();
    let start = find_feasible(model, &requested, options.seed)?;
    let mut steps = StepBudget::new(model);
    let mut ranges = requested.clone();
    let mut state = search_first(model, &ranges, &start, &mut steps, options.seed);
    if !is_within(&state, &ranges) {
        let mut part = steps.split_off(RELAX_PART);
        (state, ranges) = relax_tolerance::find_nearest(model, &requested, state, &mut part, options.seed);
        steps.refund(part);
        // A search may exceed a limit for evenness; a plan may not.
        if !is_within(&state, &model.hard_limits()) {
            state = start.clone();
            ranges = relax_tolerance::widen_to_fit(&state, &requested);
        }
        let found = search_first(model, &ranges, &start, &mut steps, options.seed);
        if is_better(&Penalty::new(model, &ranges), &found, &state) {
            state = found;
        }
    }
    let mut bound = lower_bound::counting_bound(model, &ranges);
    if !is_large(model) {
        (state, bound) = minimize_moves(model, &ranges, &start, state, &mut steps, options.seed);
    }
    let limits = MoveBudget::new(model, options);
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
    Ok(Solution { state, requested, ranges, bound, limited, selection: None, notes: Vec::new() })
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
        let weights = PenaltyWeights::constant(0.01, 4.0);
        let mut annealer =
            Annealer::new(model, &hard, state, seed.wrapping_add(round)).with_weights(weights, MoveBudget::NONE);
        annealer.anneal(cooling_schedule(model, annealing_steps(model)), i64::MAX);
        state = annealer.into_best();
        if is_within(&state, &hard_limits) {
            return Ok(state);
        }
    }
    Err(over_limits(model, &state))
}

/// Returns the moved bytes that are few enough: so close to the bound, more search is not worth its time.
fn few_enough(bound: i64) -> i64 {
    bound + bound / CLOSE_TO_BOUND
}

/// Anneals towards the ranges before any multipliers are known.
fn search_first(
    model: &Model,
    ranges: &[LoadRange],
    start: &Assignment,
    steps: &mut StepBudget,
    seed: u64,
) -> Assignment {
    let goal = few_enough(lower_bound::counting_bound(model, ranges));
    let walks = if is_large(model) { 3 } else { FIRST_WALKS };
    let rounds = if is_large(model) { 3 } else { 5 * walks };
    let until = SearchBudget { goal, rounds, patience: walks, moved_weight: 1.0 };
    let mut part = steps.split_off(if is_large(model) { 0.5 } else { FIRST_PART });
    let found = search_locally(model, ranges, start.clone(), until, &mut part, seed);
    steps.refund(part);
    found
}

/// Returns the assignment within the ranges that moves the fewest bytes, as far as the steps allow, or the closest to
/// them; and the bytes that every assignment within the ranges moves.
fn minimize_moves(
    model: &Model,
    ranges: &[LoadRange],
    start: &Assignment,
    mut best: Assignment,
    steps: &mut StepBudget,
    seed: u64,
) -> (Assignment, i64) {
    let mut bound = lower_bound::counting_bound(model, ranges);
    let lagrangian = Lagrangian::new(model, ranges);
    let mut multipliers = Multipliers::zero(model);
    for cycle in 0..MAX_CYCLES {
        if is_within(&best, ranges) {
            if best.moved <= few_enough(bound) {
                return (best, bound);
            }
            multipliers = lagrangian.subgradient_ascent(multipliers, best.moved, ASCENT_STEPS);
            steps.take(ASCENT_STEPS * problem_size(model) / ASCENT_ITEMS);
            bound = bound.max(multipliers.to_bytes());
        }
        let before = (is_within(&best, ranges), best.moved);
        let goal = few_enough(bound);
        let until = SearchBudget { goal, rounds: 5 * CYCLE_WALKS, patience: CYCLE_WALKS, moved_weight: 1.0 };
        let mut part = steps.split_off(CYCLE_PART);
        best = search_locally(model, ranges, best, until, &mut part, seed.wrapping_add(1000 * (cycle + 1)));
        let neighborhood = Neighborhood { goal, ..NEIGHBORHOOD };
        let seed = seed.wrapping_add(cycle);
        neighborhood_search::improve(&lagrangian, &multipliers, &mut best, neighborhood, &mut part, seed);
        steps.refund(part);
        if (is_within(&best, ranges), best.moved) == before {
            break;
        }
    }
    let neighborhood = Neighborhood { goal: few_enough(bound), patience: RESTART_PATIENCE, ..NEIGHBORHOOD };
    let multistart = Multistart { lagrangian: &lagrangian, multipliers: &multipliers, neighborhood, seed };
    (multistart.run(start, best, steps), bound)
}
