//! The assignment as a plan: moves with reasons, hosts before and after.

use std::cmp::Reverse;

use super::model::{BYTES, Model, OPS};
use super::output::{HostPlan, Load, Move, RebalancePlan, Role};
use super::search::Outcome;
use super::state::State;
use super::wishes::Wishes;

/// Writes the plan down.
pub(crate) fn emit(model: &Model, outcome: &Outcome, wishes: &Wishes) -> RebalancePlan {
    let home = State::new(model);
    let observation = model.observation;
    let mut moved: Vec<usize> =
        (0..model.items.len()).filter(|item| outcome.state.at[*item] != model.items[*item].home).collect();
    moved.sort_by_key(|item| {
        (Reverse(model.items[*item].weight[BYTES]), model.shard(*item).id, model.items[*item].role)
    });
    let moves: Vec<Move> = moved.iter().map(|item| one_move(model, outcome, &home, *item)).collect();
    let hosts = (0..model.hosts.len()).map(|host| one_host(model, &home, &outcome.state, host)).collect();
    let mut waves = vec![moves.iter().map(|m| m.shard).collect::<Vec<u32>>()];
    waves.retain(|wave| !wave.is_empty());
    let bound = outcome.bound.max(0);
    RebalancePlan {
        format_version: 1,
        cluster: observation.cluster.clone(),
        epoch: observation.epoch,
        bytes_moved: outcome.state.moved as u64,
        bytes_total: model.total[BYTES] as u64,
        lower_bound_bytes: bound as u64,
        gap: if bound == 0 { 0.0 } else { outcome.state.moved as f64 / bound as f64 - 1.0 },
        estimated_seconds: outcome.state.moved as f64 / wishes.pace.move_rate as f64,
        moves,
        hosts,
        waves,
        notes: outcome.notes.clone(),
    }
}

fn one_move(model: &Model, outcome: &Outcome, home: &State, item: usize) -> Move {
    let (data, shard) = (&model.items[item], model.shard(item));
    Move {
        shard: shard.id,
        from: model.host_name(data.home).to_owned(),
        to: model.host_name(outcome.state.at[item]).to_owned(),
        bytes: data.weight[BYTES] as u64,
        ops_per_s: if data.role == Role::Primary { shard.ops_per_s } else { 0.0 },
        role: data.role,
        reason: reason(model, outcome, home, item),
        wave: 0,
    }
}

fn reason(model: &Model, outcome: &Outcome, home: &State, item: usize) -> String {
    let (from, to) = (model.items[item].home, outcome.state.at[item]);
    let (here, there) = (model.host_name(from), model.host_name(to));
    if model.hosts[from].drained {
        return format!("{here} is drained");
    }
    if !home.legal(model, item, from) {
        return format!("another copy is in the zone of {here}");
    }
    for (resource, noun) in [(BYTES, "bytes"), (OPS, "operations")] {
        if home.load[from][resource] > outcome.bands[from].hi[resource] {
            return format!("{here} has too many {noun}");
        }
        if home.load[to][resource] < outcome.bands[to].lo[resource] {
            return format!("{there} has too few {noun}");
        }
    }
    format!("makes room on {here}")
}

fn one_host(model: &Model, home: &State, after: &State, host: usize) -> HostPlan {
    let data = &model.observation.hosts[host];
    let share = |state: &State| {
        if model.total[BYTES] == 0 { 0.0 } else { state.load[host][BYTES] as f64 / model.total[BYTES] as f64 }
    };
    HostPlan {
        name: data.name.clone(),
        zone: data.zone.clone(),
        before: load(home, host),
        after: load(after, host),
        share_before: share(home),
        share_after: share(after),
        share_wanted: model.hosts[host].share,
        capacity_bytes: data.capacity_bytes,
        peak_bytes: home.load[host][BYTES].max(after.load[host][BYTES]) as u64,
    }
}

fn load(state: &State, host: usize) -> Load {
    let [bytes, ops] = state.load[host];
    Load { bytes: bytes as u64, ops_per_s: ops as f64 / 1000.0, shards: state.on[host].len() }
}
