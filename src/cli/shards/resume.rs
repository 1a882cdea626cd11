//! `dunlin shards resume`: finishes interrupted moves and failovers, from any machine, and runs pending moves.

use clap::Args;
use dunlin_shards::ShardId;

use super::ShardsContext;
use super::dry_run::DryRunArgs;
use crate::cli::command_error::CommandError;
use crate::cli::confirm::require_confirmation;
use crate::cli::exit::Exit;
use crate::cli::shard_apply::{apply_and_report, lock_hosts_and_start_run, run_preflight};
use crate::cli::throttle_args::ThrottleArgs;
use crate::rebalance::RebalanceContext;
use crate::rebalance::apply::PlannedMove;
use crate::rebalance::cluster_files::UnreachableHost;
use crate::rebalance::finish::ApplyOptions;
use crate::rebalance::finish_moves::OpenMoveObserver;
use crate::rebalance::move_action::MoveAction;
use crate::rebalance::needs::DemandOptions;
use crate::rebalance::open_moves::{OpenMove, list_open_moves, missing_hosts_error};
use crate::rebalance::repair::advise_repair;
use crate::rebalance::resume::list_latest_moves;
use crate::rebalance::resume_run::{
    ResumeOutcome, can_proceed_without, inherit_throttle, plan_pending_moves, resume_open_moves,
};
use crate::rebalance::run_end::{RunEnd, RunTotals};
use crate::rebalance::run_moves::MovesRequest;
use crate::report::{
    ProgressBars, report_actions, report_host_event, report_interruption, report_missing_hosts, report_open_move_event,
    report_open_moves, report_pending_moves, report_planned_moves, report_unchecked_replicas, report_unreachable_hosts,
};

/// The flags of `shards resume`.
#[derive(Debug, Args)]
pub struct ResumeArgs {
    /// Allow moves between instances with different listpack limits
    #[arg(long)]
    allow_reencoding: bool,
    /// Keep the shard's instance on this host if dunlin cannot decide which instance has all writes;
    /// the other one is archived
    #[arg(long, value_name = "HOST", requires = "shard")]
    pub keep: Option<String>,
    /// The shard for --keep
    #[arg(long, value_name = "SHARD", requires = "keep")]
    pub shard: Option<ShardId>,
    /// Skip the confirmation prompt
    #[arg(short, long)]
    pub yes: bool,
    #[command(flatten)]
    pub dry_run: DryRunArgs,
    #[command(flatten)]
    throttle: ThrottleArgs,
}

impl ResumeArgs {
    fn set_options(&self, context: &mut RebalanceContext<'_>) {
        context.options.throttle = self.throttle.to_overrides();
        context.options.allow_reencoding = self.allow_reencoding;
    }
}

impl ShardsContext<'_> {
    /// Finishes what the hosts' journals have open, then runs the pending moves of the plan.
    ///
    /// # Errors
    /// Returns an error if a host that is needed does not answer, a later map is published, another run holds a lock,
    /// or preflight refuses the pending moves.
    pub async fn resume_moves(&self, args: &ResumeArgs, totals: &mut RunTotals) -> Result<Exit, CommandError> {
        if let Some((host, shard)) = args.keep.as_deref().zip(args.shard) {
            return self.choose_instance(args, shard, host, totals).await;
        }
        // Both are read again under the locks; a file that cannot be used ends the command before any host is asked.
        self.files.cluster.state.load_pending_moves()?;
        self.files.cluster.state.load_throttle()?;
        let fleet = self.files.build_fleet(self.common)?;
        let (mut context, unreachable) = self.files.connect_reachable(&fleet).await?;
        if args.dry_run.dry_run {
            return self.show_resume(&mut context, &unreachable, args, totals).await;
        }
        self.confirm_resume(&context, &unreachable, args.yes).await?;
        lock_hosts_and_start_run(self.files, &mut context, "shards resume", &self.run_id, &self.reporter).await?;
        args.set_options(&mut context);
        let progress = ProgressBars::new(self.reporter.json, self.reporter.style.quiet);
        let observer = OpenMoveObserver {
            on_progress: &|host, event| report_host_event(host, event, &self.reporter, &progress),
            on_event: &|event| report_open_move_event(&event, &self.reporter, &progress),
        };
        let outcome = resume_open_moves(&self.files.cluster, &context, observer, totals).await?;
        progress.clear_bars();
        match outcome {
            ResumeOutcome::NothingToResume => {
                self.reporter.print_data("nothing to resume");
                self.suggest_repair(&context).await
            }
            ResumeOutcome::Ended(RunEnd::Complete) => self.suggest_repair(&context).await,
            ResumeOutcome::Ended(end) => {
                if end == RunEnd::Interrupted {
                    report_interruption(&self.reporter);
                }
                Ok(end.into())
            }
            ResumeOutcome::Pending(moves) => {
                self.preflight_pending_moves(&mut context, &moves, args).await?;
                let options =
                    ApplyOptions { max_concurrent: args.throttle.max_concurrent(), ..ApplyOptions::default() };
                let request = MovesRequest { id: &self.run_id, moves: &moves, options, estimate: None };
                apply_and_report(self.files, &context, &request, &self.reporter, totals).await
            }
        }
    }

    /// Shows what `shards resume` would do, and changes nothing.
    async fn show_resume(
        &self,
        context: &mut RebalanceContext<'_>,
        unreachable: &[UnreachableHost],
        args: &ResumeArgs,
        totals: &mut RunTotals,
    ) -> Result<Exit, CommandError> {
        let found = list_latest_moves(context).await?;
        let open_moves = list_open_moves(context, &found)?;
        self.ensure_can_proceed_without(context, unreachable, &open_moves)?;
        let remaining = plan_pending_moves(&self.files.cluster, context, &open_moves).await?;
        report_open_moves(&open_moves, &self.reporter);
        let to_finish = report_actions(&open_moves, |_, status| MoveAction::for_resume(status), &self.reporter);
        totals.moves = to_finish + remaining.len();
        report_planned_moves(&remaining, MoveAction::Move, &self.reporter);
        if totals.moves == 0 {
            self.reporter.print_data("nothing to resume");
        }
        args.set_options(context);
        self.preflight_pending_moves(context, &remaining, args).await?;
        Ok(args.dry_run.exit(totals.moves > 0))
    }

    /// Runs preflight for the pending moves, under the limits of the interrupted run, except where this command gives
    /// others.
    async fn preflight_pending_moves(
        &self,
        context: &mut RebalanceContext<'_>,
        pending: &[PlannedMove],
        args: &ResumeArgs,
    ) -> Result<(), CommandError> {
        inherit_throttle(&self.files.cluster, context)?;
        let demand = DemandOptions { max_concurrent: args.throttle.max_concurrent(), keep_source: false };
        run_preflight(context, pending, &self.run_id, demand, &self.reporter).await
    }

    /// Shows what will be finished, and asks.
    async fn confirm_resume(
        &self,
        context: &RebalanceContext<'_>,
        unreachable: &[UnreachableHost],
        yes: bool,
    ) -> Result<(), CommandError> {
        let found = list_latest_moves(context).await?;
        let open_moves = list_open_moves(context, &found)?;
        self.ensure_can_proceed_without(context, unreachable, &open_moves)?;
        let pending = self.files.cluster.state.load_pending_moves()?;
        if yes || (open_moves.is_empty() && pending.is_empty()) {
            return Ok(());
        }
        report_open_moves(&open_moves, &self.reporter);
        report_pending_moves(&pending, &self.reporter);
        require_confirmation("Finish these moves?", yes)
    }

    /// Refuses if a host that is needed does not answer. A failover, a replica that is being built, and a shard that its
    /// target already serves are finished without such hosts. Other moves need all hosts; if no move is open, the
    /// missing hosts may still have one.
    ///
    /// # Errors
    /// Returns an error if hosts that are needed do not answer.
    fn ensure_can_proceed_without(
        &self,
        context: &RebalanceContext<'_>,
        unreachable: &[UnreachableHost],
        open_moves: &[OpenMove<'_>],
    ) -> Result<(), CommandError> {
        if !can_proceed_without(&self.files.cluster, context, unreachable, open_moves)? {
            report_missing_hosts(unreachable, &self.reporter);
            return Err(missing_hosts_error(unreachable, open_moves).into());
        }
        report_unreachable_hosts(unreachable, &self.reporter);
        Ok(self.files.cluster.ensure_no_login_refused(unreachable)?)
    }

    /// Suggests `shards repair` if it has something to do.
    async fn suggest_repair(&self, context: &RebalanceContext<'_>) -> Result<Exit, CommandError> {
        let advice = advise_repair(&self.files.cluster, context).await?;
        if let Some(error) = &advice.unchecked {
            report_unchecked_replicas(error, &self.reporter);
        }
        if advice.is_needed {
            self.reporter.print_status("replicas need repair; next: dunlin shards repair");
        }
        Ok(Exit::Done)
    }
}
