//! From everything at home to an assignment within the bands that moves few bytes.

use super::bounds;
use super::infeasible::{Infeasible, Rule, ids, kept_hosts};
use super::model::{BYTES, Band, Model};
use super::state::{Penalty, State, add, sub};
use super::wishes::Wishes;

/// The assignment that was found and what it was measured against.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub state: State,
    /// The bands that it keeps, wider than wished where those cannot be met.
    pub bands: Vec<Band>,
    /// No assignment within the bands moves fewer bytes.
    pub bound: i64,
    pub notes: Vec<String>,
}

/// Searches; fails where the hard rules (capacity, zones, drain) cannot be kept.
pub(crate) fn solve(model: &Model, _wishes: &Wishes) -> Result<Outcome, Infeasible> {
    let bands = model.bands();
    let penalty = Penalty::new(model, &bands);
    let mut state = State::new(model);
    place_forced(model, &penalty, &mut state)?;
    descend(model, &penalty, &mut state);
    over_cap(model, &state)?;
    let bound = bounds::lower_bound(model, &bands);
    Ok(Outcome { state, bands, bound, notes: Vec::new() })
}

/// Gives every item that cannot stay a legal host, the largest first, each where it costs least.
pub(crate) fn place_forced(model: &Model, penalty: &Penalty, state: &mut State) -> Result<(), Infeasible> {
    let mut forced = state.misplaced(model);
    forced.sort_by_key(|item| (std::cmp::Reverse(model.items[*item].weight), *item));
    for item in forced {
        if state.legal(model, item, state.at[item]) {
            continue;
        }
        let best = (0..model.hosts.len())
            .filter(|host| *host != state.at[item] && state.legal(model, item, *host))
            .min_by(|a, b| {
                shift_cost(model, penalty, state, item, *a).total_cmp(&shift_cost(model, penalty, state, item, *b))
            });
        if let Some(host) = best {
            state.put(model, item, host);
        }
    }
    let left = state.misplaced(model);
    if left.is_empty() {
        return Ok(());
    }
    let shards: Vec<u32> = left.iter().map(|item| model.shard(*item).id).collect();
    Err(Infeasible {
        rule: Rule::Zones,
        message: format!("the copies of {} cannot stand apart on the hosts that may hold them", ids(&shards)),
        shards,
        hosts: left.iter().map(|item| model.host_name(state.at[*item]).to_owned()).collect(),
        hint: "add a host in another zone, or allow copies to share one".to_owned(),
    })
}

/// The change of penalty and bytes if the item went to the host; ties go to the emptier host.
fn shift_cost(model: &Model, penalty: &Penalty, state: &State, item: usize, host: usize) -> f64 {
    let (from, weight) = (state.at[item], model.items[item].weight);
    let after = penalty.of(host, add(state.load[host], weight)) + penalty.of(from, sub(state.load[from], weight));
    let before = penalty.of(host, state.load[host]) + penalty.of(from, state.load[from]);
    let moved = moved_change(model, from, host, item) as f64;
    let fullness = (state.load[host][BYTES] as f64 + weight[BYTES] as f64) / model.hosts[host].target[BYTES].max(1.0);
    PRESSURE * (after - before) + moved + fullness * 1e-3 * weight[BYTES] as f64
}

/// How many moved bytes a byte outside of the bands is worth.
const PRESSURE: f64 = 4.0;

fn moved_change(model: &Model, from: usize, to: usize, item: usize) -> i64 {
    let data = &model.items[item];
    match (from == data.home, to == data.home) {
        (true, false) => data.weight[BYTES],
        (false, true) => -data.weight[BYTES],
        _ => 0,
    }
}

/// Takes the best single move or swap until none helps.
pub(crate) fn descend(model: &Model, penalty: &Penalty, state: &mut State) {
    for _ in 0..4 * model.items.len() + 64 {
        let Some((items, _)) = best_step(model, penalty, state) else { break };
        for (item, host) in items {
            state.put(model, item, host);
        }
    }
}

type Step = Vec<(usize, usize)>;

fn best_step(model: &Model, penalty: &Penalty, state: &State) -> Option<(Step, f64)> {
    let mut best: Option<(Step, f64)> = None;
    for item in 0..model.items.len() {
        for host in 0..model.hosts.len() {
            if host == state.at[item] || !state.legal(model, item, host) {
                continue;
            }
            let cost = shift_cost(model, penalty, state, item, host);
            if cost < -1.0 && best.as_ref().is_none_or(|(_, least)| cost < *least) {
                best = Some((vec![(item, host)], cost));
            }
        }
    }
    best
}

fn over_cap(model: &Model, state: &State) -> Result<(), Infeasible> {
    let full: Vec<usize> = (0..model.hosts.len()).filter(|h| state.load[*h][BYTES] > model.hosts[*h].cap).collect();
    if full.is_empty() {
        return Ok(());
    }
    let mut shards: Vec<u32> =
        full.iter().flat_map(|host| &state.on[*host]).map(|item| model.shard(*item).id).collect();
    shards.sort_unstable();
    Err(Infeasible {
        rule: Rule::Capacity,
        message: format!(
            "no placement was found that keeps every host within its headroom; {} are left over",
            ids(&shards)
        ),
        shards,
        hosts: kept_hosts(model),
        hint: "add a host or memory, or raise the headroom".to_owned(),
    })
}
