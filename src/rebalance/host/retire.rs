//! Retirement (P14): stops an instance that handed over its shard, and archives its files until a deadline.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::archive::archive_files;
use super::move_journal::{MoveJournal, MovePhase};
use super::redis_client::{RedisClient, redis_command};
use super::replication_progress;
use crate::protocol::shard::{RetireInstance, RetireResult};
use crate::resources::redis_shard::RedisShard;

/// The note beside kept files.
const RETENTION_NOTE: &str = "KEPT-UNTIL";
/// Time limit for a rewrite of the append-only file before the instance is stopped.
const AOF_REWRITE_TIMEOUT: Duration = Duration::from_secs(300);

/// Stops the instance and archives its files; does nothing if it is retired already.
///
/// # Errors
/// Returns an error, and stops nothing, if it does not follow the new primary or has clients of the application.
pub fn retire_instance(request: &RetireInstance) -> Result<RetireResult> {
    let instance: RedisShard = serde_json::from_value(request.instance.clone()).context("the instance to retire")?;
    let mut journal = MoveJournal::open(&request.header)?;
    if instance.read_conf()?.is_none() && !instance.is_running()? {
        return Ok(RetireResult::default());
    }
    let configured_primary = instance.read_conf()?.and_then(|conf| conf.replica_of());
    if configured_primary.as_deref() != Some(&request.primary) {
        bail!(
            "{} was not retired: its configuration file says that it {}, not {}",
            request.address,
            configured_primary.map_or("follows nobody".to_owned(), |of| format!("follows {of}")),
            request.primary
        );
    }
    if instance.is_running()? {
        let mut link = RedisClient::open(&request.address, &request.header.credentials)?;
        ensure_unused(&mut link, request)?;
        wait_for_aof_rewrite(&mut link)?;
    }
    journal.log_intent(MovePhase::Retire, json!({ "owner": request.primary, "epoch": request.epoch }))?;
    instance.stop_and_disable()?;
    let archive_dir = archive_files(&instance, "retired")?;
    if let Some(kept) = &archive_dir {
        let until = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(i64::try_from(request.retention_hours)?);
        let note = format!(
            "{until}\nshard {} is at {} since epoch {}\n",
            request.header.shard, request.primary, request.epoch
        );
        fs::write(kept.join(RETENTION_NOTE), note)
            .with_context(|| format!("noting the deadline in {}", kept.display()))?;
    }
    journal.log_done(MovePhase::Retire, Value::Null)?;
    Ok(RetireResult { archive_dir })
}

/// Redis refuses to end while it writes its first append-only file (after a full sync), and systemd asks only once.
fn wait_for_aof_rewrite(link: &mut RedisClient) -> Result<()> {
    let deadline = Instant::now() + AOF_REWRITE_TIMEOUT;
    while link.fetch_info("persistence")?.number_field("aof_rewrite_in_progress") == 1 {
        if Instant::now() > deadline {
            bail!("{} is still writing its append-only file after {} s", link.address, AOF_REWRITE_TIMEOUT.as_secs());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn ensure_unused(link: &mut RedisClient, request: &RetireInstance) -> Result<()> {
    let role = link.fetch_role()?;
    if !replication_progress::is_replica_of(&role, &request.primary) {
        bail!("{} does not follow {} ({role:?}); it was not retired", request.address, request.primary);
    }
    let list: String = link.query(&redis_command(&["CLIENT", "LIST", "TYPE", "NORMAL"]))?;
    let user = format!("user={}", request.app_user);
    let clients: Vec<&str> = list
        .lines()
        .filter(|line| line.split(' ').any(|field| field == user))
        .filter_map(|line| line.split(' ').find_map(|field| field.strip_prefix("addr=")))
        .collect();
    if !clients.is_empty() {
        bail!("{} still has {} clients of the application ({})", request.address, clients.len(), clients.join(", "));
    }
    Ok(())
}
