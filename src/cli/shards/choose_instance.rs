//! `dunlin shards resume --keep HOST --shard N`: the operator chooses the instance that keeps its writes.

use dunlin_shards::ShardId;

use super::ShardsContext;
use super::resume::ResumeArgs;
use crate::cli::command_error::CommandError;
use crate::cli::confirm::require_confirmation;
use crate::cli::exit::Exit;
use crate::cli::shard_apply::lock_hosts_and_start_run;
use crate::rebalance::choice_run::{ChoiceObserver, apply_choice, ensure_undecided, find_chosen_move};
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
        let reporter = &self.reporter;
        let chosen = find_chosen_move(&context, shard, host).await?;
        let open_moves = [(&chosen.state, chosen.status)];
        report_open_moves(&open_moves, reporter);
        report_actions(&open_moves, |_, _| Some(chosen.action()), reporter);
        let reason = ensure_undecided(&context, &chosen.choice).await?;
        let other = &chosen.choice.discarded_host;
        reporter
            .warn(&format!("shard {shard}: {reason}; writes that only the instance on {other} has will not be served"));
        totals.moves = 1;
        if args.dry_run.dry_run {
            return Ok(args.dry_run.exit(true));
        }
        require_confirmation(
            &format!("Keep the writes on {host}, and discard those that only {other} has?"),
            args.yes,
        )?;
        lock_hosts_and_start_run(self.files, &mut context, "shards resume", &self.run_id, reporter).await?;
        // The headers of the steps have the generation of the run from here on.
        let choice = find_chosen_move(&context, shard, host).await?.choice;
        let progress = ProgressBars::new(reporter.json, reporter.style.quiet);
        let observer = ChoiceObserver {
            on_progress: &|host, event| report_host_event(host, event, reporter, &progress),
            on_archived: &|archived| report_archived_instance(shard, &choice.discarded_host, archived, reporter),
            on_opened: &|| reporter.print_data(&format!("  shard {shard} is served by {}", choice.choice.chosen)),
        };
        if apply_choice(&self.files.cluster, &context, &choice, &observer).await? {
            reporter.print_status("moves are open or pending; next: dunlin shards resume");
        }
        Ok(Exit::Done)
    }
}
