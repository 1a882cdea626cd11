//! The half of a shard's move that runs on a host: on the target's for all but `arm` and `retire`, which run on the
//! source's.
//!
//! A request is worked on in the thread that calls [`handle`], with blocking connections; several moves run side by
//! side, each holding its shard's lock. What was going to be done and how it ended stands in the shard's journal. Once
//! the source is armed, a switch ends or rolls back by its own time-outs, whether or not anybody still listens.

mod arm;
mod aside;
mod birth;
mod carry;
mod consumers;
mod copy;
pub mod crash;
mod diary;
mod door;
mod failover;
mod fence;
mod guard;
mod link;
mod moves;
mod observe;
mod old;
mod pace;
mod preflight;
mod recover;
mod reencoding;
mod relay;
mod replica;
mod retire;
mod survey;
mod switch;
mod sync;
mod verify;

use anyhow::Result;

use crate::resources::Blobs;
use crate::wire::Sink;
use crate::wire::shard::{Reply, Request};

/// Works on one request.
///
/// # Errors
/// What stopped it, with the instance concerned. The journal then says how far it came; asking again goes on there.
pub fn handle(request: Request, blobs: &dyn Blobs, sink: &dyn Sink) -> Result<Reply> {
    Ok(match request {
        Request::Observe(what) => Reply::Observed(observe::observe(&what)),
        Request::Consumers(consumers) => Reply::Consumers(consumers::look(&consumers)),
        Request::Begin(what) => Reply::Begun(fence::take(&what.journals, &what.run)?),
        Request::Preflight(spec) => Reply::Preflight(preflight::refusals(&spec, blobs, sink)),
        Request::Copy(spec) => Reply::Copied(copy::copy(&spec, blobs, sink)?),
        Request::Arm(what) => arm::arm_file(&what).map(|()| Reply::Armed)?,
        Request::Switch(spec) => Reply::Switched(switch::switch(&spec, sink)?),
        Request::Replicate(spec) => Reply::Copied(replica::make(&spec, blobs, sink)?),
        Request::Keep(spec) => replica::keep(&spec).map(|()| Reply::Kept)?,
        Request::Guard(what) => arm::guard(&what).map(|()| Reply::Armed)?,
        Request::Verify(spec) => Reply::Verified(verify::verify(&spec, sink)?),
        Request::Retire(what) => Reply::Retired(retire::retire(&what)?),
        Request::Moves(what) => Reply::Moves(moves::moves(&what)?),
        Request::Log(what) => Reply::Log(moves::log(&what)?),
        Request::Recover(spec) => Reply::Recovered(recover::recover(&spec)?),
        Request::Abort(spec) => recover::abort(&spec).map(|()| Reply::Aborted)?,
        Request::Survey(what) => Reply::Surveyed(survey::survey(&what)),
        Request::Silence(what) => old::silence(&what).map(|()| Reply::Silenced)?,
        Request::Promote(what) => Reply::Promoted(failover::promote(&what, sink)?),
        Request::TakeBack(what) => failover::take_back(&what).map(|()| Reply::TakenBack)?,
        Request::Forget(what) => old::forget(&what).map(|()| Reply::Forgotten)?,
        Request::Free(what) => old::free(&what).map(|()| Reply::Freed)?,
        Request::SetAside(what) => Reply::SetAside(old::aside(&what)?),
    })
}
