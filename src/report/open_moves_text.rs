//! Moves that are open, what a command would do with them, and what it does.

use serde_json::json;

use super::moves_text::report_not_retired;
use super::{ProgressBars, Reporter};
use crate::inventory::ByteSize;
use crate::plan::format_count;
use crate::protocol::shard::{MoveRecord, MoveState, ReplicationRole};
use crate::rebalance::apply::PlannedMove;
use crate::rebalance::cluster_files::UnreachableHost;
use crate::rebalance::describe_status::describe_status;
use crate::rebalance::failover::apply::FailoverResolution;
use crate::rebalance::finish_moves::OpenMoveEvent;
use crate::rebalance::move_action::MoveAction;
use crate::rebalance::observation::Observation;
use crate::rebalance::open_moves::OpenMove;
use crate::rebalance::resume::MoveStatus;

/// Prints the moves that are open.
pub fn report_open_moves(open_moves: &[OpenMove<'_>], reporter: &Reporter) {
    for (state, status) in open_moves {
        reporter.print_data(&format_move(state, *status));
        reporter.print_json("move", json!({
            "shard": state.shard, "from": state.record.from, "to": state.record.to, "step": state.phase,
            "step_state": state.phase_state, "move_run": state.run, "status": status, "source": state.source_role, "target": state.target_role,
        }));
    }
}

fn format_move(state: &MoveState, status: MoveStatus) -> String {
    let what = describe_status(state, status);
    format!(
        "  shard {} {} ({}) → {} ({}): {what}; last step {} {}",
        state.shard,
        state.record.from,
        role_name(&state.source_role),
        state.record.to,
        role_name(&state.target_role),
        state.phase,
        state.phase_state
    )
}

fn role_name(role: &ReplicationRole) -> &'static str {
    match role {
        ReplicationRole::Primary { .. } => "primary",
        ReplicationRole::Replica { .. } => "replica",
        ReplicationRole::Unreachable => "down",
    }
}

/// Prints the pending moves that a command would run.
pub fn report_pending_moves(pending: &[PlannedMove], reporter: &Reporter) {
    for step in pending {
        reporter.print_data(&format!("  shard {} {} → {}: pending", step.shard, step.from, step.to));
    }
}

/// Prints the actions of a dry run. Returns their number.
pub fn report_actions(
    open_moves: &[OpenMove<'_>],
    action: impl Fn(&MoveState, MoveStatus) -> Option<MoveAction>,
    reporter: &Reporter,
) -> usize {
    let actions = open_moves.iter().filter_map(|(state, status)| Some((state.shard, action(state, *status)?)));
    let mut count = 0;
    for (shard, action) in actions {
        reporter.print_data(&format!("  shard {shard}: {}", action.describe()));
        reporter.print_json("move_action", json!({ "shard": shard, "action": action }));
        count += 1;
    }
    count
}

/// Prints the action for moves that have not started.
pub fn report_planned_moves(moves: &[PlannedMove], action: MoveAction, reporter: &Reporter) {
    for step in moves {
        let PlannedMove { shard, from, to, .. } = step;
        reporter.print_data(&format!("  shard {shard} {from} → {to}: {}", action.describe()));
        reporter.print_json(
            "planned_move",
            json!({ "shard": shard, "from": from, "to": to, "role": step.role, "action": action }),
        );
    }
}

/// Prints the plan of restarts: each shard with its hosts on the way, and its size.
pub fn report_restart_plan(moves: &[PlannedMove], observation: &Observation, reporter: &Reporter) {
    for shard in &observation.shards {
        let mut steps = moves.iter().filter(|step| step.shard == shard.id).peekable();
        if steps.peek().is_none() {
            continue;
        }
        let hosts: Vec<&str> = std::iter::once(shard.host.as_str()).chain(steps.map(|step| step.to.as_str())).collect();
        let size = ByteSize(shard.bytes).to_human();
        reporter.print_data(&format!("  shard {:<4} {}   {size} per move", shard.id, hosts.join(" → ")));
    }
    for PlannedMove { shard, from, to, role, .. } in moves {
        let action = MoveAction::Move;
        reporter.print_json(
            "planned_move",
            json!({ "shard": shard, "from": from, "to": to, "role": role, "action": action }),
        );
    }
}

/// Prints what happens with an open move.
pub fn report_open_move_event(event: &OpenMoveEvent<'_>, reporter: &Reporter, progress: &ProgressBars) {
    match event {
        OpenMoveEvent::Found(open_moves) => report_open_moves(open_moves, reporter),
        OpenMoveEvent::AddedToMap { count } => {
            reporter.print_status(&format!("added {} from another machine to the map", format_count(*count, "move")));
        }
        OpenMoveEvent::FailoverFinished { state, result } => {
            progress.clear_bars();
            report_failover_finished(state, result, reporter);
        }
        OpenMoveEvent::MoveFinished { state, result: Ok(retire_blocked) } => {
            let verb = if state.record.operation.creates_replica() { "has a replica on" } else { "is served by" };
            progress.print_line(&format!("  shard {} {verb} {}", state.shard, state.record.to));
            retire_blocked.iter().for_each(|reason| report_not_retired(state.shard, reason, reporter));
        }
        OpenMoveEvent::MoveFinished { state, result: Err(error) } => {
            reporter.report_failure(&format!("shard {}", state.shard), &format!("{error:#}"), None);
        }
        OpenMoveEvent::RolledBack { state, result } => report_rollback(state, result, reporter),
        OpenMoveEvent::NotRolledBack(state) => {
            reporter.print_status(&format!("shard {}: not rolled back, interrupted", state.shard));
        }
        OpenMoveEvent::NotFinished(state) => {
            reporter.print_status(&format!("shard {}: not finished, interrupted", state.shard));
        }
        OpenMoveEvent::ConsumerOutdated { host } => {
            progress.clear_bars();
            report_outdated_consumer(host, reporter);
        }
    }
}

fn report_failover_finished(state: &MoveState, result: &anyhow::Result<FailoverResolution>, reporter: &Reporter) {
    let MoveState { shard, record: MoveRecord { from, to, .. }, .. } = state;
    match result {
        Ok(FailoverResolution::Promoted) => reporter.print_data(&format!("  shard {shard} is served by {to}")),
        Ok(FailoverResolution::Reverted) => {
            reporter.print_data(&format!("  shard {shard} is served by {from}, which answers again"));
        }
        Err(error) => reporter.report_failure(&format!("shard {shard}"), &format!("{error:#}"), None),
    }
}

fn report_rollback(state: &MoveState, result: &anyhow::Result<()>, reporter: &Reporter) {
    let MoveState { shard, record: MoveRecord { from, to, operation, .. }, .. } = state;
    match result {
        Ok(()) if operation.creates_replica() => {
            reporter.print_data(&format!("shard {shard}: removed the new replica on {to}"));
        }
        Ok(()) => reporter.print_data(&format!("shard {shard} remains on {from}")),
        Err(error) => {
            let next = Some("dunlin shards resume");
            reporter.report_failure(&format!("shard {shard}"), &format!("{error:#}"), next);
        }
    }
}

/// Prints a consumer of the map that does not answer.
pub fn report_outdated_consumer(host: &str, reporter: &Reporter) {
    let next = "when it is back, run dunlin provision before its services start";
    reporter.report_failure(host, "does not answer and still has the old map", Some(next));
}

/// Prints the hosts that do not answer, of a run that goes on without them.
pub fn report_unreachable_hosts(unreachable: &[UnreachableHost], reporter: &Reporter) {
    for (host, error) in unreachable {
        reporter.print_json("host_unreachable", json!({"host": host, "error": error.to_string()}));
        reporter.print_status(&error.to_string());
    }
}

/// Prints the hosts that do not answer, of a run that needs them.
pub fn report_missing_hosts(unreachable: &[UnreachableHost], reporter: &Reporter) {
    for (host, error) in unreachable {
        reporter.report_failure(host, &error.to_string(), Some(&error.hint()));
    }
}

/// Prints that a run was interrupted, with the next step.
pub fn report_interruption(reporter: &Reporter) {
    reporter.print_status("interrupted; next: dunlin shards status, then dunlin shards resume or abort");
}
