//! `dunlin shards repair`: creates missing replicas, retires and archives instances that the map does not name, and
//! sets `min-replicas-to-write` of primaries.

use clap::Args;

use super::ShardsContext;
use crate::cli::command_error::CommandError;
use crate::cli::confirm::require_confirmation;
use crate::cli::exit::Exit;
use crate::cli::shard_apply::lock_hosts_and_start_run;
use crate::cli::throttle_args::ThrottleArgs;
use crate::rebalance::RebalanceContext;
use crate::rebalance::repair::{RepairPlan, plan_repairs};
use crate::rebalance::repair_run::{RepairObserver, apply_repairs};
use crate::rebalance::run_end::RunTotals;
use crate::rebalance::start_check::ensure_consumers_are_ready;
use crate::report::{
    ProgressBars, report_host_event, report_repair_blocker, report_repair_event, report_repair_plan,
    report_unreachable_hosts,
};

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
        let max_concurrent = args.throttle.max_concurrent();
        let plan = self.plan_repairs(&context, max_concurrent).await?;
        report_repair_plan(&plan, &self.reporter);
        if plan.is_empty() {
            let is_complete = plan.is_complete(&context);
            let text = if is_complete { "nothing to repair" } else { "nothing can be repaired now" };
            self.reporter.print_data(text);
            return Ok(if is_complete { Exit::Done } else { Exit::Partial });
        }
        if !plan.replicas_to_create.is_empty() {
            ensure_consumers_are_ready(&context).await?;
        }
        if args.dry_run {
            return Ok(if args.detailed_exitcode { Exit::Pending } else { Exit::Done });
        }
        require_confirmation("Make these repairs?", args.yes)?;
        lock_hosts_and_start_run(self.files, &mut context, "shards repair", &self.run_id, &self.reporter).await?;
        context.options.throttle = args.throttle.to_overrides();
        self.plan_repairs(&context, max_concurrent).await?.ensure_same_repairs(&plan)?;
        let progress = ProgressBars::new(self.reporter.json, self.reporter.style.quiet);
        let observer = RepairObserver {
            on_progress: &|host, event| report_host_event(host, event, &self.reporter, &progress),
            on_event: &|event| report_repair_event(&event, &self.reporter, &progress),
        };
        Ok(apply_repairs(&context, &plan, &self.run_id, max_concurrent, observer, totals).await?.into())
    }

    /// Plans the repairs; prints what blocks them.
    async fn plan_repairs(
        &self,
        context: &RebalanceContext<'_>,
        max_concurrent: usize,
    ) -> Result<RepairPlan, CommandError> {
        let planned = plan_repairs(&self.files.cluster, context, &self.run_id, max_concurrent).await;
        planned.map_err(|blocker| {
            report_repair_blocker(&blocker, &self.reporter);
            blocker.into_error().into()
        })
    }
}
