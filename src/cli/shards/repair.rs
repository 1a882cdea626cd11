//! `dunlin shards repair`: creates missing replicas, retires and archives instances that the map does not name, and
//! sets `min-replicas-to-write` of primaries.

use clap::Args;
use serde_json::json;

use super::ShardsContext;
use crate::cli::command_error::CommandError;
use crate::cli::confirm::require_confirmation;
use crate::cli::exit::Exit;
use crate::cli::shard_apply::lock_hosts_and_start_run;
use crate::cli::throttle_args::ThrottleArgs;
use crate::inventory::ByteSize;
use crate::rebalance::RebalanceContext;
use crate::rebalance::failover::{ReplicaToCreate, UnresolvedShard};
use crate::rebalance::open_moves::OpenMove;
use crate::rebalance::publish::check_consumers;
use crate::rebalance::repair::{RepairBlocker, RepairPlan, plan_repairs};
use crate::rebalance::replica_health::{ReconcileOutcome, reconcile_instances};
use crate::rebalance::run_end::RunTotals;
use crate::rebalance::run_error::RunError;
use crate::report::{report_open_moves, report_unreachable_hosts};

/// The flags of `shards repair`.
#[derive(Debug, Args)]
pub struct RepairArgs {
    /// Show the repairs without making them
    #[arg(long)]
    dry_run: bool,
    /// With --dry-run, exit with 2 if there are repairs
    #[arg(long, requires = "dry_run")]
    detailed_exitcode: bool,
    /// Skip the confirmation prompt
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    throttle: ThrottleArgs,
}

impl ShardsContext<'_> {
    /// Observes, plans, shows, asks, and repairs.
    ///
    /// # Errors
    /// Returns an error if moves are in progress, a primary does not answer, a later map is published, or another run
    /// holds a lock.
    pub async fn repair_shards(&self, args: &RepairArgs, totals: &mut RunTotals) -> Result<Exit, CommandError> {
        let fleet = self.files.build_fleet(self.common)?;
        let (mut context, unreachable) = self.files.connect_reachable(&fleet).await?;
        report_unreachable_hosts(&unreachable, &self.reporter);
        self.files.cluster.ensure_no_login_refused(&unreachable)?;
        let plan = self.plan_repairs(&context, args.throttle.max_concurrent()).await?;
        self.print_repairs(&plan);
        let is_complete = plan.unplaceable.is_empty() && unreachable.is_empty();
        if plan.is_empty() {
            let text = if is_complete { "nothing to repair" } else { "nothing can be repaired now" };
            self.reporter.print_data(text);
            return Ok(if is_complete { Exit::Done } else { Exit::Partial });
        }
        if !plan.replicas_to_create.is_empty() {
            refuse_unready_consumers(&context).await?;
        }
        if args.dry_run {
            return Ok(if args.detailed_exitcode { Exit::Pending } else { Exit::Done });
        }
        require_confirmation("Make these repairs?", args.yes)?;
        lock_hosts_and_start_run(self.files, &mut context, "shards repair", &self.run_id, &self.reporter).await?;
        context.options.throttle = args.throttle.to_overrides();
        self.plan_repairs(&context, args.throttle.max_concurrent()).await?.ensure_same_repairs(&plan)?;
        totals.moves = plan.count_repairs();
        let is_repaired = self.apply_repairs(&context, &plan, args, totals).await?;
        self.warn_unreached_consumers(&context)?;
        if context.hosts.fleet.cancellation.is_cancelled() && !(is_repaired && totals.failed == 0) {
            return Ok(Exit::Interrupted);
        }
        Ok(if is_repaired && is_complete && totals.failed == 0 { Exit::Done } else { Exit::Partial })
    }

    /// Plans the repairs; prints what blocks them.
    async fn plan_repairs(
        &self,
        context: &RebalanceContext<'_>,
        max_concurrent: usize,
    ) -> Result<RepairPlan, CommandError> {
        let planned = plan_repairs(&self.files.cluster, context, &self.run_id, max_concurrent).await;
        planned.map_err(|blocker| {
            match &blocker {
                RepairBlocker::MovesInProgress(moves) => {
                    let moves: Vec<OpenMove<'_>> = moves.iter().map(|(state, status)| (state, *status)).collect();
                    report_open_moves(&moves, &self.reporter);
                }
                RepairBlocker::PrimaryDown(error) => self.print_unchecked_replicas(error),
                RepairBlocker::Failed(_) => {}
            }
            blocker.into_error().into()
        })
    }

    fn print_repairs(&self, plan: &RepairPlan) {
        self.print_replica_health(&plan.health);
        for ReplicaToCreate { shard, host, bytes } in &plan.replicas_to_create {
            self.reporter.print_json("replica_planned", json!({"shard": shard, "host": host, "bytes": bytes}));
            let size = ByteSize(*bytes).to_human();
            self.reporter.print_data(&format!("  shard {shard}: a replica is missing; create one on {host}, {size}"));
        }
        for UnresolvedShard { shard, reason } in &plan.unplaceable {
            self.reporter.print_json("replica_unplaceable", json!({"shard": shard, "reason": reason}));
            self.reporter
                .print_data(&format!("  shard {shard}: a replica is missing, and no host can take one: {reason}"));
        }
    }

    /// Makes the repairs. Returns whether all instances are repaired; replicas that failed are in the totals.
    async fn apply_repairs(
        &self,
        context: &RebalanceContext<'_>,
        plan: &RepairPlan,
        args: &RepairArgs,
        totals: &mut RunTotals,
    ) -> Result<bool, CommandError> {
        let ReconcileOutcome { changed, mut unresolved } =
            reconcile_instances(context, &plan.health, &self.run_id).await.map_err(|error| {
                CommandError::new(Exit::Refused, error)
                    .with_hint("get the newer map, then run dunlin shards repair again")
            })?;
        for (shard, change) in &changed {
            self.reporter.print_json("instance_repaired", json!({"shard": shard, "change": change}));
            self.reporter.print_data(&format!("  shard {shard}: {change}"));
        }
        unresolved.extend(self.archive_orphans(context, &plan.health).await);
        for (shard, reason) in &unresolved {
            self.reporter.report_failure(
                &format!("shard {shard}"),
                reason,
                Some("dunlin shards status, then dunlin shards repair"),
            );
        }
        if context.hosts.fleet.cancellation.is_cancelled() {
            self.reporter.print_status("interrupted; next: dunlin shards repair");
            return Ok(false);
        }
        self.create_replicas(context, &plan.replicas_to_create, args.throttle.max_concurrent(), totals).await;
        Ok(unresolved.is_empty())
    }
}

/// Refuses repairs that change the map while a consumer cannot take it.
///
/// # Errors
/// Returns an error if a consumer cannot take the map (exit 3), or does not answer.
async fn refuse_unready_consumers(context: &RebalanceContext<'_>) -> Result<(), CommandError> {
    let reasons = check_consumers(context, &context.map_file.read()?).await?;
    if reasons.is_empty() {
        return Ok(());
    }
    Err(RunError::preflight_failed(&reasons).into())
}
