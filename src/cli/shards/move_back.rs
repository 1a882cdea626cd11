//! `dunlin shards move-back`.

use clap::Args;
use dunlin_shards::ShardId;

use super::ShardsContext;
use super::dry_run::DryRunArgs;
use crate::cli::command_error::CommandError;
use crate::cli::confirm::require_confirmation;
use crate::cli::exit::Exit;
use crate::cli::shard_apply::{apply_and_report, lock_hosts_and_start_run};
use crate::rebalance::finish::ApplyOptions;
use crate::rebalance::move_action::MoveAction;
use crate::rebalance::move_back::{MoveBackSelection, plan_moves_back};
use crate::rebalance::open_moves::list_open_moves;
use crate::rebalance::resume::list_latest_moves;
use crate::rebalance::run_end::RunTotals;
use crate::rebalance::run_moves::MovesRequest;
use crate::report::{report_open_moves, report_planned_moves};

/// The shards to move back.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct MoveBackArgs {
    /// Shards to move back
    #[arg(value_name = "SHARD")]
    shards: Vec<ShardId>,
    /// Move back all shards that this run moved
    #[arg(long, value_name = "ID")]
    run: Option<String>,
}

impl MoveBackArgs {
    fn to_selection(&self) -> MoveBackSelection {
        match &self.run {
            Some(run) => MoveBackSelection::Run(run.clone()),
            None => MoveBackSelection::Shards(self.shards.clone()),
        }
    }
}

impl ShardsContext<'_> {
    /// Moves shards back without a copy: their old instances are still replicas.
    ///
    /// # Errors
    /// Returns an error if a shard has no old instance, a move is in progress, or another run holds a lock.
    pub async fn move_back(
        &self,
        args: &MoveBackArgs,
        yes: bool,
        dry_run: DryRunArgs,
        totals: &mut RunTotals,
    ) -> Result<Exit, CommandError> {
        let fleet = self.files.build_fleet(self.common)?;
        let mut context = self.files.connect_all(&fleet, self.common).await?;
        if dry_run.dry_run {
            let moves = plan_moves_back(&self.files.cluster, &context, &args.to_selection()).await?;
            totals.moves = moves.len();
            report_planned_moves(&moves, MoveAction::MoveBack, &self.reporter);
            return Ok(dry_run.exit(!moves.is_empty()));
        }
        if !yes {
            let latest_moves = list_latest_moves(&context).await?;
            report_open_moves(&list_open_moves(&context, &latest_moves)?, &self.reporter);
            require_confirmation("Move these shards back to their old instances?", yes)?;
        }
        lock_hosts_and_start_run(self.files, &mut context, "shards move-back", &self.run_id, &self.reporter).await?;
        let moves = plan_moves_back(&self.files.cluster, &context, &args.to_selection()).await?;
        let request =
            MovesRequest { id: &self.run_id, moves: &moves, options: ApplyOptions::default(), estimate: None };
        apply_and_report(self.files, &context, &request, &self.reporter, totals).await
    }
}
