//! Retirement: stops an instance that handed over its shard, and archives its files until a deadline.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::archive::{archive_files, write_archive_note};
use super::instance::parse_instance;
use super::move_journal::MoveJournal;
use super::redis_client::{RedisClient, redis_command};
use super::replication_progress;
use crate::plan::format_count;
use crate::poll::poll_until;
use crate::protocol::shard::{MovePhase, RetireInstance, RetireResult};

/// Name of the note next to archived files.
const RETENTION_NOTE: &str = "KEPT-UNTIL";
/// Time limit for a rewrite of the append-only file before the instance is stopped.
const AOF_REWRITE_TIMEOUT: Duration = Duration::from_secs(300);
/// Time between two questions whether it is written.
const AOF_POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Seconds without a command after which a connection counts as an idle one of a pool. Stopping the instance closes it
/// with no reply outstanding. All consumers have the new map by then.
const IDLE_CLIENT_SECONDS: i64 = 3;

/// Stops the instance and archives its files; does nothing if it is retired already.
///
/// # Errors
/// Returns an error, and stops nothing, if it does not follow the new primary or a client still uses it.
pub fn retire_instance(request: &RetireInstance) -> Result<RetireResult> {
    let instance = parse_instance(request.header.shard, &request.instance)?;
    let mut journal = MoveJournal::open(&request.header)?;
    if instance.read_conf()?.is_none() && !instance.is_running()? {
        return Ok(RetireResult::default());
    }
    let configured_primary = instance.read_conf()?.and_then(|conf| conf.replica_of());
    if configured_primary.as_ref() != Some(&request.primary) {
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
        write_archive_note(&instance, kept, RETENTION_NOTE, &note)?;
    }
    journal.log_done(MovePhase::Retire, Value::Null)?;
    Ok(RetireResult { archive_dir })
}

/// Redis refuses to stop while it writes its first append-only file (after a full sync), and systemd asks only once.
fn wait_for_aof_rewrite(link: &mut RedisClient) -> Result<()> {
    let written = poll_until(Instant::now() + AOF_REWRITE_TIMEOUT, AOF_POLL_INTERVAL, || -> Result<_> {
        let is_writing = link.fetch_info("persistence")?.number_field("aof_rewrite_in_progress") == 1;
        Ok((!is_writing).then_some(()))
    });
    if written?.is_none() {
        bail!("{} is still writing its append-only file after {} s", link.address, AOF_REWRITE_TIMEOUT.as_secs());
    }
    Ok(())
}

fn ensure_unused(link: &mut RedisClient, request: &RetireInstance) -> Result<()> {
    let role = link.fetch_role()?;
    if !replication_progress::is_replica_of(&role, &request.primary) {
        bail!("{} does not follow {} ({role}); it was not retired", request.address, request.primary);
    }
    let list: String = link.query(&redis_command(&["CLIENT", "LIST"]))?;
    let clients = find_active_clients(&list, &request.header.credentials.user);
    if !clients.is_empty() {
        bail!(
            "shard {}: {} was not retired: it still has {} ({}); they can read, and get READONLY for writes; let \
             them connect to {}, then run `dunlin shards resume`",
            request.header.shard,
            request.address,
            format_count(clients.len(), "client"),
            clients.join(", "),
            request.primary
        );
    }
    Ok(())
}

/// Returns the clients in a `CLIENT LIST` that would lose something if the instance stopped, as `address user
/// activity`. Connections of dunlin, of replication, and idle ones of a pool would not.
fn find_active_clients(list: &str, own_user: &str) -> Vec<String> {
    list.lines().filter_map(|line| describe_active_client(line, own_user)).collect()
}

fn describe_active_client(line: &str, own_user: &str) -> Option<String> {
    let field = |name: &str| line.split(' ').find_map(|field| field.strip_prefix(name)).unwrap_or_default();
    let number = |name: &str| field(name).parse::<i64>().unwrap_or(0);
    let (user, flags) = (field("user="), field("flags="));
    if line.is_empty() || user == own_user || flags.contains(['S', 'M']) {
        return None;
    }
    let activity = if number("sub=") + number("psub=") + number("ssub=") > 0 {
        "subscribed"
    } else if flags.contains('O') {
        "monitoring"
    } else if flags.contains('b') {
        "blocked in a command"
    } else if flags.contains('x') {
        "in a transaction"
    } else if number("idle=") < IDLE_CLIENT_SECONDS {
        "active"
    } else {
        return None;
    };
    Some(format!("{} {user} {activity}", field("addr=")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clients_that_would_lose_something_are_active() {
        let list = "\
id=1 addr=a:1 flags=N sub=0 psub=0 ssub=0 multi=-1 idle=0 cmd=client|list user=dunlin
id=2 addr=a:2 flags=S sub=0 psub=0 ssub=0 multi=-1 idle=0 cmd=replconf user=replica
id=3 addr=a:3 flags=M sub=0 psub=0 ssub=0 multi=-1 idle=0 cmd=NULL user=(superuser)
id=4 addr=a:4 flags=N sub=0 psub=0 ssub=0 multi=-1 idle=3 cmd=get user=s017
id=5 addr=a:5 flags=N sub=0 psub=0 ssub=0 multi=-1 idle=2 cmd=get user=s017
id=6 addr=a:6 flags=P sub=0 psub=1 ssub=0 multi=-1 idle=99 cmd=psubscribe user=s017
id=7 addr=a:7 flags=b sub=0 psub=0 ssub=0 multi=-1 idle=99 cmd=blpop user=batch
id=8 addr=a:8 flags=O sub=0 psub=0 ssub=0 multi=-1 idle=99 cmd=monitor user=batch
id=9 addr=a:9 flags=x sub=0 psub=0 ssub=0 multi=0 idle=99 cmd=multi user=s017
";
        let expected = [
            "a:5 s017 active",
            "a:6 s017 subscribed",
            "a:7 batch blocked in a command",
            "a:8 batch monitoring",
            "a:9 s017 in a transaction",
        ];
        assert_eq!(find_active_clients(list, "dunlin"), expected);
    }
}
