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
use crate::plan::format_count;
use crate::protocol::shard::MoveState;
use crate::rebalance::RebalanceContext;
use crate::rebalance::apply::{PlannedMove, remaining_moves};
use crate::rebalance::cluster_files::UnreachableHost;
use crate::rebalance::finish::ApplyOptions;
use crate::rebalance::move_action::MoveAction;
use crate::rebalance::needs::DemandOptions;
use crate::rebalance::open_moves::{OpenMove, ensure_placements_are_known, list_open_moves, missing_hosts_error};
use crate::rebalance::repair::{HealthCheck, check_current_health};
use crate::rebalance::resume::{
    MoveStatus, adopt_external_moves, can_finish_without_hosts, list_latest_moves, resume_move,
};
use crate::rebalance::run_end::RunTotals;
use crate::rebalance::run_moves::MovesRequest;
use crate::report::{ProgressBars, report_host_event, report_not_retired};

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
    /// A host that is needed does not answer, a later map is published, another run holds a lock, or preflight refuses
    /// the pending moves.
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
        let latest_moves = list_latest_moves(&context).await?;
        let open_moves = list_open_moves(&context, &latest_moves)?;
        self.print_moves(&open_moves);
        let pending_moves = self.files.cluster.state.load_pending_moves()?;
        ensure_placements_are_known(&context, &open_moves).await?;
        let is_unfinished = self.finish_moves(&context, &open_moves, totals).await?;
        self.warn_unreached_consumers(&context)?;
        if open_moves.is_empty() && pending_moves.is_empty() {
            self.reporter.print_data("nothing to resume");
            self.suggest_repair(&context).await?;
            return Ok(Exit::Done);
        }
        let remaining = remaining_moves(pending_moves, &context.map_file.read()?);
        self.files.cluster.state.save_pending_moves(&remaining)?;
        let stopped = context.hosts.fleet.cancellation.is_cancelled();
        if totals.failed > 0 || is_unfinished || (stopped && !remaining.is_empty()) {
            return Ok(if stopped { self.report_interrupted() } else { Exit::Partial });
        }
        if remaining.is_empty() {
            self.suggest_repair(&context).await?;
            return Ok(Exit::Done);
        }
        self.preflight_pending_moves(&mut context, &remaining, args).await?;
        let options = ApplyOptions { max_concurrent: args.throttle.max_concurrent(), ..ApplyOptions::default() };
        let request = MovesRequest { id: &self.run_id, moves: &remaining, options, estimate: None };
        apply_and_report(self.files, &context, &request, &self.reporter, totals).await
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
        ensure_placements_are_known(context, &open_moves).await?;
        let mut remaining = remaining_moves(self.files.cluster.state.load_pending_moves()?, &context.map_file.read()?);
        // A pending move that was started is among the open ones.
        remaining.retain(|step| {
            open_moves.iter().all(|(state, _)| {
                state.shard != step.shard || context.hosts.host_at_address(&state.record.to) != Some(step.to.as_str())
            })
        });
        self.print_moves(&open_moves);
        totals.moves = self.print_actions(&open_moves, |_, status| MoveAction::for_resume(status)) + remaining.len();
        self.print_planned_moves(&remaining, MoveAction::Move);
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
        context.options.throttle = context.options.throttle.apply_to(self.files.cluster.state.load_throttle()?).into();
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
        self.print_moves(&open_moves);
        self.print_pending_moves(&pending);
        require_confirmation("Finish these moves?", yes)
    }

    fn print_pending_moves(&self, pending: &[PlannedMove]) {
        for step in pending {
            self.reporter.print_data(&format!("  shard {} {} → {}: pending", step.shard, step.from, step.to));
        }
    }

    /// Refuses where a host does not answer that is needed. A failover, a replica that is being built, and a shard that its
    /// target serves already are finished without such hosts. Other moves need all hosts; and if no move is open, the missing hosts
    /// may still have one.
    ///
    /// # Errors
    /// Some do not answer, and they are needed.
    fn ensure_can_proceed_without(
        &self,
        context: &RebalanceContext<'_>,
        unreachable: &[UnreachableHost],
        open_moves: &[OpenMove<'_>],
    ) -> Result<(), CommandError> {
        if unreachable.is_empty()
            || can_finish_without_hosts(context, open_moves, &self.files.cluster.state.load_pending_moves()?)
        {
            return self.report_unreachable_hosts(unreachable);
        }
        for (host, error) in unreachable {
            self.reporter.report_failure(host, &error.to_string(), Some(&error.hint()));
        }
        Err(missing_hosts_error(unreachable, open_moves).into())
    }

    /// Suggests `shards repair` if it has something to do.
    async fn suggest_repair(&self, context: &RebalanceContext<'_>) -> Result<(), CommandError> {
        let needs_repair = match check_current_health(&self.files.cluster, context).await? {
            HealthCheck::Checked(health) => health.needs_repair(),
            HealthCheck::PrimaryDown(error) => {
                self.print_unchecked_replicas(&error);
                false
            }
        };
        if needs_repair || context.map_file.read()?.underreplicated_shards().next().is_some() {
            self.reporter.print_status("replicas need repair; next: dunlin shards repair");
        }
        Ok(())
    }

    /// Finishes moves one after the other. Returns whether something is unfinished: an old instance that cannot be retired
    /// yet, or the moves after a Ctrl-C.
    ///
    /// # Errors
    /// The map cannot be published to a consumer.
    pub async fn finish_moves(
        &self,
        context: &RebalanceContext<'_>,
        open_moves: &[OpenMove<'_>],
        totals: &mut RunTotals,
    ) -> Result<bool, CommandError> {
        let reporter = &self.reporter;
        let elsewhere: Vec<&MoveState> = open_moves
            .iter()
            .filter(|(_, status)| *status == MoveStatus::FinishedElsewhere)
            .map(|(state, _)| *state)
            .collect();
        if !elsewhere.is_empty() {
            adopt_external_moves(context, &elsewhere).await?;
            reporter.print_status(&format!(
                "added {} from another machine to the map",
                format_count(elsewhere.len(), "move")
            ));
        }
        self.resume_failovers(context, open_moves, totals).await?;
        let progress = ProgressBars::new(reporter.json, reporter.style.quiet);
        let mut is_unfinished = false;
        let on_progress = |host: &str, event: &_| report_host_event(host, event, reporter, &progress);
        let is_move = |(state, status): &&(&MoveState, MoveStatus)| {
            state.failover.is_none() && *status != MoveStatus::FinishedElsewhere
        };
        for (state, _) in open_moves.iter().filter(is_move) {
            if context.hosts.fleet.cancellation.is_cancelled() {
                reporter.print_status(&format!("shard {}: not finished, interrupted", state.shard));
                is_unfinished = true;
                continue;
            }
            match resume_move(context, state, &on_progress).await {
                Ok(retire_blocked) => {
                    let verb =
                        if state.record.operation.creates_replica() { "has a replica on" } else { "is served by" };
                    progress.print_line(&format!("  shard {} {verb} {}", state.shard, state.record.to));
                    is_unfinished |= retire_blocked.is_some();
                    retire_blocked.iter().for_each(|reason| report_not_retired(state.shard, reason, reporter));
                }
                Err(error) => {
                    totals.failed += 1;
                    reporter.report_failure(&format!("shard {}", state.shard), &format!("{error:#}"), None);
                }
            }
        }
        progress.clear_bars();
        totals.moves += open_moves.len();
        Ok(is_unfinished)
    }
}
