//! `dunlin shards move-back`.

use clap::Args;
use dunlin_shards::ShardId;

use super::ShardsContext;
use super::dry_run::{DryRunArgs, MoveAction};
use crate::cli::command_error::CommandError;
use crate::cli::confirm::require_confirmation;
use crate::cli::exit::Exit;
use crate::cli::shard_apply::{ApplyRequest, RunTotals, apply_and_report, lock_hosts_and_start_run};
use crate::protocol::shard::MoveState;
use crate::rebalance::RebalanceContext;
use crate::rebalance::apply::PlannedMove;

use crate::rebalance::finish::ApplyOptions;
use crate::rebalance::plan::Role;
use crate::rebalance::publish::published_epoch;
use crate::rebalance::resume::{LatestMoves, MoveStatus, list_latest_moves, move_status};

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
    fn is_selected(&self, state: &MoveState) -> bool {
        match &self.run {
            _ if state.record.operation.creates_replica() => false,
            // The hosts' journals know each wave of a run by itself.
            Some(run) => state.run == *run || state.run.strip_prefix(run).is_some_and(|rest| rest.starts_with('.')),
            None => self.shards.contains(&state.shard),
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
            let moves = self.plan_current_moves_back(&context, args).await?;
            totals.moves = moves.len();
            self.print_planned_moves(&moves, MoveAction::MoveBack);
            return Ok(dry_run.exit(!moves.is_empty()));
        }
        if !yes {
            let latest_moves = list_latest_moves(&context).await?;
            self.print_moves(&self.list_open_moves(&context, &latest_moves)?);
            require_confirmation("Move these shards back to their old instances?", yes)?;
        }
        lock_hosts_and_start_run(self.files, &mut context, "shards move-back", &self.run_id, &self.reporter).await?;
        let moves = self.plan_current_moves_back(&context, args).await?;
        let request =
            ApplyRequest { id: &self.run_id, moves: &moves, options: ApplyOptions::default(), estimate: None };
        apply_and_report(self.files, &context, &request, &self.reporter, totals).await
    }

    /// Plans the moves back by the current map.
    ///
    /// # Errors
    /// Returns an error if a later map is published, or a shard has no old instance.
    async fn plan_current_moves_back(
        &self,
        context: &RebalanceContext<'_>,
        args: &MoveBackArgs,
    ) -> Result<Vec<PlannedMove>, CommandError> {
        let map = self.files.shard_map()?;
        let highest_epoch = published_epoch(context, map).await?;
        if highest_epoch > map.epoch.0 {
            let text = format!(
                "the map has epoch {}, but epoch {highest_epoch} is published; no changes were made",
                map.epoch.0
            );
            return Err(
                CommandError::with_message(Exit::Refused, text).with_hint("dunlin shards resume updates the map")
            );
        }
        self.plan_moves_back(context, args, &list_latest_moves(context).await?)
    }

    fn plan_moves_back(
        &self,
        context: &RebalanceContext<'_>,
        args: &MoveBackArgs,
        latest_moves: &LatestMoves,
    ) -> Result<Vec<PlannedMove>, CommandError> {
        let map = context.map_file.read()?;
        let mut moves = Vec::new();
        for (_, state) in latest_moves.values().filter(|(_, state)| args.is_selected(state)) {
            if move_status(context, &map, state) != MoveStatus::SourceKept {
                let text =
                    format!("shard {} has no old instance that is its replica; no changes were made", state.shard);
                return Err(CommandError::with_message(Exit::Refused, text)
                    .with_hint("dunlin shard-rebalance --targets HOST moves it again"));
            }
            if let Some((from, to)) =
                context.hosts.host_at_address(&state.record.to).zip(context.hosts.host_at_address(&state.record.from))
            {
                moves.push(PlannedMove {
                    shard: state.shard,
                    from: from.to_owned(),
                    to: to.to_owned(),
                    wave: 0,
                    role: Role::Primary,
                });
            }
        }
        let missing: Vec<ShardId> =
            args.shards.iter().copied().filter(|id| moves.iter().all(|step| step.shard != *id)).collect();
        if moves.is_empty() || !missing.is_empty() {
            return Err(CommandError::with_message(
                Exit::Refused,
                "no such moves in the hosts' journals; no changes were made",
            )
            .with_hint("dunlin shards history lists shards and runs"));
        }
        Ok(moves)
    }
}
