//! A copy takes the place of a primary that is gone, in the agent on the copy's host.
//!
//! At every moment at most one of the two accepts application writes:
//! - The copy leaves the old primary closed: all users but dunlin's and replication's are off in its file and in
//!   memory, and those who were connected are sent away. Restarted now, it is a closed master.
//! - All other copies leave the old primary too, before the new one is opened. With `min-replicas-to-write` the old one
//!   accepts no write `min-replicas-max-lag` seconds after the last of them was heard, and none after a restart. That
//!   long is waited, unless its own host has stopped it for good. Should it answer meanwhile, it is not dead: all goes
//!   back to it, and nothing was written anywhere else.
//! - From the journal's `promote` on, the copy may hold writes that only it has: then there is no way but on.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use redis::{Cmd, Value as Answer};
use serde_json::{Value, json};

use super::diary::{Diary, Mark, Step, is_finished};
use super::door::closed_users;
use super::link::{Link, host_and_port, role_of, words};
use super::sync;
use crate::poll::poll_until;
use crate::resources::redis_shard::RedisShard;
use crate::wire::shard::Role;
use crate::wire::shard::failover::{Promote, Promoted};
use crate::wire::{Event, Sink};

/// How long the copy may take to answer.
const START: Duration = Duration::from_secs(20);
/// How much longer than `min-replicas-max-lag` is waited: a primary looks at its replicas once a second, counts in whole
/// seconds, and may have got the last acknowledgement late.
const LOOKS: Duration = Duration::from_secs(3);
/// How long another copy may take to be attached to the new primary before it is opened without waiting for it.
const ATTACH: Duration = Duration::from_secs(3);
/// Between two looks.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Promotes the copy; where it is promoted already, says so. Asked again, it goes on where the last one stopped.
///
/// # Errors
/// The primary lives, the copy is not what the plan saw, or what an instance or the system said. Up to `promote` in the
/// journal, [`take_back`] undoes what was done.
pub fn promote(what: &Promote, sink: &dyn Sink) -> Result<Promoted> {
    let mut diary = Diary::open(&what.job)?;
    let instance = instance(what)?;
    let mut copy = Link::open_within(&what.to, &what.job.credentials, START)?;
    let role = copy.role()?;
    let opened = is_ours(&diary, what) && diary.last(Step::Promote, Mark::Intent).is_some();
    let (opened, ended) = match &role {
        // It was promoted, and the shard went back: this is another death.
        Role::Replica { .. } if opened && is_finished(diary.this_move()) => (false, false),
        _ => (opened, opened && is_finished(diary.this_move())),
    };
    if let (true, Role::Master { offset, .. }) = (ended, &role) {
        return Ok(Promoted { offset: *offset, already: true, waited_ms: 0 });
    }
    let mut waited_ms = 0;
    if !opened {
        leave(what, &mut diary, (&instance, &mut copy))?;
        let waited = others_follow(what).and_then(|()| outlive(what, &mut diary, &mut copy, sink));
        waited_ms = match waited {
            Ok(waited) => u64::try_from(waited.as_millis())?,
            Err(error) if is_alive(what) => {
                back(what, &mut diary, (&instance, &mut copy))?;
                return Err(error.context(format!("{} follows it again, nothing was promoted", what.to)));
            }
            Err(error) => return Err(error),
        };
    }
    let offset = open(what, &mut diary, (&instance, &mut copy))?;
    Ok(Promoted { offset, already: false, waited_ms })
}

/// Has a copy that was not opened follow its primary again.
///
/// # Errors
/// It was opened, or the primary does not answer as a master.
pub fn take_back(what: &Promote) -> Result<()> {
    let mut diary = Diary::open(&what.job)?;
    if !is_ours(&diary, what) || is_finished(diary.this_move()) {
        return Ok(());
    }
    if diary.last(Step::Promote, Mark::Intent).is_some() {
        bail!("{} may have been opened: it stays the primary of shard {}", what.to, what.job.shard);
    }
    if !is_alive(what) {
        bail!("{} does not answer as a master; {} stays closed", what.from, what.to);
    }
    let mut copy = Link::open_within(&what.to, &what.job.credentials, START)?;
    back(what, &mut diary, (&instance(what)?, &mut copy))
}

fn instance(what: &Promote) -> Result<RedisShard> {
    serde_json::from_value(what.instance.clone()).with_context(|| format!("the instance of shard {}", what.job.shard))
}

/// Is the journal's last move this failover?
fn is_ours(diary: &Diary, what: &Promote) -> bool {
    diary.begun().is_some_and(|begun| begun.failover && (&begun.from, &begun.to) == (&what.from, &what.to))
}

fn is_alive(what: &Promote) -> bool {
    matches!(role_of(&what.from, &what.job.credentials), Role::Master { .. })
}

/// The copy leaves the old primary, closed.
fn leave(what: &Promote, diary: &mut Diary, (instance, copy): (&RedisShard, &mut Link)) -> Result<()> {
    let left =
        is_ours(diary, what) && !is_finished(diary.this_move()) && diary.last(Step::StandBy, Mark::Intent).is_some();
    if !left {
        if is_alive(what) {
            bail!("{} answers as a master: it is not dead; nothing was changed", what.from);
        }
        fit(what, copy)?;
        diary.take_over(what, copy.setting("min-replicas-to-write")?)?;
    }
    let users = if left { closed_users(diary, &what.app_user) } else { users_to_close(what, instance, copy)? };
    diary.intent(Step::StandBy, json!({ "users": users }))?;
    instance.switch_users(&users, false)?;
    instance.unfollow()?;
    // To turn a user off ends none of its connections.
    let close = |user: &String| [words(&["ACL", "SETUSER", user, "off"]), words(&["CLIENT", "KILL", "USER", user])];
    let leave = words(&["REPLICAOF", "NO", "ONE"]);
    copy.transaction(&users.iter().flat_map(close).chain([leave]).collect::<Vec<Cmd>>())?;
    diary.done(Step::StandBy, Value::Null)
}

/// The application's users: all that the ACL file lets in, but for dunlin's and replication's. The other copies follow
/// this one before it is opened.
fn users_to_close(what: &Promote, instance: &RedisShard, copy: &mut Link) -> Result<Vec<String>> {
    let (acl, replication) = (instance.current_acl()?, copy.setting("masteruser")?);
    let is_closed = |user: &&str| *user != what.job.credentials.user && *user != replication && *user != what.app_user;
    Ok(acl.users_on().filter(is_closed).chain([what.app_user.as_str()]).map(str::to_owned).collect())
}

fn open_users(users: &[String]) -> impl Iterator<Item = Cmd> {
    users.iter().map(|user| words(&["ACL", "SETUSER", user, "on"]))
}

/// Is the copy still the one that the plan saw?
fn fit(what: &Promote, copy: &mut Link) -> Result<()> {
    let info = copy.info("all")?;
    match copy.role()? {
        Role::Replica { of, offset, .. } if of == what.from && offset >= what.offset => {}
        Role::Replica { of, offset, .. } if of == what.from => {
            bail!("{} is at offset {offset}, the plan saw it at {}: look again", what.to, what.offset)
        }
        role => bail!("{} is no replica of {} ({role:?}); nothing was changed", what.to, what.from),
    }
    if info.number("loading") + info.number("master_sync_in_progress") > 0 {
        bail!("{} is in the middle of a sync; nothing was changed", what.to);
    }
    if info.text("aof_enabled") != "1" || info.text("aof_last_write_status") != "ok" {
        bail!("{} does not write its append-only file; nothing was changed", what.to);
    }
    Ok(())
}

/// The other copies leave the old primary for the new one; from there they take what they lack, in part where they can.
fn others_follow(what: &Promote) -> Result<()> {
    what.others.iter().try_for_each(|other| {
        follow(other, &what.to, what).with_context(|| format!("the replica {other} stays with {}", what.from))
    })
}

fn follow(follower: &str, primary: &str, what: &Promote) -> Result<()> {
    let mut link = Link::open(follower, &what.job.credentials)?;
    if !sync::follows(&link.role()?, primary) {
        let (host, port) = host_and_port(primary)?;
        link.run(&["REPLICAOF", host, &port.to_string()])?;
    }
    link.run(&["CONFIG", "REWRITE"]).map(drop)
}

/// Waits until the old primary accepts no write any more, wherever it is.
fn outlive(what: &Promote, diary: &mut Diary, copy: &mut Link, sink: &dyn Sink) -> Result<Duration> {
    diary.intent(Step::Fence, json!({ "silenced": what.silenced }))?;
    let begin = Instant::now();
    if !what.silenced {
        let lag: u64 = copy.setting("min-replicas-max-lag")?.parse().context("min-replicas-max-lag")?;
        let time = Duration::from_secs(lag) + LOOKS;
        let check = || {
            if is_alive(what) {
                bail!("{} answers as a master: it is not dead", what.from);
            }
            sink.emit(Event::Progress {
                job: format!("shard {}", what.job.shard),
                phase: "fence".to_owned(),
                done: begin.elapsed().as_secs(),
                total: time.as_secs(),
            });
            // Only an error ends the wait early.
            Ok(None::<()>)
        };
        poll_until(begin + time, POLL_INTERVAL, check)?;
    }
    diary.done(Step::Fence, Value::Null)?;
    Ok(begin.elapsed())
}

/// Opens the copy: everything durable first. Returns where its history branches off.
fn open(what: &Promote, diary: &mut Diary, (instance, copy): (&RedisShard, &mut Link)) -> Result<u64> {
    if let Role::Replica { of, .. } = copy.role()? {
        bail!("{} follows {of} although it left its primary: somebody else moved this shard", what.to);
    }
    let wished = diary.begun().and_then(|begun| begun.min_replicas?.parse().ok()).unwrap_or(0);
    let needed = attached(what, copy)?.min(wished);
    diary.intent(Step::Promote, Value::Null)?;
    instance.unfollow()?;
    instance.need_replicas(needed)?;
    let users = closed_users(diary, &what.app_user);
    instance.switch_users(&users, true)?;
    let begin = [words(&["CONFIG", "SET", "min-replicas-to-write", &needed.to_string()])];
    copy.transaction(&begin.into_iter().chain(open_users(&users)).collect::<Vec<Cmd>>())?;
    diary.done(Step::Promote, Value::Null)?;
    diary.intent(Step::Settle, Value::Null)?;
    let offset = read_back(what, instance, copy)?;
    diary.done(Step::Settle, Value::Null)?;
    Ok(offset)
}

/// How many of the other copies are with the new primary; those that need longer do not hold it up.
fn attached(what: &Promote, copy: &mut Link) -> Result<u32> {
    let mut count = 0;
    let check = || {
        let info = copy.info("replication")?;
        let online = what.others.iter().map(|other| sync::is_online(&info, other)).collect::<Result<Vec<bool>>>()?;
        count = online.iter().filter(|online| **online).count();
        anyhow::Ok((count == online.len()).then_some(()))
    };
    poll_until(Instant::now() + ATTACH, POLL_INTERVAL, check)?;
    Ok(u32::try_from(count)?)
}

/// I2: only what was read back is reported.
fn read_back(what: &Promote, instance: &RedisShard, copy: &mut Link) -> Result<u64> {
    let Role::Master { offset, .. } = copy.role()? else { bail!("{} is no master after it was opened", what.to) };
    let user: Vec<Answer> = copy.ask(&words(&["ACL", "GETUSER", &what.app_user]))?;
    let is_on = |value: &Answer| match value {
        Answer::Array(flags) | Answer::Set(flags) => flags.iter().any(is_the_word_on),
        _ => false,
    };
    if !user.iter().any(is_on) {
        bail!("the user {} is not on at {}", what.app_user, what.to);
    }
    if instance.current()?.is_none_or(|conf| conf.replica_of().is_some()) {
        bail!("the configuration of {} does not say yet that it is a master", what.to);
    }
    Ok(copy.info("replication").ok().and_then(|info| Some(super::survey::branched(&info)?.1)).unwrap_or(offset))
}

fn is_the_word_on(value: &Answer) -> bool {
    matches!(value, Answer::BulkString(text) if text == b"on")
        || matches!(value, Answer::SimpleString(text) if text == "on")
}

/// The copies follow the old primary again: they were closed, and have nothing that it lacks.
fn back(what: &Promote, diary: &mut Diary, (instance, copy): (&RedisShard, &mut Link)) -> Result<()> {
    diary.intent(Step::RollBack, Value::Null)?;
    let (host, port) = host_and_port(&what.from)?;
    copy.run(&["REPLICAOF", host, &port.to_string()])?;
    copy.run(&["CONFIG", "REWRITE"])?;
    let users = closed_users(diary, &what.app_user);
    instance.switch_users(&users, true)?;
    copy.all(&open_users(&users).collect::<Vec<Cmd>>())?;
    what.others.iter().try_for_each(|other| follow(other, &what.from, what))?;
    diary.done(Step::Abort, Value::Null)
}
