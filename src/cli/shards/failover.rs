//! `dunlin shards failover`.

mod output;

use std::collections::BTreeSet;

use clap::Args;
use dunlin_shards::ShardId;

use super::ShardsContext;
use crate::cli::command_error::CommandError;
use crate::cli::confirm::{require_confirmation, require_typed_text};
use crate::cli::exit::Exit;
use crate::cli::shard_apply::{RunTotals, lock_hosts_and_start_run, print_event};

use crate::rebalance::failover::apply::apply_failover;
use crate::rebalance::failover::{
    FailoverBlocker, FailoverOptions, FailoverPlan, FailoverScope, ReplicaToCreate, observe, plan_failover,
};
use crate::rebalance::{RebalanceContext, publish};
use crate::report::ProgressBars;

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
        self.report_unreachable_hosts(&unreachable)?;
        let scope = self.parse_scope(args)?;
        let plan = self.observe_and_plan(&context, &scope, args).await?;
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
        let again = self.observe_and_plan(&context, &scope, args).await?;
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
            print_event(&self.reporter, &progress, host, event)
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

    /// Parses the dead hosts or shards.
    fn parse_scope(&self, args: &FailoverArgs) -> Result<FailoverScope, CommandError> {
        let unknown = |name: &str| {
            CommandError::with_message(Exit::Usage, format!("{name} is neither a shard of the map nor a host"))
        };
        let map = self.files.shard_map()?;
        let numbers: Vec<Option<ShardId>> = args.what.iter().map(|name| name.parse().ok()).collect();
        if let Some(shards) = numbers.iter().copied().collect::<Option<Vec<ShardId>>>() {
            let is_there = |id: &ShardId| map.shards.iter().any(|entry| entry.id == *id);
            return match shards.iter().find(|id| !is_there(id)) {
                Some(id) => Err(unknown(&id.to_string())),
                None => Ok(FailoverScope::Shards(shards)),
            };
        }
        if numbers.iter().any(Option::is_some) {
            return Err(CommandError::with_message(Exit::Usage, "give either hosts or shards, not both"));
        }
        match args.what.iter().find(|name| self.files.loaded.inventory.find_host(name).is_none()) {
            Some(name) => Err(unknown(name)),
            None => Ok(FailoverScope::Hosts(args.what.clone())),
        }
    }

    async fn observe_and_plan(
        &self,
        context: &RebalanceContext<'_>,
        scope: &FailoverScope,
        args: &FailoverArgs,
    ) -> Result<FailoverPlan, CommandError> {
        let map = self.files.shard_map()?;
        let hosts = self.files.shard_hosts()?;
        let view = observe::observe_cluster(context, map, &hosts, scope).await?;
        let options = FailoverOptions { create_replicas: !args.no_new_replicas, allow_stale: args.allow_stale };
        let planned = plan_failover(&view, scope, options).map_err(|blockers| blockers_failure(&blockers))?;
        self.ensure_map_is_current(context).await?;
        Ok(planned)
    }

    /// Checks that the map is the one in the file, and the published one.
    async fn ensure_map_is_current(&self, context: &RebalanceContext<'_>) -> Result<(), CommandError> {
        let map = self.files.shard_map()?;
        let published = publish::published_epoch(context, map).await?.max(context.map_file.read()?.epoch.0);
        if published <= map.epoch.0 {
            return Ok(());
        }
        let text =
            format!("the map has epoch {}, but epoch {published} is published; no changes were made", map.epoch.0);
        Err(CommandError::with_message(Exit::Refused, text).with_hint("get the newer map"))
    }
}

impl FailoverArgs {
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

fn blockers_failure(blockers: &[FailoverBlocker]) -> CommandError {
    let reasons: Vec<&str> = blockers.iter().map(|blocker| blocker.reason.as_str()).collect();
    let mut failure = CommandError::with_message(
        Exit::Refused,
        format!("the failover is refused; no changes were made\n  {}", reasons.join("\n  ")),
    );
    let next: BTreeSet<&str> = blockers.iter().map(|blocker| blocker.next_step.as_str()).collect();
    failure.hints.extend(next.into_iter().map(str::to_owned));
    failure
}

/// Returns the outcome of an empty plan: done, or an error if shards are unavailable and nothing can be promoted.
fn nothing_to_do(plan: &FailoverPlan) -> Result<Exit, CommandError> {
    if plan.unavailable_shards.is_empty() {
        return Ok(Exit::Done);
    }
    Err(CommandError::with_message(Exit::Refused, "nothing can be promoted; no changes were made"))
}
