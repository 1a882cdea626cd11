//! `dunlin shards abort`.

use super::ShardsContext;
use super::dry_run::DryRunArgs;
use crate::cli::command_error::CommandError;
use crate::cli::confirm::require_confirmation;
use crate::cli::exit::Exit;
use crate::cli::shard_apply::lock_hosts_and_start_run;
use crate::rebalance::RebalanceContext;
use crate::rebalance::abort_run::abort_open_moves;
use crate::rebalance::finish_moves::OpenMoveObserver;
use crate::rebalance::move_action::MoveAction;
use crate::rebalance::open_moves::list_open_moves;
use crate::rebalance::resume::list_latest_moves;
use crate::rebalance::run_end::{RunEnd, RunTotals};
use crate::report::{
    ProgressBars, report_actions, report_host_event, report_interruption, report_open_move_event, report_open_moves,
    report_planned_moves,
};

impl ShardsContext<'_> {
    /// Rolls back the moves that have not cut over, finishes the others, and discards the pending ones.
    ///
    /// # Errors
    /// Returns an error if a host does not answer, the rollback is not confirmed, or another run holds a lock.
    pub async fn abort_moves(
        &self,
        yes: bool,
        dry_run: DryRunArgs,
        totals: &mut RunTotals,
    ) -> Result<Exit, CommandError> {
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
        let progress = ProgressBars::new(self.reporter.json, self.reporter.style.quiet);
        let observer = OpenMoveObserver {
            on_progress: &|host, event| report_host_event(host, event, &self.reporter, &progress),
            on_event: &|event| report_open_move_event(&event, &self.reporter, &progress),
        };
        let end = abort_open_moves(&self.files.cluster, &context, observer, totals).await?;
        progress.clear_bars();
        if end == RunEnd::Interrupted {
            report_interruption(&self.reporter);
        }
        Ok(end.into())
    }

    /// Shows what `shards abort` would do, and changes nothing.
    async fn show_abort(
        &self,
        context: &RebalanceContext<'_>,
        dry_run: DryRunArgs,
        totals: &mut RunTotals,
    ) -> Result<Exit, CommandError> {
        let latest_moves = list_latest_moves(context).await?;
        let open_moves = list_open_moves(context, &latest_moves)?;
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
