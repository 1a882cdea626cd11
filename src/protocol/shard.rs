//! Requests and replies about the shard instances of a host and their moves.
//!
//! The requests of a move go to the agent on the *target's* host, which connects to the source over the network of
//! the hosts; `Retire` goes to the source's host. All are idempotent: a repeated request resumes where the last one
//! stopped.

mod consumers;
pub mod failover;
mod history;
mod moves;
mod observed;
mod phase;
mod preflight;
mod record;

use serde::{Deserialize, Serialize};

pub use consumers::{ConsumerService, ConsumerState, MapConsumer, PublishedShard};
pub use history::{JournalQuery, MoveHistoryEntry, MoveState, RecoveryResult};
pub use moves::{
    CopyResult, Credentials, CutoverResult, DEFAULT_JOURNAL_DIR, InstanceChoice, MinReplicasRequest, MoveLimits,
    MoveSpec, RetireInstance, RetireResult, RunStart, StepHeader, VerifyResult, default_journal_dir,
};
pub use observed::{KeySample, ObserveInstances, ObservedInstance, ReplicationRole};
pub use phase::{MoveOutcome, MovePhase, PhaseState};
pub use preflight::{MoveNeeds, PreflightIssue, PreflightRequest, PreflightResult, PreflightRule};
pub use record::{MoveRecord, Operation};

/// Hands the requests, each with the types of its content and of its reply, to a macro.
macro_rules! for_each_shard_request {
    ($callback:ident) => {
        $callback! {
            /// Sizes, rates, roles and persistence of instances; changes nothing.
            Observe(ObserveInstances) -> Vec<ObservedInstance>,
            /// Report the map epoch of the consumers on this host; changes nothing.
            ObserveConsumers(Vec<MapConsumer>) -> Vec<ConsumerState>,
            /// Take the next run generation of this host; requests with a lower one are rejected from then on.
            StartRun(RunStart) -> u64,
            /// Name the changes in an instance's files that its process has not read. Goes to the instance's host;
            /// changes nothing.
            ListPendingChanges(failover::InstanceRef) -> Vec<String>,
            /// Report everything that prevents a move, and what it needs; writes to no Redis instance.
            Preflight(PreflightRequest) -> PreflightResult,
            /// Start the target as a replica, wait until it has caught up and is durable, compare the two.
            Copy(MoveSpec) -> CopyResult,
            /// Write `min-replicas-to-write` to the source's file (the durable part of requiring replicas). Goes to the
            /// source's host before a `CutOver` with `source_file_requires_replicas`; without it the source syncs its
            /// file itself, and its clients wait for that disk.
            RequireReplicas(MinReplicasRequest) -> (),
            /// Cut over from source to target.
            CutOver(MoveSpec) -> CutoverResult,
            /// Create a replica: like `Copy`, then open it to readers.
            CreateReplica(MoveSpec) -> CopyResult,
            /// Finish the journal of a replica that the map names from this epoch on.
            CommitReplica(MoveSpec) -> (),
            /// Set `min-replicas-to-write` of a primary permanently, while `RequireReplicas` is for one cutover. Goes
            /// to the primary's host.
            SetMinReplicas(MinReplicasRequest) -> (),
            /// Compare source and target again.
            Verify(MoveSpec) -> VerifyResult,
            /// Stop an instance that handed over its shard, and archive its files. Goes to the source's host.
            Retire(RetireInstance) -> RetireResult,
            /// List the last move in each journal of this host, with the current roles of its instances.
            ListMoves(JournalQuery) -> Vec<MoveState>,
            /// List every move in this host's journals, including finished ones.
            ListMoveHistory(JournalQuery) -> Vec<MoveHistoryEntry>,
            /// Recover an interrupted move by the roles of its instances: to the source or to the target.
            Recover(MoveSpec) -> RecoveryResult,
            /// Report whether the operator has to choose an instance of a move; changes nothing.
            AssessChoice(InstanceChoice) -> RecoveryResult,
            /// Record the operator's choice where recovery cannot decide; changes no instance.
            ChooseInstance(InstanceChoice) -> RecoveryResult,
            /// Stop the instance that was not chosen, and archive its files. Goes to its host.
            DiscardInstance(failover::InstanceRef) -> failover::ArchivedInstance,
            /// Open the chosen instance, once the other one is archived.
            OpenChosenInstance(InstanceChoice) -> RecoveryResult,
            /// Abort a move before its cutover: restore the source, remove the copy.
            Abort(MoveSpec) -> (),
            /// Probe replicas, and their primaries from this host; changes nothing.
            ProbeReplicas(failover::ReplicaProbeRequest) -> Vec<failover::ProbeResult>,
            /// Stop an instance that does not answer as a primary, and disable its start at boot. Goes to its host.
            StopOldPrimary(failover::InstanceRef) -> (),
            /// Promote a replica whose primary is lost.
            Promote(failover::PromoteReplica) -> failover::PromoteResult,
            /// Let a replica that was not opened yet follow its primary again, if that one is alive.
            RevertFailover(failover::PromoteReplica) -> (),
            /// End a move that only copied data so far and whose source is lost; the copy then belongs to another
            /// primary. Goes to the copy's host.
            DiscardMove(failover::InstanceRef) -> (),
            /// Let a primary accept writes with the remaining replicas. Goes to its host.
            LowerMinReplicas(failover::LowerMinReplicasRequest) -> (),
            /// Stop an old primary that returned, and archive its files. Goes to its host.
            ArchiveInstance(failover::InstanceRef) -> failover::ArchivedInstance,
        }
    };
}
pub(super) use for_each_shard_request;

macro_rules! declare_enums {
    ($($(#[$doc:meta])* $name:ident($content:ty) -> $reply:ty,)*) => {
        /// Represents a query or a step of a move.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum ShardRequest {
            $($(#[$doc])* $name($content),)*
        }

        /// Reply to a [`ShardRequest`]; of the same name as the request.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum ShardReply {
            $($(#[$doc])* $name($reply),)*
        }
    };
}

for_each_shard_request!(declare_enums);
