//! Brings a move that was cut short to an end, by looking at roles, never at key counts; and takes a move back.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::Value;

use super::diary::{Diary, Mark, Record, Step, is_finished};
use super::link::{Link, words};
use super::switch::{armed_before, finish};
use super::{birth, sync};
use crate::wire::shard::{MoveSpec, Recovered, Role};

/// How long to wait for instances that are starting.
const WAIT: Duration = Duration::from_secs(20);

/// What the journal knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Known {
    /// A fence was announced and not taken back.
    fenced: bool,
    /// The opening was announced.
    opened: bool,
    /// The source's process is the one that was armed.
    source_same: bool,
    /// The target's process is the one that stood by when the source was armed.
    target_same: bool,
}

/// What follows from roles and journal.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Decision {
    /// The source stays; is it to be made a master again?
    Source,
    /// The target takes over; what is missing of that is done.
    Target,
    /// Nothing can be done safely now.
    Neither(&'static str),
}

/// The table. `source` and `target` follow each other or nobody; followers of strangers are for a person.
fn decide(spec: &MoveSpec, source: &Role, target: &Role, known: Known) -> Decision {
    use Role::{Master, Replica, Unreachable};
    let strange = |role: &Role, other: &str| matches!(role, Replica { of, .. } if of != other);
    if strange(source, &spec.to) || strange(target, &spec.from) {
        return Decision::Neither("an instance follows a third one: somebody else moves or failed over this shard");
    }
    match (source, target) {
        (Master { .. }, Replica { .. }) if known.opened => {
            Decision::Neither("the target was opened, yet it follows the source: choose the one whose writes count")
        }
        (Master { .. }, Replica { .. }) => Decision::Source,
        (Replica { offset: at_source, .. }, Replica { offset: at_target, .. }) => {
            // The target was never opened (its role is in its file before that), so a source that has been there all
            // the time has everything. The target has, if it stood by all the time and drained.
            if known.target_same && (at_target >= at_source || !known.source_same) {
                Decision::Target
            } else if known.source_same {
                Decision::Source
            } else {
                Decision::Neither("both were restarted while neither was a master: choose the one with the later data")
            }
        }
        (Replica { .. }, Master { .. }) => Decision::Target,
        (Master { .. } | Unreachable, Master { .. }) if known.fenced => Decision::Target,
        (Master { .. }, Master { .. }) => Decision::Neither("both are masters, and no switch made them so"),
        (Unreachable, Master { .. }) => Decision::Neither("the source does not answer, and no switch was under way"),
        (Master { .. }, Unreachable) if !known.fenced => Decision::Source,
        (Master { .. } | Replica { .. }, Unreachable) => {
            Decision::Neither("the target does not answer and may hold writes: bring it back, or give it up")
        }
        (Unreachable, _) => Decision::Neither("the source does not answer: bring it back, or fail over to the target"),
    }
}

/// [`by_roles`] under the shard's lock.
///
/// # Errors
/// The journal cannot be read or written, or a step failed on the way.
pub fn recover(spec: &MoveSpec) -> Result<Recovered> {
    let mut diary = Diary::open(&spec.journals, spec.shard, (&spec.run, spec.fence))?;
    if diary.begun().is_none() {
        return Ok(Recovered::AtSource { why: "no move of this shard was begun on this host".to_owned() });
    }
    by_roles(spec, &mut diary, WAIT)
}

/// Looks until something can be decided, does what is missing, and says where the shard is.
///
/// # Errors
/// As [`recover`].
pub fn by_roles(spec: &MoveSpec, diary: &mut Diary, wait: Duration) -> Result<Recovered> {
    let end = Instant::now() + wait;
    loop {
        let tried = once(spec, diary);
        let is_settled = matches!(&tried, Ok(Recovered::AtSource { .. } | Recovered::AtTarget { .. }));
        let is_pending = matches!(&tried, Ok(Recovered::AtTarget { pending, .. }) if !pending.is_empty());
        if (is_settled && !is_pending) || Instant::now() > end {
            return tried;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn once(spec: &MoveSpec, diary: &mut Diary) -> Result<Recovered> {
    let instance = birth::instance(spec)?;
    if instance.current()?.is_some() && !instance.is_running()? {
        instance.start()?;
    }
    let since = since_roll_back(diary.this_move());
    let announced = |step| since.iter().any(|record| record.step == step && record.mark == Mark::Intent);
    let armed = since.iter().rev().find(|record| record.step == Step::Arm && record.mark == Mark::Intent);
    let (mut source, source_role, source_id) = look(&spec.from, spec);
    let (mut target, target_role, target_id) = look(&spec.to, spec);
    let same = |name: &str, id: &str| armed.is_some_and(|armed| armed.detail[name].as_str() == Some(id));
    let known = Known {
        fenced: announced(Step::Fence),
        opened: announced(Step::Open),
        source_same: same("source", &source_id),
        target_same: same("target", &target_id),
    };
    let was_armed = armed.is_some();
    match decide(spec, &source_role, &target_role, known) {
        Decision::Neither(why) => {
            Ok(Recovered::Undecided { why: format!("{why} (source {source_role:?}, target {target_role:?})") })
        }
        Decision::Source => {
            if let (true, Some(source)) = (was_armed && !is_finished(diary.this_move()), source.as_mut()) {
                roll_back(spec, diary, source)?;
            }
            Ok(Recovered::AtSource { why: format!("{} was never opened", spec.to) })
        }
        Decision::Target => {
            let Some(target) = target.as_mut() else { bail!("{} went away", spec.to) };
            let why = format!("{} was fenced", spec.from);
            if is_finished(diary.this_move()) {
                return Ok(Recovered::AtTarget { why, pending: Vec::new() });
            }
            if let Role::Replica { .. } = target_role {
                settle_before_promotion(spec, source.as_mut())?;
            }
            diary.announce(Step::Promote)?;
            target.all(&[words(&["REPLICAOF", "NO", "ONE"]), words(&["CONFIG", "REWRITE"])])?;
            diary.passed(Step::Promote)?;
            diary.intent(Step::Open, Value::Null)?;
            target.run(&["ACL", "SETUSER", &spec.app_user, "on"])?;
            instance.switch_user(&spec.app_user, true)?;
            diary.done(Step::Open, Value::Null)?;
            let pending = finish(spec, diary, &instance, target)?;
            Ok(Recovered::AtTarget { why, pending })
        }
    }
}

/// Nobody hurries here: the source's role is made durable first, so that it cannot come back as a master between this
/// look and the promotion.
fn settle_before_promotion(spec: &MoveSpec, source: Option<&mut Link>) -> Result<()> {
    let Some(source) = source else { return Ok(()) };
    source.run(&["CONFIG", "REWRITE"])?;
    if !sync::follows(&source.role()?, &spec.to) {
        bail!("{} changed its role meanwhile", spec.from);
    }
    Ok(())
}

/// Takes the source back to what it was: a master that is neither paused nor armed.
///
/// # Errors
/// It does not answer; it then stays armed, which costs availability should the copy go away, never a write.
pub fn roll_back(spec: &MoveSpec, diary: &mut Diary, source: &mut Link) -> Result<()> {
    diary.intent(Step::RollBack, Value::Null)?;
    if !matches!(source.role()?, Role::Master { .. }) {
        source.run(&["REPLICAOF", "NO", "ONE"])?;
    }
    let before = armed_before(diary);
    source.all(&[
        words(&["CLIENT", "UNPAUSE"]),
        words(&["CONFIG", "SET", "min-replicas-to-write", &before]),
        words(&["CONFIG", "REWRITE"]),
    ])?;
    if !matches!(source.role()?, Role::Master { .. }) {
        bail!("{} did not become a master again", spec.from);
    }
    diary.done(Step::RollBack, Value::Null)
}

/// Takes a move back: the source as before, the copy gone.
///
/// # Errors
/// The target was opened or may be, or the copy is not one: nothing is removed then.
pub fn abort(spec: &MoveSpec) -> Result<()> {
    let mut diary = Diary::open(&spec.journals, spec.shard, (&spec.run, spec.fence))?;
    if diary.begun().is_none() || diary.last(Step::Abort, Mark::Done).is_some() {
        return Ok(());
    }
    if is_finished(diary.this_move()) {
        bail!("shard {} is at {} already; `dunlin shards reverse` takes it back", spec.shard, spec.to);
    }
    match by_roles_if_armed(spec, &mut diary)? {
        Recovered::AtSource { .. } => {}
        Recovered::AtTarget { .. } => {
            bail!("shard {} was fenced and is at {}; `dunlin shards reverse` takes it back", spec.shard, spec.to)
        }
        Recovered::Undecided { why } => bail!("shard {}: {why}", spec.shard),
    }
    let mut source = Link::open(&spec.from, &spec.credentials)?;
    if !matches!(source.role()?, Role::Master { .. }) {
        bail!("{} is no master; the copy at {} is not removed", spec.from, spec.to);
    }
    let instance = birth::instance(spec)?;
    diary.intent(Step::Abort, Value::Null)?;
    if birth::is_copy(&instance, spec)? {
        // What it would still write is not wanted, and an unwritten append-only file would keep it from ending.
        if let Ok(mut target) = Link::open(&spec.to, &spec.credentials) {
            target.run(&["SHUTDOWN", "NOSAVE", "NOW", "FORCE"]).ok();
        }
        instance.stop()?;
        for file in [instance.conf_path(), instance.acl_path()] {
            remove(std::fs::remove_file(file))?;
        }
        remove(std::fs::remove_dir_all(&instance.folder))?;
    }
    diary.done(Step::Abort, Value::Null)
}

fn by_roles_if_armed(spec: &MoveSpec, diary: &mut Diary) -> Result<Recovered> {
    if diary.last(Step::Arm, Mark::Intent).is_some() {
        return by_roles(spec, diary, WAIT);
    }
    Ok(Recovered::AtSource { why: "the source was never armed".to_owned() })
}

fn remove(removed: std::io::Result<()>) -> Result<()> {
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

fn since_roll_back(records: &[Record]) -> &[Record] {
    let last = records.iter().rposition(|record| record.step == Step::RollBack && record.mark == Mark::Done);
    &records[last.map_or(0, |last| last + 1)..]
}

fn look(address: &str, spec: &MoveSpec) -> (Option<Link>, Role, String) {
    let Ok(mut link) = Link::open(address, &spec.credentials) else { return (None, Role::Unreachable, String::new()) };
    // An instance that is loading answers INFO with the role of its file: that is its role.
    match link.role().and_then(|role| Ok((role, link.run_id()?))) {
        Ok((role, id)) => (Some(link), role, id),
        Err(_) => (None, Role::Unreachable, String::new()),
    }
}
