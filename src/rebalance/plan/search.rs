//! From everything at home to an assignment within the bands that moves few bytes.
//!
//! Greedy, then seeded walks until the bound is near or the work is used up; where the bands cannot be met, the
//! nearest ones that can ([`super::relax`]); where the operator sets limits, as near as they allow ([`super::limit`]).

use super::bounds;
use super::dual::{Dual, Multipliers};
use super::exact::{self, Part};
use super::greedy::{descend, place_forced};
use super::infeasible::{Infeasible, over_cap};
use super::limit;
use super::model::{BYTES, Band, Model};
use super::relax;
use super::state::{Penalty, State, outside};
use super::tidy::tidy;
use super::trim::trim;
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
    let (mut state, mut bound) = cheapest(model, &bands, start, wishes.seed);
    if !within(&state, &bands) {
        (state, bands) = relax::nearest(model, &bands, state, wishes.seed);
        (state, bound) = cheapest(model, &bands, state, wishes.seed);
    }
    let limits = Limits::of(wishes);
    let limited = !limits.hold(&state);
    if limited {
        state = limit::nearest(model, &wished, limits, wishes.seed);
        bands = relax::widened(&state, &wished);
    }
    trim(model, &bands, &mut state);
    if limited {
        bound = bounds::counted(model, &bands).min(state.moved);
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
        let mut walk =
            Walk::new(model, &hard, state, seed.wrapping_add(round)).priced(Prices::steady(0.01, 4.0), Limits::NONE);
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

/// Items × hosts above which few long walks replace many short ones.
const LARGE: usize = 200_000;
/// Steps of a walk of many; those of a large fleet are ten times as long.
const STEPS: usize = 40_000;
/// A plan so near to the bound is not searched further: one thousandth.
const NEAR: i64 = 1000;
/// Walks without success after which the search before any prices are known gives up.
const FIRST: u64 = 6;
/// Steps towards the best prices.
const ASCENT: usize = 500;
/// Times that walks and branch and bound take turns at most.
const CYCLES: u64 = 6;
/// Walks of one turn that may find nothing.
const WALKS: u64 = 20;
/// What branch and bound rearranges at a time, and how many searches may find nothing.
const PART: Part = Part { hosts: 6, items: 48, goal: 0, patience: 200 };
/// Walks from the start, and their steps for each item and host.
const RESTARTS: u64 = 8;
const RESTART_STEPS: usize = 600;
/// How much hotter than others such a walk ends: branch and bound does the rest.
const HOTTER: f64 = 5.0;

/// Whether a search has to make do with few walks.
pub(crate) fn is_large(model: &Model) -> bool {
    size(model) > LARGE
}

/// Items that can move × hosts.
fn size(model: &Model) -> usize {
    model.items.iter().filter(|item| item.movable).count() * model.hosts.len()
}

/// Steps of one walk.
pub(crate) fn effort(model: &Model) -> usize {
    let size = size(model);
    if size > LARGE { 10 * STEPS } else { (50 * size).clamp(2_000, STEPS) }
}

/// Temperatures in proportion to the size of items.
pub(crate) fn heat(model: &Model, steps: usize) -> Heat {
    let movable = model.items.iter().filter(|item| item.movable);
    let (count, bytes) = movable.fold((0i64, 0i64), |(n, sum), item| (n + 1, sum + item.weight[BYTES]));
    let mean = (bytes as f64 / count.max(1) as f64).max(1.0);
    Heat { steps, hot: 0.4 * mean, cold: 0.006 * mean }
}

/// What a search is after.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Aim {
    /// Bytes at which an assignment within the bands is good enough.
    pub goal: i64,
    /// Walks at most, and walks without success at most.
    pub rounds: u64,
    pub patience: u64,
    /// What a moved byte costs: 1 to save bytes, less to reach the bands first of all.
    pub price: f64,
    /// How many times as long as usual each walk is.
    pub longer: usize,
}

/// The assignment within the bands that moves the fewest bytes, as far as the work allows, or the nearest to them; and
/// what no assignment within the bands can beat.
pub(crate) fn cheapest(model: &Model, bands: &[Band], start: State, seed: u64) -> (State, i64) {
    let mut bound = bounds::counted(model, bands);
    let goal = |bound: i64| bound + bound / NEAR;
    let aim =
        |bound: i64, patience: u64| Aim { goal: goal(bound), rounds: 5 * patience, patience, price: 1.0, longer: 1 };
    if is_large(model) {
        let aim = Aim { rounds: 3, ..aim(bound, 3) };
        return (search(model, bands, start, aim, seed), bound);
    }
    let mut best = search(model, bands, start.clone(), aim(bound, FIRST), seed);
    let dual = Dual::new(model, bands);
    let mut prices = Multipliers::none(model);
    let mut restarted = false;
    for cycle in 0..CYCLES {
        if within(&best, bands) {
            if best.moved <= goal(bound) {
                break;
            }
            prices = dual.ascend(prices, best.moved, ASCENT);
            bound = bound.max(prices.bytes());
        }
        let before = (within(&best, bands), best.moved);
        let part = Part { goal: goal(bound), ..PART };
        best = search(model, bands, best, aim(bound, WALKS), seed.wrapping_add(1000 * (cycle + 1)));
        exact::improve(&dual, &prices, &mut best, part, seed.wrapping_add(cycle));
        if (within(&best, bands), best.moved) == before {
            if restarted {
                break;
            }
            best = restart(&dual, &prices, (&start, best), part, seed);
            restarted = true;
        }
    }
    (best, bound)
}

/// The best of long walks that all begin at the start, each mended by branch and bound: where the fewest bytes move is
/// often far from what a search has that only goes on from its best.
fn restart(dual: &Dual, prices: &Multipliers, (start, mut best): (&State, State), part: Part, seed: u64) -> State {
    let (model, bands) = (dual.model, dual.bands);
    let penalty = Penalty::new(model, bands);
    let steps = RESTART_STEPS * size(model);
    for n in 0..RESTARTS {
        let seed = seed.wrapping_add(n.wrapping_mul(0x5151));
        let mut heat = heat(model, steps);
        heat.cold *= HOTTER;
        heat.hot *= if n % 4 == 3 { 2.0 } else { 1.0 };
        let mut walk = Walk::new(model, &penalty, start.clone(), seed);
        walk.run(heat, part.goal);
        let mut found = walk.into_best();
        exact::improve(dual, prices, &mut found, part, seed);
        if is_better(&penalty, &found, &best) {
            best = found;
        }
    }
    best
}

/// Walks from the best assignment so far, every fourth time from the start, each with other prices and heat.
pub(crate) fn search(model: &Model, bands: &[Band], start: State, aim: Aim, seed: u64) -> State {
    let penalty = Penalty::new(model, bands);
    let large = is_large(model);
    let (mut best, fresh) = (start.clone(), start);
    let mut idle = 0;
    for round in 0..aim.rounds {
        if idle >= aim.patience || (within(&best, bands) && best.moved <= aim.goal) {
            break;
        }
        let turn = (round % 4) as usize;
        let mut heat = heat(model, aim.longer * effort(model));
        heat.hot *= if large { 0.1 } else { [1.0, 0.4, 2.0, 3.0][turn] };
        let prices = Prices::steady(aim.price, [4.0, 8.0, 16.0, 32.0, 6.0][(round % 5) as usize]);
        let from = if turn == 3 && !large { fresh.clone() } else { best.clone() };
        let mut walk = Walk::new(model, &penalty, from, seed.wrapping_mul(31).wrapping_add(round));
        walk = walk.priced(prices, Limits::NONE);
        walk.run(heat, aim.goal);
        let found = walk.into_best();
        idle += 1;
        if is_better(&penalty, &found, &best) {
            idle = if within(&best, bands) && best.moved - found.moved < best.moved / NEAR { idle } else { 0 };
            best = found;
        }
    }
    best
}

/// Nearer to the bands, or within them with fewer bytes.
fn is_better(penalty: &Penalty, found: &State, best: &State) -> bool {
    let (new, old) = (penalty.total(found), penalty.total(best));
    if new == 0.0 && old == 0.0 { found.moved < best.moved } else { new < old }
}
