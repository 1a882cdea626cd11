//! `dunlin shards resume --keep HOST --shard N`: the operator chooses the instance that keeps its writes.

use dunlin_shards::ShardId;

use super::ShardsContext;
use super::resume::ResumeArgs;
use crate::cli::command_error::CommandError;
use crate::cli::confirm::require_confirmation;
use crate::cli::exit::Exit;
use crate::cli::shard_apply::lock_hosts_and_start_run;
use crate::rebalance::RebalanceContext;
use crate::rebalance::apply::remaining_moves;
use crate::rebalance::choose_instance::{HostChoice, assess_choice, discard_other_instance, open_chosen_instance};
use crate::rebalance::move_action::MoveAction;
use crate::rebalance::open_moves::list_open_moves;
use crate::rebalance::resume::list_latest_moves;
use crate::rebalance::run_end::RunTotals;
use crate::report::{ProgressBars, report_actions, report_archived_instance, report_host_event, report_open_moves};

impl ShardsContext<'_> {
    /// Opens the chosen instance of a move that recovery cannot decide, and archives the other one.
    ///
    /// # Errors
    /// Returns an error if a host does not answer, the shard has no open move, recovery can decide it, the choice is
    /// not confirmed, or another run holds a lock.
    pub async fn choose_instance(
        &self,
        args: &ResumeArgs,
        shard: ShardId,
        host: &str,
        totals: &mut RunTotals,
    ) -> Result<Exit, CommandError> {
        self.files.cluster.ensure_shards_exist(&[shard])?;
        let fleet = self.files.build_fleet(self.common)?;
        let mut context = self.files.connect_all(&fleet, self.common).await?;
        let choice = self.find_choice(&context, shard, host, true).await?;
        let refuse = |error: anyhow::Error| CommandError::new(Exit::Refused, error);
        let reason = assess_choice(&context, &choice).await.map_err(refuse)?;
        let other = &choice.discarded_host;
        self.reporter
            .warn(&format!("shard {shard}: {reason}; writes that only the instance on {other} has will not be served"));
        totals.moves = 1;
        if args.dry_run.dry_run {
            return Ok(args.dry_run.exit(true));
        }
        require_confirmation(
            &format!("Keep the writes on {host}, and discard those that only {other} has?"),
            args.yes,
        )?;
        lock_hosts_and_start_run(self.files, &mut context, "shards resume", &self.run_id, &self.reporter).await?;
        // The headers of the steps have the generation of the run from here on.
        let choice = self.find_choice(&context, shard, host, false).await?;
        let (reporter, progress) = (&self.reporter, ProgressBars::new(self.reporter.json, self.reporter.style.quiet));
        let on_progress = |host: &str, event: &_| report_host_event(host, event, reporter, &progress);
        let archived = discard_other_instance(&context, &choice, &on_progress).await?;
        report_archived_instance(shard, &choice.discarded_host, &archived, reporter);
        open_chosen_instance(&context, &choice, &on_progress).await?;
        reporter.print_data(&format!("  shard {shard} is served by {}", choice.choice.chosen));
        self.finish_choice(&context).await
    }

    /// Returns the choice, after printing the move and what is done with it if `print` is set.
    async fn find_choice(
        &self,
        context: &RebalanceContext<'_>,
        shard: ShardId,
        host: &str,
        print: bool,
    ) -> Result<HostChoice, CommandError> {
        let latest_moves = list_latest_moves(context).await?;
        let mut open_moves = list_open_moves(context, &latest_moves)?;
        open_moves.retain(|(state, _)| state.shard == shard);
        let Some((state, _)) = open_moves.first() else {
            return Err(CommandError::with_message(Exit::Refused, format!("shard {shard} has no open move"))
                .with_hint("dunlin shards status lists the open moves"));
        };
        let choice = HostChoice::from_host(context, state, host)
            .map_err(|error| CommandError::new(Exit::Refused, error).with_hint("dunlin shards status"))?;
        if print {
            let action = if choice.choice.chooses_target() { MoveAction::KeepTarget } else { MoveAction::KeepSource };
            report_open_moves(&open_moves, &self.reporter);
            report_actions(&open_moves, |_, _| Some(action), &self.reporter);
        }
        Ok(choice)
    }

    /// Removes finished moves from the pending ones, and names the next step if there are open or pending moves.
    async fn finish_choice(&self, context: &RebalanceContext<'_>) -> Result<Exit, CommandError> {
        let remaining = remaining_moves(self.files.cluster.state.load_pending_moves()?, &context.map_file.read()?);
        self.files.cluster.state.save_pending_moves(&remaining)?;
        let latest_moves = list_latest_moves(context).await?;
        if !remaining.is_empty() || !list_open_moves(context, &latest_moves)?.is_empty() {
            self.reporter.print_status("moves are open or pending; next: dunlin shards resume");
        }
        Ok(Exit::Done)
    }
}
