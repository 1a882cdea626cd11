//! Instances that a failover left behind or leaves alone: an old primary is silenced, later set aside; a primary whose
//! replica is gone goes on without it.

use std::fs;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::aside::set_aside;
use super::diary::{Diary, Record, Step, is_finished};
use super::link::{Link, role_of};
use super::recover::since_roll_back;
use super::survey::branched;
use crate::resources::redis_shard::RedisShard;
use crate::wire::shard::Role;
use crate::wire::shard::failover::{Aside, Free, Handle};

/// Stops an instance that does not answer, also for the next start of its host; its files stay where they are.
///
/// # Errors
/// It answers: then it is not dead.
pub fn silence(what: &Handle) -> Result<()> {
    let instance = instance(what)?;
    let _lock = Diary::open(&what.job)?;
    let refuse = |role| bail!("{} answers ({role:?}): it is not dead, and was not stopped", what.address);
    match role_of(&what.address, &what.job.credentials) {
        Role::Unreachable => {}
        role => refuse(role)?,
    }
    instance.stop()?;
    match role_of(&what.address, &what.job.credentials) {
        Role::Unreachable => Ok(()),
        role => refuse(role),
    }
}

/// Has a primary accept writes with the replicas that are left, also after a restart.
///
/// # Errors
/// It is no master, or uses another file.
pub fn free(what: &Free) -> Result<()> {
    let Free { primary, replicas } = what;
    let instance = instance(primary)?;
    let _lock = Diary::open(&primary.job)?;
    let mut link = Link::open(&primary.address, &primary.job.credentials)?;
    if !matches!(link.role()?, Role::Master { .. }) {
        bail!("{} is no master; nothing was changed", primary.address);
    }
    let uses = link.info("server")?.text("config_file").to_owned();
    if instance.conf_path() != std::path::Path::new(&uses) {
        bail!("{} uses {uses}, not {}; nothing was changed", primary.address, instance.conf_path().display());
    }
    let file = instance.current()?.and_then(|conf| conf.get("min-replicas-to-write")?.parse().ok());
    if file.is_some_and(|needs: u32| needs > *replicas) {
        instance.need_replicas(*replicas)?;
    }
    let memory: u32 = link.setting("min-replicas-to-write")?.parse().context("min-replicas-to-write")?;
    if memory > *replicas {
        link.run(&["CONFIG", "SET", "min-replicas-to-write", &replicas.to_string()])?;
    }
    Ok(())
}

/// Ends the journal of a move whose source is gone and which has only copied so far. The copy stays as it is.
///
/// # Errors
/// The copy may have been given the shard: nothing is changed.
pub fn forget(what: &Handle) -> Result<()> {
    let mut diary = Diary::open(&what.job)?;
    let Some(begun) = diary.begun().filter(|begun| begun.to == what.address && !is_finished(diary.this_move())) else {
        return Ok(());
    };
    let since = since_roll_back(diary.this_move());
    // A replica in the making is opened to readers only.
    let hands_over = |record: &Record| matches!(record.step, Step::Fence | Step::Promote | Step::Open);
    let handed_over = !begun.replica && since.iter().any(hands_over);
    if handed_over || matches!(role_of(&what.address, &what.job.credentials), Role::Master { .. }) {
        bail!("{} may have been given shard {}; its move was not given up", what.address, what.job.shard);
    }
    diary.done(Step::Abort, Value::Null)
}

/// Stops an instance that the map does not know, and keeps its files: it may hold writes that nobody else has.
///
/// # Errors
/// The shard's owner does not answer as a master: this may be the only copy then.
pub fn aside(what: &Handle) -> Result<Aside> {
    let instance = instance(what)?;
    let mut diary = Diary::open(&what.job)?;
    if instance.current()?.is_none() && !instance.is_running()? {
        return Ok(Aside::default());
    }
    if let Some(later) = diary.begun().filter(|begun| begun.to == what.address && begun.epoch > what.epoch) {
        let (mine, theirs) = (what.epoch, later.epoch);
        bail!("the map has epoch {mine}; {} was made the owner for epoch {theirs}, and was not stopped", what.address);
    }
    let mut owner = Link::open(&what.owner, &what.job.credentials).context("the shard's owner; nothing was stopped")?;
    if what.owner == what.address || !matches!(owner.role()?, Role::Master { .. }) {
        bail!("{} is no master; {} was not stopped", what.owner, what.address);
    }
    let ahead = Link::open(&what.address, &what.job.credentials).and_then(|mut old| ahead(&mut old, &mut owner)).ok();
    let ahead = ahead.flatten();
    diary.intent(Step::Retire, json!({ "owner": what.owner, "ahead": ahead }))?;
    instance.stop()?;
    let kept = set_aside(&instance, "replaced")?;
    if let Some(kept) = &kept {
        let lacks = ahead.map_or("what it may have had alone is not known".to_owned(), |n| format!("{n} bytes ahead"));
        let note = format!("shard {} is at {}; {lacks}\n", what.job.shard, what.owner);
        fs::write(kept.join("REPLACED-BY"), note).with_context(|| format!("a note in {}", kept.display()))?;
    }
    diary.done(Step::Retire, Value::Null)?;
    Ok(Aside { kept, ahead })
}

/// How far the old one went on in the history that the new one left.
fn ahead(old: &mut Link, owner: &mut Link) -> Result<Option<u64>> {
    let (old, owner) = (old.info("replication")?, owner.info("replication")?);
    let branch = branched(&owner).filter(|(history, _)| history == old.text("master_replid"));
    Ok(branch.map(|(_, end)| old.number("master_repl_offset").saturating_sub(end)))
}

fn instance(what: &Handle) -> Result<RedisShard> {
    serde_json::from_value(what.instance.clone()).with_context(|| format!("the instance of shard {}", what.job.shard))
}
