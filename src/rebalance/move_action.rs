//! What a command does with a move that is open or planned.

use serde::Serialize;

use super::resume::MoveStatus;
use crate::protocol::shard::MoveState;

/// What a command does with an open move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MoveAction {
    /// Copies the shard and cuts over.
    Finish,
    /// Asks both instances which one serves, and finishes the move.
    Recover,
    /// Publishes the map and retires the old instance.
    Publish,
    /// Adds a move from another machine to the map.
    AddToMap,
    /// Retires the old instance.
    Retire,
    /// Finishes a failover, or rolls it back if the source answers again.
    FinishFailover,
    /// Finishes a new replica.
    FinishReplica,
    /// Opens the source, and archives the target; recovery cannot decide.
    KeepSource,
    /// Opens the target, and archives the source; recovery cannot decide.
    KeepTarget,
    /// Removes the copy; the shard remains on its source.
    RollBack,
    /// Removes a new replica that the map does not name.
    RemoveReplica,
    /// Starts a planned move.
    Move,
    /// Moves the shard back to its old instance, without a copy.
    MoveBack,
    /// Removes a planned move from the list of those to come.
    Discard,
}

impl MoveAction {
    /// Returns the action of `shards resume`; `None` for a finished move.
    pub fn for_resume(status: MoveStatus) -> Option<Self> {
        Some(match status {
            MoveStatus::Finished => return None,
            MoveStatus::FinishedElsewhere => Self::AddToMap,
            MoveStatus::SourceKept => Self::Retire,
            MoveStatus::CutOver => Self::Publish,
            MoveStatus::Copying => Self::Finish,
            MoveStatus::TargetNotOpened | MoveStatus::Undecided => Self::Recover,
            MoveStatus::FailoverInterrupted | MoveStatus::Promoted => Self::FinishFailover,
            MoveStatus::ReplicaBuilding | MoveStatus::ReplicaReady => Self::FinishReplica,
        })
    }

    /// Returns the action of `shards abort`; `None` for a move that it leaves as it is.
    pub fn for_abort(state: &MoveState, status: MoveStatus) -> Option<Self> {
        match status {
            MoveStatus::SourceKept => None,
            MoveStatus::Copying | MoveStatus::ReplicaBuilding | MoveStatus::TargetNotOpened => {
                let creates_replica = state.record.operation.creates_replica();
                Some(if creates_replica { Self::RemoveReplica } else { Self::RollBack })
            }
            // A move that has cut over cannot be rolled back without another move: it is finished.
            _ => Self::for_resume(status),
        }
    }

    /// Returns whether the action returns the shard to its state before the move.
    pub fn is_rollback(self) -> bool {
        matches!(self, Self::RollBack | Self::RemoveReplica)
    }

    /// Describes the action in a dry run.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Finish => "would be copied and cut over",
            Self::Recover => "would be recovered by the roles of both instances, then finished",
            Self::Publish => "the map would be published and the old instance retired",
            Self::AddToMap => "would be added to the map",
            Self::Retire => "the old instance would be retired",
            Self::FinishFailover => "the failover would be finished",
            Self::FinishReplica => "the new replica would be finished",
            Self::KeepSource => "the source keeps its writes; the target is stopped and its files are archived",
            Self::KeepTarget => "the target keeps its writes; the source is stopped and its files are archived",
            Self::RollBack => "would be rolled back",
            Self::RemoveReplica => "the new replica would be removed",
            Self::Move => "would be moved",
            Self::MoveBack => "would be moved back",
            Self::Discard => "would be discarded",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resume_acts_on_each_move_that_is_not_finished() {
        assert_eq!(MoveAction::for_resume(MoveStatus::Finished), None);
        assert_eq!(MoveAction::for_resume(MoveStatus::Copying), Some(MoveAction::Finish));
        assert_eq!(MoveAction::for_resume(MoveStatus::SourceKept), Some(MoveAction::Retire));
        assert_eq!(MoveAction::for_resume(MoveStatus::Promoted), Some(MoveAction::FinishFailover));
    }
}
