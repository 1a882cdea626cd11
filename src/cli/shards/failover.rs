//! `dunlin shards failover`.

use clap::Args;

use super::ShardsContext;
use crate::cli::command_error::CommandError;
use crate::cli::confirm::{require_confirmation, require_typed_text};
use crate::cli::exit::Exit;
use crate::cli::shard_apply::lock_hosts_and_start_run;
use crate::rebalance::failover::request::plan_current_failover;
use crate::rebalance::failover::run::{FailoverObserver, run_failover};
use crate::rebalance::failover::{FailoverOptions, FailoverPlan, FailoverScope};
use crate::rebalance::run_end::RunTotals;
use crate::report::{
    ProgressBars, report_failover_event, report_failover_plan, report_host_event, report_unreachable_hosts,
};

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
        totals.moves = plan.count_changes();
        report_failover_plan(&plan, &self.reporter).map_err(anyhow::Error::from)?;
        if plan.is_empty() {
            plan.ensure_all_available()?;
            return Ok(Exit::Done);
        }
        if args.dry_run {
            return Ok(if args.detailed_exitcode { Exit::Pending } else { Exit::Done });
        }
        args.confirm_data_loss(&plan)?;
        lock_hosts_and_start_run(self.files, &mut context, "shards failover", &self.run_id, &self.reporter).await?;
        // Under the locks roles do not change: the plan must still be the confirmed one.
        let again = plan_current_failover(cluster, &context, &scope, options).await?;
        again.ensure_same_decisions(&plan)?;
        if fleet.cancellation.is_cancelled() {
            return Err(CommandError::with_message(Exit::Interrupted, "interrupted; no changes were made"));
        }
        let progress = ProgressBars::new(self.reporter.json, self.reporter.style.quiet);
        let observer = FailoverObserver {
            on_progress: &|host, event| report_host_event(host, event, &self.reporter, &progress),
            on_event: &|event| report_failover_event(&event, &self.reporter, &progress),
        };
        let end = run_failover(&context, &again, &self.run_id, observer, totals).await?;
        progress.clear_bars();
        Ok(end.into())
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
