//! P6–P11: the source is armed, holds writes, is fenced; the target is promoted and opened.
//!
//! What waits for a disk happens before writes are held, or after the target is open; between the two are five round
//! trips. At every moment at most one of the two accepts application writes:
//! - Armed, the source accepts writes only with all its replicas attached, also after a restart. So a source that dies
//!   fenced and comes back as a master (its role is not in its file yet) refuses writes, since its replica left it.
//! - The target stands by: by its files it is a master already, with the users of application and replicas off.
//!   Restarted before they are on durably, it is closed, and nothing that it may have acknowledged is overwritten by a
//!   sync from the source. Nor does the source, fenced, take over a target's data before the target is promoted: the
//!   target lets no replica in until then.
//! - The offset at which the source was fenced is read in the transaction that fences it. Should the pause have run
//!   out before, the target may lack writes: then the source is taken back, and nothing was lost.
//! - A fence that was overtaken by time (this process was stopped) is not acted upon, but looked at anew by roles.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use redis::{Cmd, Value};
use serde_json::json;

use super::arm::{arm, disarmed, guarded};
use super::crash::{self, Moment};
use super::diary::{Diary, Mark, Step, is_finished};
use super::door::Door;
use super::guard::Guard;
use super::link::{Link, host_and_port, role_of, words};
use super::{birth, recover, sync, verify};
use crate::poll::poll_until;
use crate::resources::redis_shard::RedisShard;
use crate::wire::shard::{MoveSpec, Recovered, Role, Switched};
use crate::wire::{Event, Sink};

/// How long after the fence the target may be promoted without looking at the roles again. A source that died needs
/// longer than this to come back, load its data, and have a replica attached and counted.
const FRESH: Duration = Duration::from_millis(100);
/// How long a switch that lost its way looks at the roles before it says that a person has to decide.
const LOST: Duration = Duration::from_secs(20);
/// How long the replicas may take to come over to the target, and to be counted there: they look once a second.
const COME_OVER: Duration = Duration::from_secs(10);
/// Between two looks at the target while writes are held.
const DRAIN_POLL_INTERVAL: Duration = Duration::from_micros(100);

/// How one attempt ended.
enum Attempt {
    Done(Switched),
    /// The source serves as before; why.
    GaveUp(String),
}

/// Hands the shard over; where it is handed over already, says so.
///
/// # Errors
/// All attempts were given up, or a person has to decide; the shard then is where it was, or the message says what
/// was found.
pub fn switch(spec: &MoveSpec, sink: &dyn Sink) -> Result<Switched> {
    let mut diary = Diary::open(&spec.job)?;
    if is_finished(diary.this_move()) && is_handed_over(spec) {
        return Ok(Switched { already: true, ..Switched::default() });
    }
    diary.begin(spec)?;
    if diary.last(Step::Arm, Mark::Intent).is_some() {
        match recover::by_roles(spec, &mut diary, LOST)? {
            Recovered::AtSource { .. } => {}
            decided => return at_target(decided),
        }
    }
    let mut why = String::new();
    for retries in 0..spec.limits.attempts.max(1) {
        if sink.cancelled() {
            bail!("cancelled before shard {} was handed over; {} serves it", spec.job.shard, spec.from);
        }
        if let Some(guard) = Guard::of(spec) {
            guard.calm("switch", sink)?;
        }
        match attempt(spec, &mut diary, sink) {
            Ok(Attempt::Done(done)) => return Ok(Switched { retries, ..done }),
            Ok(Attempt::GaveUp(reason)) => why = reason,
            Err(error) if is_armed(&diary) => match recover::by_roles(spec, &mut diary, LOST)? {
                Recovered::AtSource { .. } => why = format!("{error:#}"),
                decided => return at_target(decided).map(|done| Switched { retries, ..done }),
            },
            Err(error) => return Err(error),
        }
        sink.emit(Event::Note { text: format!("shard {}: switch given up: {why}", spec.job.shard) });
    }
    bail!("shard {} stays at {}: {why}", spec.job.shard, spec.from)
}

fn is_handed_over(spec: &MoveSpec) -> bool {
    let is_owner = matches!(role_of(&spec.to, &spec.job.credentials), Role::Master { .. });
    is_owner && sync::follows(&role_of(&spec.from, &spec.job.credentials), &spec.to)
}

fn at_target(decided: Recovered) -> Result<Switched> {
    match decided {
        Recovered::AtTarget { pending, .. } => Ok(Switched { already: true, pending, ..Switched::default() }),
        Recovered::AtSource { why } | Recovered::Undecided { why } => bail!(why),
    }
}

/// Is the source armed by this move, as far as the journal knows?
fn is_armed(diary: &Diary) -> bool {
    let last = |step, mark| diary.this_move().iter().rposition(|r| r.step == step && r.mark == mark);
    last(Step::Arm, Mark::Intent) > last(Step::RollBack, Mark::Done)
}

fn attempt(spec: &MoveSpec, diary: &mut Diary, sink: &dyn Sink) -> Result<Attempt> {
    let instance = birth::instance(spec)?;
    let mut source = Link::open(&spec.from, &spec.job.credentials)?;
    let mut target = Link::open(&spec.to, &spec.job.credentials)?;
    if !matches!(source.role()?, Role::Master { .. }) || !sync::follows(&target.role()?, &spec.from) {
        bail!("{} does not follow {} as a copy; `copy` comes first", spec.to, spec.from);
    }
    sync::caught_up(&mut source, &mut target, spec, sink)?;
    sync::durable(&mut target, spec, sink)?;
    verify::compared(diary, (&mut source, &mut target), spec, sink)?;
    arm(spec, diary, &mut source, &mut target)?;
    let door = Door::of(spec, diary, &instance, &mut source)?;
    door.stand_by(diary, &instance, &mut target)?;
    let done = match hand_over(spec, diary, &door, (&mut source, &mut target))? {
        Attempt::Done(done) => done,
        given_up => return Ok(given_up),
    };
    // Both files at the same time. A source that died meanwhile is settled by `finish`, or stays pending.
    let source_settles = disarmed(diary);
    let sent = source.send(&source_settles);
    diary.announce(Step::Open)?;
    door.open(diary, &instance)?;
    sent.and_then(|()| source.collect(&source_settles)).ok();
    let pending = finish(spec, diary, &instance, &mut target)?;
    Ok(Attempt::Done(Switched { pending, ..done }))
}

/// P7–P10: nothing in here waits for a disk while writes are held.
fn hand_over(
    spec: &MoveSpec,
    diary: &mut Diary,
    door: &Door,
    (source, target): (&mut Link, &mut Link),
) -> Result<Attempt> {
    let pause = Duration::from_millis(spec.limits.pause_ms);
    // From here on a fence may have happened, as far as anybody knows who finds this journal after a power cut.
    diary.intent(Step::Pause, json!({ "boot": boot()? }))?;
    let started = Instant::now();
    let milliseconds = spec.limits.pause_ms.to_string();
    let held = source.all(&[words(&["CLIENT", "PAUSE", &milliseconds, "WRITE"]), words(&["ROLE"])])?;
    let offset = master_offset(held.get(1)).context("the source is no master any more")?;
    diary.passed(Step::Pause)?;

    diary.announce(Step::Drain)?;
    let check = || anyhow::Ok((applied(target)? >= offset).then_some(()));
    if poll_until(started + pause / 2, DRAIN_POLL_INTERVAL, check)?.is_none() {
        recover::roll_back(spec, diary, source, Some(target))?;
        return Ok(Attempt::GaveUp(format!("{} did not catch up within half the pause", spec.to)));
    }
    diary.passed(Step::Drain)?;

    diary.announce(Step::Fence)?;
    if started.elapsed() > pause * 3 / 4 {
        recover::roll_back(spec, diary, source, Some(target))?;
        return Ok(Attempt::GaveUp("the pause was nearly over before the source was fenced".to_owned()));
    }
    crash::point(Step::Fence, Moment::Last);
    let asked = Instant::now();
    let fenced = fence(source, &spec.to)?;
    if fenced > offset && target.info("replication")?.number("slave_repl_offset") < fenced {
        recover::roll_back(spec, diary, source, Some(target))?;
        return Ok(Attempt::GaveUp("the source took writes before it was fenced".to_owned()));
    }
    diary.passed(Step::Fence)?;
    diary.announce(Step::Promote)?;
    if asked.elapsed() > FRESH {
        bail!("this host was stopped for {} ms at the fence", asked.elapsed().as_millis());
    }
    door.promote(target)?;
    let gap_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    diary.passed(Step::Promote)?;
    Ok(Attempt::Done(Switched { gap_us, offset: fenced, ..Switched::default() }))
}

/// P9. Returns the source's offset in the moment in which it stopped being a master.
fn fence(source: &mut Link, target: &str) -> Result<u64> {
    let (host, port) = host_and_port(target)?;
    let port = port.to_string();
    let executed =
        source.transaction(&[words(&["ROLE"]), words(&["REPLICAOF", host, &port]), words(&["CLIENT", "UNPAUSE"])])?;
    master_offset(executed.first()).context("the source was no master any more when it was fenced")
}

/// The identity of this start of the host: notes that were not synced are lost with it.
pub fn boot() -> Result<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").context("reading the host's boot id")?;
    Ok(id.trim().to_owned())
}

/// After the opening: source and replicas durably follow the target; role and rules are read back. Returns what is
/// left to do; without that, the move is noted as settled.
///
/// # Errors
/// The target is not what it is to be.
pub fn finish(spec: &MoveSpec, diary: &mut Diary, instance: &RedisShard, target: &mut Link) -> Result<Vec<String>> {
    diary.intent(Step::Settle, serde_json::Value::Null)?;
    read_back(spec, instance, (diary, target))?;
    let mut pending = Vec::new();
    for follower in std::iter::once(&spec.from).chain(&spec.others) {
        if let Err(error) = follow(spec, follower, &disarmed(diary)) {
            pending.push(format!("{follower} does not follow {} yet: {error:#}", spec.to));
        }
    }
    let needed = instance.current()?.and_then(|conf| conf.get("min-replicas-to-write")?.parse().ok()).unwrap_or(0);
    if needed > 0
        && let Err(error) = guarded(target, needed, COME_OVER)
    {
        pending.push(format!("{} accepts writes without its replicas: {error:#}", spec.to));
    }
    if pending.is_empty() {
        diary.done(Step::Settle, serde_json::Value::Null)?;
    } else {
        diary.failed(Step::Settle, &pending.join("; "))?;
    }
    Ok(pending)
}

fn follow(spec: &MoveSpec, follower: &str, settle: &[Cmd]) -> Result<()> {
    let mut link = Link::open(follower, &spec.job.credentials)?;
    if !sync::follows(&link.role()?, &spec.to) {
        let (host, port) = host_and_port(&spec.to)?;
        link.run(&["REPLICAOF", host, &port.to_string()])?;
    }
    let rewrite = if follower == spec.from { settle } else { &[words(&["CONFIG", "REWRITE"])] };
    link.all(rewrite).map(drop)
}

/// I2: only what was read back is reported.
fn read_back(spec: &MoveSpec, instance: &RedisShard, (diary, target): (&Diary, &mut Link)) -> Result<()> {
    if !matches!(target.role()?, Role::Master { .. }) {
        bail!("{} is no master after it was opened", spec.to);
    }
    let is_on = |value: &Value| match value {
        Value::Array(flags) | Value::Set(flags) => flags.iter().any(|flag| text(flag) == Some("on")),
        _ => false,
    };
    for name in Door::noted(spec, diary).users() {
        let user: Vec<Value> = target.ask(&words(&["ACL", "GETUSER", name]))?;
        if !user.iter().any(is_on) {
            bail!("the user {name} is not on at {}", spec.to);
        }
    }
    match instance.current()? {
        Some(conf) if conf.replica_of().is_none() => Ok(()),
        _ => bail!("the configuration of {} does not say yet that it is a master", spec.to),
    }
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

/// The offset in a master's answer to `ROLE`; `None` from a replica.
fn master_offset(role: Option<&Value>) -> Option<u64> {
    let Some(Value::Array(fields)) = role else { return None };
    match &fields[..] {
        [kind, Value::Int(offset), _] if text(kind) == Some("master") => u64::try_from(*offset).ok(),
        _ => None,
    }
}

/// What the target has applied; 0 while it is not connected.
fn applied(target: &mut Link) -> Result<u64> {
    let role: Vec<Value> = target.ask(&words(&["ROLE"]))?;
    Ok(match role.last() {
        Some(Value::Int(offset)) => u64::try_from(*offset).unwrap_or(0),
        _ => 0,
    })
}
