//! Carrying shard moves out, and telling how they went: for `shard-rebalance`, `shards resume` and `shards reverse`.

use std::time::Instant;

use serde_json::json;

use super::exit::Exit;
use super::failure::Failure;
use super::locked::{lock, take};
use super::outcome::CommandOutcome;
use super::shard_ground::Files;
use crate::fleet::Session;
use crate::inventory::Bytes;
use crate::plan::Counts;
use crate::rebalance::Ground;
use crate::rebalance::plan::{RebalancePlan, Role};
use crate::rebalance::run::{How, Moved, Outcome, Step, preflight, run};
use crate::report::{Bars, Reporter};
use crate::wire::Event;
use crate::wire::sparing::Sparing;

/// What the last line of a run counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Moves that were planned.
    pub moves: usize,
    /// Those that failed.
    pub failed: usize,
}

impl Tally {
    /// Adds the counts to the end of a run.
    ///
    /// # Errors
    /// That of the run.
    pub fn end(self, result: Result<Exit, Failure>) -> Result<CommandOutcome, Failure> {
        let counts = Counts { change: self.moves, ..Counts::default() };
        match result {
            Ok(exit) => Ok(CommandOutcome { exit, counts, failed: self.failed }),
            Err(failure) => Err(failure.with_counts(counts, self.failed)),
        }
    }
}

/// Moves to be made.
pub struct Task<'a> {
    /// The run.
    pub id: &'a str,
    /// The moves.
    pub steps: &'a [Step],
    /// What is done beside moving.
    pub how: How,
    /// What the plan says that it comes to.
    pub planned: Option<Foretold>,
}

/// What a plan foretells, to be held against what came.
#[derive(Clone, Copy, Debug, Default)]
pub struct Foretold {
    /// Bytes of all copies.
    pub bytes: u64,
    /// From the first copy to the last switch.
    pub seconds: f64,
    /// For how long a shard's writes are held, in milliseconds.
    pub gap_ms: f64,
}

impl Foretold {
    /// What this plan does.
    pub fn by(plan: &RebalancePlan) -> Self {
        Self { bytes: plan.bytes_moved, seconds: plan.estimated_seconds, gap_ms: plan.predicted_write_gap_ms }
    }
}

/// Locks the hosts that shards may stand on, without those that the run goes without, and takes the run's number on each.
///
/// # Errors
/// Others hold one (exit 5), or a host does not answer.
pub async fn begin(
    files: &Files,
    ground: &mut Ground<'_>,
    (command, id): (&str, &str),
    reporter: &Reporter,
) -> Result<(), Failure> {
    let hosts = files.shard_hosts()?.into_iter().map(|host| host.name.clone());
    let hosts: Vec<String> = hosts.filter(|host| !ground.absent.contains(host)).collect();
    let sessions = hosts.iter().map(|host| ground.session(host)).collect::<anyhow::Result<Vec<&Session>>>()?;
    lock(ground.fleet, &sessions, &take(command, id, false), reporter).await?;
    Ok(ground.begin(id, &hosts).await?)
}

/// Asks the targets' hosts for everything that stands in the way, and says what does not but is to be known.
///
/// # Errors
/// Something does: exit 3, nothing was written.
pub async fn checked(ground: &Ground<'_>, steps: &[Step], (id, reporter): (&str, &Reporter)) -> Result<(), Failure> {
    let (map, _) = crate::rebalance::ground::read_map(&ground.map_file)?;
    let note = |host: &str, event: &Event| match event {
        Event::Note { text } if !reporter.json => reporter.say(&format!("{host}: {text}")),
        event => reporter.event(host, event),
    };
    let reasons = preflight(ground, &map, steps, (id, &note)).await?;
    if reasons.is_empty() {
        return Ok(());
    }
    let text = format!("preflight refuses; no Redis was written to\n  {}", reasons.join("\n  "));
    Err(Failure::say(Exit::Refused, text)
        .hint("mend what is named, or plan around it: --to HOSTS, --max-moves N; --dry-run shows the plan"))
}

/// Runs moves, and tells how they ended.
///
/// # Errors
/// The list of what is left cannot be written.
pub async fn carry_out(
    files: &Files,
    ground: &Ground<'_>,
    task: &Task<'_>,
    (reporter, tally): (&Reporter, &mut Tally),
) -> Result<Exit, Failure> {
    tally.moves = task.steps.len();
    files.state.save_pending_moves(task.steps)?;
    files.state.save_throttle(&ground.limits(Sparing::default()).sparing)?;
    let (bars, begin) = (Bars::new(reporter.json, reporter.style.quiet), Instant::now());
    let watch = |host: &str, event: &Event| show(reporter, &bars, host, event);
    let ended = |step: &Step, result: &anyhow::Result<Moved>| {
        if let Ok(moved) = result {
            reporter.line("moved", json!({
                "shard": step.shard, "from": step.from, "to": step.to, "bytes": moved.bytes,
                "role": step.role, "gap_ms": milliseconds(moved.gap_us), "seconds": moved.seconds, "kept": moved.kept,
            }));
            bars.line(&moved_line(step, moved));
        }
    };
    let outcome = run(ground, task.steps, task.id, (task.how, &watch, &ended)).await;
    bars.finish();
    let left: Vec<Step> = task.steps.iter().filter(|step| !outcome.moved.contains_key(&step.key())).cloned().collect();
    files.state.save_pending_moves(&left)?;
    tally.failed = outcome.failed.len();
    tell(&outcome, task, begin.elapsed().as_secs_f64(), reporter);
    let is_interrupted = ground.fleet.stop.is_cancelled();
    if is_interrupted {
        tell_interrupted(&outcome, &left, reporter);
    }
    let kept = outcome.moved.values().any(|moved| moved.kept.is_some());
    Ok(match (left.is_empty() && !kept, is_interrupted) {
        (true, _) => Exit::Done,
        (false, true) => Exit::Interrupted,
        (false, false) => Exit::Partial,
    })
}

/// Shows what happens on a host.
pub fn show(reporter: &Reporter, bars: &Bars, host: &str, event: &Event) {
    match event {
        Event::Note { text } if !reporter.json => {
            if reporter.style.verbose {
                bars.line(&format!("{host}: {text}"));
            }
        }
        event => {
            reporter.event(host, event);
            bars.event(host, event);
        }
    }
}

fn moved_line(step: &Step, moved: &Moved) -> String {
    let what = format!("  shard {:<4} {} → {}", step.shard, step.from, step.to);
    if step.role == Role::Replica {
        return format!("{what} (replica)   {} in {:.1} s", Bytes(moved.bytes).human(), moved.seconds);
    }
    let figures = format!(
        "{} in {:.1} s, writes held {:.1} ms",
        Bytes(moved.bytes).human(),
        moved.seconds,
        milliseconds(moved.gap_us)
    );
    format!("{what}   {figures}")
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds for a reader")]
fn milliseconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1000.0
}

fn tell(outcome: &Outcome, task: &Task<'_>, seconds: f64, reporter: &Reporter) {
    let next = "dunlin shards status, then dunlin shards resume or abort";
    for ((shard, _), error) in &outcome.failed {
        reporter.failed(&format!("shard {shard}"), error, Some(next));
    }
    for ((shard, _), moved) in &outcome.moved {
        if let Some(why) = &moved.kept {
            tell_kept(*shard, why, reporter);
        }
        for what in &moved.pending {
            reporter.failed(&format!("shard {shard}"), what, Some("dunlin shards resume"));
        }
    }
    if !outcome.left.is_empty() {
        reporter.say(&format!("{} moves were not begun; dunlin shards resume makes them", outcome.left.len()));
    }
    let bytes: u64 = outcome.moved.values().map(|moved| moved.bytes).sum();
    let gap_ms = milliseconds(outcome.moved.values().map(|moved| moved.gap_us).max().unwrap_or(0));
    let moves = outcome.moved.len();
    let planned = task.planned;
    reporter.line(
        "rebalanced",
        json!({
            "moves": moves, "bytes": bytes, "seconds": seconds, "gap_ms": gap_ms,
            "planned_bytes": planned.map(|plan| plan.bytes), "planned_seconds": planned.map(|plan| plan.seconds),
            "planned_gap_ms": planned.map(|plan| plan.gap_ms),
        }),
    );
    let plan = |what: &dyn Fn(Foretold) -> String| planned.map_or(String::new(), |p| format!(" (planned {})", what(p)));
    reporter.data(&format!(
        "Done: {moves} {} moved: {}{} in {seconds:.1} s{}; writes were held for at most {gap_ms:.1} ms{}",
        if moves == 1 { "shard" } else { "shards" },
        Bytes(bytes).human(),
        plan(&|p| Bytes(p.bytes).human().to_string()),
        plan(&|p| format!("{:.0} s", p.seconds)),
        plan(&|p| format!("{:.0} ms", p.gap_ms)),
    ));
    if task.how.soak && moves > 0 {
        reporter.say(
            "the old instances are live replicas: dunlin shards reverse goes back, dunlin shards resume retires them",
        );
    }
}

/// After Ctrl-C: where each shard is, and what ends it.
fn tell_interrupted(outcome: &Outcome, left: &[Step], reporter: &Reporter) {
    let ids = |steps: &mut dyn Iterator<Item = (u32, usize)>| steps.map(|(shard, _)| shard).collect::<Vec<u32>>();
    let moved = ids(&mut outcome.moved.keys().copied());
    let was_stopped = |key: &(u32, usize)| outcome.failed.contains_key(key);
    let stopped = ids(&mut left.iter().map(Step::key).filter(was_stopped));
    let not_begun = ids(&mut left.iter().map(Step::key).filter(|key| !was_stopped(key)));
    reporter.line("interrupted", json!({"moved": moved, "stopped": stopped, "not_begun": not_begun}));
    let shards = |shards: &[u32]| match shards {
        [] => "none".to_owned(),
        shards => shards.iter().map(u32::to_string).collect::<Vec<_>>().join(", "),
    };
    reporter.data(&format!(
        "Interrupted: moved: {}; stopped: {}; not begun: {}",
        shards(&moved),
        shards(&stopped),
        shards(&not_begun)
    ));
    if !left.is_empty() {
        reporter.say("next: dunlin shards resume goes on, dunlin shards abort takes back what has not switched");
    }
}

/// An old instance that could not be retired.
pub fn tell_kept(shard: u32, why: &str, reporter: &Reporter) {
    let text = format!("it has moved; its old instance stays: {why}");
    reporter.failed(&format!("shard {shard}"), &text, Some("dunlin shards resume retires it once that is mended"));
}
