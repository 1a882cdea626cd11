//! How far a target has come as a replica, as both sides see it.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::link::{Info, Link, host_and_port};
use crate::poll::poll_until;
use crate::wire::shard::{MoveSpec, Role};
use crate::wire::{Event, Sink};

/// Between two looks.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// How long a link may bring nothing of what the source has written before the target gives it up. One that died without a
/// word looks as if it were up to both sides, for as long as TCP waits between two tries.
const SILENT: Duration = Duration::from_secs(1);

/// Waits until the target's link is up and brings what is written, the source counts it as online, and it is at most
/// `lag_bytes` behind.
///
/// # Errors
/// No progress within `copy_stall_s`, or the run was cancelled.
pub fn caught_up(source: &mut Link, target: &mut Link, spec: &MoveSpec, sink: &dyn Sink) -> Result<()> {
    let stall = Duration::from_secs(spec.limits.copy_stall_s);
    let (mut best, mut since, mut met_again) = (0, Instant::now(), false);
    // What the source had written when the link was seen up: who has that receives what is written now.
    let mut goal = None;
    loop {
        let (from, to) = (source.info("replication")?, target.info("replication")?);
        if is_linked(&to) {
            goal.get_or_insert(from.number("master_repl_offset"));
        }
        let is_there = goal.is_some_and(|goal| to.number("slave_repl_offset") >= goal);
        let is_heard = is_online(&from, &spec.to)?;
        let behind = from.number("master_repl_offset").saturating_sub(to.number("slave_repl_offset"));
        if is_there && is_linked(&to) && is_heard && behind <= spec.limits.lag_bytes {
            return Ok(());
        }
        let is_silent = !is_there && since.elapsed() > SILENT;
        if !met_again && may_meet_again(&from, &to) && (is_silent || !is_heard) {
            target.run(&["CLIENT", "KILL", "TYPE", "master"])?;
            met_again = true;
        } else if is_there && !is_heard {
            hear(source);
        }
        if sink.cancelled() {
            bail!("cancelled while shard {} was being copied; nothing is handed over", spec.job.shard);
        }
        let done = to.number("master_sync_read_bytes") + to.number("slave_repl_offset");
        if done > best {
            (best, since) = (done, Instant::now());
            sink.emit(Event::Progress {
                job: format!("shard {}", spec.job.shard),
                phase: "copy".to_owned(),
                done: to.number("master_sync_read_bytes"),
                total: to.number("master_sync_total_bytes"),
            });
        }
        if since.elapsed() > stall {
            bail!(
                "{} has not come nearer to {} for {} s (link {}, {} replicas at the source)",
                spec.to,
                spec.from,
                stall.as_secs(),
                to.text("master_link_status"),
                from.text("connected_slaves")
            );
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

fn is_linked(to: &Info) -> bool {
    to.text("master_link_status") == "up" && to.text("master_sync_in_progress") == "0"
}

/// May the target give up its link for a new one? Where the sync is over and only its first acknowledgement is missing, for
/// which it takes up to a second, that is quicker: it connects again at once, and is online at once after a partial
/// resync. That is possible while the source's backlog goes back to where it is.
fn may_meet_again(from: &Info, to: &Info) -> bool {
    is_linked(to) && is_in_reach(from, to)
}

/// Asks all replicas to say now where they are, which they do by themselves once a second: a `WAIT` for more of them than
/// there are sends `REPLCONF GETACK`. What it answers does not matter.
pub fn hear(source: &mut Link) {
    source.run(&["WAIT", "1000", "1"]).ok();
}

/// Will a replica that connects anew be let go on where it is? Half of the backlog is left for what is written meanwhile.
pub fn is_in_reach(from: &Info, to: &Info) -> bool {
    let behind = from.number("master_repl_offset").saturating_sub(to.number("slave_repl_offset"));
    let reaches = from.number("repl_backlog_first_byte_offset") <= to.number("slave_repl_offset") + 1;
    reaches && behind < from.number("repl_backlog_size") / 2
}

/// Does the source count this replica as online, and has it heard from it?
///
/// After a diskless sync a source says `online` at once, but sends what is written since only after the replica's first
/// acknowledgement, up to a second later (`repl_start_cmd_stream_on_ack` in Redis' replication.c). `lag` counts from
/// `online`; the acknowledged `offset` is what tells that there was one. Where nothing was ever written, it stays 0.
///
/// # Errors
/// The address has no port.
pub fn is_online(source: &Info, replica: &str) -> Result<bool> {
    let (ip, port) = host_and_port(replica)?;
    let wanted = [format!("ip={ip}"), format!("port={port}")];
    let untouched = source.number("master_repl_offset") == 0;
    Ok(of_late(source).any(|fields| {
        let heard = untouched || !fields.contains(&"offset=0");
        heard && wanted.iter().all(|want| fields.contains(&want.as_str()))
    }))
}

/// How many replicas the source counts as online and has heard from of late.
pub fn online(source: &Info) -> usize {
    of_late(source).count()
}

/// The fields of those replicas.
fn of_late(source: &Info) -> impl Iterator<Item = Vec<&str>> {
    let slaves = source.iter().filter(|(name, _)| name.starts_with("slave") && name[5..].parse::<u32>().is_ok());
    let fields = slaves.map(|(_, line)| line.split(',').collect::<Vec<&str>>());
    fields.filter(|fields| {
        let recent = fields.iter().any(|field| matches!(*field, "lag=0" | "lag=1"));
        recent && fields.contains(&"state=online")
    })
}

/// Waits until the target's append-only file holds everything: on, no rewrite running or due, the last ones good.
///
/// # Errors
/// It is off or failing, or it takes longer than `copy_stall_s`.
pub fn durable(target: &mut Link, spec: &MoveSpec, sink: &dyn Sink) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(spec.limits.copy_stall_s.max(1) * 10);
    let (mut last_write, mut last_rewrite) = (String::new(), String::new());
    let is_durable = poll_until(deadline, POLL_INTERVAL, || {
        let info = target.info("persistence")?;
        if info.text("aof_enabled") != "1" {
            bail!("{} keeps no append-only file; its configuration must say `appendonly yes`", spec.to);
        }
        let settled = info.number("aof_rewrite_in_progress") + info.number("aof_rewrite_scheduled") == 0;
        last_write = info.text("aof_last_write_status").to_owned();
        last_rewrite = info.text("aof_last_bgrewrite_status").to_owned();
        if settled && last_write == "ok" && last_rewrite == "ok" {
            return Ok(Some(true));
        }
        Ok(sink.cancelled().then_some(false))
    })?;
    if is_durable != Some(true) {
        bail!("the append-only file of {} is not ready: last write {last_write}, last rewrite {last_rewrite}", spec.to);
    }
    Ok(())
}

/// Does this role say "follows that instance"?
pub fn follows(role: &Role, address: &str) -> bool {
    matches!(role, Role::Replica { of, .. } if of == address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_online_once_it_was_heard() {
        let source = |written: u64, offset: u64, rest: &str| {
            let slave = format!("slave0:ip=10.0.0.3,port=7020,{rest},offset={offset},lag=0");
            Info::parse(&format!("role:master\nconnected_slaves:1\n{slave}\nmaster_repl_offset:{written}\n"))
        };
        let is_online = |info: &Info| is_online(info, "10.0.0.3:7020").unwrap();
        assert!(is_online(&source(910, 896, "state=online")));
        assert!(!is_online(&source(910, 896, "state=send_bulk")));
        assert!(!is_online(&source(910, 0, "state=online")), "online, but nothing is sent to it yet");
        assert!(is_online(&source(0, 0, "state=online")), "nothing was ever written");
        assert_eq!(online(&source(0, 0, "state=online")), 1);
        assert_eq!(online(&source(0, 0, "state=wait_bgsave")), 0);
    }
}
