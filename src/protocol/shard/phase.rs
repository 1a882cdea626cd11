//! The phases of a move, as its journal names them, and its outcome.

use crate::plan::named_enum;

named_enum! {
    /// Lists the phases of a move in order; `RollBack` and `Abort` end it at the source, `Finalize` at the target.
    pub enum MovePhase {
        /// The move begins; the detail is the record of the move, without secrets.
        Begin = "begin",
        /// Start the target as a replica.
        StartReplica = "start_replica",
        /// Copy the data until the target has caught up.
        Copy = "copy",
        /// Compare source and target.
        Verify = "verify",
        /// Make the source accept writes only with its replicas attached, also after a restart.
        RequireReplicas = "require_replicas",
        /// Write the target's files so that a restart makes it a primary closed to the application.
        PrepareStandby = "prepare_standby",
        /// Pause writes at the source.
        Pause = "pause",
        /// Wait until the target has applied the rest of the stream.
        Drain = "drain",
        /// Make the source a replica of the target.
        DemoteSource = "demote_source",
        /// Make the target the primary and enable the application's users.
        Promote = "promote",
        /// Write the target's open state to its files.
        OpenTarget = "open_target",
        /// Make the source's new role durable and let the other replicas follow the target.
        Finalize = "finalize",
        /// The operator chose the instance that keeps its writes, because recovery cannot decide.
        ChooseInstance = "choose_instance",
        /// Restore the source; the target stays its replica.
        RollBack = "roll_back",
        /// Restore the source and remove the copy.
        Abort = "abort",
        /// Stop the instance that handed over its shard.
        Retire = "retire",
    }
}

named_enum! {
    /// State of a phase.
    pub enum PhaseState {
        /// About to run.
        Intent = "intent",
        /// Completed.
        Done = "done",
        /// Failed.
        Failed = "failed",
    }
}

named_enum! {
    /// Outcome of a move.
    pub enum MoveOutcome {
        /// The target serves the shard.
        Moved = "moved",
        /// A replica was promoted after its primary was lost.
        FailedOver = "failed over",
        /// A replica was created.
        ReplicaCreated = "replica created",
        /// The move was aborted.
        Aborted = "aborted",
        /// The move has not ended.
        Open = "open",
    }
}
