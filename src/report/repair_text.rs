//! Repairs of shards: the health of replicas, the plan, and what happens in a run.

use dunlin_shards::ShardId;
use serde_json::json;

use super::open_moves_text::{report_open_moves, report_outdated_consumer};
use super::{ProgressBars, Reporter};
use crate::inventory::ByteSize;
use crate::protocol::shard::failover::ArchivedInstance;
use crate::rebalance::failover::{ReplicaToCreate, UnresolvedShard};
use crate::rebalance::finish::MoveResult;
use crate::rebalance::open_moves::OpenMove;
use crate::rebalance::repair::{RepairBlocker, RepairPlan};
use crate::rebalance::repair_run::RepairEvent;
use crate::rebalance::replica_health::{OrphanInstance, ReplicaHealth, ReplicaState};

/// Prints the replicas that are not in sync, orphans, and wrong `min-replicas-to-write`; in JSON every replica.
pub fn report_replica_health(health: &ReplicaHealth, reporter: &Reporter) {
    let event = |name: &str, value: serde_json::Result<serde_json::Value>| {
        reporter.print_json(name, value.unwrap_or_default());
    };
    for replica in &health.replicas {
        event("replica", serde_json::to_value(replica));
        if let Some(problem) = describe_replica_state(&replica.state) {
            reporter.print_data(&format!("  shard {}: the replica on {} {problem}", replica.shard, replica.host));
        }
    }
    for orphan in &health.orphans {
        event("orphan_instance", serde_json::to_value(orphan));
        reporter.print_data(&format_orphan(orphan));
    }
    for mismatch in &health.min_replicas_mismatches {
        event("min_replicas_mismatch", serde_json::to_value(mismatch));
        reporter.print_data(&format!(
            "  shard {}: min-replicas-to-write of the primary is {}, the playbook says {}",
            mismatch.shard, mismatch.actual, mismatch.expected
        ));
    }
}

/// Prints why the replicas are not checked: a primary does not answer.
pub fn report_unchecked_replicas(error: &anyhow::Error, reporter: &Reporter) {
    reporter.print_status(&format!("replicas are not checked: {error:#}"));
}

/// Describes the problem of a replica; `None` if it is in sync.
fn describe_replica_state(state: &ReplicaState) -> Option<String> {
    Some(match state {
        ReplicaState::Follows { behind_bytes: 0 } => return None,
        ReplicaState::Follows { behind_bytes } => format!("is {} behind", ByteSize(*behind_bytes).to_human()),
        ReplicaState::LinkDown => "has lost the connection to its primary".to_owned(),
        ReplicaState::FollowsWrongPrimary { primary } => format!("follows {primary}, which is not its primary"),
        ReplicaState::IsPrimary => "is a primary itself".to_owned(),
        ReplicaState::Missing { reason } => format!("is down or was not created yet: {reason}"),
    })
}

fn format_orphan(orphan: &OrphanInstance) -> String {
    let what = match &orphan.follows {
        Some(_) if orphan.follows_primary => "follows the primary; dunlin shards repair retires it".to_owned(),
        Some(primary) => format!("follows {primary}; dunlin does not touch it"),
        None if orphan.accepts_writes => {
            "came back as a primary and ACCEPTS WRITES of clients with an old map; dunlin shards repair archives it"
                .to_owned()
        }
        None => "came back as a primary and accepts no writes; dunlin shards repair archives it".to_owned(),
    };
    format!("  shard {}: an instance on {} that the map does not name {what}", orphan.shard, orphan.host)
}

/// Prints the planned repairs.
pub fn report_repair_plan(plan: &RepairPlan, reporter: &Reporter) {
    report_replica_health(&plan.health, reporter);
    for ReplicaToCreate { shard, host, bytes } in &plan.replicas_to_create {
        reporter.print_json("replica_planned", json!({"shard": shard, "host": host, "bytes": bytes}));
        let size = ByteSize(*bytes).to_human();
        reporter.print_data(&format!("  shard {shard}: a replica is missing; create one on {host}, {size}"));
    }
    for UnresolvedShard { shard, reason } in &plan.unplaceable {
        reporter.print_json("replica_unplaceable", json!({"shard": shard, "reason": reason}));
        reporter.print_data(&format!("  shard {shard}: a replica is missing, and no host can take one: {reason}"));
    }
}

/// Prints what blocks repairs.
pub fn report_repair_blocker(blocker: &RepairBlocker, reporter: &Reporter) {
    match blocker {
        RepairBlocker::MovesInProgress(moves) => {
            let moves: Vec<OpenMove<'_>> = moves.iter().map(|(state, status)| (state, *status)).collect();
            report_open_moves(&moves, reporter);
        }
        RepairBlocker::PrimaryDown(error) => report_unchecked_replicas(error, reporter),
        RepairBlocker::Failed(_) => {}
    }
}

/// Prints what happens in a run of repairs.
pub fn report_repair_event(event: &RepairEvent<'_>, reporter: &Reporter, progress: &ProgressBars) {
    progress.clear_bars();
    match event {
        RepairEvent::InstanceRepaired { shard, change } => {
            reporter.print_json("instance_repaired", json!({"shard": shard, "change": change}));
            reporter.print_data(&format!("  shard {shard}: {change}"));
        }
        RepairEvent::InstanceArchived { shard, host, archived } => {
            report_archived_instance(*shard, host, archived, reporter);
        }
        RepairEvent::Unresolved { shard, reason } => {
            let next = "dunlin shards status, then dunlin shards repair";
            reporter.report_failure(&format!("shard {shard}"), reason, Some(next));
        }
        RepairEvent::Interrupted => reporter.print_status("interrupted; next: dunlin shards repair"),
        RepairEvent::ReplicaFinished { replica, result, is_in_map } => {
            report_replica_finished(replica, result, *is_in_map, reporter);
        }
        RepairEvent::ConsumerOutdated { host } => report_outdated_consumer(host, reporter),
    }
}

/// Prints the archive of an old instance.
pub fn report_archived_instance(shard: ShardId, host: &str, archived: &ArchivedInstance, reporter: &Reporter) {
    let ArchivedInstance { archive_dir, bytes_ahead } = archived;
    let Some(archive) = archive_dir.as_ref().map(|dir| dir.display().to_string()) else { return };
    let difference = match bytes_ahead {
        Some(0) => "the new primary has all of its data".to_owned(),
        Some(bytes) => format!("it was {} ahead of the new primary", ByteSize(*bytes).to_human()),
        None => "how far it was ahead of the new primary is unknown".to_owned(),
    };
    reporter.print_data(&format!("  shard {shard}: the old instance on {host} is archived in {archive}; {difference}"));
    reporter.print_json(
        "instance_archived",
        json!({ "shard": shard, "host": host, "archive": archive, "ahead_bytes": bytes_ahead }),
    );
}

fn report_replica_finished(
    ReplicaToCreate { shard, host, .. }: &ReplicaToCreate,
    result: &anyhow::Result<MoveResult>,
    is_in_map: bool,
    reporter: &Reporter,
) {
    match result {
        Ok(MoveResult { bytes, seconds, .. }) => {
            let fields = json!({ "shard": shard, "host": host, "bytes": bytes, "seconds": seconds });
            reporter.print_json("repaired", fields);
            let size = ByteSize(*bytes).to_human();
            reporter.print_data(&format!("  shard {shard} has a new replica on {host}: {size} in {seconds:.1} s"));
        }
        Err(error) => {
            let next = match is_in_map {
                true => "dunlin shards resume".to_owned(),
                false => format!("dunlin shards repair, or name another host than {host} in the map's replicas"),
            };
            reporter.report_failure(&format!("shard {shard}"), &format!("{error:#}"), Some(&next));
        }
    }
}
