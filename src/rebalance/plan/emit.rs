//! The assignment as a plan: moves with reasons, hosts before and after.

use super::model::{BYTES, Model, OPS};
use super::notes::notes;
use super::output::{HostPlan, Load, Move, RebalancePlan, Role};
use super::schedule::{Schedule, Step};
use super::search::Outcome;
use super::state::State;

/// The longest that the switch of a caught-up copy held writes where it was measured (1.2–6.8 ms), in whole milliseconds.
const SWITCH_MS: f64 = 7.0;

/// Writes the plan down.
pub(crate) fn emit(model: &Model, outcome: &Outcome, schedule: &Schedule) -> RebalancePlan {
    let home = State::new(model);
    let moves: Vec<Move> = schedule.steps.iter().map(|step| one_move(model, outcome, &home, step)).collect();
    let mut hosts: Vec<HostPlan> =
        (0..model.hosts.len()).map(|host| one_host(model, &home, &outcome.state, host)).collect();
    for (host, peak) in hosts.iter_mut().zip(&schedule.peak) {
        host.peak_bytes = *peak as u64;
    }
    let mut waves = vec![Vec::new(); schedule.waves.len()];
    for step in &schedule.steps {
        waves[step.wave].push(model.shard(step.item).id);
    }
    let bytes_moved: u64 = moves.iter().map(|m| m.bytes).sum();
    let bound = outcome.bound as u64;
    let switches = moves.iter().any(|m| m.role == Role::Primary);
    let mut notes = notes(model, outcome);
    notes.extend(schedule.notes.iter().cloned());
    RebalancePlan {
        format_version: 1,
        cluster: model.observation.cluster.clone(),
        epoch: model.observation.epoch,
        port_base: model.observation.port_base,
        bytes_moved,
        bytes_total: model.total[BYTES] as u64,
        lower_bound_bytes: bound,
        gap: if bound == 0 { 0.0 } else { bytes_moved as f64 / bound as f64 - 1.0 },
        estimated_seconds: tenths(schedule.waves.iter().sum()),
        wave_seconds: schedule.waves.iter().copied().map(tenths).collect(),
        predicted_write_gap_ms: if switches { SWITCH_MS } else { 0.0 },
        moves,
        hosts,
        waves,
        notes,
    }
}

/// An estimate is no better than that.
fn tenths(seconds: f64) -> f64 {
    (seconds * 10.0).round() / 10.0
}

fn one_move(model: &Model, outcome: &Outcome, home: &State, step: &Step) -> Move {
    let (data, shard) = (&model.items[step.item], model.shard(step.item));
    Move {
        shard: shard.id,
        from: model.host_name(step.from).to_owned(),
        to: model.host_name(step.to).to_owned(),
        bytes: data.weight[BYTES] as u64,
        ops_per_s: if data.role == Role::Primary { shard.ops_per_s } else { 0.0 },
        role: data.role,
        reason: if step.detour {
            format!("waits there for room on {}", model.host_name(outcome.state.at[step.item]))
        } else {
            reason(model, outcome, home, step.item)
        },
        wave: step.wave,
        estimated_seconds: tenths(step.seconds),
    }
}

fn reason(model: &Model, outcome: &Outcome, home: &State, item: usize) -> String {
    let (from, to) = (model.items[item].home, outcome.state.at[item]);
    let (here, there) = (model.host_name(from), model.host_name(to));
    if model.hosts[from].drained {
        return format!("{here} is drained");
    }
    if !home.legal(model, item, from) {
        let zone = model.observation.hosts[from].zone.as_deref();
        return zone.map_or(format!("another copy is on {here}"), |zone| format!("zone {zone} has another copy"));
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
        peak_bytes: 0,
    }
}

fn load(state: &State, host: usize) -> Load {
    let [bytes, ops] = state.load[host];
    Load { bytes: bytes as u64, ops_per_s: ops as f64 / 1000.0, shards: state.on[host].len() }
}
