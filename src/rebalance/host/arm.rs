//! P6: the source accepts writes only with its replicas attached, also after a restart. In memory that is a setting; in
//! its file it is a line, which the source's own host puts there so that no client waits for the disk (`arm_file`), or
//! else the source itself, whose `CONFIG REWRITE` syncs twice while everybody waits.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use redis::Cmd;
use serde_json::{Value, json};

use super::diary::{Diary, Mark, Step};
use super::link::{Link, words};
use super::sync;
use crate::resources::redis_shard::RedisShard;
use crate::wire::shard::{Arm, MoveSpec, Role};

/// How long another replica may take until its first acknowledgement.
const HEARD: Duration = Duration::from_secs(3);

/// The durable part alone, on the source's host. A source that restarts now accepts writes once its copy is attached.
///
/// # Errors
/// The instance is no master, or has another file; nothing was changed then.
pub fn arm_file(what: &Arm) -> Result<()> {
    let _lock = Diary::open(&what.job)?;
    let (instance, _) = primary(what)?;
    instance.need_replicas(what.replicas)
}

/// A primary's standing value, at once and durably. It is raised only with the replicas attached, so that no client is
/// refused for it; a primary that loses them later refuses writes, and so does one that comes back alone after its
/// replica was promoted.
///
/// # Errors
/// The instance is no master, or too few replicas are attached; nothing was changed then.
pub fn guard(what: &Arm) -> Result<()> {
    let _lock = Diary::open(&what.job)?;
    let (instance, mut primary) = primary(what)?;
    guarded(&mut primary, what.replicas, HEARD)?;
    instance.need_replicas(what.replicas)
}

/// The part of [`guard`] in memory: waits until so many replicas are attached, and has the primary need them.
///
/// # Errors
/// They are not within that time.
pub fn guarded(primary: &mut Link, replicas: u32, within: Duration) -> Result<()> {
    let end = Instant::now() + within;
    loop {
        let online = sync::online(&primary.info("replication")?);
        if online >= usize::try_from(replicas)? {
            return primary.run(&["CONFIG", "SET", "min-replicas-to-write", &replicas.to_string()]).map(drop);
        }
        if Instant::now() > end {
            bail!("{} has {online} replicas attached, {replicas} are needed", primary.address);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The instance that is asked for: a master that uses the file which dunlin writes.
fn primary(what: &Arm) -> Result<(RedisShard, Link)> {
    let instance: RedisShard = serde_json::from_value(what.instance.clone()).context("the primary's instance")?;
    let mut primary = Link::open(&what.address, &what.job.credentials)?;
    if !matches!(primary.role()?, Role::Master { .. }) {
        bail!("{} is no master; its file was not changed", what.address);
    }
    let uses = primary.info("server")?.text("config_file").to_owned();
    if instance.conf_path() != std::path::Path::new(&uses) {
        bail!("{} uses {uses}, not {}; it was not changed", what.address, instance.conf_path().display());
    }
    Ok((instance, primary))
}

/// P6 as the switch does it. The number counts all replicas that could make a restarted source writable: the target
/// and the others.
///
/// # Errors
/// A replica is missing, or one too many is there.
pub fn arm(spec: &MoveSpec, diary: &mut Diary, source: &mut Link, target: &mut Link) -> Result<()> {
    for other in &spec.others {
        attached(source, other)?;
    }
    let info = source.info("replication")?;
    let needed = u64::try_from(spec.others.len())? + 1;
    if info.number("connected_slaves") > needed {
        bail!("{} has {} replicas, the map knows {needed}", spec.from, info.number("connected_slaves"));
    }
    let ids = (source.run_id()?, target.run_id()?);
    diary.intent(Step::Arm, json!({ "source": ids.0, "target": ids.1 }))?;
    source.run(&["CONFIG", "SET", "min-replicas-to-write", &needed.to_string()])?;
    // A roll-back took the line out of the file again.
    if !spec.source_is_armed || diary.last(Step::RollBack, Mark::Intent).is_some() {
        source.run(&["CONFIG", "REWRITE"])?;
    }
    diary.done(Step::Arm, Value::Null)
}

/// Waits for a replica that has only just connected: it is heard of within a second.
///
/// # Errors
/// It is not.
pub fn attached(source: &mut Link, replica: &str) -> Result<()> {
    let end = Instant::now() + HEARD;
    while !sync::is_online(&source.info("replication")?, replica)? {
        if Instant::now() > end {
            bail!("the replica {replica} is not attached to {}: bring it back first", source.address);
        }
        sync::hear(source);
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// One rewrite puts both into the source's file: what it is now, and that it is no longer armed.
pub fn disarmed(diary: &Diary) -> [Cmd; 2] {
    let before = diary.begun().and_then(|begun| begun.min_replicas).unwrap_or_else(|| "0".to_owned());
    [words(&["CONFIG", "SET", "min-replicas-to-write", &before]), words(&["CONFIG", "REWRITE"])]
}
