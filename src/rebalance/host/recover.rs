//! Brings a move that was cut short to an end, by looking at roles, never at key counts; and takes a move back.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::Value;

use super::arm::disarmed;
use super::diary::{Diary, Mark, Record, Step, is_finished};
use super::door::Door;
use super::link::{Link, host_and_port};
use super::relay;
use super::switch::{boot, finish};
use super::{birth, replica, sync};
use crate::wire::shard::{MoveSpec, Recovered, Role};

/// How long to wait for instances that are starting.
const WAIT: Duration = Duration::from_secs(20);

/// What the journal and the processes tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Known {
    /// The target was prepared to stand by at some time in this move: its file may make it a master.
    stood_by: bool,
    /// A fence was announced and not taken back, or may have been.
    fenced: bool,
    /// The promotion was announced: from then on the target may hold writes that only it has.
    promoted: bool,
    /// The host was started anew since writes were held: an announcement may be lost.
    rebooted: bool,
    /// The source's process is the one that was armed.
    source_same: bool,
    /// The target's process is the one that stood by when the source was armed.
    target_same: bool,
    /// What the target has applied is on its disk before it says so (`appendfsync always`).
    target_keeps: bool,
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
///
/// Two rules stand behind it. A target that was never promoted has nothing that the source lacks. And a source that
/// follows the target was fenced, after the target had drained: a target that is still the same process, or that keeps
/// what it has applied, has everything.
fn decide(spec: &MoveSpec, source: &Role, target: &Role, known: Known) -> Decision {
    use Role::{Master, Replica, Unreachable};
    let strange = |role: &Role, other: &str| matches!(role, Replica { of, .. } if of != other);
    if strange(source, &spec.to) || strange(target, &spec.from) {
        return Decision::Neither("an instance follows a third one: somebody else moves or failed over this shard");
    }
    match (source, target) {
        (Master { .. }, Replica { .. }) if known.promoted && !known.target_same => {
            Decision::Neither("the target was opened, yet it follows the source: choose the one whose writes count")
        }
        (Master { .. }, Replica { .. }) => Decision::Source,
        (Replica { offset: at_source, .. }, Replica { offset: at_target, .. }) => {
            // By its file the target is a master before the fence: one that follows was never promoted.
            if known.target_same && (at_target >= at_source || !known.source_same) {
                Decision::Target
            } else if known.source_same {
                Decision::Source
            } else {
                Decision::Neither("both were restarted while neither was a master: choose the one with the later data")
            }
        }
        (Replica { .. }, Master { .. }) if known.promoted || known.target_same || known.target_keeps => {
            Decision::Target
        }
        (Replica { .. }, Master { .. }) if known.source_same && !known.rebooted => Decision::Source,
        (Replica { .. }, Master { .. }) => Decision::Neither(
            "the target was restarted and may lack its last second: choose the one whose writes count",
        ),
        (Master { .. } | Unreachable, Master { .. }) if known.promoted || known.target_same => Decision::Target,
        (Master { .. }, Master { .. }) if known.stood_by && (known.source_same || !known.rebooted) => Decision::Source,
        (Master { .. }, Master { .. }) => {
            Decision::Neither("both are masters, and nobody knows whether the target was opened")
        }
        (Unreachable, Master { .. }) => Decision::Neither("the source does not answer, and the target was not opened"),
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
    let mut diary = Diary::open(&spec.job)?;
    match diary.begun() {
        None => return Ok(Recovered::AtSource { why: "no move of this shard was begun on this host".to_owned() }),
        Some(begun) if begun.replica => {
            return Ok(Recovered::AtSource { why: format!("{} is a replica in the making", spec.to) });
        }
        Some(_) => {}
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
        instance.start_with_host()?;
    }
    let (mut source, source_role, source_id) = look(&spec.from, spec);
    let (mut target, mut target_role, target_id) = look(&spec.to, spec);
    // A copy goes through its relay before anything is armed: its source is a master then, or does not answer.
    if !matches!(source_role, Role::Replica { .. }) {
        target_role = relay::seen(target_role, spec);
    }
    let keeps = target.as_mut().is_some_and(|target| target.setting("appendfsync").is_ok_and(|when| when == "always"));
    let known = known(diary, (&source_id, &target_id), keeps)?;
    let was_armed = since_roll_back(diary.this_move()).iter().any(|record| record.step == Step::Arm);
    match decide(spec, &source_role, &target_role, known) {
        Decision::Neither(why) => {
            Ok(Recovered::Undecided { why: format!("{why} (source {source_role:?}, target {target_role:?})") })
        }
        Decision::Source => {
            let is_open_move = !is_finished(diary.this_move());
            if let (true, Some(source)) = (was_armed && is_open_move, source.as_mut()) {
                roll_back(spec, diary, source, target.as_mut())?;
            } else if let (true, Role::Master { .. }, Some(target)) = (is_open_move, &target_role, target.as_mut()) {
                follow_again(spec, target)?;
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
            diary.intent(Step::Promote, Value::Null)?;
            instance.unfollow()?;
            let door = Door::noted(spec, diary);
            door.promote(target)?;
            diary.passed(Step::Promote)?;
            diary.intent(Step::Open, Value::Null)?;
            door.open(diary, &instance)?;
            let pending = finish(spec, diary, &instance, target)?;
            Ok(Recovered::AtTarget { why, pending })
        }
    }
}

fn known(diary: &Diary, (source, target): (&str, &str), target_keeps: bool) -> Result<Known> {
    let since = since_roll_back(diary.this_move());
    let announced = |step| since.iter().rev().find(|record| record.step == step && record.mark == Mark::Intent);
    let (armed, paused) = (announced(Step::Arm), announced(Step::Pause));
    let same = |name: &str, id: &str| armed.is_some_and(|armed| armed.detail[name].as_str() == Some(id));
    let boot = boot()?;
    let rebooted = paused.is_some_and(|paused| paused.detail["boot"].as_str() != Some(&boot));
    Ok(Known {
        stood_by: diary.last(Step::StandBy, Mark::Intent).is_some(),
        fenced: rebooted || announced(Step::Fence).is_some(),
        promoted: announced(Step::Promote).is_some(),
        rebooted,
        source_same: same("source", source),
        target_same: same("target", target),
        target_keeps,
    })
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

/// Takes the source back to what it was, a master that is neither paused nor armed; and the target, where it answers,
/// to a copy that follows.
///
/// # Errors
/// The source does not answer; it then stays armed, which costs availability should the copy go away, never a write.
pub fn roll_back(spec: &MoveSpec, diary: &mut Diary, source: &mut Link, target: Option<&mut Link>) -> Result<()> {
    diary.intent(Step::RollBack, Value::Null)?;
    if !matches!(source.role()?, Role::Master { .. }) {
        source.run(&["REPLICAOF", "NO", "ONE"])?;
    }
    source.run(&["CLIENT", "UNPAUSE"])?;
    source.all(&disarmed(diary))?;
    if !matches!(source.role()?, Role::Master { .. }) {
        bail!("{} did not become a master again", spec.from);
    }
    // Without it the source serves all the same; the next copy begins with a new target then.
    if let Some(target) = target {
        follow_again(spec, target).ok();
    }
    diary.done(Step::RollBack, Value::Null)
}

/// A target that was never opened follows the source again, by its file too.
fn follow_again(spec: &MoveSpec, target: &mut Link) -> Result<()> {
    if let Role::Master { .. } = target.role()? {
        let (host, port) = host_and_port(&spec.from)?;
        target.run(&["REPLICAOF", host, &port.to_string()])?;
    }
    target.run(&["CONFIG", "REWRITE"]).map(drop)
}

/// Takes a move back: the source as before, the copy gone.
///
/// # Errors
/// The target was opened or may be, or the copy is not one: nothing is removed then.
pub fn abort(spec: &MoveSpec) -> Result<()> {
    let mut diary = Diary::open(&spec.job)?;
    if diary.begun().is_none() || diary.last(Step::Abort, Mark::Done).is_some() {
        return Ok(());
    }
    let is_replica = diary.begun().is_some_and(|begun| begun.replica);
    if is_replica && is_finished(diary.this_move()) {
        bail!("the map names the replica {} of shard {}; it is not removed", spec.to, spec.job.shard);
    }
    if is_replica {
        return replica::take_back(spec, &mut diary);
    }
    if is_finished(diary.this_move()) {
        bail!("shard {} is at {} already; `dunlin shards reverse` takes it back", spec.job.shard, spec.to);
    }
    match by_roles_if_armed(spec, &mut diary)? {
        Recovered::AtSource { .. } => {}
        Recovered::AtTarget { .. } => {
            bail!("shard {} was fenced and is at {}; `dunlin shards reverse` takes it back", spec.job.shard, spec.to)
        }
        Recovered::Undecided { why } => bail!("shard {}: {why}", spec.job.shard),
    }
    let mut source = Link::open(&spec.from, &spec.job.credentials)?;
    if !matches!(source.role()?, Role::Master { .. }) {
        bail!("{} is no master; the copy at {} is not removed", spec.from, spec.to);
    }
    diary.intent(Step::Abort, Value::Null)?;
    // Its file may be armed although no switch has begun.
    source.all(&disarmed(&diary))?;
    remove_copy(spec)?;
    diary.done(Step::Abort, Value::Null)
}

/// Ends the target's instance and removes its files, where it is the copy that this move made.
///
/// # Errors
/// What the system said.
pub fn remove_copy(spec: &MoveSpec) -> Result<()> {
    let instance = birth::instance(spec)?;
    if birth::is_copy(&instance, spec)? {
        // What it would still write is not wanted, and an unwritten append-only file would keep it from ending.
        if let Ok(mut target) = Link::open(&spec.to, &spec.job.credentials) {
            target.run(&["SHUTDOWN", "NOSAVE", "NOW", "FORCE"]).ok();
        }
        instance.stop()?;
        for file in [instance.conf_path(), instance.acl_path()] {
            remove(std::fs::remove_file(file))?;
        }
        remove(std::fs::remove_dir_all(&instance.folder))?;
    }
    Ok(())
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

/// The records since the last roll-back.
pub fn since_roll_back(records: &[Record]) -> &[Record] {
    let last = records.iter().rposition(|record| record.step == Step::RollBack && record.mark == Mark::Done);
    &records[last.map_or(0, |last| last + 1)..]
}

fn look(address: &str, spec: &MoveSpec) -> (Option<Link>, Role, String) {
    let Ok(mut link) = Link::open(address, &spec.job.credentials) else {
        return (None, Role::Unreachable, String::new());
    };
    // An instance that is loading answers INFO with the role of its file: that is its role.
    match link.role().and_then(|role| Ok((role, link.run_id()?))) {
        Ok((role, id)) => (Some(link), role, id),
        Err(_) => (None, Role::Unreachable, String::new()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::rebalance::host::diary::tests::job;
    use crate::wire::shard::Limits;

    pub fn spec() -> MoveSpec {
        MoveSpec {
            job: job(std::path::Path::new(""), 17, ("r", 0)),
            by: String::new(),
            from: "a:1".to_owned(),
            to: "b:1".to_owned(),
            others: Vec::new(),
            epoch: 8,
            app_user: "s017".to_owned(),
            instance: Value::Null,
            source_is_armed: false,
            limits: Limits::default(),
        }
    }

    #[test]
    fn the_side_that_may_lack_writes_is_never_chosen() {
        use Decision::{Neither, Source, Target};
        let master = Role::Master { offset: 5, replicas: 0 };
        let follows = |of: &str, offset| Role::Replica { of: of.to_owned(), linked: false, offset };
        let (at_target, at_source) = (follows("b:1", 5), follows("a:1", 5));
        let gone = Role::Unreachable;
        let armed = Known { stood_by: true, source_same: true, target_same: true, ..Known::default() };
        let fenced = Known { fenced: true, ..armed };
        let promoted = Known { promoted: true, ..fenced };
        let restarted = |known: Known| Known { target_same: false, ..known };
        let neither = Neither("");
        for (source, target, known, wanted) in [
            // Before the fence the source stays, whatever became of the target.
            (&master, &at_source, armed, Source),
            (&master, &at_source, restarted(armed), Source),
            (&master, &master, restarted(armed), Source),
            (&master, &gone, armed, Source),
            // Fenced: the target, if it has all.
            (&at_target, &at_source, fenced, Target),
            (&at_target, &follows("a:1", 4), fenced, Source),
            (&at_target, &follows("a:1", 4), Known { source_same: false, ..fenced }, Target),
            (&at_target, &at_source, restarted(fenced), Source),
            (&at_target, &at_source, Known { source_same: false, ..restarted(fenced) }, neither.clone()),
            (&at_target, &master, fenced, Target),
            // Restarted, it is a closed master; it has all if it keeps what it applies, else the source is asked back.
            (&at_target, &master, restarted(fenced), Source),
            (&at_target, &master, Known { target_keeps: true, ..restarted(fenced) }, Target),
            (&at_target, &master, Known { rebooted: true, ..restarted(fenced) }, neither.clone()),
            (&at_target, &master, Known { rebooted: true, target_keeps: true, ..restarted(fenced) }, Target),
            // Promoted: only the target, also restarted; a source that came back is an armed master.
            (&at_target, &master, restarted(promoted), Target),
            (&master, &master, restarted(promoted), Target),
            (&gone, &master, restarted(promoted), Target),
            (&master, &gone, promoted, neither.clone()),
            (&at_target, &gone, promoted, neither.clone()),
            (&master, &at_source, restarted(promoted), neither.clone()),
            // Announced, and not done: the same process still follows.
            (&master, &at_source, Known { source_same: false, ..promoted }, Source),
            // Nothing is known: nothing is done.
            (&master, &master, Known::default(), neither.clone()),
            (&gone, &master, restarted(fenced), neither.clone()),
            (&gone, &at_source, fenced, neither.clone()),
            (&follows("c:1", 9), &master, promoted, neither.clone()),
        ] {
            let decided = decide(&spec(), source, target, known);
            let as_wanted = decided == wanted || matches!((&decided, &wanted), (Neither(_), Neither(_)));
            assert!(as_wanted, "source {source:?}, target {target:?}, {known:?}: {decided:?}, not {wanted:?}");
        }
    }
}
