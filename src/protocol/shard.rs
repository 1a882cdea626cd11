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

use serde::{Deserialize, Serialize};

pub use consumers::{ConsumerService, ConsumerState, MapConsumer, PublishedShard};
pub use history::{DEFAULT_JOURNAL_DIR, ListMoves, MoveHistoryEntry, MoveState, RecoveryResult, default_journal_dir};
pub use moves::{
    CopyResult, Credentials, CutoverResult, MoveLimits, MoveSpec, PreflightIssue, RequireReplicas, RetireInstance,
    RetireResult, StartRun, StepHeader, VerifyResult,
};
pub use observed::{KeySample, ObserveInstances, ObservedInstance, ReplicationRole};

/// Represents a query or a step of a move.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShardRequest {
    /// Sizes, rates, roles and persistence of instances; changes nothing.
    Observe(ObserveInstances),
    /// Report the map epoch of the consumers on this host; changes nothing.
    ObserveConsumers(Vec<MapConsumer>),
    /// Take the next run generation of this host; requests with a lower one are rejected from then on.
    StartRun(StartRun),
    /// Report everything that prevents a move; writes to no Redis instance.
    Preflight(MoveSpec),
    /// Start the target as a replica, wait until it has caught up and is durable, compare the two (P1–P5).
    Copy(MoveSpec),
    /// Write `min-replicas-to-write` to the source's file (the durable part of P6). Goes to the source's host before a
    /// `CutOver` with `source_file_requires_replicas`; without it the source syncs its file itself, and its clients
    /// wait for that disk.
    RequireReplicas(RequireReplicas),
    /// Cut over from source to target (P6–P11).
    CutOver(MoveSpec),
    /// Create a replica: like `Copy`, then open it to readers; `other_replicas` names the replica that it replaces.
    CreateReplica(MoveSpec),
    /// Finish the journal of a replica that the map names from this epoch on.
    CommitReplica(MoveSpec),
    /// Set `min-replicas-to-write` of a primary permanently, while `RequireReplicas` is for one cutover. Goes to the
    /// primary's host.
    SetMinReplicas(RequireReplicas),
    /// Compare source and target again (P5 alone).
    Verify(MoveSpec),
    /// Stop an instance that handed over its shard, and archive its files (P14). Goes to the source's host.
    Retire(RetireInstance),
    /// List the last move in each journal of this host, with the current roles of its instances.
    ListMoves(ListMoves),
    /// List every move in this host's journals, including finished ones.
    ListMoveHistory(ListMoves),
    /// Recover an interrupted move by the roles of its instances: to the source or to the target.
    Recover(MoveSpec),
    /// Abort a move before its cutover: restore the source, remove the copy.
    Abort(MoveSpec),
    /// Probe replicas, and their primaries from this host; changes nothing.
    ProbeReplicas(failover::ProbeReplicas),
    /// Stop an instance that does not answer as a primary, and disable its start at boot. Goes to its host.
    StopOldPrimary(failover::InstanceRef),
    /// Promote a replica whose primary is lost.
    Promote(failover::PromoteReplica),
    /// Let a replica that was not opened yet follow its primary again, if that one is alive.
    RevertFailover(failover::PromoteReplica),
    /// End a move that only copied data so far and whose source is lost; the copy then belongs to another primary.
    /// Goes to the copy's host.
    DiscardMove(failover::InstanceRef),
    /// Let a primary accept writes with the remaining replicas. Goes to its host.
    LowerMinReplicas(failover::LowerMinReplicas),
    /// Stop an old primary that returned, and archive its files. Goes to its host.
    ArchiveInstance(failover::InstanceRef),
}

/// Reply to a [`ShardRequest`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShardReply {
    /// States of the requested instances, one entry each.
    Observed(Vec<ObservedInstance>),
    /// States of the requested consumers, one entry each.
    ConsumerStates(Vec<ConsumerState>),
    /// Generation of the run on this host.
    RunStarted(u64),
    /// Issues that prevent the move; if empty, the move may start.
    PreflightIssues(Vec<PreflightIssue>),
    /// The copy is complete and equal.
    Copied(CopyResult),
    /// The source's file requires the replicas.
    ReplicasRequired,
    /// The replica's journal is closed.
    ReplicaCommitted,
    /// The target is the primary of the shard.
    CutOver(CutoverResult),
    /// The comparison's result.
    Verified(VerifyResult),
    /// The instance is stopped, its files are archived.
    Retired(RetireResult),
    /// The moves.
    Moves(Vec<MoveState>),
    /// The moves, oldest first.
    MoveHistory(Vec<MoveHistoryEntry>),
    /// Result of the recovery.
    Recovered(RecoveryResult),
    /// The copy is removed, the source serves as before.
    Aborted,
    /// Results of the requested probes, one entry each.
    ReplicasProbed(Vec<failover::ProbeResult>),
    /// The old primary is stopped and stays stopped after a reboot.
    OldPrimaryStopped,
    /// The replica is the primary.
    Promoted(failover::PromoteResult),
    /// The replica follows its primary again.
    FailoverReverted,
    /// The move is discarded.
    MoveDiscarded,
    /// The primary accepts writes with the remaining replicas.
    MinReplicasLowered,
    /// The old primary is stopped, its files are archived.
    InstanceArchived(failover::ArchivedInstance),
}
