//! Moves of shards as they run: the events of their hosts, each move that ends, and the outcome of the run.

use dunlin_shards::ShardId;
use serde_json::json;

use super::{ProgressBars, Reporter};
use crate::inventory::ByteSize;
use crate::plan::format_count;
use crate::protocol::Event;
use crate::rebalance::apply::{PlannedMove, RebalanceOutcome};
use crate::rebalance::finish::MoveResult;
use crate::rebalance::plan::Role;
use crate::rebalance::run_moves::{Estimate, MovesRequest, MovesRun};

/// Prints an event of a preflight check; its notes also without `--verbose`.
pub fn report_preflight_event(host: &str, event: &Event, reporter: &Reporter) {
    match event {
        Event::Note { text } if !reporter.json => reporter.print_status(&format!("{host}: {text}")),
        event => reporter.report_event(host, event),
    }
}

/// Prints an event of a host, or shows it in the progress bars.
pub fn report_host_event(host: &str, event: &Event, reporter: &Reporter, progress: &ProgressBars) {
    match event {
        Event::Note { text } if !reporter.json => {
            if reporter.style.verbose {
                progress.print_line(&format!("{host}: {text}"));
            }
        }
        event => {
            reporter.report_event(host, event);
            progress.show_event(host, event);
        }
    }
}

/// Prints a move that succeeded.
pub fn report_moved(step: &PlannedMove, moved: &MoveResult, reporter: &Reporter, progress: &ProgressBars) {
    reporter.print_json("moved", json!({
        "shard": step.shard, "from": step.from, "to": step.to, "bytes": moved.bytes,
        "role": step.role, "gap_ms": to_milliseconds(moved.gap_us), "seconds": moved.seconds, "not_retired": moved.retire_blocked,
    }));
    progress.print_line(&format_moved(step, moved));
}

fn format_moved(planned: &PlannedMove, result: &MoveResult) -> String {
    let what = format!("  shard {:<4} {} → {}", planned.shard, planned.from, planned.to);
    let figures = format!(
        "{} in {:.1} s, clients waited up to {:.1} ms",
        ByteSize(result.bytes).to_human(),
        result.seconds,
        to_milliseconds(result.gap_us)
    );
    let role = if planned.role == Role::Replica { " (replica)" } else { "" };
    format!("{what}{role}   {figures}")
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds for a reader")]
fn to_milliseconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1000.0
}

/// Prints the outcome of a run of moves, and the next step if it was interrupted.
pub fn report_moves_run(request: &MovesRequest<'_>, run: &MovesRun, reporter: &Reporter) {
    report_outcome(&run.outcome, request, run.seconds, reporter);
    if run.is_interrupted {
        report_interrupted(&run.outcome, &run.remaining, reporter);
    }
}

fn report_outcome(outcome: &RebalanceOutcome, request: &MovesRequest<'_>, seconds: f64, reporter: &Reporter) {
    let next = "dunlin shards status, then dunlin shards resume or abort";
    for ((shard, _), error) in &outcome.failed {
        reporter.report_failure(&format!("shard {shard}"), error, Some(next));
    }
    for ((shard, _), moved) in &outcome.moved {
        if let Some(reason) = &moved.retire_blocked {
            report_not_retired(*shard, reason, reporter);
        }
        for follow_up in &moved.follow_ups {
            reporter.report_failure(&format!("shard {shard}"), follow_up, Some("dunlin shards resume"));
        }
    }
    if !outcome.not_started.is_empty() {
        reporter.print_status(&format!(
            "not started: {}; dunlin shards resume runs them",
            format_count(outcome.not_started.len(), "move")
        ));
    }
    let bytes: u64 = outcome.moved.values().map(|moved| moved.bytes).sum();
    let gap_ms = to_milliseconds(outcome.moved.values().map(|moved| moved.gap_us).max().unwrap_or(0));
    let moves = outcome.moved.len();
    let estimate = request.estimate;
    reporter.print_json(
        "rebalance_finished",
        json!({
            "moves": moves, "bytes": bytes, "seconds": seconds, "gap_ms": gap_ms,
            "planned_bytes": estimate.map(|plan| plan.bytes), "planned_seconds": estimate.map(|plan| plan.seconds),
            "planned_gap_ms": estimate.map(|plan| plan.gap_ms),
        }),
    );
    let plan =
        |what: &dyn Fn(Estimate) -> String| estimate.map_or(String::new(), |p| format!(" (planned {})", what(p)));
    reporter.print_data(&format!(
        "Done: {moves} {} moved: {}{} in {seconds:.1} s{}; clients waited up to {gap_ms:.1} ms{}",
        if moves == 1 { "shard" } else { "shards" },
        ByteSize(bytes).to_human(),
        plan(&|p| ByteSize(p.bytes).to_human().to_string()),
        plan(&|p| format!("{:.0} s", p.seconds)),
        plan(&|p| format!("{:.0} ms", p.gap_ms)),
    ));
    if request.options.keep_source && moves > 0 {
        reporter.print_status(
            "the old instances remain as replicas: dunlin shards move-back returns to them, dunlin shards resume retires them",
        );
    }
}

/// Prints the state of each shard after Ctrl-C, and the next step.
fn report_interrupted(outcome: &RebalanceOutcome, remaining: &[PlannedMove], reporter: &Reporter) {
    let ids =
        |steps: &mut dyn Iterator<Item = (ShardId, usize)>| steps.map(|(shard, _)| shard).collect::<Vec<ShardId>>();
    let moved = ids(&mut outcome.moved.keys().copied());
    let was_stopped = |key: &(ShardId, usize)| outcome.failed.contains_key(key);
    let stopped = ids(&mut remaining.iter().map(PlannedMove::move_key).filter(was_stopped));
    let not_started = ids(&mut remaining.iter().map(PlannedMove::move_key).filter(|key| !was_stopped(key)));
    reporter.print_json("interrupted", json!({"moved": moved, "stopped": stopped, "not_started": not_started}));
    let shards = |shards: &[ShardId]| match shards {
        [] => "none".to_owned(),
        shards => shards.iter().map(ShardId::to_string).collect::<Vec<_>>().join(", "),
    };
    reporter.print_data(&format!(
        "Interrupted: moved: {}; stopped: {}; not started: {}",
        shards(&moved),
        shards(&stopped),
        shards(&not_started)
    ));
    if !remaining.is_empty() {
        reporter.print_status(
            "next: dunlin shards resume continues, dunlin shards abort rolls back moves that have not cut over",
        );
    }
}

/// Prints that an old instance could not be retired.
pub(super) fn report_not_retired(shard: ShardId, reason: &str, reporter: &Reporter) {
    let text = format!("moved, but its old instance is not retired: {reason}");
    reporter.report_failure(
        &format!("shard {shard}"),
        &text,
        Some("when this is fixed, dunlin shards resume retires it"),
    );
}
