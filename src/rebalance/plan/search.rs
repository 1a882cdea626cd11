//! From everything at home to an assignment within the bands that moves few bytes.
//!
//! Greedy, then seeded walks until the bound is near or the work is used up; where the bands cannot be met, the
//! nearest ones that can ([`super::relax`]); where the operator sets limits, as near as they allow ([`super::limit`]).

use super::bounds;
use super::greedy::{descend, place_forced};
use super::infeasible::{Infeasible, over_cap};
use super::limit;
use super::model::{BYTES, Band, Model};
use super::relax;
use super::state::{Penalty, State, outside};
use super::tidy::tidy;
use super::walk::{Heat, Limits, Prices, Walk};
use super::wishes::Wishes;

/// The assignment that was found and what it was measured against.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub state: State,
    /// The bands of the wished tolerance.
    pub wished: Vec<Band>,
    /// The bands that the assignment keeps: wider than wished where those cannot be met.
    pub bands: Vec<Band>,
    /// No assignment within `bands` moves fewer bytes.
    pub bound: i64,
    /// Whether the operator's limits cut the plan short.
    pub limited: bool,
}

/// Searches; fails where the hard rules (capacity, zones, drain) cannot be kept.
pub(crate) fn solve(model: &Model, wishes: &Wishes) -> Result<Outcome, Infeasible> {
    let wished = model.bands();
    let start = feasible(model, &wished, wishes.seed)?;
    let mut bands = wished.clone();
    let mut bound = bounds::lower_bound(model, &bands);
    let mut state = cheapest(model, &bands, start, bound, wishes.seed);
    if !within(&state, &bands) {
        (state, bands) = relax::nearest(model, &bands, state, wishes.seed);
        bound = bounds::lower_bound(model, &bands);
        state = cheapest(model, &bands, state, bound, wishes.seed);
    }
    let limits = Limits::of(wishes);
    let limited = !limits.hold(&state);
    if limited {
        state = limit::nearest(model, &wished, limits, wishes.seed);
        bands = relax::widened(&state, &wished);
        bound = bounds::lower_bound(model, &bands).min(state.moved);
    } else {
        tidy(model, &bands, &mut state);
    }
    Ok(Outcome { state, wished, bands, bound, limited })
}

/// An assignment that keeps the hard rules and as much of the bands as greedy steps reach.
fn feasible(model: &Model, bands: &[Band], seed: u64) -> Result<State, Infeasible> {
    let penalty = Penalty::new(model, bands);
    let mut state = State::new(model);
    place_forced(model, &penalty, &mut state)?;
    descend(model, &penalty, &mut state);
    let walls = model.walls();
    if within(&state, &walls) {
        return Ok(state);
    }
    let hard = Penalty::new(model, &walls);
    for round in 0..6 {
        let mut walk = Walk::new(model, &hard, state, seed.wrapping_add(round))
            .priced(Prices { moved: 0.01, outside: 4.0 }, Limits::NONE);
        walk.run(heat(model, effort(model)), i64::MAX);
        state = walk.into_best();
        if within(&state, &walls) {
            return Ok(state);
        }
    }
    Err(over_cap(model, &state))
}

/// Whether every load is within its band.
pub(crate) fn within(state: &State, bands: &[Band]) -> bool {
    let all = state.load.iter().zip(bands);
    all.clone().all(|(load, band)| (0..2).all(|resource| outside(band, resource, *load) == 0))
}

/// Steps of one walk.
pub(crate) fn effort(model: &Model) -> usize {
    let movable = model.items.iter().filter(|item| item.movable).count();
    if movable * model.hosts.len() > LARGE { 400_000 } else { (60 * movable).clamp(10_000, 40_000) }
}

/// Items × hosts above which one long walk replaces many short ones.
const LARGE: usize = 200_000;
/// Walks from the best assignment so far, each at another temperature.
const ROUNDS: u64 = 14;
/// A plan so near to the bound is not searched further: one thousandth.
const NEAR: i64 = 1000;

/// Temperatures in proportion to the size of items.
pub(crate) fn heat(model: &Model, steps: usize) -> Heat {
    let movable = model.items.iter().filter(|item| item.movable);
    let (count, bytes) = movable.fold((0i64, 0i64), |(n, sum), item| (n + 1, sum + item.weight[BYTES]));
    let mean = (bytes as f64 / count.max(1) as f64).max(1.0);
    Heat { steps, hot: 0.4 * mean, cold: 0.004 * mean }
}

/// The assignment within the bands that moves the fewest bytes, as far as the work allows; or the nearest to them.
pub(crate) fn cheapest(model: &Model, bands: &[Band], start: State, bound: i64, seed: u64) -> State {
    let penalty = Penalty::new(model, bands);
    let goal = bound + bound / NEAR;
    let steps = effort(model);
    let large = steps > 40_000;
    let mut best = start;
    for round in 0..if large { 3 } else { ROUNDS } {
        if within(&best, bands) && best.moved <= goal {
            break;
        }
        let mut heat = heat(model, steps);
        let cooler = if large { 0.1 } else { [1.0, 0.5, 0.25, 0.12][round as usize % 4] };
        heat.hot *= cooler;
        let before = best.clone();
        let mut walk = Walk::new(model, &penalty, best, seed.wrapping_mul(31).wrapping_add(round));
        walk.run(heat, goal);
        best = walk.into_best();
        debug_assert!(!within(&before, bands) || (within(&best, bands) && best.moved <= before.moved));
    }
    best
}
