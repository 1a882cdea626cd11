//! The run of `shards failover`: replicas are promoted, old primaries archived, new replicas created.

use anyhow::Error;

use super::apply::{FailoverOutcome, apply_failover, archive_instance};
use super::{FailoverPlan, Promotion, ReplicaToCreate};
use crate::protocol::shard::failover::PromoteResult;
use crate::rebalance::connected_hosts::ProgressFn;
use crate::rebalance::repair_run::{RepairEvent, RepairObserver, ReplicasRequest, create_missing_replicas};
use crate::rebalance::run_end::{RunEnd, RunTotals};
use crate::rebalance::run_error::RunResult;
use crate::rebalance::{RebalanceContext, publish};

/// What happens in a failover.
pub enum FailoverEvent<'a> {
    /// A replica was promoted.
    Promoted {
        /// The promotion.
        promotion: &'a Promotion,
        /// How it went.
        promoted: &'a PromoteResult,
    },
    /// The old instance of a promoted shard could not be archived.
    NotArchived {
        /// The promotion.
        promotion: &'a Promotion,
        /// The reason.
        error: &'a Error,
    },
    /// All shards of the plan were tried, and the map is published if that is possible.
    Applied {
        /// The plan.
        plan: &'a FailoverPlan,
        /// How each of its shards ended.
        outcome: &'a FailoverOutcome,
    },
    /// The failover is over; new replicas follow.
    Finished {
        /// The plan.
        plan: &'a FailoverPlan,
        /// How each of its shards ended.
        outcome: &'a FailoverOutcome,
    },
    /// An archived instance, a new replica, or a host with the old map.
    Repair(RepairEvent<'a>),
}

/// Receives what happens in a failover.
#[derive(Clone, Copy)]
pub struct FailoverObserver<'a> {
    /// Receives the events of hosts.
    pub on_progress: ProgressFn<'a>,
    /// Receives each step.
    pub on_event: &'a (dyn Fn(FailoverEvent<'_>) + Send + Sync),
}

/// Promotes replicas, publishes the map, archives old primaries whose hosts answer, and creates replicas. A promotion
/// that has started is not interrupted.
///
/// # Errors
/// Returns an error if the map cannot be read.
pub async fn run_failover(
    context: &RebalanceContext<'_>,
    plan: &FailoverPlan,
    run: &str,
    observer: FailoverObserver<'_>,
    totals: &mut RunTotals,
) -> RunResult<RunEnd> {
    let outcome = apply_failover(context, plan, run, observer.on_progress).await?;
    for promotion in &plan.promotions {
        let Some(promoted) = outcome.promoted.get(&promotion.shard) else { continue };
        (observer.on_event)(FailoverEvent::Promoted { promotion, promoted });
        if outcome.publish_error.is_none() && !context.hosts.unreachable.contains(&promotion.from) {
            archive_old_primary(context, promotion, run, observer).await;
        }
    }
    (observer.on_event)(FailoverEvent::Applied { plan, outcome: &outcome });
    for host in publish::unreachable_consumers(context, &context.map_file.read()?)? {
        (observer.on_event)(FailoverEvent::Repair(RepairEvent::ConsumerOutdated { host: &host }));
    }
    (observer.on_event)(FailoverEvent::Finished { plan, outcome: &outcome });
    totals.failed = outcome.failed.len() + usize::from(outcome.publish_error.is_some());
    if outcome.publish_error.is_none() {
        let is_up = |replica: &&ReplicaToCreate| !outcome.failed.contains_key(&replica.shard);
        let replicas: Vec<ReplicaToCreate> = plan.replicas_to_create.iter().filter(is_up).cloned().collect();
        let request = ReplicasRequest { id: run, replicas: &replicas, max_concurrent: 0 };
        let on_event = |event: RepairEvent<'_>| (observer.on_event)(FailoverEvent::Repair(event));
        let repair_observer = RepairObserver { on_progress: observer.on_progress, on_event: &on_event };
        create_missing_replicas(context, &request, repair_observer, totals).await;
    }
    let is_complete = totals.failed == 0 && plan.unavailable_shards.is_empty();
    Ok(RunEnd::new(is_complete, context.hosts.fleet.cancellation.is_cancelled()))
}

/// Archives the old instance of a promoted shard. A failure is not one of the failover.
async fn archive_old_primary(
    context: &RebalanceContext<'_>,
    promotion: &Promotion,
    run: &str,
    observer: FailoverObserver<'_>,
) {
    let (shard, host) = (promotion.shard, promotion.from.as_str());
    match archive_instance(context, shard, host, run).await {
        Ok(archived) => {
            let event = RepairEvent::InstanceArchived { shard, host, archived: &archived };
            (observer.on_event)(FailoverEvent::Repair(event));
        }
        Err(error) => (observer.on_event)(FailoverEvent::NotArchived { promotion, error: &error }),
    }
}
