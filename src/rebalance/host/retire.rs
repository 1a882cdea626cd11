//! P14: an instance that has handed its shard over is stopped; its files are kept until a deadline.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::aside::set_aside;
use super::diary::{Diary, Step};
use super::link::{Link, words};
use super::sync;
use crate::resources::redis_shard::RedisShard;
use crate::wire::shard::{Retire, Retired};

/// The note beside kept files.
const NOTE: &str = "KEPT-UNTIL";
/// How long an instance may take to write its append-only file anew before it is stopped.
const FILE: Duration = Duration::from_secs(300);

/// Stops the instance and sets its files aside; nothing to do where it is gone already.
///
/// # Errors
/// It does not follow the new owner, or the application is still connected to it: nothing is stopped then.
pub fn retire(what: &Retire) -> Result<Retired> {
    let instance: RedisShard = serde_json::from_value(what.instance.clone()).context("the instance to retire")?;
    let mut diary = Diary::open(&what.job)?;
    if instance.current()?.is_none() && !instance.is_running()? {
        return Ok(Retired::default());
    }
    let follows = instance.current()?.and_then(|conf| conf.replica_of());
    if follows.as_deref() != Some(&what.owner) {
        bail!(
            "{} is not retired: by its file it {}, not {}",
            what.address,
            follows.map_or("follows nobody".to_owned(), |of| format!("follows {of}")),
            what.owner
        );
    }
    if instance.is_running()? {
        let mut link = Link::open(&what.address, &what.job.credentials)?;
        refuse_in_use(&mut link, what)?;
        await_file(&mut link)?;
    }
    diary.intent(Step::Retire, json!({ "owner": what.owner, "epoch": what.epoch }))?;
    instance.stop()?;
    let kept = set_aside(&instance, "retired")?;
    if let Some(kept) = &kept {
        let until = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(i64::try_from(what.keep_hours)?);
        let note = format!("{until}\nshard {} is at {} since epoch {}\n", what.job.shard, what.owner, what.epoch);
        fs::write(kept.join(NOTE), note).with_context(|| format!("noting the deadline in {}", kept.display()))?;
    }
    diary.done(Step::Retire, Value::Null)?;
    Ok(Retired { kept })
}

/// Redis refuses to end while it writes its first append-only file (after a full sync), and systemd asks only once.
fn await_file(link: &mut Link) -> Result<()> {
    let end = Instant::now() + FILE;
    while link.info("persistence")?.number("aof_rewrite_in_progress") == 1 {
        if Instant::now() > end {
            bail!("{} is still writing its append-only file after {} s", link.address, FILE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn refuse_in_use(link: &mut Link, what: &Retire) -> Result<()> {
    let role = link.role()?;
    if !sync::follows(&role, &what.owner) {
        bail!("{} does not follow {} ({role:?}); it is not retired", what.address, what.owner);
    }
    let list: String = link.ask(&words(&["CLIENT", "LIST", "TYPE", "NORMAL"]))?;
    let user = format!("user={}", what.app_user);
    let clients: Vec<&str> = list
        .lines()
        .filter(|line| line.split(' ').any(|field| field == user))
        .filter_map(|line| line.split(' ').find_map(|field| field.strip_prefix("addr=")))
        .collect();
    if !clients.is_empty() {
        bail!("{} still has {} clients of the application ({})", what.address, clients.len(), clients.join(", "));
    }
    Ok(())
}
