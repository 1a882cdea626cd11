//! P5: source and target hold the same keys with the same contents and the same times to live.
//!
//! What a new copy has on its disk is held against what it was sent ([`received`]); keys that were written to since, and
//! keys that seem to differ, are asked of both servers ([`live`]). All are asked for where the files do not tell, and where
//! somebody asks for a comparison: a `SCAN` at the source, then one at the target for keys that only it has. All of it
//! without `DEBUG`.

mod content;
mod increments;
mod input;
mod live;
mod received;
mod sides;
mod snapshot;

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use serde_json::json;

use super::diary::{Diary, Mark, Step, is_finished};
use super::link::{Link, words};
use super::sync;
use crate::wire::shard::{MoveSpec, Role, Verified};
use crate::wire::{Event, Sink};
use live::Pass;
use received::Suspects;

/// What tells which keys are asked of both servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// The target's files, where they do.
    Files,
    /// Nothing: all are.
    Live,
}

/// The request: compares anew. What a move under way is found to be decides whether it may be switched.
///
/// # Errors
/// An instance does not answer, or the target does not follow the source.
pub fn verify(spec: &MoveSpec, sink: &dyn Sink) -> Result<Verified> {
    let mut diary = Diary::open(&spec.job)?;
    let mut source = Link::open(&spec.from, &spec.job.credentials)?;
    let mut target = Link::open(&spec.to, &spec.job.credentials)?;
    match (source.role()?, target.role()?) {
        (Role::Master { .. }, role) if sync::follows(&role, &spec.from) => {
            sync::caught_up(&mut source, &mut target, spec, sink)?;
            if diary.begun().is_none() || is_finished(diary.this_move()) {
                return compare(&mut source, &mut target, None, spec, sink);
            }
            compared_anew(&mut diary, (&mut source, &mut target), Way::Live, spec, sink)
        }
        (role, Role::Master { .. }) if sync::follows(&role, &spec.to) => {
            compare(&mut target, &mut source, None, spec, sink)
        }
        (source, target) => bail!("neither follows the other: source {source:?}, target {target:?}"),
    }
}

/// Sees to it that the journal knows the copy as equal: compares, unless these very processes were found equal and no
/// full sync came between. No switch goes without it.
///
/// # Errors
/// They differ; the error names the keys. Or as [`compare`].
pub fn compared(
    diary: &mut Diary,
    (source, target): (&mut Link, &mut Link),
    spec: &MoveSpec,
    sink: &dyn Sink,
) -> Result<Verified> {
    let of = compared_processes(source, target)?;
    let last = diary.this_move().iter().rev().find(|r| r.step == Step::Verify && r.mark != Mark::Intent);
    if last.is_some_and(|record| record.mark == Mark::Done && record.detail["of"] == of) {
        return Ok(Verified::default());
    }
    let verified = compared_anew(diary, (source, target), Way::Files, spec, sink)?;
    if !verified.is_equal() {
        bail!("{}", told(&verified, spec));
    }
    Ok(verified)
}

fn compared_anew(
    diary: &mut Diary,
    (source, target): (&mut Link, &mut Link),
    way: Way,
    spec: &MoveSpec,
    sink: &dyn Sink,
) -> Result<Verified> {
    let of = compared_processes(source, target)?;
    diary.intent(Step::Verify, json!({ "of": of }))?;
    let suspects = match way {
        Way::Files => by_files(source, target, spec, sink)?,
        Way::Live => None,
    };
    let verified = compare(source, target, suspects, spec, sink)?;
    if verified.is_equal() {
        diary.done(Step::Verify, json!({ "of": of, "keys": verified.keys, "live": verified.live }))?;
        let (shard, Verified { keys, live, .. }) = (spec.job.shard, &verified);
        sink.emit(Event::Note {
            text: format!("shard {shard}: {keys} keys are equal; both servers were asked for {live} of them"),
        });
    } else {
        diary.failed(Step::Verify, "the copy differs from the source")?;
    }
    Ok(verified)
}

/// What a comparison is good for: two processes, and no full sync since.
fn compared_processes(source: &mut Link, target: &mut Link) -> Result<serde_json::Value> {
    let full_syncs = source.info("stats")?.number("sync_full");
    Ok(json!({ "source": source.run_id()?, "target": target.run_id()?, "full_syncs": full_syncs }))
}

/// What the target's files leave to be asked for; nothing where they do not tell.
fn by_files(source: &mut Link, target: &mut Link, spec: &MoveSpec, sink: &dyn Sink) -> Result<Option<Suspects>> {
    let mut total = 0;
    for database in databases(&mut [source])? {
        total += size(source, database)?;
    }
    let (shard, done) = (spec.job.shard, 0);
    sink.emit(Event::Progress { job: format!("shard {shard}"), phase: "verify".to_owned(), done, total });
    sync::durable(target, spec, sink)?;
    match received::suspects(target, &|| !sink.cancelled()) {
        Ok(suspects) => Ok(Some(suspects)),
        Err(_) if sink.cancelled() => bail!(live::cancelled(spec)),
        Err(why) => {
            let text =
                format!("shard {shard}: all keys are compared live; the files of {} do not tell: {why:#}", spec.to);
            sink.emit(Event::Note { text });
            Ok(None)
        }
    }
}

/// Compares two instances, the second of which follows the first: the suspects, or all keys.
///
/// # Errors
/// An instance does not answer, or the run was cancelled.
fn compare(
    source: &mut Link,
    target: &mut Link,
    mut suspects: Option<Suspects>,
    spec: &MoveSpec,
    sink: &dyn Sink,
) -> Result<Verified> {
    let mut verified = Verified::default();
    for database in databases(&mut [source, target])?.into_iter().rev() {
        target.run(&["SELECT", &database.to_string()])?;
        let total = size(source, database)?;
        let mut pass = Pass::of((source, target), (spec, sink), total, &mut verified);
        match &mut suspects {
            None => pass.all()?,
            Some(suspects) => pass.only(suspects.remove(&database).unwrap_or_default())?,
        }
    }
    Ok(verified)
}

/// The databases that hold anything, and the first.
fn databases(links: &mut [&mut Link]) -> Result<BTreeSet<u32>> {
    let mut databases = BTreeSet::from([0]);
    for link in links {
        let info = link.info("keyspace")?;
        databases.extend(info.iter().filter_map(|(name, _)| name.strip_prefix("db")?.parse::<u32>().ok()));
    }
    Ok(databases)
}

/// How many keys a database has, which is selected then.
fn size(link: &mut Link, database: u32) -> Result<u64> {
    link.run(&["SELECT", &database.to_string()])?;
    link.ask(&words(&["DBSIZE"]))
}

/// What a comparison that found differences says.
pub fn told(verified: &Verified, spec: &MoveSpec) -> String {
    let list = |what: &str, keys: &[String]| match keys {
        [] => String::new(),
        keys => format!("; {what}: {}", keys.join(", ")),
    };
    format!(
        "shard {}: the copy at {} is not what {} has{}{}{}; nothing is handed over",
        spec.job.shard,
        spec.to,
        spec.from,
        list("differing", &verified.differing),
        list("missing", &verified.missing),
        list("extra", &verified.extra)
    )
}
