//! `dunlin shards`: shows the shards and their moves, and finishes, aborts or repairs them.

mod abort;
mod capacity;
mod certificates;
mod choose_instance;
mod dry_run;
mod failover;
mod history;
mod move_back;
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
use super::connect_args::ConnectArgs;
use super::outcome::CommandOutcome;
use super::shard_apply::add_totals;
use super::shard_files::ShardFiles;
use crate::rebalance::run_end::RunTotals;
use crate::report::Reporter;

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
