//! Running a plan: preflight of all moves, then wave after wave copy → cutover → publish → retire.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use dunlin_shards::{ShardId, ShardMap};
use tokio::sync::Mutex;

use super::connected_hosts::ProgressFn;
use super::finish::{ApplyOptions, FinishContext, MoveHosts, MoveResult, finish_move, report_phase};
use super::needs::{DemandOptions, MoveDemand, find_shortages};
use super::plan::{Move, RebalancePlan, Role};
use super::publish::check_consumers;
use super::replica::ReplicaChange;
use super::{RebalanceContext, replica};
use crate::protocol::call;
use crate::protocol::shard::failover::InstanceRef;
use crate::protocol::shard::{
    CutoverResult, MinReplicasRequest, MoveNeeds, MoveSpec, PreflightRequest, PreflightResult,
};

/// A move of the plan.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PlannedMove {
    /// The shard.
    pub shard: ShardId,
    /// The host it leaves.
    pub from: String,
    /// The host it goes to.
    pub to: String,
    /// Wave of the move: the moves of a wave run concurrently.
    pub wave: usize,
    /// Role of the copy that moves; a file of an earlier version has primaries only.
    #[serde(default)]
    pub role: Role,
}

impl PlannedMove {
    /// Returns the hosts of the move.
    pub fn hosts(&self) -> MoveHosts<'_> {
        MoveHosts { from: &self.from, to: &self.to }
    }

    /// Returns the key of the move within its plan: a detour moves a shard twice.
    pub fn move_key(&self) -> (ShardId, usize) {
        (self.shard, self.wave)
    }

    /// Returns whether the move brings a primary to the host where it is by this map: the last part of a restart that
    /// has not begun.
    fn is_return(&self, map: &ShardMap) -> bool {
        self.role == Role::Primary && map.find_shard(self.shard).is_some_and(|entry| entry.host == self.to)
    }

    /// The replica that it makes, where it is one that moves.
    fn replica_change(&self) -> Option<ReplicaChange<'_>> {
        (self.role == Role::Replica).then_some(ReplicaChange {
            shard: self.shard,
            replaced_host: Some(&self.from),
            new_host: &self.to,
        })
    }

    /// The move, for the preflight of the target's host.
    fn preflight_request(&self, context: &RebalanceContext<'_>, map: &ShardMap, run: &str) -> Result<PreflightRequest> {
        match self.replica_change() {
            Some(change) => replica::preflight_request(context, map, run, change),
            None => Ok(PreflightRequest::for_relocation(context.move_spec(map, run, self.shard, &self.to)?)),
        }
    }
}

/// A move that ended, for observers.
pub type OnMoveFinished<'a> = &'a (dyn Fn(&PlannedMove, &Result<MoveResult>) + Send + Sync);

/// Returns the moves of a plan, in its order.
pub fn planned_moves(plan: &RebalancePlan) -> Vec<PlannedMove> {
    let step =
        |m: &Move| PlannedMove { shard: m.shard, from: m.from.clone(), to: m.to.clone(), wave: m.wave, role: m.role };
    plan.moves.iter().map(step).collect()
}

/// Returns the pending moves that still have to run: without those whose instance is at its target or beyond, and those
/// whose instance is not at their source, after a failover.
pub fn remaining_moves(pending: Vec<PlannedMove>, map: &ShardMap) -> Vec<PlannedMove> {
    let is_at = |step: &PlannedMove, host: &String| {
        map.shards.iter().filter(|entry| entry.id == step.shard).any(|entry| match step.role {
            Role::Primary => entry.host == *host,
            Role::Replica => entry.replicas.contains(host),
        })
    };
    let is_done =
        |step: &PlannedMove| is_at(step, &step.to) && (step.role == Role::Primary || !is_at(step, &step.from));
    let is_same = |a: &PlannedMove, b: &PlannedMove| (a.shard, a.role) == (b.shard, b.role);
    let done: Vec<PlannedMove> = pending.iter().filter(|step| is_done(step)).cloned().collect();
    // A shard that moves away and back is at the target of its last move before its first one has run.
    let is_not_started = |step: &PlannedMove| {
        let first = pending.iter().filter(|other| is_same(step, other)).min_by_key(|other| other.wave);
        step.role == Role::Primary && first.is_some_and(|first| is_at(first, &first.from))
    };
    let outstanding: Vec<PlannedMove> = pending
        .iter()
        .filter(|step| is_not_started(step) || !done.iter().any(|done| is_same(step, done) && done.wave >= step.wave))
        .cloned()
        .collect();
    let is_startable = |step: &PlannedMove| {
        let before = outstanding.iter().filter(|other| is_same(step, other) && other.wave < step.wave);
        is_at(step, before.min_by_key(|other| other.wave).map_or(&step.from, |first| &first.from))
    };
    outstanding.iter().filter(|step| is_startable(step)).cloned().collect()
}

/// Result of a run.
#[derive(Debug, Default)]
pub struct RebalanceOutcome {
    /// Finished moves, by shard and wave.
    pub moved: BTreeMap<(ShardId, usize), MoveResult>,
    /// Failed moves with their errors, by shard and wave.
    pub failed: BTreeMap<(ShardId, usize), String>,
    /// Moves that were not started.
    pub not_started: Vec<PlannedMove>,
}

/// Runs preflight for all moves and returns every reason against them: those of each move, what the moves together
/// lack, and consumers that cannot take the new map. Writes to no Redis.
///
/// # Errors
/// Returns an error if a host could not be asked.
pub async fn preflight_moves(
    context: &RebalanceContext<'_>,
    moves: &[PlannedMove],
    run: &str,
    options: DemandOptions,
    on_progress: ProgressFn<'_>,
) -> Result<Vec<String>> {
    let map = context.map_file.read()?;
    let check_move = async |step: &PlannedMove| -> Result<PreflightResult> {
        let request = step.preflight_request(context, &map, run)?;
        run_move_preflight(context, &map, request, &step.to, on_progress).await
    };
    let (mut reasons, mut demands) = (Vec::new(), Vec::new());
    // A return is checked when the shard has left; until then it only counts as what leaves its source again.
    let (returns, moves): (Vec<&PlannedMove>, Vec<&PlannedMove>) = moves.iter().partition(|step| step.is_return(&map));
    let results = context.hosts.fleet.map_parallel(&moves, async |step: &&PlannedMove| check_move(step).await).await;
    for (step, result) in moves.into_iter().zip(results) {
        let PreflightResult { issues, needs } = result?;
        reasons.extend(issues.iter().map(|issue| format!("shard {} to {}: {issue}", step.shard, step.to)));
        let Some(needs) = needs else { continue };
        demands.push(MoveDemand { from: &step.from, to: &step.to, wave: step.wave, needs });
        let unlimited = MoveNeeds { available_memory_bytes: u64::MAX, free_disk_bytes: u64::MAX, ..needs };
        demands.extend(returns.iter().filter(|back| back.shard == step.shard).map(|back| MoveDemand {
            from: &back.from,
            to: &back.to,
            wave: back.wave,
            needs: unlimited,
        }));
    }
    reasons.extend(find_shortages(&demands, options).into_iter().map(|shortage| shortage.reason));
    reasons.extend(check_consumers(context, &map).await?);
    Ok(reasons)
}

/// Asks the host of a shard's primary which changes in the primary's files its process has not read. From a host that
/// is not connected there is no answer: preflight says that the primary is missing.
async fn list_pending_changes(
    context: &RebalanceContext<'_>,
    map: &ShardMap,
    request: &PreflightRequest,
    on_progress: ProgressFn<'_>,
) -> Result<Vec<String>> {
    let (shard, source) = (request.spec.header.shard, &request.spec.record.from);
    let host = &map.find_shard(shard).with_context(|| format!("there is no shard {shard}"))?.host;
    if context.hosts.get_session(host).is_err() {
        return Ok(Vec::new());
    }
    let instance = InstanceRef {
        header: context.hosts.step_header(host, shard, &request.spec.header.run),
        address: source.clone(),
        primary: source.clone(),
        epoch: map.epoch.0,
        instance: context.desired_instance(map, shard, host)?,
    };
    context.hosts.call_host(host, call::ListPendingChanges(instance), on_progress).await
}

/// Runs preflight for one move or new replica on the target's host, with the pending changes of the shard's primary. Writes
/// to no Redis.
///
/// # Errors
/// Returns an error if a host could not be asked.
pub async fn run_move_preflight(
    context: &RebalanceContext<'_>,
    map: &ShardMap,
    mut request: PreflightRequest,
    to: &str,
    on_progress: ProgressFn<'_>,
) -> Result<PreflightResult> {
    request.pending_changes = list_pending_changes(context, map, &request, on_progress).await?;
    context.hosts.call_host(to, call::Preflight(request), on_progress).await
}

/// Receives what happens during a run.
pub struct MoveObserver<'a> {
    /// Receives the events of hosts.
    pub on_progress: ProgressFn<'a>,
    /// Receives each result.
    pub on_finished: OnMoveFinished<'a>,
}

/// Runs the moves; a wave begins only if nothing has failed, and a move only if no stop was requested.
pub async fn apply_moves(
    context: &RebalanceContext<'_>,
    moves: &[PlannedMove],
    run: &str,
    options: ApplyOptions,
    observer: &MoveObserver<'_>,
) -> RebalanceOutcome {
    let MoveObserver { on_progress, on_finished } = *observer;
    let mut outcome = RebalanceOutcome::default();
    let publish_lock = Mutex::new(());
    let waves = moves.iter().map(|step| step.wave).max().map_or(0, |last| last + 1);
    for wave in 0..waves {
        let wave_moves: Vec<&PlannedMove> = moves.iter().filter(|step| step.wave == wave).collect();
        if !outcome.failed.is_empty() || context.hosts.fleet.cancellation.is_cancelled() {
            outcome.not_started.extend(wave_moves.into_iter().cloned());
            continue;
        }
        let moved = outcome.moved.clone();
        let finish = FinishContext { publish_lock: &publish_lock, options, on_progress };
        let run_move = async |step: &&PlannedMove| {
            if context.hosts.fleet.cancellation.is_cancelled() {
                return None;
            }
            let checked = check_next_move(context, step, run, &moved, &finish).await;
            let result = match checked {
                Ok(()) => move_shard(context, step, run, &finish).await,
                Err(error) => Err(error),
            };
            on_finished(step, &result);
            Some(result)
        };
        let concurrency = if options.max_concurrent > 0 { options.max_concurrent } else { wave_moves.len() };
        let results = context.hosts.fleet.map_parallel_limited(&wave_moves, concurrency, run_move).await;
        for (step, result) in wave_moves.into_iter().zip(results) {
            match result {
                Some(Ok(moved)) => drop(outcome.moved.insert(step.move_key(), moved)),
                Some(Err(error)) => drop(outcome.failed.insert(step.move_key(), format!("{error:#}"))),
                None => outcome.not_started.push(step.clone()),
            }
        }
    }
    outcome
}

/// Checks a move of a shard that has moved in this run: preflight could not check it before the first move.
///
/// # Errors
/// Returns an error if preflight names a reason, or the instance at the target is the one that the shard left and still
/// runs.
async fn check_next_move(
    context: &RebalanceContext<'_>,
    step: &PlannedMove,
    run: &str,
    moved: &BTreeMap<(ShardId, usize), MoveResult>,
    finish: &FinishContext<'_>,
) -> Result<()> {
    let Some((_, previous)) = moved.iter().rfind(|((shard, _), _)| *shard == step.shard) else { return Ok(()) };
    if let Some(reason) = &previous.retire_blocked {
        bail!("the old instance is not retired: {reason}");
    }
    let demand = DemandOptions { max_concurrent: finish.options.max_concurrent, keep_source: false };
    let reasons = preflight_moves(context, std::slice::from_ref(step), run, demand, finish.on_progress).await?;
    match reasons.as_slice() {
        [] => Ok(()),
        reasons => bail!("shard {} remains on {}: {}", step.shard, step.from, reasons.join("; ")),
    }
}

async fn move_shard(
    context: &RebalanceContext<'_>,
    planned: &PlannedMove,
    run: &str,
    finish: &FinishContext<'_>,
) -> Result<MoveResult> {
    let (begin, on_progress) = (Instant::now(), finish.on_progress);
    // A detour moves a shard twice in one run; the hosts' journals tell moves apart by their run.
    let run = format!("{run}.{}", planned.wave);
    if let Some(change) = planned.replica_change() {
        return replica::create_replica(context, change, &run, finish).await;
    }
    let map = context.map_file.read()?;
    let spec = context.move_spec(&map, &run, planned.shard, &planned.to)?;
    let mut result = MoveResult::default();
    let copied = context.hosts.call_host(&planned.to, call::Copy(spec.clone()), on_progress).await?;
    result.bytes = copied.bytes;
    if context.hosts.fleet.cancellation.is_cancelled() {
        // Otherwise the source's file would be changed for a cutover that does not begin.
        bail!(
            "interrupted before the cutover: {} still serves the shard, the copy at {} is kept",
            planned.from,
            planned.to
        );
    }
    report_phase(&spec, &planned.to, "cutover", on_progress);
    let cut_over = cut_over_shard(context, &map, &spec, planned.hosts(), on_progress).await?;
    result.gap_us = cut_over.gap_us.max(copied.longest_wait_us());
    result.follow_ups = cut_over.follow_ups;
    result.retire_blocked = finish_move(context, &map, &spec, planned.hosts(), finish).await?;
    result.seconds = begin.elapsed().as_secs_f64();
    Ok(result)
}

/// Cuts a copied shard over to its target.
///
/// # Errors
/// Returns the error of the target's host if the cutover failed there.
pub async fn cut_over_shard(
    context: &RebalanceContext<'_>,
    map_before: &ShardMap,
    spec: &MoveSpec,
    hosts: MoveHosts<'_>,
    on_progress: ProgressFn<'_>,
) -> Result<CutoverResult> {
    let MoveHosts { from, to } = hosts;
    // The source's own host makes its file ready, so that no client waits for that disk. Where it does not, the cutover
    // has the source do it.
    let request = MinReplicasRequest {
        header: context.hosts.step_header(from, spec.header.shard, &spec.header.run),
        address: spec.record.from.clone(),
        replicas: u32::try_from(spec.record.operation.other_replicas().len())? + 1,
        instance: context.desired_instance(map_before, spec.header.shard, from)?,
    };
    let source_is_armed = context.hosts.call_host(from, call::RequireReplicas(request), on_progress).await.is_ok();
    let cutover = MoveSpec { source_file_requires_replicas: source_is_armed, ..spec.clone() };
    context.hosts.call_host(to, call::CutOver(cutover), on_progress).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detour_resumes_at_the_current_host() {
        let step = |shard, from: &str, to: &str, wave| PlannedMove {
            shard,
            from: from.into(),
            to: to.into(),
            wave,
            role: Role::Primary,
        };
        let left = vec![step(ShardId(0), "a", "c", 0), step(ShardId(0), "c", "b", 1)];
        let map = |host| {
            let text = format!(
                "cluster=\"x\"\nepoch=1\nport_base=7000\n[[shard]]\nid=0\nslots=\"0-16383\"\nhost=\"{host}\"\n"
            );
            ShardMap::parse(&text).unwrap()
        };
        assert_eq!(remaining_moves(left.clone(), &map("a")), left);
        assert_eq!(remaining_moves(left.clone(), &map("c")), left[1..]);
        assert_eq!(remaining_moves(left.clone(), &map("b")), []);
        // A failover has moved it to another host.
        assert_eq!(remaining_moves(left, &map("d")), []);
        let round_trip = vec![step(ShardId(0), "a", "c", 0), step(ShardId(0), "c", "a", 1)];
        assert_eq!(remaining_moves(round_trip.clone(), &map("a")), round_trip);
        assert_eq!(remaining_moves(round_trip.clone(), &map("c")), round_trip[1..]);
        assert_eq!(remaining_moves(round_trip[1..].to_vec(), &map("a")), []);
    }
}
