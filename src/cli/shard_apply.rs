//! Applies shard moves and prints their outcome, for `shard-rebalance`, `shards resume` and `shards move-back`.

use std::time::Instant;

use dunlin_shards::ShardId;
use serde_json::json;

use super::command_error::CommandError;
use super::exit::Exit;
use super::host_locks::{lock_hosts, lock_request};
use super::outcome::CommandOutcome;
use super::shard_files::ShardFiles;
use crate::fleet::Session;
use crate::inventory::ByteSize;
use crate::plan::{ChangeCounts, format_count};
use crate::protocol::Event;
use crate::rebalance::RebalanceContext;
use crate::rebalance::apply::{PlannedMove, RebalanceOutcome, preflight_moves};
use crate::rebalance::finish::{ApplyOptions, MoveResult};
use crate::rebalance::needs::DemandOptions;
use crate::rebalance::plan::{RebalancePlan, Role};
use crate::rebalance::run_moves::{MovesRequest, RunObserver, run_moves};
use crate::report::{ProgressBars, Reporter};

/// The counts of the last JSON event.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunTotals {
    /// Number of planned moves.
    pub moves: usize,
    /// Number of moves that failed.
    pub failed: usize,
}

impl RunTotals {
    /// Adds the counts to the outcome of a run.
    ///
    /// # Errors
    /// Returns the error of the run.
    pub fn print_summary(self, result: Result<Exit, CommandError>) -> Result<CommandOutcome, CommandError> {
        let counts = ChangeCounts { change: self.moves, ..ChangeCounts::default() };
        match result {
            Ok(exit) => Ok(CommandOutcome { exit, counts, failed: self.failed }),
            Err(failure) => Err(failure.with_counts(counts, self.failed)),
        }
    }
}

/// Moves to apply.
pub struct ApplyRequest<'a> {
    /// The run.
    pub id: &'a str,
    /// The moves.
    pub moves: &'a [PlannedMove],
    /// The options of the moves.
    pub options: ApplyOptions,
    /// The estimate of the plan, if there is one.
    pub estimate: Option<Estimate>,
}

/// The estimate of a plan, for comparison with the outcome.
#[derive(Clone, Copy, Debug, Default)]
pub struct Estimate {
    /// Bytes to copy.
    pub bytes: u64,
    /// Seconds from the first copy to the last cutover.
    pub seconds: f64,
    /// Write pause of a shard, in milliseconds.
    pub gap_ms: f64,
}

impl Estimate {
    /// Returns the estimate of a plan.
    pub fn from_plan(plan: &RebalancePlan) -> Self {
        Self { bytes: plan.bytes_moved, seconds: plan.estimated_seconds, gap_ms: plan.predicted_write_gap_ms }
    }
}

/// Locks the reachable shard hosts, and starts the run on each.
///
/// # Errors
/// Returns an error if another run holds a lock (exit 5), or a host does not answer.
pub async fn lock_hosts_and_start_run(
    files: &ShardFiles,
    context: &mut RebalanceContext<'_>,
    command: &str,
    id: &str,
    reporter: &Reporter,
) -> Result<(), CommandError> {
    let hosts = files.cluster.shard_hosts()?.into_iter().map(|host| host.name.clone());
    let hosts: Vec<String> = hosts.filter(|host| !context.hosts.unreachable.contains(host)).collect();
    let sessions =
        hosts.iter().map(|host| context.hosts.get_session(host)).collect::<anyhow::Result<Vec<&Session>>>()?;
    lock_hosts(context.hosts.fleet, &sessions, &lock_request(command, id, false), reporter).await?;
    Ok(context.hosts.start_run(id, &hosts).await?)
}

/// Runs the preflight checks of the moves, and prints their notes.
///
/// # Errors
/// Returns an error if a check fails (exit 3); no changes were made.
pub async fn run_preflight(
    context: &RebalanceContext<'_>,
    moves: &[PlannedMove],
    id: &str,
    options: DemandOptions,
    reporter: &Reporter,
) -> Result<(), CommandError> {
    let print_note = |host: &str, event: &Event| match event {
        Event::Note { text } if !reporter.json => reporter.print_status(&format!("{host}: {text}")),
        event => reporter.report_event(host, event),
    };
    let reasons = preflight_moves(context, moves, id, options, &print_note).await?;
    if reasons.is_empty() {
        return Ok(());
    }
    Err(preflight_error(&reasons)
        .with_hint("fix these problems, or plan other moves with --targets, --max-moves or --max-concurrent-moves"))
}

/// Returns the error of a failed preflight: exit 3, no changes were made.
pub fn preflight_error(reasons: &[String]) -> CommandError {
    let text = format!("preflight failed; no changes were made\n  {}", reasons.join("\n  "));
    CommandError::with_message(Exit::Refused, text)
}

/// Applies moves, and prints their outcome.
///
/// # Errors
/// Returns an error if the pending moves cannot be saved.
pub async fn apply_and_report(
    files: &ShardFiles,
    context: &RebalanceContext<'_>,
    request: &ApplyRequest<'_>,
    reporter: &Reporter,
    totals: &mut RunTotals,
) -> Result<Exit, CommandError> {
    totals.moves = request.moves.len();
    let (progress, begin) = (ProgressBars::new(reporter.json, reporter.style.quiet), Instant::now());
    let observer = RunObserver {
        on_progress: &|host, event| print_event(reporter, &progress, host, event),
        on_moved: &|step, moved| {
            reporter.print_json("moved", json!({
                "shard": step.shard, "from": step.from, "to": step.to, "bytes": moved.bytes,
                "role": step.role, "gap_ms": to_milliseconds(moved.gap_us), "seconds": moved.seconds, "not_retired": moved.retire_blocked,
            }));
            progress.print_line(&format_moved(step, moved));
        },
        on_unsaved: &|step, error| {
            reporter.report_failure(&format!("shard {}", step.shard), &format!("{error:#}"), None);
        },
    };
    let moves = MovesRequest { id: request.id, moves: request.moves, options: request.options };
    let finished = run_moves(&files.cluster.state, context, &moves, &observer).await;
    progress.clear_bars();
    let run = finished?;
    totals.failed = run.outcome.failed.len();
    print_outcome(&run.outcome, request, begin.elapsed().as_secs_f64(), reporter);
    let is_interrupted = context.hosts.fleet.cancellation.is_cancelled();
    if is_interrupted {
        print_interrupted(&run.outcome, &run.remaining, reporter);
    }
    Ok(match (run.is_complete(), is_interrupted) {
        (true, _) => Exit::Done,
        (false, true) => Exit::Interrupted,
        (false, false) => Exit::Partial,
    })
}

/// Prints an event of a host, or shows it in the progress bars.
pub fn print_event(reporter: &Reporter, progress: &ProgressBars, host: &str, event: &Event) {
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

fn print_outcome(outcome: &RebalanceOutcome, request: &ApplyRequest<'_>, seconds: f64, reporter: &Reporter) {
    let next = "dunlin shards status, then dunlin shards resume or abort";
    for ((shard, _), error) in &outcome.failed {
        reporter.report_failure(&format!("shard {shard}"), error, Some(next));
    }
    for ((shard, _), moved) in &outcome.moved {
        if let Some(reason) = &moved.retire_blocked {
            warn_not_retired(*shard, reason, reporter);
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
fn print_interrupted(outcome: &RebalanceOutcome, remaining: &[PlannedMove], reporter: &Reporter) {
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
pub fn warn_not_retired(shard: ShardId, reason: &str, reporter: &Reporter) {
    let text = format!("moved, but its old instance is not retired: {reason}");
    reporter.report_failure(
        &format!("shard {shard}"),
        &text,
        Some("when this is fixed, dunlin shards resume retires it"),
    );
}
