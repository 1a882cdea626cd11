//! Shards: what a host is asked about its instances and their moves, and what it answers.
//!
//! A move's requests go to the agent on the *target's* host, which talks to the source over the hosts' own network;
//! `retire` goes to the source's host. All are idempotent: asked again, they go on where the last one stopped.

mod consumers;
pub mod failover;
mod journals;
mod moving;
mod observed;

use serde::{Deserialize, Serialize};

pub use consumers::{Consumer, ConsumerState, Published, Service};
pub use journals::{Logged, MOVES, MoveState, Moves, Recovered, moves_folder};
pub use moving::{
    Arm, Begin, Copied, Credentials, Job, Limits, MoveSpec, Refusal, Retire, Retired, Switched, Verified,
};
pub use observed::{Observe, Observed, Role, Sample};

/// A question or a step of a move.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Sizes, rates, roles and persistence of instances; changes nothing.
    Observe(Observe),
    /// Which epoch consumers of the map on this host have; changes nothing.
    Consumers(Vec<Consumer>),
    /// A run takes the next number of this host: requests that carry a lower one are refused from now on.
    Begin(Begin),
    /// Everything that stands in a move's way, at once; writes to no Redis.
    Preflight(MoveSpec),
    /// Start the target as a replica, wait until it has caught up and is durable, compare the two (P1–P5).
    Copy(MoveSpec),
    /// Make the source's file say that it accepts writes only with its replicas attached (the durable part of P6). Goes
    /// to the source's host, before `Switch` with `source_is_armed`; without it the source syncs its file itself, and
    /// its clients wait for that disk.
    Arm(Arm),
    /// Hand the writes over (P6–P11).
    Switch(MoveSpec),
    /// Make a replica: as `Copy`, and opened to readers; `others` names the replica that it takes the place of.
    Replicate(MoveSpec),
    /// The map names the replica, from this epoch on: its journal is closed.
    Keep(MoveSpec),
    /// Have a primary accept writes only with so many replicas attached, from now on and after a restart; its standing
    /// value, where `Arm` is for one switch. Goes to the primary's host.
    Guard(Arm),
    /// Compare source and target again (P5 alone).
    Verify(MoveSpec),
    /// Stop an instance that has handed its shard over, keep its files (P14). Goes to the source's host.
    Retire(Retire),
    /// All moves in this host's journals, with the roles that their instances have now.
    Moves(Moves),
    /// All moves that this host's journals know, also those that are over.
    Log(Moves),
    /// Look at the roles and bring a move that was cut short to an end: the old owner or the new one.
    Recover(MoveSpec),
    /// Take a move back that has not fenced yet: disarm the source, remove the copy.
    Abort(MoveSpec),
    /// Look closely at copies, and at their primaries from there; changes nothing.
    Survey(failover::Survey),
    /// Stop an instance that does not answer as a master, so that it does not come back by itself. Goes to its host.
    Silence(failover::Handle),
    /// Promote a copy whose primary is gone.
    Promote(failover::Promote),
    /// Have a copy that was not opened yet follow its primary again, which lives after all.
    TakeBack(failover::Promote),
    /// A move that has only copied so far is over: its source is gone, and the copy becomes another one's. Goes to the
    /// copy's host.
    Forget(failover::Handle),
    /// Have a primary accept writes with the replicas that are left. Goes to its host.
    Free(failover::Free),
    /// Stop an old primary that came back, keep its files. Goes to its host.
    SetAside(failover::Handle),
}

/// Its answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// One entry for each instance asked about.
    Observed(Vec<Observed>),
    /// One entry for each consumer asked about.
    Consumers(Vec<ConsumerState>),
    /// The run's number on this host.
    Begun(u64),
    /// The reasons against the move; none: it may begin.
    Preflight(Vec<Refusal>),
    /// The copy is complete and equal.
    Copied(Copied),
    /// The source's file says so.
    Armed,
    /// The replica's journal is closed.
    Kept,
    /// The target owns the shard.
    Switched(Switched),
    /// The comparison's result.
    Verified(Verified),
    /// The instance is gone, its files are kept.
    Retired(Retired),
    /// The moves.
    Moves(Vec<MoveState>),
    /// The moves, oldest first.
    Log(Vec<Logged>),
    /// How recovery ended.
    Recovered(Recovered),
    /// The copy is removed, the source serves as before.
    Aborted,
    /// One entry for each place asked about.
    Surveyed(Vec<failover::Seen>),
    /// It is stopped, also for the next start of its host.
    Silenced,
    /// The copy is the primary.
    Promoted(failover::Promoted),
    /// It follows its primary.
    TakenBack,
    /// It is.
    Forgotten,
    /// It does.
    Freed,
    /// The old primary is gone, its files are kept.
    SetAside(failover::Aside),
}
