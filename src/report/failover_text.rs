//! A failover: its plan with the possible data loss, and what happens in the run.

use std::fmt::Write as _;

use serde_json::json;

use super::repair_text::report_repair_event;
use super::{ProgressBars, Reporter, Style};
use crate::inventory::ByteSize;
use crate::plan::Action;
use crate::protocol::shard::failover::PromoteResult;
use crate::rebalance::failover::apply::FailoverOutcome;
use crate::rebalance::failover::run::FailoverEvent;
use crate::rebalance::failover::{DataLossBound, FailoverPlan, Promotion};

/// Formats a plan: one line per shard, its possible data loss below, and a summary line.
fn format_failover(plan: &FailoverPlan, style: Style) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{}", style.bold(&format!("{} at epoch {}", plan.cluster, plan.epoch)));
    if !plan.assumed_dead.is_empty() {
        let _ = writeln!(text, "  {}: unreachable, assumed dead", plan.assumed_dead.join(", "));
    }
    plan.promotions.iter().for_each(|promotion| write_promotion(&mut text, promotion, style));
    for primary in &plan.degraded_primaries {
        let lost = if primary.lost_replicas.is_empty() {
            "a replica that the map does not name".to_owned()
        } else {
            primary.lost_replicas.join(", ")
        };
        let line = format!("  ~ shard {:<5} {} continues without {lost}", primary.shard, primary.host);
        let replicas = if primary.replicas.is_empty() {
            "and accepts writes without a replica"
        } else {
            "with its other replicas"
        };
        let _ = writeln!(text, "{}, {replicas}", style.paint_action(Action::Change, &line));
    }
    for shard in &plan.unavailable_shards {
        let line = format!("  ! shard {:<5} remains unavailable", shard.shard);
        let _ = writeln!(text, "{}: {}", style.paint_action(Action::Remove, &line), shard.reason);
    }
    for replica in &plan.replicas_to_create {
        let line = format!("  + shard {:<5} new replica on {}", replica.shard, replica.host);
        let _ = writeln!(text, "{}  {}", style.paint_action(Action::Add, &line), ByteSize(replica.bytes).to_human());
    }
    for shard in &plan.unplaceable_replicas {
        let _ = writeln!(text, "  ! shard {:<5} remains without a replica: {}", shard.shard, shard.reason);
    }
    if let Some(replicas) = plan.replica_count {
        let _ = writeln!(text, "  the map will say replicas = {replicas}, the number that every shard had");
    }
    let _ = writeln!(text, "Plan: {}", summarize_failover(plan));
    text
}

fn write_promotion(text: &mut String, promotion: &Promotion, style: Style) {
    let Promotion { shard, from, to, offset, bytes, other_replicas: others, .. } = promotion;
    let line = style.paint_action(Action::Change, &format!("  ~ shard {shard:<5} {from} → {to}"));
    if promotion.already_promoted {
        let _ = writeln!(text, "{line}  is already promoted; the map is not published yet");
        return;
    }
    let followers = if others.is_empty() { String::new() } else { format!("; {} will follow it", others.join(", ")) };
    let _ = writeln!(text, "{line}  {} at offset {offset}{followers}", ByteSize(*bytes).to_human());
    let _ = writeln!(text, "      {}", describe_loss(&promotion.max_loss, from));
    if let Some(host) = &promotion.cancelled_target {
        let _ = writeln!(text, "      its move to {host} is aborted; the instance there will follow {to}");
    }
}

/// Describes the possible data loss of a promotion.
fn describe_loss(loss: &DataLossBound, from: &str) -> String {
    let size_text =
        loss.estimated_bytes.map(|bytes| format!(", about {}", ByteSize(bytes).to_human())).unwrap_or_default();
    match (loss.silent_for_s, loss.max_window_s) {
        (Some(silent), Some(within)) => format!(
            "last contact with {from} {silent} s ago; writes acknowledged in the {within} s after it may be lost{size_text}"
        ),
        (Some(silent), None) => format!(
            "last contact with {from} {silent} s ago; all writes acknowledged since may be lost{size_text}, because {from} \
             accepted writes without a replica"
        ),
        (None, _) => format!("restarted without contact with {from} since: how many writes may be lost is unknown"),
    }
}

/// Summarizes a plan: `2 to promote, 3 to get a new replica, 1 unavailable until the host is back`.
fn summarize_failover(plan: &FailoverPlan) -> String {
    let parts = [
        (plan.promotions.len(), "to promote"),
        (plan.degraded_primaries.len(), "to continue without a replica"),
        (plan.replicas_to_create.len(), "to get a new replica"),
        (plan.unavailable_shards.len(), "unavailable until the host is back"),
        (plan.unplaceable_replicas.len(), "without a host for a replica"),
    ];
    let parts = parts.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
    let text = parts.collect::<Vec<_>>().join(", ");
    if text.is_empty() { "nothing to do".to_owned() } else { format!("{text} (shards)") }
}

/// Prints the plan.
///
/// # Errors
/// Returns an error if the plan cannot be converted to JSON.
pub fn report_failover_plan(plan: &FailoverPlan, reporter: &Reporter) -> serde_json::Result<()> {
    if reporter.json {
        reporter.print_json("plan", serde_json::to_value(plan)?);
    } else {
        reporter.print_painted_data(format_failover(plan, reporter.style).trim_end());
    }
    Ok(())
}

/// Prints what happens in a failover.
pub fn report_failover_event(event: &FailoverEvent<'_>, reporter: &Reporter, progress: &ProgressBars) {
    progress.clear_bars();
    match event {
        FailoverEvent::Promoted { promotion, promoted } => report_promoted(promotion, promoted, reporter),
        FailoverEvent::NotArchived { promotion, error } => {
            let text = format!("the old instance is not archived: {error:#}");
            reporter.report_failure(&format!("shard {}", promotion.shard), &text, Some("dunlin shards repair"));
        }
        FailoverEvent::Applied { plan, outcome } => report_applied(plan, outcome, reporter),
        FailoverEvent::Finished { plan, outcome } => report_finished(plan, outcome, reporter),
        FailoverEvent::Repair(event) => report_repair_event(event, reporter, progress),
    }
}

fn report_promoted(promotion: &Promotion, promoted: &PromoteResult, reporter: &Reporter) {
    let Promotion { shard, from, to, .. } = promotion;
    reporter.print_json(
        "failed_over",
        json!({
            "shard": shard, "from": from, "to": to, "offset": promoted.offset,
            "waited_ms": promoted.waited_ms, "already_promoted": promoted.already_promoted,
        }),
    );
    reporter.print_data(&format!("  shard {shard} is served by {to}"));
}

fn report_applied(plan: &FailoverPlan, outcome: &FailoverOutcome, reporter: &Reporter) {
    for primary in plan.degraded_primaries.iter().filter(|primary| outcome.lowered.contains(&primary.shard)) {
        reporter.print_json("min_replicas_lowered", json!({"shard": primary.shard, "host": primary.host}));
    }
    let next = Some("run the command again, or dunlin shards resume");
    for (shard, error) in &outcome.failed {
        reporter.report_failure(&format!("shard {shard}"), error, next);
    }
    if let Some(error) = &outcome.publish_error {
        reporter.report_failure("map", error, next);
    }
}

fn report_finished(plan: &FailoverPlan, outcome: &FailoverOutcome, reporter: &Reporter) {
    for unavailable in &plan.unavailable_shards {
        reporter.report_failure(&format!("shard {}", unavailable.shard), &unavailable.reason, None);
    }
    let (promoted, lowered) = (outcome.promoted.len(), outcome.lowered.len());
    let epoch = outcome.epoch.map(|epoch| format!(", epoch {epoch}")).unwrap_or_default();
    reporter.print_data(&format!("Done: {promoted} promoted, {lowered} continue without a dead replica{epoch}"));
}

#[cfg(test)]
mod tests {
    use dunlin_shards::ShardId;

    use super::*;
    use crate::rebalance::failover::{DegradedPrimary, ReplicaToCreate, UnresolvedShard};

    #[test]
    fn a_plan_shows_the_possible_data_loss() {
        let promotion = |shard, done, loss| Promotion {
            shard,
            from: "redis-01".to_owned(),
            to: "redis-02".to_owned(),
            other_replicas: Vec::new(),
            orphans: Vec::new(),
            cancelled_target: (shard == ShardId(1)).then(|| "redis-03".to_owned()),
            offset: 4711,
            bytes: 2048,
            already_promoted: done,
            max_loss: loss,
        };
        let loss = |silent_s, within_s, about_bytes| DataLossBound {
            silent_for_s: silent_s,
            max_window_s: within_s,
            estimated_bytes: about_bytes,
        };
        let plan = FailoverPlan {
            cluster: "timeline".to_owned(),
            epoch: 7,
            assumed_dead: vec!["redis-01".to_owned()],
            promotions: vec![
                promotion(ShardId(0), false, loss(Some(34), Some(6), Some(3072))),
                promotion(ShardId(1), false, loss(Some(34), None, None)),
                promotion(ShardId(2), true, loss(None, None, None)),
            ],
            degraded_primaries: vec![DegradedPrimary {
                shard: ShardId(8),
                host: "redis-02".to_owned(),
                lost_replicas: vec!["redis-01".to_owned()],
                replicas: Vec::new(),
            }],
            unavailable_shards: vec![UnresolvedShard { shard: ShardId(5), reason: "it has no replica".to_owned() }],
            replica_count: Some(1),
            replicas_to_create: vec![ReplicaToCreate { shard: ShardId(0), host: "redis-03".to_owned(), bytes: 2048 }],
            unplaceable_replicas: vec![UnresolvedShard {
                shard: ShardId(1),
                reason: "no memory on redis-03".to_owned(),
            }],
        };
        let expected = "\
timeline at epoch 7
  redis-01: unreachable, assumed dead
  ~ shard 0     redis-01 → redis-02  2.0KiB at offset 4711
      last contact with redis-01 34 s ago; writes acknowledged in the 6 s after it may be lost, about 3.0KiB
  ~ shard 1     redis-01 → redis-02  2.0KiB at offset 4711
      last contact with redis-01 34 s ago; all writes acknowledged since may be lost, because redis-01 accepted writes without a replica
      its move to redis-03 is aborted; the instance there will follow redis-02
  ~ shard 2     redis-01 → redis-02  is already promoted; the map is not published yet
  ~ shard 8     redis-02 continues without redis-01, and accepts writes without a replica
  ! shard 5     remains unavailable: it has no replica
  + shard 0     new replica on redis-03  2.0KiB
  ! shard 1     remains without a replica: no memory on redis-03
  the map will say replicas = 1, the number that every shard had
Plan: 3 to promote, 1 to continue without a replica, 1 to get a new replica, 1 unavailable until the host is back, 1 without a host for a replica (shards)
";
        assert_eq!(format_failover(&plan, Style::default()), expected);
    }
}
