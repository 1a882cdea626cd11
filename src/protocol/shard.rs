//! Shards: what a host is asked about its instances and their moves, and what it answers.
//!
//! A move's requests go to the agent on the *target's* host, which talks to the source over the hosts' own network;
//! `retire` goes to the source's host. All are idempotent: asked again, they go on where the last one stopped.

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

/// A question or a step of a move.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShardRequest {
    /// Sizes, rates, roles and persistence of instances; changes nothing.
    Observe(ObserveInstances),
    /// Which epoch consumers of the map on this host have; changes nothing.
    ObserveConsumers(Vec<MapConsumer>),
    /// A run takes the next number of this host: requests that carry a lower one are refused from now on.
    StartRun(StartRun),
    /// Everything that stands in a move's way, at once; writes to no Redis.
    Preflight(MoveSpec),
    /// Start the target as a replica, wait until it has caught up and is durable, compare the two (P1–P5).
    Copy(MoveSpec),
    /// Make the source's file say that it accepts writes only with its replicas attached (the durable part of P6). Goes
    /// to the source's host, before `Switch` with `source_is_armed`; without it the source syncs its file itself, and
    /// its clients wait for that disk.
    RequireReplicas(RequireReplicas),
    /// Hand the writes over (P6–P11).
    CutOver(MoveSpec),
    /// Make a replica: as `Copy`, and opened to readers; `others` names the replica that it takes the place of.
    CreateReplica(MoveSpec),
    /// The map names the replica, from this epoch on: its journal is closed.
    CommitReplica(MoveSpec),
    /// Have a primary accept writes only with so many replicas attached, from now on and after a restart; its standing
    /// value, where `Arm` is for one switch. Goes to the primary's host.
    SetMinReplicas(RequireReplicas),
    /// Compare source and target again (P5 alone).
    Verify(MoveSpec),
    /// Stop an instance that has handed its shard over, keep its files (P14). Goes to the source's host.
    Retire(RetireInstance),
    /// All moves in this host's journals, with the roles that their instances have now.
    ListMoves(ListMoves),
    /// All moves that this host's journals know, also those that are over.
    ListMoveHistory(ListMoves),
    /// Look at the roles and bring a move that was cut short to an end: the old owner or the new one.
    Recover(MoveSpec),
    /// Take a move back that has not fenced yet: disarm the source, remove the copy.
    Abort(MoveSpec),
    /// Look closely at copies, and at their primaries from there; changes nothing.
    ProbeReplicas(failover::ProbeReplicas),
    /// Stop an instance that does not answer as a master, so that it does not come back by itself. Goes to its host.
    StopOldPrimary(failover::InstanceRef),
    /// Promote a copy whose primary is gone.
    Promote(failover::PromoteReplica),
    /// Have a copy that was not opened yet follow its primary again, which lives after all.
    RevertFailover(failover::PromoteReplica),
    /// A move that has only copied so far is over: its source is gone, and the copy becomes another one's. Goes to the
    /// copy's host.
    DiscardMove(failover::InstanceRef),
    /// Have a primary accept writes with the replicas that are left. Goes to its host.
    LowerMinReplicas(failover::LowerMinReplicas),
    /// Stop an old primary that came back, keep its files. Goes to its host.
    ArchiveInstance(failover::InstanceRef),
}

/// Its answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShardReply {
    /// One entry for each instance asked about.
    Observed(Vec<ObservedInstance>),
    /// One entry for each consumer asked about.
    ConsumerStates(Vec<ConsumerState>),
    /// The run's number on this host.
    RunStarted(u64),
    /// The reasons against the move; none: it may begin.
    PreflightIssues(Vec<PreflightIssue>),
    /// The copy is complete and equal.
    Copied(CopyResult),
    /// The source's file says so.
    ReplicasRequired,
    /// The replica's journal is closed.
    ReplicaCommitted,
    /// The target owns the shard.
    CutOver(CutoverResult),
    /// The comparison's result.
    Verified(VerifyResult),
    /// The instance is gone, its files are kept.
    Retired(RetireResult),
    /// The moves.
    Moves(Vec<MoveState>),
    /// The moves, oldest first.
    MoveHistory(Vec<MoveHistoryEntry>),
    /// How recovery ended.
    Recovered(RecoveryResult),
    /// The copy is removed, the source serves as before.
    Aborted,
    /// One entry for each place asked about.
    ReplicasProbed(Vec<failover::ProbeResult>),
    /// It is stopped, also for the next start of its host.
    OldPrimaryStopped,
    /// The copy is the primary.
    Promoted(failover::PromoteResult),
    /// It follows its primary.
    FailoverReverted,
    /// It is.
    MoveDiscarded,
    /// It does.
    MinReplicasLowered,
    /// The old primary is gone, its files are kept.
    InstanceArchived(failover::ArchivedInstance),
}
