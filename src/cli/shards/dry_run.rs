//! Dry runs of `shards resume`, `shards abort` and `shards move-back`: what each open move would go through.

use clap::Args;
use serde_json::json;

use super::ShardsContext;
use crate::cli::exit::Exit;
use crate::protocol::shard::MoveState;
use crate::rebalance::apply::PlannedMove;
use crate::rebalance::move_action::MoveAction;
use crate::rebalance::open_moves::OpenMove;
use crate::rebalance::resume::MoveStatus;

/// The flags of a dry run.
#[derive(Clone, Copy, Debug, Args)]
pub struct DryRunArgs {
    /// Show what would be done without doing it
    #[arg(long)]
    pub dry_run: bool,
    /// With --dry-run, exit with 2 if there is something to do
    #[arg(long, requires = "dry_run")]
    pub detailed_exitcode: bool,
}

impl DryRunArgs {
    /// Returns the exit code of a dry run.
    pub fn exit(self, has_work: bool) -> Exit {
        if self.detailed_exitcode && has_work { Exit::Pending } else { Exit::Done }
    }
}

impl ShardsContext<'_> {
    /// Prints the actions of a dry run. Returns their number.
    pub fn print_actions(
        &self,
        open_moves: &[OpenMove<'_>],
        action: impl Fn(&MoveState, MoveStatus) -> Option<MoveAction>,
    ) -> usize {
        let actions = open_moves.iter().filter_map(|(state, status)| Some((state.shard, action(state, *status)?)));
        let mut count = 0;
        for (shard, action) in actions {
            self.reporter.print_data(&format!("  shard {shard}: {}", action.describe()));
            self.reporter.print_json("move_action", json!({ "shard": shard, "action": action }));
            count += 1;
        }
        count
    }

    /// Prints the action for moves that have not started.
    pub fn print_planned_moves(&self, moves: &[PlannedMove], action: MoveAction) {
        for step in moves {
            let PlannedMove { shard, from, to, .. } = step;
            self.reporter.print_data(&format!("  shard {shard} {from} → {to}: {}", action.describe()));
            self.reporter.print_json(
                "planned_move",
                json!({ "shard": shard, "from": from, "to": to, "role": step.role, "action": action }),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dry_run_exits_with_2_only_on_request() {
        let exit = |detailed_exitcode, has_work| DryRunArgs { dry_run: true, detailed_exitcode }.exit(has_work);
        assert_eq!(exit(true, true), Exit::Pending);
        assert_eq!(exit(true, false), Exit::Done);
        assert_eq!(exit(false, true), Exit::Done);
    }
}
