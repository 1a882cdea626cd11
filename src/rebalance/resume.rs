//! Finds moves that are in progress on the hosts, and finishes or aborts them, from any operator's machine.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use dunlin_shards::{InstanceAddress, ShardId, ShardMap};
use tokio::sync::Mutex;

use super::apply::{PlannedMove, cut_over_shard};
use super::connected_hosts::ProgressFn;
use super::finish::{ApplyOptions, FinishContext, MoveHosts, finish_move};
use super::map_file::placement_after_move;
use super::replica::ReplicaChange;
use super::{RebalanceContext, publish, replica};
use crate::protocol::call;
use crate::protocol::shard::{
    JournalQuery, MoveHistoryEntry, MoveRecord, MoveSpec, MoveState, Operation, RecoveryResult, ReplicationRole,
    default_journal_dir,
};

/// The last move of each shard that a host's journal knows, with the roles now.
pub type LatestMoves = BTreeMap<ShardId, (String, MoveState)>;

/// Asks all connected hosts for the moves in their journals.
///
/// # Errors
/// Returns an error if a host could not be asked.
pub async fn list_latest_moves(context: &RebalanceContext<'_>) -> Result<LatestMoves> {
    let hosts: Vec<String> = context.hosts.sessions.keys().cloned().collect();
    let request = call::ListMoves(JournalQuery {
        credentials: context.hosts.credentials.clone(),
        journal_dir: default_journal_dir(),
    });
    let answers = context
        .hosts
        .fleet
        .map_parallel(&hosts, |host| context.hosts.call_host(host, request.clone(), &|_, _| {}))
        .await;
    let mut found = LatestMoves::new();
    for (host, answer) in hosts.into_iter().zip(answers) {
        for state in answer? {
            let newer = found.get(&state.shard).is_none_or(|(_, newest)| {
                newest.record.epoch < state.record.epoch
                    || (newest.record.epoch == state.record.epoch && newest.recorded_at < state.recorded_at)
            });
            if newer {
                found.insert(state.shard, (host.clone(), state));
            }
        }
    }
    Ok(found)
}

/// Lists the moves in the journals of all connected hosts, oldest first.
///
/// # Errors
/// Returns an error if a host could not be asked.
pub async fn list_move_history(context: &RebalanceContext<'_>) -> Result<Vec<MoveHistoryEntry>> {
    let hosts: Vec<String> = context.hosts.sessions.keys().cloned().collect();
    let request = call::ListMoveHistory(JournalQuery {
        credentials: context.hosts.credentials.clone(),
        journal_dir: default_journal_dir(),
    });
    let mut all = Vec::new();
    for answer in context
        .hosts
        .fleet
        .map_parallel(&hosts, |host| context.hosts.call_host(host, request.clone(), &|_, _| {}))
        .await
    {
        all.extend(answer?);
    }
    all.sort_by(|a, b| (&a.started_at, a.shard).cmp(&(&b.started_at, b.shard)));
    Ok(all)
}

/// Status of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MoveStatus {
    /// Over: map and roles agree, the source is gone.
    Finished,
    /// The target serves and the source is gone; only the map does not say so yet.
    FinishedElsewhere,
    /// The target serves, also by the map; the source is its live replica, until it is retired or moved back to.
    SourceKept,
    /// The target serves; the map or the source does not follow yet.
    CutOver,
    /// The target is a primary without having been opened: it was restarted after the source had stopped, or beside it.
    TargetNotOpened,
    /// The source serves; there is a copy, or the beginning of one.
    Copying,
    /// Neither serves: roles and journal decide.
    Undecided,
    /// A failover that was interrupted: the copy left its primary, or may have.
    FailoverInterrupted,
    /// A copy was promoted; only the map does not say so yet.
    Promoted,
    /// A replica is being made; the map does not name it yet.
    ReplicaBuilding,
    /// The map names a new replica; its journal and the one that it replaces are left to be dealt with.
    ReplicaReady,
}

/// Returns the status of a move, from its roles and the map.
pub fn move_status(context: &RebalanceContext<'_>, map: &ShardMap, state: &MoveState) -> MoveStatus {
    let entry = map.shards.iter().find(|entry| entry.id == state.shard);
    if state.record.operation.creates_replica() {
        let host = context.hosts.host_at_address(&state.record.to);
        let is_in_map = entry.is_some_and(|entry| entry.replicas.iter().any(|replica| Some(replica.as_str()) == host));
        return replica_move_status(state, is_in_map, map.epoch.0);
    }
    let map_names_target = entry.map(|entry| entry.host.as_str()) == context.hosts.host_at_address(&state.record.to);
    if let Some(failover) = &state.failover {
        return match (&state.target_role, failover.promotion_started) {
            (ReplicationRole::Primary { .. }, true) if !map_names_target => MoveStatus::Promoted,
            // Later changes belong to another move; an old primary that comes back is found by itself.
            _ if failover.is_finished => MoveStatus::Finished,
            _ => MoveStatus::FailoverInterrupted,
        };
    }
    primary_move_status(state, map_names_target)
}

/// Returns the status of a move of a primary, from both roles, the journal and the map.
pub(super) fn primary_move_status(state: &MoveState, map_names_target: bool) -> MoveStatus {
    use ReplicationRole::{Primary, Replica, Unreachable};
    // A target that waits for its promotion is a primary by its file, closed to clients: its role alone says nothing.
    let may_be_open = state.promotion_started || state.is_finished || map_names_target;
    match (&state.target_role, &state.source_role) {
        (Primary { .. }, Unreachable) if map_names_target => MoveStatus::Finished,
        (Primary { .. }, Unreachable) if state.is_finished => MoveStatus::FinishedElsewhere,
        (Primary { .. }, Replica { primary, .. })
            if map_names_target && state.is_finished && *primary == state.record.to =>
        {
            MoveStatus::SourceKept
        }
        (Primary { .. }, _) if may_be_open => MoveStatus::CutOver,
        (Primary { .. }, _) => MoveStatus::TargetNotOpened,
        // A later move took the shard on from that target, or the move was rolled back.
        _ if state.is_finished => MoveStatus::Finished,
        (_, Primary { .. }) => MoveStatus::Copying,
        _ => MoveStatus::Undecided,
    }
}

fn replica_move_status(state: &MoveState, is_in_map: bool, epoch: u64) -> MoveStatus {
    match (state.is_finished, is_in_map) {
        (false, true) => MoveStatus::ReplicaReady,
        (false, false) => MoveStatus::ReplicaBuilding,
        // The map that named it is a later one than ours.
        (true, false) if state.record.epoch > epoch && matches!(state.target_role, ReplicationRole::Replica { .. }) => {
            MoveStatus::FinishedElsewhere
        }
        (true, _) => MoveStatus::Finished,
    }
}

/// The map as it would be with what the open moves have done already: where the shards are served now.
pub fn effective_map(
    context: &RebalanceContext<'_>,
    map: &ShardMap,
    open_moves: &[(&MoveState, MoveStatus)],
) -> ShardMap {
    let open = open_moves.iter().filter(|(state, _)| !state.record.operation.creates_replica());
    let moved = open.filter(|(_, stand)| {
        matches!(stand, MoveStatus::FinishedElsewhere | MoveStatus::CutOver | MoveStatus::Promoted)
    });
    moved.fold(map.clone(), |map, (state, _)| match context.hosts.host_at_address(&state.record.to) {
        Some(host) => map_with_primary_on(&map, state.shard, host),
        None => map,
    })
}

/// Brings the map up to date with moves that were made from another machine: one epoch for all of them.
///
/// # Errors
/// Returns an error under the same conditions as [`publish::publish_map`].
pub async fn adopt_external_moves(context: &RebalanceContext<'_>, states: &[&MoveState]) -> Result<()> {
    let map = context.map_file.read()?;
    let placement = |state: &&MoveState| {
        if state.record.operation.creates_replica() {
            let (old, new) = replica::find_replica_hosts(context, state)?;
            let primary = map.find_shard(state.shard).map(|entry| entry.host.as_str());
            if primary != context.hosts.host_at_address(&state.record.from) {
                // Its primary changed before, which only a newer map says.
                bail!(
                    "shard {}: {} is a replica of {}, which is not its primary by this map",
                    state.shard,
                    state.record.to,
                    state.record.from
                );
            }
            return replica::placement_with_replica(
                &map,
                ReplicaChange { shard: state.shard, replaced_host: old, new_host: new },
            );
        }
        let host = context
            .hosts
            .host_at_address(&state.record.to)
            .with_context(|| format!("{} is not in the inventory", state.record.to))?;
        placement_after_move(&map, state.shard, host)
    };
    let placements = states.iter().map(placement).collect::<Result<Vec<_>>>()?;
    publish::publish_map(context, &placements).await.map(drop)
}

/// Brings one move to its end. Returns why its old instance could not be retired yet, where that is so.
///
/// # Errors
/// Returns an error if the move cannot be decided by roles (the message says what to decide), or a step failed.
pub async fn resume_move(
    context: &RebalanceContext<'_>,
    state: &MoveState,
    on_progress: ProgressFn<'_>,
) -> Result<Option<String>> {
    if state.record.operation.creates_replica() {
        return replica::resume_replica(context, state, on_progress).await;
    }
    let map = context.map_file.read()?;
    let Some((from, to)) =
        context.hosts.host_at_address(&state.record.from).zip(context.hosts.host_at_address(&state.record.to))
    else {
        bail!("shard {}: {} or {} is not in the inventory", state.shard, state.record.from, state.record.to);
    };
    let spec = recorded_spec(context, &map, state, to)?;
    let before = map_with_primary_on(&map, state.shard, from);
    match context.hosts.call_host(to, call::Recover(spec.clone()), on_progress).await? {
        RecoveryResult::AtTarget { .. } => {}
        RecoveryResult::AtSource { .. } => {
            context.hosts.call_host(to, call::Copy(spec.clone()), on_progress).await?;
            cut_over_shard(context, &before, &spec, MoveHosts { from, to }, on_progress).await?;
        }
        RecoveryResult::Undecided { reason } => bail!(
            "{reason}; once both instances answer, `dunlin shards resume --shard {} --keep HOST` keeps the writes of the one \
             on that host",
            state.shard
        ),
    }
    let finish = FinishContext {
        publish_lock: &Mutex::new(()),
        options: ApplyOptions { ignore_unknown_epochs: true, ..ApplyOptions::default() },
        on_progress,
    };
    finish_move(context, &before, &spec, MoveHosts { from, to }, &finish).await
}

/// Returns true if the open moves and all pending ones can be finished without the hosts that do not answer: failovers,
/// replica builds, and shards that their targets serve already. Other moves need all hosts; and if no move is open, the
/// missing hosts may still have one.
pub fn can_finish_without_hosts(
    context: &RebalanceContext<'_>,
    open_moves: &[(&MoveState, MoveStatus)],
    pending: &[PlannedMove],
) -> bool {
    let is_reachable = |address: &InstanceAddress| {
        context.hosts.host_at_address(address).is_some_and(|host| !context.hosts.unreachable.contains(host))
    };
    let is_replica_build = |(state, status): &&(&MoveState, MoveStatus)| {
        state.record.operation == (Operation::CreateReplica { replaces: None })
            && (*status == MoveStatus::ReplicaReady || is_reachable(&state.record.from))
    };
    // Its source cannot accept writes; the other hosts' journals are all that could know of a later move, and they are
    // here.
    let is_served = |(state, status): &&(&MoveState, MoveStatus)| {
        let source = context.hosts.host_at_address(&state.record.from);
        let only_source = context.hosts.unreachable.iter().all(|host| source == Some(host));
        !state.record.operation.creates_replica()
            && only_source
            && matches!(status, MoveStatus::CutOver | MoveStatus::FinishedElsewhere)
    };
    let can_finish =
        |open: &&(&MoveState, MoveStatus)| open.0.failover.is_some() || is_replica_build(open) || is_served(open);
    let can_finish_all = !open_moves.is_empty() && open_moves.iter().all(|open| can_finish(&open));
    let is_move_of = |state: &MoveState, step: &PlannedMove| {
        let (from, to) =
            (context.hosts.host_at_address(&state.record.from), context.hosts.host_at_address(&state.record.to));
        state.shard == step.shard && from == Some(&step.from) && to == Some(&step.to)
    };
    let is_begun = |step: &PlannedMove| open_moves.iter().any(|(state, _)| is_move_of(state, step));
    can_finish_all && pending.iter().all(is_begun)
}

/// Aborts one move, if its source was not demoted yet.
///
/// # Errors
/// Returns an error if the source was demoted already, or a step failed.
pub async fn abort_move(context: &RebalanceContext<'_>, state: &MoveState, on_progress: ProgressFn<'_>) -> Result<()> {
    if state.record.operation.creates_replica() {
        return replica::abort_replica(context, state).await;
    }
    let map = context.map_file.read()?;
    let Some(to) = context.hosts.host_at_address(&state.record.to) else {
        bail!("{} is not in the inventory", state.record.to)
    };
    let spec = recorded_spec(context, &map, state, to)?;
    context.hosts.call_host(to, call::Abort(spec), on_progress).await
}

/// The move again, as it was begun.
pub(super) fn recorded_spec(
    context: &RebalanceContext<'_>,
    map: &ShardMap,
    state: &MoveState,
    to: &str,
) -> Result<MoveSpec> {
    // Contents of the instance are offered on the way.
    let after = map_with_primary_on(map, state.shard, to);
    let instance = context.desired_instance(&after, state.shard, to)?;
    Ok(MoveSpec {
        header: context.hosts.step_header(to, state.shard, &state.run),
        record: MoveRecord {
            operation: Operation::Relocate { other_replicas: state.record.operation.other_replicas().to_vec() },
            instance,
            operator: context.options.operator.clone(),
            throttle: context.options.throttle.apply_to(state.record.throttle),
            ..state.record.clone()
        },
        source_file_requires_replicas: false,
        limits: context.options.move_limits(),
    })
}

/// The map with a shard on a host, whatever the map says now.
pub(super) fn map_with_primary_on(map: &ShardMap, shard: ShardId, host: &str) -> ShardMap {
    let mut changed = map.clone();
    for entry in &mut changed.shards {
        if entry.id == shard {
            entry.host = host.to_owned();
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn primary() -> ReplicationRole {
        ReplicationRole::Primary { offset: 9, replicas: 0 }
    }

    fn replica_of(primary: &str) -> ReplicationRole {
        ReplicationRole::Replica { primary: primary.parse().unwrap_or_default(), link_is_up: true, offset: 9 }
    }

    #[test]
    fn the_status_of_a_move_follows_from_both_roles_and_the_journal() {
        use MoveStatus::{Copying, CutOver, Finished, FinishedElsewhere, SourceKept, TargetNotOpened, Undecided};
        let down = || ReplicationRole::Unreachable;
        // source, target, promotion in the journal, finished, map names the target
        for (source, target, promoted, finished, in_map, expected) in [
            (primary(), down(), false, false, false, Copying),
            (primary(), replica_of("a:1"), false, false, false, Copying),
            (down(), down(), false, false, false, Undecided),
            (down(), replica_of("a:1"), false, false, false, Undecided),
            (replica_of("b:1"), replica_of("a:1"), false, false, false, Undecided),
            // The target was restarted while it waited for its promotion: it has not served.
            (primary(), primary(), false, false, false, TargetNotOpened),
            (down(), primary(), false, false, false, TargetNotOpened),
            (replica_of("b:1"), primary(), false, false, false, TargetNotOpened),
            // The promotion is in the journal: from then on only the target may have the last writes.
            (primary(), primary(), true, false, false, CutOver),
            (down(), primary(), true, false, false, CutOver),
            (replica_of("b:1"), primary(), true, false, false, CutOver),
            (replica_of("b:1"), primary(), true, true, false, CutOver),
            (replica_of("b:1"), primary(), true, true, true, SourceKept),
            (replica_of("c:1"), primary(), true, true, true, CutOver),
            (down(), primary(), true, true, false, FinishedElsewhere),
            (down(), primary(), true, true, true, Finished),
            // An old instance that came back writable beside the target is not the end of it.
            (primary(), primary(), true, true, true, CutOver),
            (primary(), down(), false, true, false, Finished),
            (primary(), replica_of("c:1"), false, true, false, Finished),
        ] {
            let state = MoveState {
                source_role: source,
                target_role: target,
                promotion_started: promoted,
                is_finished: finished,
                ..move_state()
            };
            assert_eq!(primary_move_status(&state, in_map), expected, "{state:?}, in the map: {in_map}");
        }
    }

    fn move_state() -> MoveState {
        let value = serde_json::json!({
            "run": "1", "shard": 0, "from": "a:1", "to": "b:1", "other_replicas": [], "epoch": 1, "app_user": "app",
            "instance": null, "phase": "pause", "phase_state": "intent", "recorded_at": "", "is_finished": false,
            "source_role": ReplicationRole::Unreachable, "target_role": ReplicationRole::Unreachable,
        });
        serde_json::from_value(value).unwrap()
    }
}
