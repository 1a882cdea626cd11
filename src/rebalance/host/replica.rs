//! A replica that is made where there was none, or in the place of another one: P1–P5 of a move, and then nobody is
//! fenced. The primary serves all the while; the comparison alone may hold writes for some milliseconds, of keys that are
//! written to all the time.
//!
//! The copy is closed to readers until it was found equal. Its journal stays open until the map names it (`keep`): up to
//! then `take_back` removes it again.

use anyhow::{Result, bail};
use redis::Cmd;
use serde_json::{Value, json};

use super::copy::{START, filled};
use super::diary::{Diary, Step, is_finished};
use super::link::{Link, role_of, words};
use super::{birth, carry, pace, recover, sync};
use crate::resources::Blobs;
use crate::wire::Sink;
use crate::wire::shard::{Copied, MoveSpec, Role};

/// Makes the replica, or goes on with the one that is half made: born, caught up, durable, equal, open to readers.
///
/// # Errors
/// What stopped it; the primary has not been touched but for its replication settings.
pub fn make(spec: &MoveSpec, blobs: &dyn Blobs, sink: &dyn Sink) -> Result<Copied> {
    let mut diary = Diary::open(&spec.job)?;
    let mut primary = Link::open_within(&spec.from, &spec.job.credentials, START)?;
    match primary.role()? {
        Role::Master { .. } => {}
        role => bail!("{} is no master ({role:?}); no replica of it is made", spec.from),
    }
    if is_made(spec, &diary) {
        return Ok(Copied::default());
    }
    let turns = pace::turn(spec);
    let admitted = carry::admitted(spec, &turns, sink)?;
    diary.begin_replica(spec)?;
    let copied = filled(spec, &mut diary, (&mut primary, admitted), (blobs, sink))?;
    diary.intent(Step::Open, Value::Null)?;
    let instance = birth::instance(spec)?;
    let users = birth::closed_users(&instance, spec, blobs)?;
    instance.switch_users(&users, true)?;
    Link::open(&spec.to, &spec.job.credentials)?.all(&opened(&users))?;
    diary.done(Step::Open, Value::Null)?;
    Ok(copied)
}

fn opened(users: &[String]) -> Vec<Cmd> {
    users.iter().map(|user| words(&["ACL", "SETUSER", user, "on"])).collect()
}

/// Was it made by the move that the journal ends with, and does it follow?
fn is_made(spec: &MoveSpec, diary: &Diary) -> bool {
    let last = diary.begun().filter(|last| last.replica && (&last.from, &last.to) == (&spec.from, &spec.to));
    last.is_some() && is_finished(diary.this_move()) && follows(spec)
}

fn follows(spec: &MoveSpec) -> bool {
    sync::follows(&role_of(&spec.to, &spec.job.credentials), &spec.from)
}

/// Closes the journal of a replica that the map names from this epoch on: whoever has a lower one knows by that that
/// the map is behind.
///
/// # Errors
/// It does not follow its primary, or the disk said no.
pub fn keep(spec: &MoveSpec) -> Result<()> {
    let mut diary = Diary::open(&spec.job)?;
    if !diary.begun().is_some_and(|begun| begun.replica) || is_finished(diary.this_move()) {
        return Ok(());
    }
    if !follows(spec) {
        bail!("{} does not follow {}", spec.to, spec.from);
    }
    diary.intent(Step::Settle, Value::Null)?;
    diary.done(Step::Settle, json!({ "epoch": spec.epoch }))
}

/// Removes a replica that the map does not name yet. Its primary need not answer for that.
///
/// # Errors
/// Somebody has made a master of it, or what the system said.
pub fn take_back(spec: &MoveSpec, diary: &mut Diary) -> Result<()> {
    if let Role::Master { .. } = role_of(&spec.to, &spec.job.credentials) {
        bail!("{} is a master; it is not removed", spec.to);
    }
    diary.intent(Step::Abort, Value::Null)?;
    recover::remove_copy(spec)?;
    diary.done(Step::Abort, Value::Null)
}
