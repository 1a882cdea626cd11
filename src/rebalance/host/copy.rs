//! P1–P5: a copy that has caught up, is durable, and was found equal.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::carry::{self, Admitted, Carriage};
use super::diary::{Diary, Mark, Step};
use super::link::Link;
use super::{birth, observe, pace, recover, sync, verify};
use crate::resources::Blobs;
use crate::wire::Sink;
use crate::wire::shard::{Copied, MoveSpec, Recovered, Role};

/// How long a new instance may take until it answers.
pub const START: Duration = Duration::from_secs(20);

/// Brings the copy to the point from which the switch begins. A copy that is already there is only caught up with.
///
/// # Errors
/// What stopped it; the source has not been touched but for its replication settings, and sends nothing any more
/// where the run was cancelled.
pub fn copy(spec: &MoveSpec, blobs: &dyn Blobs, sink: &dyn Sink) -> Result<Copied> {
    let mut diary = Diary::open(&spec.job)?;
    let mut source = Link::open_within(&spec.from, &spec.job.credentials, START)?;
    match source.role()? {
        Role::Master { .. } => {}
        role if sync::follows(&role, &spec.to) => return Ok(Copied::default()),
        role => bail!("the source {} is no master ({role:?})", spec.from),
    }
    let turns = pace::turn(spec);
    let admitted = carry::admitted(spec, &turns, sink)?;
    diary.begin(spec)?;
    if diary.last(Step::StandBy, Mark::Intent).is_some() {
        // An earlier switch was cut short; its target may stand by as a closed master.
        match recover::by_roles(spec, &mut diary, START)? {
            Recovered::AtSource { .. } => {}
            Recovered::AtTarget { .. } => return Ok(Copied::default()),
            Recovered::Undecided { why } => bail!(why),
        }
    }
    filled(spec, &mut diary, (&mut source, admitted), (blobs, sink))
}

/// P1–P5 under a move that is begun: born, caught up, equal, durable.
///
/// # Errors
/// What stopped it.
pub fn filled(
    spec: &MoveSpec,
    diary: &mut Diary,
    (source, mut admitted): (&mut Link, Admitted<'_>),
    (blobs, sink): (&dyn Blobs, &dyn Sink),
) -> Result<Copied> {
    let (started, instance) = (Instant::now(), birth::instance(spec)?);
    tune(source)?;

    diary.intent(Step::Birth, json!({ "users": birth::closed_users(&instance, spec, blobs)? }))?;
    birth::born(&instance, spec, blobs)?;
    let mut target = Link::open_within(&spec.to, &spec.job.credentials, START)?;
    if let Role::Master { .. } = target.role()? {
        bail!("{} is a master already; nothing was copied over it", spec.to);
    }
    diary.done(Step::Birth, json!({ "run_id": target.run_id()? }))?;

    diary.intent(Step::Copy, Value::Null)?;
    if spec.limits.sparing.is_asked() && !carry::is_attached(&mut target, spec)? {
        Carriage { spec, instance: &instance, sink }.carry(source, &mut target, &mut admitted)?;
    } else {
        carry::attach(&instance, &mut target, spec)?;
        directly(source, &mut target, spec, sink)?;
    }
    diary.done(Step::Copy, Value::Null)?;

    // The target writes its first append-only file meanwhile.
    let verified = verify::compared(diary, (source, &mut target), spec, sink)?;
    sync::durable(&mut target, spec, sink)?;
    let bytes = observe::dataset(&target.info("all")?);
    Ok(Copied { bytes, seconds: started.elapsed().as_secs_f64(), verified })
}

/// The copy as Redis makes it; one that is cancelled half way ends at the source too.
fn directly(source: &mut Link, target: &mut Link, spec: &MoveSpec, sink: &dyn Sink) -> Result<()> {
    let caught_up = sync::caught_up(source, target, spec, sink);
    if caught_up.is_err() && sink.cancelled() {
        // Where the target does not answer, it sends for nothing either.
        carry::park(target, spec).ok();
    }
    caught_up
}

/// P2: the source begins a full sync at once and through the socket. Its file says the same where dunlin provisioned it.
fn tune(source: &mut Link) -> Result<()> {
    for (name, value) in [("repl-diskless-sync", "yes"), ("repl-diskless-sync-delay", "0")] {
        if source.setting(name)? != value {
            source.run(&["CONFIG", "SET", name, value])?;
        }
    }
    Ok(())
}
