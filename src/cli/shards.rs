//! `dunlin shards`: shows the shards and their moves, and finishes, aborts or repairs them.

mod capacity;
mod certificates;
mod choose_instance;
mod dry_run;
mod failover;
mod history;
mod move_back;
mod orphans;
mod repair;
mod restart;
mod resume;
mod status;
mod verify;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use dry_run::DryRunArgs;
use dunlin_shards::ShardId;

use super::CommonArgs;
use super::command_error::CommandError;
use super::confirm::require_confirmation;
use super::connect_args::ConnectArgs;
use super::exit::Exit;
use super::outcome::CommandOutcome;
use super::shard_apply::{add_totals, lock_hosts_and_start_run};
use super::shard_files::ShardFiles;
use crate::rebalance::RebalanceContext;
use crate::rebalance::move_action::MoveAction;
use crate::rebalance::open_moves::list_open_moves;
use crate::rebalance::resume::{MoveStatus, abort_move, list_latest_moves};
use crate::rebalance::run_end::RunTotals;
use crate::report::{Reporter, report_actions, report_interruption, report_open_moves, report_planned_moves};

/// Inspect and manage shards
#[derive(Debug, Args)]
pub struct ShardsArgs {
    #[command(subcommand)]
    command: ShardsCommand,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, Subcommand)]
enum ShardsCommand {
    /// Show placements, sizes, replica health and moves in progress
    Status {
        /// Write the observation to a file, for planning without the hosts
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Finish interrupted moves and failovers, and run pending moves
    Resume(resume::ResumeArgs),
    /// Create missing replicas, retire instances that the map does not name, and set min-replicas-to-write
    Repair(repair::RepairArgs),
    /// Roll back moves that have not cut over, and discard pending ones
    Abort {
        /// Skip the confirmation prompt
        #[arg(short, long)]
        yes: bool,
        #[command(flatten)]
        dry_run: DryRunArgs,
    },
    /// Move shards back to their old instances, kept with --keep-source, without a copy
    MoveBack {
        #[command(flatten)]
        which: move_back::MoveBackArgs,
        /// Skip the confirmation prompt
        #[arg(short, long)]
        yes: bool,
        #[command(flatten)]
        dry_run: DryRunArgs,
    },
    /// Restart primaries without an interruption: move each shard to another host and back
    Restart(restart::RestartArgs),
    /// Recover from a dead host: promote replicas, unblock primaries and create new replicas
    Failover(failover::FailoverArgs),
    /// Compare primaries with their replicas and old instances, key by key
    Verify {
        /// Limit to these shards
        #[arg(value_name = "SHARD")]
        shards: Vec<ShardId>,
    },
    /// Show past moves: when, by whom and how they ended
    History {
        /// Limit to these shards
        #[arg(value_name = "SHARD")]
        shards: Vec<ShardId>,
    },
    /// Show utilization, growth, time until full and the effect of adding a host
    Capacity(capacity::CapacityArgs),
    /// Create and renew the TLS certificates of Redis in secrets.toml, and show when they expire
    Certificates(certificates::CertificatesArgs),
}

/// The context of the subcommands.
struct ShardsContext<'a> {
    files: &'a ShardFiles,
    common: &'a CommonArgs,
    reporter: Reporter,
    run_id: String,
}

impl ShardsArgs {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// Files have mistakes, a host cannot be reached, a move needs manual intervention, or another run holds a lock.
    pub async fn run(self, common: &CommonArgs) -> Result<CommandOutcome, CommandError> {
        let (reporter, id, mut totals) = (common.new_reporter(), common.run.to_string(), RunTotals::default());
        let result = async {
            let files = ShardFiles::load(&self.connect, common)?;
            let context = ShardsContext { files: &files, common, reporter, run_id: id };
            match self.command {
                ShardsCommand::Status { out } => context.show_status(out).await,
                ShardsCommand::Resume(args) => context.resume_moves(&args, &mut totals).await,
                ShardsCommand::Repair(args) => context.repair_shards(&args, &mut totals).await,
                ShardsCommand::Abort { yes, dry_run } => context.abort_moves(yes, dry_run, &mut totals).await,
                ShardsCommand::MoveBack { which, yes, dry_run } => {
                    context.move_back(&which, yes, dry_run, &mut totals).await
                }
                ShardsCommand::Restart(args) => context.restart_shards(&args, &mut totals).await,
                ShardsCommand::Failover(how) => context.run_failover(&how, &mut totals).await,
                ShardsCommand::Verify { shards } => context.verify_shards(&shards, &mut totals).await,
                ShardsCommand::History { shards } => context.show_history(&shards).await,
                ShardsCommand::Capacity(capacity) => context.show_capacity(&capacity).await,
                ShardsCommand::Certificates(args) => context.update_certificates(&args),
            }
        }
        .await;
        add_totals(totals, result)
    }

    /// Returns the command's name.
    pub fn name(&self) -> &'static str {
        match &self.command {
            ShardsCommand::Status { .. } => "shards status",
            ShardsCommand::Resume(_) => "shards resume",
            ShardsCommand::Repair(_) => "shards repair",
            ShardsCommand::Abort { .. } => "shards abort",
            ShardsCommand::MoveBack { .. } => "shards move-back",
            ShardsCommand::Restart(_) => "shards restart",
            ShardsCommand::Failover(_) => "shards failover",
            ShardsCommand::Verify { .. } => "shards verify",
            ShardsCommand::History { .. } => "shards history",
            ShardsCommand::Capacity(_) => "shards capacity",
            ShardsCommand::Certificates(_) => "shards certificates",
        }
    }
}

impl ShardsContext<'_> {
    async fn abort_moves(&self, yes: bool, dry_run: DryRunArgs, totals: &mut RunTotals) -> Result<Exit, CommandError> {
        let fleet = self.files.build_fleet(self.common)?;
        let mut context = self.files.connect_all(&fleet, self.common).await?;
        if dry_run.dry_run {
            return self.show_abort(&context, dry_run, totals).await;
        }
        if !yes {
            let latest_moves = list_latest_moves(&context).await?;
            report_open_moves(&list_open_moves(&context, &latest_moves)?, &self.reporter);
            require_confirmation("Roll back the moves that have not cut over?", yes)?;
        }
        lock_hosts_and_start_run(self.files, &mut context, "shards abort", &self.run_id, &self.reporter).await?;
        let found = list_latest_moves(&context).await?;
        let (revertible, to_finish): (Vec<_>, Vec<_>) = list_open_moves(&context, &found)?
            .into_iter()
            .partition(|(state, status)| MoveAction::for_abort(state, *status).is_some_and(MoveAction::is_rollback));
        let mut is_skipped = false;
        for (state, _) in &revertible {
            if context.hosts.fleet.cancellation.is_cancelled() {
                self.reporter.print_status(&format!("shard {}: not rolled back, interrupted", state.shard));
                is_skipped = true;
                continue;
            }
            match abort_move(&context, state, &|_, _| {}).await {
                Ok(()) if state.record.operation.creates_replica() => {
                    self.reporter
                        .print_data(&format!("shard {}: removed the new replica on {}", state.shard, state.record.to));
                }
                Ok(()) => self.reporter.print_data(&format!("shard {} remains on {}", state.shard, state.record.from)),
                Err(error) => {
                    totals.failed += 1;
                    let shard = format!("shard {}", state.shard);
                    self.reporter.report_failure(&shard, &format!("{error:#}"), Some("dunlin shards resume"));
                }
            }
        }
        // A move that has cut over cannot be rolled back without another move: it is finished.
        let cut_over: Vec<_> = to_finish.into_iter().filter(|(_, status)| *status != MoveStatus::SourceKept).collect();
        let is_unfinished = self.finish_moves(&context, &cut_over, totals).await?;
        totals.moves = revertible.len() + cut_over.len();
        if context.hosts.fleet.cancellation.is_cancelled() && (totals.failed > 0 || is_unfinished || is_skipped) {
            report_interruption(&self.reporter);
            return Ok(Exit::Interrupted);
        }
        self.files.cluster.state.save_pending_moves(&[])?;
        Ok(if totals.failed > 0 || is_unfinished { Exit::Partial } else { Exit::Done })
    }
}

impl ShardsContext<'_> {
    /// Shows what `shards abort` would do, and changes nothing.
    async fn show_abort(
        &self,
        context: &RebalanceContext<'_>,
        dry_run: DryRunArgs,
        totals: &mut RunTotals,
    ) -> Result<Exit, CommandError> {
        let found = list_latest_moves(context).await?;
        let open_moves = list_open_moves(context, &found)?;
        let pending = self.files.cluster.state.load_pending_moves()?;
        report_open_moves(&open_moves, &self.reporter);
        totals.moves = report_actions(&open_moves, MoveAction::for_abort, &self.reporter);
        report_planned_moves(&pending, MoveAction::Discard, &self.reporter);
        let has_work = totals.moves > 0 || !pending.is_empty();
        if !has_work {
            self.reporter.print_data("nothing to abort");
        }
        Ok(dry_run.exit(has_work))
    }
}
