//! Builds the plan from the assignment: moves with reasons, hosts before and after.

use super::assignment::Assignment;
use super::model::Model;
use super::notes::build_notes;
use super::rebalance_plan::{HostBalance, Load, Move, RebalancePlan, Role};
use super::resource::HostResource::{self, Bytes, Ops, Shards};
use super::schedule::{Schedule, ScheduledMove};
use super::solver::Solution;

/// The longest measured time for which a cutover paused writes (1.2–6.8 ms), in whole milliseconds.
const CUTOVER_MS: f64 = 7.0;

/// Builds the plan.
pub(crate) fn build_plan(model: &Model, solution: &Solution, schedule: &Schedule) -> RebalancePlan {
    let home = Assignment::new(model);
    let moves: Vec<Move> = schedule.steps.iter().map(|step| build_move(model, solution, &home, step)).collect();
    let mut hosts: Vec<HostBalance> =
        (0..model.hosts.len()).map(|host| build_host(model, &home, &solution.state, host)).collect();
    for (host, peak) in hosts.iter_mut().zip(&schedule.peak) {
        host.peak_bytes = *peak as u64;
    }
    let mut waves = vec![Vec::new(); schedule.waves.len()];
    for step in &schedule.steps {
        waves[step.wave].push(model.shard_of(step.item).id);
    }
    let bytes_moved: u64 = moves.iter().map(|m| m.bytes).sum();
    let bound = model.data_bytes(solution.bound) as u64;
    let has_cutover = moves.iter().any(|m| m.role == Role::Primary);
    let mut notes = build_notes(model, solution);
    notes.extend(schedule.notes.iter().cloned());
    RebalancePlan {
        format_version: 1,
        cluster: model.observation.cluster.clone(),
        epoch: model.observation.epoch,
        port_base: model.observation.port_base,
        balance: model.balance,
        bytes_moved,
        bytes_total: model.data_bytes(model.total[Bytes]) as u64,
        lower_bound_bytes: bound,
        gap: if bound == 0 { 0.0 } else { bytes_moved as f64 / bound as f64 - 1.0 },
        estimated_seconds: round_to_tenths(schedule.waves.iter().sum()),
        wave_seconds: schedule.waves.iter().copied().map(round_to_tenths).collect(),
        predicted_write_gap_ms: if has_cutover { CUTOVER_MS } else { 0.0 },
        moves,
        hosts,
        waves,
        notes,
    }
}

/// Rounds an estimate to its precision.
fn round_to_tenths(seconds: f64) -> f64 {
    (seconds * 10.0).round() / 10.0
}

fn build_move(model: &Model, solution: &Solution, home: &Assignment, step: &ScheduledMove) -> Move {
    let (data, shard) = (&model.items[step.item], model.shard_of(step.item));
    Move {
        shard: shard.id,
        from: model.host_name(step.from).to_owned(),
        to: model.host_name(step.to).to_owned(),
        bytes: model.data_bytes(data.weight[Bytes]) as u64,
        ops_per_s: if data.role == Role::Primary { shard.ops_per_s } else { 0.0 },
        role: data.role,
        reason: if step.detour {
            format!("intermediate stop on the way to {}", model.host_name(solution.state.host_of[step.item]))
        } else {
            move_reason(model, solution, home, step.item)
        },
        wave: step.wave,
        estimated_seconds: round_to_tenths(step.seconds),
    }
}

fn move_reason(model: &Model, solution: &Solution, home: &Assignment, item: usize) -> String {
    if let Some(reason) = &solution.selection {
        return reason.clone();
    }
    let (from, to) = (model.items[item].home, solution.state.host_of[item]);
    let (here, there) = (model.host_name(from), model.host_name(to));
    if model.hosts[from].drained {
        return format!("{here} is drained");
    }
    if !home.is_legal(model, item, from) {
        let zone = model.observation.hosts[from].zone.as_deref();
        return zone.map_or(format!("another copy is on {here}"), |zone| format!("zone {zone} has another copy"));
    }
    for resource in HostResource::ALL {
        let noun = model.resource_noun(resource);
        if home.load[from][resource] > solution.ranges[from].max[resource] {
            return match resource {
                Shards => format!("{here} has more shards than --max-shards-per-host allows"),
                Bytes | Ops => format!("{here} is above its share of {noun}"),
            };
        }
        if home.load[to][resource] < solution.ranges[to].min[resource] {
            return format!("{there} is below its share of {noun}");
        }
    }
    format!("frees capacity on {here}")
}

fn build_host(model: &Model, home: &Assignment, after: &Assignment, host: usize) -> HostBalance {
    let data = &model.observation.hosts[host];
    let share = |state: &Assignment| {
        if model.is_empty { 0.0 } else { state.load[host][Bytes] as f64 / model.total[Bytes] as f64 }
    };
    HostBalance {
        name: data.name.clone(),
        zone: data.zone.clone(),
        before: host_load(model, home, host),
        after: host_load(model, after, host),
        share_before: share(home),
        share_after: share(after),
        share_wanted: model.hosts[host].share,
        capacity_bytes: data.capacity_bytes,
        peak_bytes: 0,
    }
}

fn host_load(model: &Model, state: &Assignment, host: usize) -> Load {
    let load = state.load[host];
    Load {
        bytes: model.data_bytes(load[Bytes]) as u64,
        ops_per_s: load[Ops] as f64 / 1000.0,
        shards: load[Shards] as usize,
    }
}
