//! P6–P11: the source is armed, holds writes, is fenced; the target is promoted and opened.
//!
//! At every moment at most one of the two accepts application writes:
//! - Armed, the source accepts writes only with all its replicas attached, also after a restart. So a source that dies
//!   fenced and comes back as a master (its role is not in its file yet) refuses writes, since its replica left it.
//! - The target's application user is off until its own role is in its file.
//! - The offset at which the source was fenced is read in the transaction that fences it. Should the pause have run
//!   out before, the target may lack writes: then the source is taken back, and nothing was lost.
//! - A fence that was overtaken by time (this process was stopped) is not acted upon, but looked at anew by roles.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use redis::{Cmd, Value};
use serde_json::json;

use super::diary::{Diary, Mark, Step, is_finished};
use super::link::{Link, host_and_port, role_of, words};
use super::{birth, recover, sync, verify};
use crate::resources::redis_shard::RedisShard;
use crate::wire::shard::{MoveSpec, Recovered, Role, Switched};
use crate::wire::{Event, Sink};

/// How long after the fence the target may be promoted without looking at the roles again. A source that died needs
/// longer than this to come back, load its data, and have a replica attached and counted.
const FRESH: Duration = Duration::from_millis(100);
/// How long a switch that lost its way looks at the roles before it says that a person has to decide.
const LOST: Duration = Duration::from_secs(20);
/// Between two looks at the target while writes are held.
const LOOK: Duration = Duration::from_micros(100);

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
    let mut diary = Diary::open(&spec.journals, spec.shard, (&spec.run, spec.fence))?;
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
            bail!("cancelled before shard {} was handed over; {} serves it", spec.shard, spec.from);
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
        sink.emit(Event::Note { text: format!("shard {}: switch given up: {why}", spec.shard) });
    }
    bail!("shard {} stays at {}: {why}", spec.shard, spec.from)
}

fn is_handed_over(spec: &MoveSpec) -> bool {
    let is_owner = matches!(role_of(&spec.to, &spec.credentials), Role::Master { .. });
    is_owner && sync::follows(&role_of(&spec.from, &spec.credentials), &spec.to)
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
    let mut source = Link::open(&spec.from, &spec.credentials)?;
    let mut target = Link::open(&spec.to, &spec.credentials)?;
    if !matches!(source.role()?, Role::Master { .. }) || !sync::follows(&target.role()?, &spec.from) {
        bail!("{} does not follow {} as a copy; `copy` comes first", spec.to, spec.from);
    }
    sync::caught_up(&mut source, &mut target, spec, sink)?;
    sync::durable(&mut target, spec, sink)?;
    verify::compared(diary, (&mut source, &mut target), spec, sink)?;
    arm(spec, diary, &mut source, &mut target)?;

    let pause = Duration::from_millis(spec.limits.pause_ms);
    diary.announce(Step::Pause)?;
    let started = Instant::now();
    let milliseconds = spec.limits.pause_ms.to_string();
    let held = source.all(&[words(&["CLIENT", "PAUSE", &milliseconds, "WRITE"]), words(&["ROLE"])])?;
    let offset = master_offset(held.get(1)).context("the source is no master any more")?;
    diary.passed(Step::Pause)?;

    diary.announce(Step::Drain)?;
    while applied(&mut target)? < offset {
        if started.elapsed() > pause / 2 {
            recover::roll_back(spec, diary, &mut source)?;
            return Ok(Attempt::GaveUp(format!("{} did not catch up within half the pause", spec.to)));
        }
        std::thread::sleep(LOOK);
    }
    diary.passed(Step::Drain)?;

    diary.intent(Step::Fence, json!({ "offset": offset }))?;
    if started.elapsed() > pause * 3 / 4 {
        recover::roll_back(spec, diary, &mut source)?;
        return Ok(Attempt::GaveUp("the pause was nearly over before the source was fenced".to_owned()));
    }
    let asked = Instant::now();
    let fenced = fence(&mut source, &spec.to)?;
    if fenced > offset && target.info("replication")?.number("slave_repl_offset") < fenced {
        recover::roll_back(spec, diary, &mut source)?;
        return Ok(Attempt::GaveUp("the source took writes before it was fenced".to_owned()));
    }
    diary.passed(Step::Fence)?;
    diary.announce(Step::Promote)?;
    if asked.elapsed() > FRESH {
        bail!("this host was stopped for {} ms at the fence", asked.elapsed().as_millis());
    }
    let gap = promote_and_open(spec, diary, &instance, (&mut source, &mut target), started)?;
    let pending = finish(spec, diary, &instance, &mut target)?;
    let gap_us = u64::try_from(gap.as_micros()).unwrap_or(u64::MAX);
    Ok(Attempt::Done(Switched { gap_us, offset: fenced, pending, ..Switched::default() }))
}

/// P6. The number counts all replicas that could make a restarted source writable: the target and the others.
fn arm(spec: &MoveSpec, diary: &mut Diary, source: &mut Link, target: &mut Link) -> Result<()> {
    let info = source.info("replication")?;
    for other in &spec.others {
        if !sync::is_online(&info, other)? {
            bail!("the replica {other} is not attached to {}; the source cannot be armed", spec.from);
        }
    }
    let needed = u64::try_from(spec.others.len())? + 1;
    if info.number("connected_slaves") > needed {
        bail!("{} has {} replicas, the map knows {needed}", spec.from, info.number("connected_slaves"));
    }
    let before = match diary.last(Step::Arm, Mark::Intent).and_then(|armed| armed.detail["before"].as_str()) {
        Some(before) => before.to_owned(),
        None => source.setting("min-replicas-to-write")?,
    };
    let ids = (source.run_id()?, target.run_id()?);
    diary.intent(Step::Arm, json!({ "before": before, "source": ids.0, "target": ids.1 }))?;
    let needed = needed.to_string();
    source.all(&[words(&["CONFIG", "SET", "min-replicas-to-write", &needed]), words(&["CONFIG", "REWRITE"])])?;
    diary.done(Step::Arm, serde_json::Value::Null)
}

/// P9. Returns the source's offset in the moment in which it stopped being a master.
fn fence(source: &mut Link, target: &str) -> Result<u64> {
    let (host, port) = host_and_port(target)?;
    let answers = source.all(&[
        words(&["MULTI"]),
        words(&["ROLE"]),
        words(&["REPLICAOF", host, &port.to_string()]),
        words(&["CLIENT", "UNPAUSE"]),
        words(&["EXEC"]),
    ])?;
    let Some(Value::Array(executed)) = answers.last() else { bail!("the fence was not executed") };
    if let Some(Value::ServerError(error)) = executed.iter().find(|answer| matches!(answer, Value::ServerError(_))) {
        bail!("the fence failed: {error}");
    }
    master_offset(executed.first()).context("the source was no master any more when it was fenced")
}

/// The order of what is durable: the target's role, then the source's, then the target's rules. The gap ends when the
/// application's user is on; all before it is what must not be put off.
fn promote_and_open(
    spec: &MoveSpec,
    diary: &mut Diary,
    instance: &RedisShard,
    (source, target): (&mut Link, &mut Link),
    started: Instant,
) -> Result<Duration> {
    target.all(&[words(&["REPLICAOF", "NO", "ONE"]), words(&["CONFIG", "REWRITE"])])?;
    diary.passed(Step::Promote)?;
    let source_settles = settle_source(diary);
    let sent = source.send(&source_settles);
    diary.announce(Step::Open)?;
    target.all(&[words(&["ACL", "SETUSER", &spec.app_user, "on"])])?;
    let gap = started.elapsed();
    instance.switch_user(&spec.app_user, true)?;
    diary.done(Step::Open, serde_json::Value::Null)?;
    // A source that died meanwhile is settled by `finish`, or stays pending.
    sent.and_then(|()| source.collect(&source_settles)).ok();
    Ok(gap)
}

/// One rewrite puts both into the source's file: that it follows, and that it is no longer armed.
fn settle_source(diary: &Diary) -> [Cmd; 2] {
    let before = armed_before(diary);
    [words(&["CONFIG", "SET", "min-replicas-to-write", &before]), words(&["CONFIG", "REWRITE"])]
}

/// What `min-replicas-to-write` was at the source before this move armed it.
pub fn armed_before(diary: &Diary) -> String {
    let armed = diary.last(Step::Arm, Mark::Intent);
    armed.and_then(|record| record.detail["before"].as_str()).unwrap_or("0").to_owned()
}

/// After the opening: source and replicas durably follow the target; role and rules are read back. Returns what is
/// left to do; without that, the move is noted as settled.
///
/// # Errors
/// The target is not what it is to be.
pub fn finish(spec: &MoveSpec, diary: &mut Diary, instance: &RedisShard, target: &mut Link) -> Result<Vec<String>> {
    diary.intent(Step::Settle, serde_json::Value::Null)?;
    read_back(spec, instance, target)?;
    let mut pending = Vec::new();
    for follower in std::iter::once(&spec.from).chain(&spec.others) {
        if let Err(error) = follow(spec, follower, &settle_source(diary)) {
            pending.push(format!("{follower} does not follow {} yet: {error:#}", spec.to));
        }
    }
    if pending.is_empty() {
        diary.done(Step::Settle, serde_json::Value::Null)?;
    } else {
        diary.failed(Step::Settle, &pending.join("; "))?;
    }
    Ok(pending)
}

fn follow(spec: &MoveSpec, follower: &str, settle: &[Cmd]) -> Result<()> {
    let mut link = Link::open(follower, &spec.credentials)?;
    if !sync::follows(&link.role()?, &spec.to) {
        let (host, port) = host_and_port(&spec.to)?;
        link.run(&["REPLICAOF", host, &port.to_string()])?;
    }
    let rewrite = if follower == spec.from { settle } else { &[words(&["CONFIG", "REWRITE"])] };
    link.all(rewrite).map(drop)
}

/// I2: only what was read back is reported.
fn read_back(spec: &MoveSpec, instance: &RedisShard, target: &mut Link) -> Result<()> {
    if !matches!(target.role()?, Role::Master { .. }) {
        bail!("{} is no master after it was opened", spec.to);
    }
    let user: Vec<Value> = target.ask(&words(&["ACL", "GETUSER", &spec.app_user]))?;
    let is_on = |value: &Value| match value {
        Value::Array(flags) | Value::Set(flags) => flags.iter().any(|flag| text(flag) == Some("on")),
        _ => false,
    };
    if !user.iter().any(is_on) {
        bail!("the user {} is not on at {}", spec.app_user, spec.to);
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
