//! The closest ranges that can be kept, where no assignment keeps the requested ones.
//!
//! First the worst deviation is minimised, then the sum of what is left. The worst deviation that remains is the
//! tolerance that can be met, and replaces the requested one.

use super::annealing::{Annealer, MoveLimits, PenaltyWeights, annealing_steps, cooling_schedule, is_large};
use super::assignment::{Assignment, Penalty, is_within, range_violation};
use super::local_search::{SearchBudget, search_locally};
use super::model::{BYTES, LoadRange, Model, OPS};

/// Moved bytes cost next to nothing while evenness is sought.
const EVEN: PenaltyWeights = PenaltyWeights { moved: 0.02, outside: 4.0 };

/// Allowance on top of the closest deviation, as a fraction of a share: without it every load would have to be met to
/// the byte, which takes many moves and is obsolete an hour later.
const ALLOWANCE: f64 = 0.002;

/// Bisections of the interval that contains the least worst deviation.
const BISECTIONS: u64 = 6;

/// Walks per bisection and their length: few long ones where many short ones fail.
const WALKS: [(u64, usize); 2] = [(8, 1), (2, 16)];

/// Searches with different seeds. A later one counts only if it comes closer than the first by more than [`ALLOWANCE`].
const STARTS: u64 = 1;

/// Returns the closest assignment that was found, and ranges that it keeps.
pub(crate) fn find_nearest(
    model: &Model,
    requested: &[LoadRange],
    start: Assignment,
    seed: u64,
) -> (Assignment, Vec<LoadRange>) {
    let starts = if is_large(model) { 1 } else { STARTS };
    let (mut best, mut worst) = minimize_worst_deviation(model, requested, start.clone(), seed);
    for n in 1..starts {
        let seed = seed.wrapping_add(n.wrapping_mul(0x7171));
        let found = minimize_worst_deviation(model, requested, start.clone(), seed);
        if found.1 + ALLOWANCE < worst {
            (best, worst) = found;
        }
    }
    let best = minimize_deviation(model, requested, &relaxed_limits(model, worst), best, seed);
    let ranges = widen_uniformly(model, &best, requested);
    (best, ranges)
}

/// Returns an assignment whose worst deviation from the ranges is small, and that deviation as a fraction of a share.
fn minimize_worst_deviation(model: &Model, requested: &[LoadRange], start: Assignment, seed: u64) -> (Assignment, f64) {
    let mut best = minimize_deviation(model, requested, &model.hard_limits(), start, seed);
    let (mut low, mut high) = (0.0, worst_deviation(model, requested, &best));
    for round in 1..=BISECTIONS {
        if high - low < 0.002 {
            break;
        }
        let limits = relaxed_limits(model, (low + high) / 2.0);
        let mut found = best.clone();
        for (walks, length) in WALKS {
            let budget = SearchBudget { goal: i64::MAX, rounds: walks, patience: walks, moved_weight: 0.1, length };
            if !is_within(&found, &limits) {
                found = search_locally(model, &limits, found, budget, seed.wrapping_add(round));
            }
        }
        if is_within(&found, &limits) {
            high = worst_deviation(model, requested, &found);
            best = found;
        } else {
            low = (low + high) / 2.0;
        }
    }
    (best, high)
}

/// Anneals towards the ranges within the limits.
fn minimize_deviation(
    model: &Model,
    ranges: &[LoadRange],
    limits: &[LoadRange],
    start: Assignment,
    seed: u64,
) -> Assignment {
    let penalty = Penalty::with_hard_limits(model, ranges, limits);
    let mut annealer = Annealer::new(model, &penalty, start, seed).with_weights(EVEN, MoveLimits::NONE);
    for factor in [8.0, 2.0, 0.5] {
        let mut cooling = cooling_schedule(model, annealing_steps(model));
        cooling.start_temperature *= factor;
        annealer.anneal(cooling, i64::MAX);
        annealer.restore_best();
    }
    annealer.into_best()
}

/// Returns the largest deviation from a requested range, as a fraction of the host's share.
fn worst_deviation(model: &Model, requested: &[LoadRange], state: &Assignment) -> f64 {
    let mut worst = 0.0f64;
    for (host, range) in requested.iter().enumerate() {
        for resource in [BYTES, OPS] {
            let violation = range_violation(range, resource, state.load[host]) as f64;
            worst = worst.max(violation / model.hosts[host].target[resource].max(1.0));
        }
    }
    worst
}

/// Returns the ranges of the requested tolerance plus `more`, within the capacities of the hosts.
fn relaxed_limits(model: &Model, more: f64) -> Vec<LoadRange> {
    model.hosts.iter().map(|host| model.load_range(host, model.tolerance + more)).collect()
}

/// Widens the ranges of each resource, for all hosts alike, by the worst deviation of the assignment.
///
/// So the tolerance that can be met replaces the requested one, and no bytes move only to make other hosts than the
/// worst a little more even. A host that is outside its range in every assignment does not count as the worst: one
/// shard larger than a share does not widen the ranges of all other hosts.
fn widen_uniformly(model: &Model, state: &Assignment, requested: &[LoadRange]) -> Vec<LoadRange> {
    let mut ranges = widen_to_fit(state, requested);
    for resource in [BYTES, OPS] {
        let violation = |host: &usize| range_violation(&requested[*host], resource, state.load[*host]);
        let is_lost = |host: &usize| violation(host) > 0 && is_always_outside(model, state, requested, *host, resource);
        let others: Vec<usize> = (0..ranges.len()).filter(|host| !is_lost(host)).collect();
        let part = |host: &usize| violation(host) as f64 / model.hosts[*host].target[resource].max(1.0);
        let worst = others.iter().map(part).fold(0.0, f64::max);
        for host in others.into_iter().filter(|_| worst > 0.0) {
            let wide = model.load_range(&model.hosts[host], model.tolerance + worst + ALLOWANCE);
            let range = &mut ranges[host];
            range.min[resource] = range.min[resource].min(wide.min[resource]);
            range.max[resource] = range.max[resource].max(wide.max[resource]);
        }
    }
    ranges
}

/// Whether a host is outside its range wherever other copies are: one of its copies, or those that cannot leave it, are
/// too large already; or it is below its range and may not receive any.
fn is_always_outside(model: &Model, state: &Assignment, requested: &[LoadRange], host: usize, resource: usize) -> bool {
    let weight = |item: &usize| model.items[*item].weight[resource];
    let items = &state.items_on[host];
    let largest = items.iter().map(weight).max().unwrap_or(0);
    let fixed: i64 = items.iter().filter(|item| !model.items[**item].movable).map(weight).sum();
    if state.load[host][resource] < requested[host].min[resource] {
        return !model.hosts[host].can_receive;
    }
    largest.max(fixed) > requested[host].max[resource]
}

/// Widens the ranges just as far as the assignment needs.
pub(crate) fn widen_to_fit(state: &Assignment, requested: &[LoadRange]) -> Vec<LoadRange> {
    let mut ranges = requested.to_vec();
    for (range, load) in ranges.iter_mut().zip(&state.load) {
        for resource in [BYTES, OPS] {
            range.min[resource] = range.min[resource].min(load[resource]);
            range.max[resource] = range.max[resource].max(load[resource]);
        }
    }
    ranges
}
