//! The first assignment: what must move is placed, then the worst host is helped, step by step.

use std::cmp::Reverse;

use super::infeasible::{Infeasible, Rule, ids};
use super::model::{BYTES, Model};
use super::state::{Penalty, State, add, sub};
use super::walk::Limits;

/// How many moved bytes a byte outside of the bands is worth.
const PRESSURE: f64 = 4.0;
/// Hosts that are tried as the other end of a step.
const CANDIDATES: usize = 24;

/// Gives every item that cannot stay a legal host, the largest first, each where it costs least.
pub(crate) fn place_forced(model: &Model, penalty: &Penalty, state: &mut State) -> Result<(), Infeasible> {
    let mut forced = state.misplaced(model);
    forced.sort_by_key(|item| (Reverse(model.items[*item].weight), *item));
    for item in forced {
        if state.legal(model, item, state.at[item]) {
            continue;
        }
        if let Some(host) = cheapest(model, penalty, state, item) {
            state.put(model, item, host);
        } else if let Some((mate, aside, host)) = after_mate(model, state, item) {
            state.put(model, mate, aside);
            state.put(model, item, host);
        }
    }
    let left = state.misplaced(model);
    if left.is_empty() { Ok(()) } else { Err(apart(model, state, &left)) }
}

/// The same as far as the limits reach, without taking a host over what it can hold; what is left stays.
pub(crate) fn place_forced_within(model: &Model, penalty: &Penalty, state: &mut State, limits: Limits) {
    let mut forced = state.misplaced(model);
    forced.sort_by_key(|item| (Reverse(model.items[*item].weight), *item));
    for item in forced {
        let mut trial = state.clone();
        let Some(host) = cheapest(model, penalty, state, item) else { continue };
        trial.put(model, item, host);
        if limits.hold(&trial) && trial.load[host][BYTES] <= model.hosts[host].cap {
            *state = trial;
        }
    }
}

fn cheapest(model: &Model, penalty: &Penalty, state: &State, item: usize) -> Option<usize> {
    let mut best: Option<(f64, usize)> = None;
    for host in 0..model.hosts.len() {
        if host != state.at[item] && state.legal(model, item, host) {
            let cost = shift_cost(model, penalty, state, item, host);
            if best.is_none_or(|(least, _)| cost < least) {
                best = Some((cost, host));
            }
        }
    }
    best.map(|(_, host)| host)
}

/// A place for the item that becomes legal once one of its shard's other copies steps aside.
fn after_mate(model: &Model, state: &State, item: usize) -> Option<(usize, usize, usize)> {
    for mate in &model.items[item].mates {
        for aside in (0..model.hosts.len()).filter(|aside| model.allowed(*mate, *aside)) {
            let others = |copy: usize| model.items[copy].mates.iter().filter(move |m| **m != item && **m != *mate);
            if others(*mate).any(|other| model.clash(aside, state.at[*other])) {
                continue;
            }
            let fits = |host: &usize| {
                model.allowed(item, *host)
                    && !model.rules_out(item, *host, *mate, aside)
                    && !others(item).any(|other| model.clash(*host, state.at[*other]))
            };
            if let Some(host) = (0..model.hosts.len()).find(fits) {
                return Some((*mate, aside, host));
            }
        }
    }
    None
}

fn apart(model: &Model, state: &State, left: &[usize]) -> Infeasible {
    let mut shards: Vec<u32> = left.iter().map(|item| model.shard(*item).id).collect();
    shards.sort_unstable();
    shards.dedup();
    let mut hosts: Vec<String> = left.iter().map(|item| model.host_name(state.at[*item]).to_owned()).collect();
    hosts.sort_unstable();
    hosts.dedup();
    Infeasible {
        rule: Rule::Zones,
        message: format!("the copies of {} cannot stand apart on the hosts that may hold them", ids(&shards)),
        shards,
        hosts,
        hint: "add a host in another zone, or allow copies to share one".to_owned(),
    }
}

/// The change of penalty and bytes if the item went to the host; near-ties go to the emptier host.
fn shift_cost(model: &Model, penalty: &Penalty, state: &State, item: usize, host: usize) -> f64 {
    let (from, data) = (state.at[item], &model.items[item]);
    let after =
        penalty.of(host, add(state.load[host], data.weight)) + penalty.of(from, sub(state.load[from], data.weight));
    let before = penalty.of(host, state.load[host]) + penalty.of(from, state.load[from]);
    let moved = match (from == data.home, host == data.home) {
        (true, false) => data.weight[BYTES],
        (false, true) => -data.weight[BYTES],
        _ => 0,
    };
    let full = (state.load[host][BYTES] + data.weight[BYTES]) as f64 / model.hosts[host].target[BYTES].max(1.0);
    PRESSURE * (after - before) + moved as f64 + full * 1e-3 * data.weight[BYTES] as f64
}

/// Helps the host that is furthest outside of its band by the best single shift, until no shift helps any host.
pub(crate) fn descend(model: &Model, penalty: &Penalty, state: &mut State) {
    let mut stuck = vec![false; model.hosts.len()];
    for _ in 0..4 * model.items.len() + 64 {
        let cost = |host: usize| penalty.of(host, state.load[host]);
        let worst = (0..model.hosts.len())
            .filter(|host| !stuck[*host])
            .map(|host| (cost(host), host))
            .filter(|(cost, _)| *cost > 0.0)
            .max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
        let Some((_, host)) = worst else { break };
        match best_shift(model, penalty, state, host) {
            Some((item, target)) => {
                let from = state.at[item];
                state.put(model, item, target);
                stuck[from] = false;
                stuck[target] = false;
            }
            None => stuck[host] = true,
        }
    }
}

/// The best shift off the host or onto it, with the fullest and emptiest hosts as the other end.
fn best_shift(model: &Model, penalty: &Penalty, state: &State, host: usize) -> Option<(usize, usize)> {
    let over = state.load[host][BYTES] as f64 - model.hosts[host].target[BYTES];
    let fill = |other: &usize| {
        let slack = state.load[*other][BYTES] as f64 - model.hosts[*other].target[BYTES];
        if over > 0.0 { slack } else { -slack }
    };
    let mut others: Vec<usize> = (0..model.hosts.len()).filter(|other| *other != host).collect();
    if others.len() > CANDIDATES {
        others.select_nth_unstable_by(CANDIDATES, |a, b| fill(a).total_cmp(&fill(b)).then(a.cmp(b)));
        others.truncate(CANDIDATES);
        others.sort_unstable();
    }
    let mut best: Option<(f64, usize, usize)> = None;
    let mut consider = |item: usize, target: usize| {
        if !state.legal(model, item, target) {
            return;
        }
        let cost = shift_cost(model, penalty, state, item, target);
        if cost < -1.0 && best.is_none_or(|(least, ..)| cost < least) {
            best = Some((cost, item, target));
        }
    };
    for other in others {
        for item in &state.on[host] {
            consider(*item, other);
        }
        for item in &state.on[other] {
            consider(*item, host);
        }
    }
    best.map(|(_, item, target)| (item, target))
}
