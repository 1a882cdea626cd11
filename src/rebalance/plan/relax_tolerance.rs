//! The closest ranges that can be kept, where no assignment keeps the requested ones.
//!
//! First the worst deviation is minimized, then the sum of what is left. The worst deviation that remains is the
//! tolerance that can be met, and replaces the requested one.

use super::annealing::{Annealer, CoolingSchedule, MoveBudget, PenaltyWeights, annealing_steps, cooling_schedule};
use super::assignment::{Assignment, Penalty, is_within};
use super::model::Model;
use super::resource::{HostResource, LoadRange};
use super::step_budget::StepBudget;

/// Moved bytes cost next to nothing while evenness is sought.
const EVEN: PenaltyWeights = PenaltyWeights::constant(0.02, 4.0);

/// Allowance on top of the closest deviation, as a fraction of a share: without it every load would have to be met to
/// the byte, which takes many moves and is obsolete an hour later.
pub(crate) const ALLOWANCE: f64 = 0.002;

/// Number of walks that lower the worst deviation, in turn from the best assignment and from the start.
const WALKS: u64 = 8;
/// Part of the worst deviation by which a walk tries to lower it next, and the least such step, as fractions of a
/// share.
const RATCHET_PART: f64 = 0.004;
const RATCHET_STEP: f64 = 0.0002;

/// Returns the closest assignment that was found, and ranges that it keeps.
pub(crate) fn find_nearest(
    model: &Model,
    requested: &[LoadRange],
    start: Assignment,
    steps: &mut StepBudget,
    seed: u64,
) -> (Assignment, Vec<LoadRange>) {
    let best = minimize_worst_deviation(model, requested, start, steps, seed);
    if is_within(&best, requested) {
        return (best, requested.to_vec());
    }
    let limits = relaxed_limits(model, worst_deviation(model, requested, &best));
    let best = minimize_deviation(model, requested, &limits, best, seed);
    let ranges = widen_uniformly(model, &best, requested);
    (best, ranges)
}

/// Returns an assignment whose worst deviation from the ranges is small.
fn minimize_worst_deviation(
    model: &Model,
    requested: &[LoadRange],
    start: Assignment,
    steps: &mut StepBudget,
    seed: u64,
) -> Assignment {
    let least = least_deviation(model, requested);
    let mut best = minimize_deviation(model, requested, &model.hard_limits(), start.clone(), seed);
    for walk in 0..WALKS {
        if worst_deviation(model, requested, &best) <= least + RATCHET_STEP {
            break;
        }
        let mut part = steps.split_off(1.0 / (WALKS - walk) as f64);
        let mut cooling = cooling_schedule(model, part.take(usize::MAX));
        cooling.start_temperature *= [1.0, 2.0, 0.5, 1.0][(walk % 4) as usize];
        let from = if walk % 2 == 0 { best.clone() } else { start.clone() };
        let growth = if walk % 4 < 2 { PenaltyWeights::ADAPTIVE } else { 1.0 };
        let ratchet = Ratchet { model, requested, weights: PenaltyWeights { growth, ..EVEN }, least };
        steps.give_back(ratchet.walk(cooling, from, &mut best, seed.wrapping_add(walk)));
    }
    best
}

/// A walk towards limits that tighten whenever it meets them.
struct Ratchet<'a> {
    model: &'a Model<'a>,
    requested: &'a [LoadRange],
    weights: PenaltyWeights,
    /// The deviation that every assignment has.
    least: f64,
}

impl Ratchet<'_> {
    /// Walks until the schedule ends, and replaces `best` with each assignment that deviates less. Returns the steps
    /// that are left.
    fn walk(&self, mut cooling: CoolingSchedule, mut state: Assignment, best: &mut Assignment, seed: u64) -> usize {
        for round in 0u64.. {
            let worst = worst_deviation(self.model, self.requested, best);
            if cooling.steps == 0 || worst <= self.least + RATCHET_STEP {
                break;
            }
            let step = RATCHET_STEP.max(RATCHET_PART * (worst - self.least));
            let limits = relaxed_limits(self.model, (worst - step).max(self.least));
            let penalty = Penalty::new(self.model, &limits);
            let seed = seed.wrapping_mul(31).wrapping_add(round);
            let mut annealer =
                Annealer::new(self.model, &penalty, state, seed).with_weights(self.weights, MoveBudget::NONE);
            cooling = annealer.anneal(cooling, i64::MAX);
            state = annealer.into_best();
            if is_within(&state, &limits) {
                *best = state.clone();
            }
        }
        cooling.steps
    }
}

/// Returns a worst deviation that every assignment has: that of copies that cannot leave a host, of hosts that cannot
/// receive, and of the largest copies.
pub(crate) fn least_deviation(model: &Model, requested: &[LoadRange]) -> f64 {
    let home = Assignment::new(model);
    let mut least = 0.0f64;
    for resource in HostResource::ALL {
        let part = |host: usize, violation: i64| violation.max(0) as f64 / model.hosts[host].target[resource].max(1.0);
        for (host, range) in requested.iter().enumerate().filter(|(host, _)| !model.hosts[*host].drained) {
            let fixed = home.items_on[host].iter().filter(|item| !model.items[**item].movable);
            let fixed: i64 = fixed.map(|item| model.items[*item].weight[resource]).sum();
            least = least.max(part(host, fixed - range.max[resource]));
            if !model.hosts[host].can_receive {
                least = least.max(part(host, range.min[resource] - home.load[host][resource]));
            }
        }
        for (item, data) in model.items.iter().enumerate() {
            let alone = |host: usize| part(host, data.weight[resource] - requested[host].max[resource]);
            let hosts = (0..model.hosts.len()).filter(|host| model.is_allowed(item, *host));
            least = least.max(hosts.map(alone).min_by(f64::total_cmp).unwrap_or(0.0));
        }
    }
    least
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
    let mut annealer = Annealer::new(model, &penalty, start, seed).with_weights(EVEN, MoveBudget::NONE);
    for factor in [8.0, 2.0, 0.5] {
        let mut cooling = cooling_schedule(model, annealing_steps(model));
        cooling.start_temperature *= factor;
        annealer.anneal(cooling, i64::MAX);
        annealer.restore_best();
    }
    annealer.into_best()
}

/// Returns the largest deviation from a requested range, as a fraction of the host's share.
pub(crate) fn worst_deviation(model: &Model, requested: &[LoadRange], state: &Assignment) -> f64 {
    let mut worst = 0.0f64;
    for (host, range) in requested.iter().enumerate() {
        for resource in HostResource::ALL {
            let violation = range.violation(resource, state.load[host]) as f64;
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
    for resource in HostResource::ALL {
        let violation = |host: &usize| requested[*host].violation(resource, state.load[*host]);
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

/// Returns whether a host is outside its range wherever other copies are: one of its copies, or those that cannot leave
/// it, are too large already; or it is below its range and may not receive any.
fn is_always_outside(
    model: &Model,
    state: &Assignment,
    requested: &[LoadRange],
    host: usize,
    resource: HostResource,
) -> bool {
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
        for resource in HostResource::ALL {
            range.min[resource] = range.min[resource].min(load[resource]);
            range.max[resource] = range.max[resource].max(load[resource]);
        }
    }
    ranges
}
