//! The initial assignment: items that cannot stay are placed, then the worst host is improved step by step.

use std::cmp::Reverse;

use dunlin_shards::ShardId;

use super::annealing::MoveBudget;
use super::assignment::{Assignment, Penalty};
use super::infeasible::{Infeasible, Rule, shard_list};
use super::model::Model;
use super::resource::HostResource::Bytes;

/// Cost of a byte outside the ranges, in moved bytes.
const PRESSURE: f64 = 4.0;
/// Maximum number of hosts that are tried as the other end of a step.
const MAX_CANDIDATES: usize = 24;

/// Assigns every item that cannot stay to a legal host, the largest first, each where it costs least.
pub(crate) fn place_misplaced(model: &Model, penalty: &Penalty, state: &mut Assignment) -> Result<(), Infeasible> {
    let mut forced = state.misplaced_items(model);
    forced.sort_by_key(|item| (Reverse(model.items[*item].weight), *item));
    for item in forced {
        if state.is_legal(model, item, state.host_of[item]) {
            continue;
        }
        if let Some(host) = cheapest_host(model, penalty, state, item) {
            state.reassign(model, item, host);
        } else if let Some((sibling, aside, host)) = host_after_sibling(model, state, item) {
            state.reassign(model, sibling, aside);
            state.reassign(model, item, host);
        }
    }
    let left = state.misplaced_items(model);
    if left.is_empty() { Ok(()) } else { Err(zones_error(model, state, &left)) }
}

/// Assigns items that cannot stay as far as the limits allow, without exceeding the capacity of a host.
pub(crate) fn place_misplaced_within(model: &Model, penalty: &Penalty, state: &mut Assignment, limits: MoveBudget) {
    let mut forced = state.misplaced_items(model);
    forced.sort_by_key(|item| (Reverse(model.items[*item].weight), *item));
    for item in forced {
        let mut trial = state.clone();
        let Some(host) = cheapest_host(model, penalty, state, item) else { continue };
        trial.reassign(model, item, host);
        if limits.allows(&trial) && model.hosts[host].exceeded_limit(trial.load[host]).is_none() {
            *state = trial;
        }
    }
}

fn cheapest_host(model: &Model, penalty: &Penalty, state: &Assignment, item: usize) -> Option<usize> {
    let mut best: Option<(f64, usize)> = None;
    for host in 0..model.hosts.len() {
        if host != state.host_of[item] && state.is_legal(model, item, host) {
            let cost = reassignment_cost(model, penalty, state, item, host);
            if best.is_none_or(|(least, _)| cost < least) {
                best = Some((cost, host));
            }
        }
    }
    best.map(|(_, host)| host)
}

/// Returns a host for the item that becomes legal once another copy of its shard moves: that copy, its host, the host.
fn host_after_sibling(model: &Model, state: &Assignment, item: usize) -> Option<(usize, usize, usize)> {
    for sibling in &model.items[item].siblings {
        for aside in (0..model.hosts.len()).filter(|aside| model.is_allowed(*sibling, *aside)) {
            let others =
                |copy: usize| model.items[copy].siblings.iter().filter(move |m| **m != item && **m != *sibling);
            if others(*sibling).any(|other| model.clashes(aside, state.host_of[*other])) {
                continue;
            }
            let fits = |host: &usize| {
                model.is_allowed(item, *host)
                    && !model.excludes(item, *host, *sibling, aside)
                    && !others(item).any(|other| model.clashes(*host, state.host_of[*other]))
            };
            if let Some(host) = (0..model.hosts.len()).find(fits) {
                return Some((*sibling, aside, host));
            }
        }
    }
    None
}

fn zones_error(model: &Model, state: &Assignment, left: &[usize]) -> Infeasible {
    let mut shards: Vec<ShardId> = left.iter().map(|item| model.shard_of(*item).id).collect();
    shards.sort_unstable();
    shards.dedup();
    let mut hosts: Vec<String> = left.iter().map(|item| model.host_name(state.host_of[*item]).to_owned()).collect();
    hosts.sort_unstable();
    hosts.dedup();
    Infeasible {
        rule: Rule::Zones,
        message: format!(
            "the copies of {} cannot be in different zones on the hosts available to them",
            shard_list(&shards)
        ),
        shards,
        hosts,
        hint: "add a host in another zone, or allow copies to share one".to_owned(),
    }
}

/// Returns the change of penalty and bytes if the item moved to the host; near-ties go to the emptier host.
fn reassignment_cost(model: &Model, penalty: &Penalty, state: &Assignment, item: usize, host: usize) -> f64 {
    let (from, data) = (state.host_of[item], &model.items[item]);
    let after =
        penalty.of_host(host, state.load[host] + data.weight) + penalty.of_host(from, state.load[from] - data.weight);
    let before = penalty.of_host(host, state.load[host]) + penalty.of_host(from, state.load[from]);
    let moved = match (from == data.home, host == data.home) {
        (true, false) => data.weight[Bytes],
        (false, true) => -data.weight[Bytes],
        _ => 0,
    };
    let full = (state.load[host][Bytes] + data.weight[Bytes]) as f64 / model.hosts[host].target[Bytes].max(1.0);
    PRESSURE * (after - before) + moved as f64 + full * 1e-3 * data.weight[Bytes] as f64
}

/// Improves the host furthest outside its range by the best single reassignment, until none improves any host.
pub(crate) fn reduce_penalty(model: &Model, penalty: &Penalty, state: &mut Assignment) {
    let mut stuck = vec![false; model.hosts.len()];
    for _ in 0..4 * model.items.len() + 64 {
        let cost = |host: usize| penalty.of_host(host, state.load[host]);
        let worst = (0..model.hosts.len())
            .filter(|host| !stuck[*host])
            .map(|host| (cost(host), host))
            .filter(|(cost, _)| *cost > 0.0)
            .max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
        let Some((_, host)) = worst else { break };
        match best_reassignment(model, penalty, state, host) {
            Some((item, target)) => {
                let from = state.host_of[item];
                state.reassign(model, item, target);
                stuck[from] = false;
                stuck[target] = false;
            }
            None => stuck[host] = true,
        }
    }
}

/// Returns the best reassignment from or to the host, with the fullest and emptiest hosts as the other end.
fn best_reassignment(model: &Model, penalty: &Penalty, state: &Assignment, host: usize) -> Option<(usize, usize)> {
    let over = state.load[host][Bytes] as f64 - model.hosts[host].target[Bytes];
    let fill = |other: &usize| {
        let slack = state.load[*other][Bytes] as f64 - model.hosts[*other].target[Bytes];
        if over > 0.0 { slack } else { -slack }
    };
    let mut others: Vec<usize> = (0..model.hosts.len()).filter(|other| *other != host).collect();
    if others.len() > MAX_CANDIDATES {
        others.select_nth_unstable_by(MAX_CANDIDATES, |a, b| fill(a).total_cmp(&fill(b)).then(a.cmp(b)));
        others.truncate(MAX_CANDIDATES);
        others.sort_unstable();
    }
    let mut best: Option<(f64, usize, usize)> = None;
    let mut consider = |item: usize, target: usize| {
        if !state.is_legal(model, item, target) {
            return;
        }
        let cost = reassignment_cost(model, penalty, state, item, target);
        if cost < -1.0 && best.is_none_or(|(least, ..)| cost < least) {
            best = Some((cost, item, target));
        }
    };
    for other in others {
        for item in &state.items_on[host] {
            consider(*item, other);
        }
        for item in &state.items_on[other] {
            consider(*item, host);
        }
    }
    best.map(|(_, item, target)| (item, target))
}
