//! The run of `shards resume --keep`: finds the move that the operator decides, and carries the choice out.

use dunlin_shards::ShardId;

use super::RebalanceContext;
use super::apply::remaining_moves;
use super::choose_instance::{HostChoice, assess_choice, discard_other_instance, open_chosen_instance};
use super::cluster_files::ClusterFiles;
use super::connected_hosts::ProgressFn;
use super::move_action::MoveAction;
use super::open_moves::list_open_moves;
use super::resume::{MoveStatus, list_latest_moves};
use super::run_error::{RunError, RunErrorKind, RunResult};
use crate::protocol::shard::MoveState;
use crate::protocol::shard::failover::ArchivedInstance;

/// An open move with the choice between its instances.
pub struct ChosenMove {
    /// The move.
    pub state: MoveState,
    /// Its status.
    pub status: MoveStatus,
    /// The choice.
    pub choice: HostChoice,
}

impl ChosenMove {
    /// Returns what is done with the move.
    pub fn action(&self) -> MoveAction {
        if self.choice.choice.chooses_target() { MoveAction::KeepTarget } else { MoveAction::KeepSource }
    }
}

/// Finds the open move of a shard, for the choice of the instance on a host.
///
/// # Errors
/// Returns an error if the shard has no open move, the host has no instance of it, or a host does not answer.
pub async fn find_chosen_move(context: &RebalanceContext<'_>, shard: ShardId, host: &str) -> RunResult<ChosenMove> {
    let latest_moves = list_latest_moves(context).await?;
    let open_moves = list_open_moves(context, &latest_moves)?;
    let Some((state, status)) = open_moves.into_iter().find(|(state, _)| state.shard == shard) else {
        return Err(RunError::refused(format!("shard {shard} has no open move"))
            .with_hint("dunlin shards status lists the open moves"));
    };
    let choice = HostChoice::from_host(context, state, host)
        .map_err(|error| RunError::new(RunErrorKind::Refused, error).with_hint("dunlin shards status"))?;
    Ok(ChosenMove { state: state.clone(), status, choice })
}

/// Checks that recovery cannot decide the move. Returns the reason. Changes nothing.
///
/// # Errors
/// Recovery can decide it, or an instance does not answer.
pub async fn ensure_undecided(context: &RebalanceContext<'_>, choice: &HostChoice) -> RunResult<String> {
    assess_choice(context, choice).await.map_err(|error| RunError::new(RunErrorKind::Refused, error))
}

/// Receives what happens with the instances of a move.
pub struct ChoiceObserver<'a> {
    /// Receives the events of hosts.
    pub on_progress: ProgressFn<'a>,
    /// Receives the archive of the other instance.
    pub on_archived: &'a (dyn Fn(&ArchivedInstance) + Send + Sync),
    /// Is called when the chosen instance is open.
    pub on_opened: &'a (dyn Fn() + Send + Sync),
}

/// Archives the other instance, opens the chosen one, and removes finished moves from the pending ones. Returns whether
/// moves are open or pending.
///
/// # Errors
/// Returns an error if an instance cannot be stopped or opened, or the map cannot be published.
pub async fn apply_choice(
    cluster: &ClusterFiles,
    context: &RebalanceContext<'_>,
    choice: &HostChoice,
    observer: &ChoiceObserver<'_>,
) -> RunResult<bool> {
    let archived = discard_other_instance(context, choice, observer.on_progress).await?;
    (observer.on_archived)(&archived);
    open_chosen_instance(context, choice, observer.on_progress).await?;
    (observer.on_opened)();
    let remaining = remaining_moves(cluster.state.load_pending_moves()?, &context.map_file.read()?);
    cluster.state.save_pending_moves(&remaining)?;
    let latest_moves = list_latest_moves(context).await?;
    Ok(!remaining.is_empty() || !list_open_moves(context, &latest_moves)?.is_empty())
}
