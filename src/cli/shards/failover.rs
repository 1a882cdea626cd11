//! `dunlin shards failover`.

mod output;

use clap::Args;

use super::ShardsContext;
use crate::cli::command_error::CommandError;
use crate::cli::confirm::{require_confirmation, require_typed_text};
use crate::cli::exit::Exit;
use crate::cli::shard_apply::lock_hosts_and_start_run;
use crate::rebalance::RebalanceContext;
use crate::rebalance::failover::apply::apply_failover;
use crate::rebalance::failover::request::plan_current_failover;
use crate::rebalance::failover::{FailoverOptions, FailoverPlan, FailoverScope, ReplicaToCreate};
use crate::rebalance::run_end::RunTotals;
use crate::report::{ProgressBars, report_host_event, report_unreachable_hosts};

/// The flags of `shards failover`.
#[derive(Debug, Args)]
pub struct FailoverArgs {
    /// Dead hosts, or shards whose primary does not start
    #[arg(required = true, value_name = "HOST|SHARD")]
    what: Vec<String>,
    /// Create no replacements for missing replicas
    #[arg(long)]
    no_new_replicas: bool,
    /// Also promote replicas whose lag is unknown
    #[arg(long)]
    allow_stale: bool,
    /// Show the plan without applying it
    #[arg(long)]
    dry_run: bool,
    /// With --dry-run, exit with 2 if there are changes
    #[arg(long, requires = "dry_run")]
    detailed_exitcode: bool,
    /// Confirm possible data loss by repeating the host or shard names, comma-separated
    #[arg(long, value_name = "HOST,…")]
    accept_data_loss: Option<String>,
    /// Skip the confirmation prompt if nothing can be lost
    #[arg(short, long)]
    yes: bool,
}

impl ShardsContext<'_> {
    /// Observes, plans, shows the plan, asks for confirmation, promotes replicas, publishes the map, and creates
    /// replicas.
    ///
    /// # Errors
    /// Returns an error if a host or shard is alive, a replica does not answer, the map is out of date, the plan is not
    /// confirmed, or another run holds a lock.
    pub async fn run_failover(&self, args: &FailoverArgs, totals: &mut RunTotals) -> Result<Exit, CommandError> {
        let fleet = self.files.build_fleet(self.common)?;
        let (mut context, unreachable) = self.files.connect_reachable(&fleet).await?;
        let (cluster, options) = (&self.files.cluster, args.to_options());
        report_unreachable_hosts(&unreachable, &self.reporter);
        cluster.ensure_no_login_refused(&unreachable)?;
        let scope = FailoverScope::parse(cluster, &args.what)?;
        let plan = plan_current_failover(cluster, &context, &scope, options).await?;
        totals.moves = plan.promotions.len() + plan.degraded_primaries.len() + plan.replicas_to_create.len();
        self.print_failover_plan(&plan)?;
        if plan.is_empty() {
            return nothing_to_do(&plan);
        }
        if args.dry_run {
            return Ok(if args.detailed_exitcode { Exit::Pending } else { Exit::Done });
        }
        args.confirm_data_loss(&plan)?;
        lock_hosts_and_start_run(self.files, &mut context, "shards failover", &self.run_id, &self.reporter).await?;
        // Under the locks roles do not change: the plan must still be the confirmed one.
        let again = plan_current_failover(cluster, &context, &scope, options).await?;
        if !again.has_same_decisions(&plan) {
            let text = "the instances have changed since the plan was shown; no changes were made";
            return Err(
                CommandError::with_message(Exit::Refused, text).with_hint("run the command again to see a new plan")
            );
        }
        if fleet.cancellation.is_cancelled() {
            return Err(CommandError::with_message(Exit::Interrupted, "interrupted; no changes were made"));
        }
        let is_complete = self.apply_plan(&context, &again, totals).await?;
        Ok(match (is_complete, fleet.cancellation.is_cancelled()) {
            (true, _) => Exit::Done,
            (false, true) => Exit::Interrupted,
            (false, false) => Exit::Partial,
        })
    }

    /// Promotes replicas, publishes the map and creates replicas. Returns whether all of it succeeded. A promotion that
    /// has started is not interrupted.
    async fn apply_plan(
        &self,
        context: &RebalanceContext<'_>,
        plan: &FailoverPlan,
        totals: &mut RunTotals,
    ) -> Result<bool, CommandError> {
        let progress = ProgressBars::new(self.reporter.json, self.reporter.style.quiet);
        let outcome = apply_failover(context, plan, &self.run_id, &|host, event| {
            report_host_event(host, event, &self.reporter, &progress)
        })
        .await?;
        progress.clear_bars();
        self.print_failover_outcome(context, plan, &outcome).await?;
        totals.failed = outcome.failed.len() + usize::from(outcome.publish_error.is_some());
        if outcome.publish_error.is_none() {
            let is_up = |repair: &&ReplicaToCreate| !outcome.failed.contains_key(&repair.shard);
            let repairs: Vec<ReplicaToCreate> = plan.replicas_to_create.iter().filter(is_up).cloned().collect();
            self.create_replicas(context, &repairs, 0, totals).await;
        }
        Ok(totals.failed == 0 && plan.unavailable_shards.is_empty())
    }
}

impl FailoverArgs {
    fn to_options(&self) -> FailoverOptions {
        FailoverOptions { create_replicas: !self.no_new_replicas, allow_stale: self.allow_stale }
    }

    /// Asks for confirmation. If acknowledged writes may be lost, the names must be repeated.
    fn confirm_data_loss(&self, plan: &FailoverPlan) -> Result<(), CommandError> {
        let names = self.what.join(",");
        match &self.accept_data_loss {
            Some(typed) if *typed == names => return Ok(()),
            Some(other) => {
                let text = format!("--accept-data-loss={other} does not match {names}; no changes were made");
                return Err(CommandError::with_message(Exit::Refused, text));
            }
            None if !plan.may_lose_writes() => return require_confirmation("Apply this plan?", self.yes),
            None => {}
        }
        let hint = format!("run the command again with --accept-data-loss={names} to confirm");
        require_typed_text("acknowledged writes may be lost", &names, &hint)
    }
}

/// Returns the outcome of an empty plan: done, or an error if shards are unavailable and nothing can be promoted.
fn nothing_to_do(plan: &FailoverPlan) -> Result<Exit, CommandError> {
    if plan.unavailable_shards.is_empty() {
        return Ok(Exit::Done);
    }
    Err(CommandError::with_message(Exit::Refused, "nothing can be promoted; no changes were made"))
}
