//! The throttled full sync of a copy: it runs through the proxy, at the rate of the limiter and the source monitor. The
//! target then switches to the source itself with a partial resync, and the later steps need no special case.

use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use dunlin_shards::InstanceAddress;
use redis::Value;

use super::rate_limiter::RateLimiter;
use super::redis_client::{RedisClient, START_TIMEOUT, replicaof_command};
use super::replication_progress;
use super::replication_proxy::{self, ReplicationProxy};
use super::source_monitor::{Overload, SourceMonitor, report_status};
use crate::poll::retry_until;
use crate::protocol::shard::{MoveSpec, ReplicationRole};
use crate::protocol::{Event, ProgressSink};
use crate::resources::redis_shard::RedisShard;

/// Maximum number of attempts if the source's memory limit stops the copy.
const MAX_COPY_ATTEMPTS: u32 = 3;
/// Poll interval.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A copy that may begin.
pub struct SyncPermit<'t> {
    /// Watches its source until the copy is done, where there are limits.
    monitor: Option<SourceMonitor>,
    /// Rate limiter of the copy and of its verification.
    rate_limiter: RateLimiter,
    /// Held until it has begun.
    start_guard: Option<MutexGuard<'t, ()>>,
}

/// Holds the proxy, the limiter and the monitor of one copy.
pub struct ThrottledSync<'a> {
    pub spec: &'a MoveSpec,
    pub instance: &'a RedisShard,
    pub sink: &'a dyn ProgressSink,
}

/// Waits until the source is calm and no other copy to this host is being begun: each sees what the one before costs,
/// so that under limits fewer copies run at the same time. What is returned is to be kept until the copy was compared.
///
/// # Errors
/// Returns an error if the source did not become calm in time, or the run was cancelled: nothing was begun.
pub fn acquire_permit<'t>(
    spec: &MoveSpec,
    start_lock: &'t Mutex<()>,
    sink: &dyn ProgressSink,
) -> Result<SyncPermit<'t>> {
    let rate_limiter = RateLimiter::for_move(spec);
    let Some(monitor) = SourceMonitor::start_for(spec) else {
        return Ok(SyncPermit { monitor: None, rate_limiter, start_guard: None });
    };
    let turn = loop {
        match start_lock.try_lock() {
            Ok(turn) => break turn,
            Err(TryLockError::Poisoned(poisoned)) => break poisoned.into_inner(),
            Err(TryLockError::WouldBlock) if sink.is_cancelled() => {
                bail!("cancelled before the copy of shard {} started", spec.header.shard)
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(POLL_INTERVAL),
        }
    };
    monitor.wait_until_below_limits("copy", sink)?;
    Ok(SyncPermit { monitor: Some(monitor), rate_limiter, start_guard: Some(turn) })
}

/// Returns true if the target's copy is complete and it follows the source directly.
///
/// # Errors
/// Returns an error if the target does not answer.
pub fn follows_source_directly(target: &mut RedisClient, spec: &MoveSpec) -> Result<bool> {
    Ok(
        matches!(target.fetch_role()?, ReplicationRole::Replica { primary, link_is_up: true, .. } if primary == spec.record.from),
    )
}

/// Lets the target follow the source directly until it has caught up, then writes the source to its file. One that
/// restarts before that waits at the placeholder address: whoever still watches the copy, the source makes no full sync
/// for it.
///
/// A sync that fails or is cancelled half way ends at the source too: it would begin a full sync again and again.
///
/// # Errors
/// Returns an error if the copy makes no progress, the target rejects a command, or its file cannot be written.
pub fn sync_directly(
    instance: &RedisShard,
    source: &mut RedisClient,
    target: &mut RedisClient,
    spec: &MoveSpec,
    sink: &dyn ProgressSink,
) -> Result<()> {
    if !follows_source_directly(target, spec)? {
        instance.set_replicaof(&replication_proxy::placeholder_address(spec.header.shard))?;
    }
    if !replication_progress::is_replica_of(&target.fetch_role()?, &spec.record.from) {
        set_replica_of(target, &spec.record.from)?;
    }
    if let Err(error) = replication_progress::wait_until_caught_up(source, target, spec, sink) {
        // A target that does not answer may run again already, by its file.
        cancel_full_sync(target, spec).ok();
        return Err(error);
    }
    match instance.read_conf()?.and_then(|conf| conf.replica_of()) {
        Some(of) if of == spec.record.from => Ok(()),
        _ => instance.set_replicaof(&spec.record.from),
    }
}

/// Ends a running full sync: the target's connection stays open without data, and the source's child process for it
/// ends. A complete copy continues to follow.
pub fn cancel_full_sync(target: &mut RedisClient, spec: &MoveSpec) -> Result<()> {
    match target.fetch_role()? {
        ReplicationRole::Replica { link_is_up: false, .. } => {
            set_replica_of(target, &replication_proxy::placeholder_address(spec.header.shard))
        }
        _ => Ok(()),
    }
}

/// Lets the target follow an address. While an instance starts, it reports for a moment between two of its append-only
/// files that it has loaded its data, and then still refuses the command.
fn set_replica_of(target: &mut RedisClient, primary: &InstanceAddress) -> Result<()> {
    let set_once = || target.query::<Value>(&replicaof_command(primary)).map(drop);
    let is_final = |answer: &Result<()>| !matches!(answer, Err(error) if is_loading(error));
    retry_until(Instant::now() + START_TIMEOUT, POLL_INTERVAL, set_once, is_final)
}

fn is_loading(error: &anyhow::Error) -> bool {
    error.downcast_ref::<redis::RedisError>().is_some_and(|error| error.code() == Some("LOADING"))
}

impl ThrottledSync<'_> {
    /// Transfers the full sync, and ends when the target follows the source directly.
    ///
    /// # Errors
    /// Returns an error if the copy makes no progress within `copy_stall_timeout_s`, was stopped too often for the
    /// source's memory, or is cancelled. The target then waits, and the source has nothing to do with it any more.
    pub fn run_sync(
        &self,
        source: &mut RedisClient,
        target: &mut RedisClient,
        permit: &mut SyncPermit<'_>,
    ) -> Result<()> {
        let spec = self.spec;
        self.instance.set_replicaof(&replication_proxy::placeholder_address(spec.header.shard))?;
        for attempt in 1..=MAX_COPY_ATTEMPTS {
            permit.rate_limiter.clear_shard_rate();
            let proxy = ReplicationProxy::open(spec, permit.rate_limiter.clone())?;
            set_replica_of(target, &proxy.address)?;
            drop(permit.start_guard.take());
            let overload = match self.pump_until_near(source, target, permit.monitor.as_ref()) {
                Ok(None) => return self.switch_to_direct_replication(source, target),
                Ok(Some(strain)) => strain,
                Err(error) => {
                    // Where the target does not answer, the end of the proxy cuts it off all the same.
                    set_replica_of(target, &replication_proxy::placeholder_address(spec.header.shard)).ok();
                    return Err(error);
                }
            };
            set_replica_of(target, &replication_proxy::placeholder_address(spec.header.shard))?;
            drop(proxy);
            if attempt == MAX_COPY_ATTEMPTS {
                bail!(
                    "shard {}: the copy was stopped {MAX_COPY_ATTEMPTS} times ({overload}); {} still serves, `dunlin shards resume` \
                     tries again",
                    spec.header.shard,
                    spec.record.from
                );
            }
            report_status(spec, &format!("copy stopped: {overload}"), self.sink);
            if let Some(monitor) = &permit.monitor {
                monitor.wait_until_below_limits("copy", self.sink)?;
            }
        }
        Ok(())
    }

    /// Waits until the target's lag is small enough for a partial resync; returns the
    /// overload for which the copy has to stop.
    fn pump_until_near(
        &self,
        source: &mut RedisClient,
        target: &mut RedisClient,
        monitor: Option<&SourceMonitor>,
    ) -> Result<Option<Overload>> {
        let (spec, stall_timeout) = (self.spec, Duration::from_secs(self.spec.limits.copy_stall_timeout_s));
        let (mut best, mut nearest, mut since) = (0, u64::MAX, Instant::now());
        let (mut windows, mut is_slow) = (monitor.map_or(0, |guard| guard.last_window().0), false);
        loop {
            let (from, to) = (source.fetch_info("replication")?, target.fetch_info("replication")?);
            let behind = from.number_field("master_repl_offset").saturating_sub(to.number_field("slave_repl_offset"));
            let is_linked =
                to.text_field("master_link_status") == "up" && to.text_field("master_sync_in_progress") == "0";
            if is_linked
                && replication_progress::can_resync_partially(&from, &to)
                && behind <= spec.limits.max_lag_bytes
            {
                return Ok(None);
            }
            if self.sink.is_cancelled() {
                bail!("cancelled while shard {} was being copied; no cutover was started", spec.header.shard);
            }
            if let Some(guard) = monitor {
                let (count, overload) = guard.last_window();
                if count > windows {
                    windows = count;
                    match overload {
                        Some(strain @ Overload::Cow(..)) if !is_linked => return Ok(Some(strain)),
                        strain => is_slow = self.report_throttling(strain.as_ref(), is_slow),
                    }
                }
            }
            let read = to.number_field("master_sync_read_bytes");
            if read > best || (is_linked && behind < nearest) {
                (best, since) = (best.max(read), Instant::now());
                nearest = if is_linked { behind } else { nearest };
                let total = to.number_field("master_sync_total_bytes");
                self.sink.emit(Event::shard_progress(spec.header.shard, "copy", read, total));
            }
            if since.elapsed() > stall_timeout {
                bail!("{}", describe_stall(spec, is_linked.then_some(behind)));
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Tells that the guard slows the copy down, or no longer does; returns which.
    fn report_throttling(&self, overload: Option<&Overload>, is_slow: bool) -> bool {
        match overload {
            Some(strain) if !is_slow => report_status(self.spec, &format!("copy slowed down: {strain}"), self.sink),
            None if is_slow => report_status(self.spec, "copy no longer slowed down", self.sink),
            _ => {}
        }
        overload.is_some()
    }

    /// Reports a second full sync, which the source's short backlog caused and the bandwidth cap did not limit.
    fn switch_to_direct_replication(&self, source: &mut RedisClient, target: &mut RedisClient) -> Result<()> {
        let spec = self.spec;
        let before = source.fetch_info("stats")?.number_field("sync_full");
        sync_directly(self.instance, source, target, spec, self.sink)?;
        if source.fetch_info("stats")?.number_field("sync_full") > before {
            let text = format!(
                "shard {}: {} made another full sync, above the bandwidth cap",
                spec.header.shard, spec.record.from
            );
            self.sink.emit(Event::Note { text });
        }
        Ok(())
    }
}

fn describe_stall(spec: &MoveSpec, behind: Option<u64>) -> String {
    let stall = spec.limits.copy_stall_timeout_s;
    match behind {
        Some(behind) => format!(
            "{} stays {behind} bytes behind {} for {stall} s: it is written to faster than the cap lets the copy follow; \
             a higher --bandwidth does",
            spec.record.to, spec.record.from
        ),
        None => {
            format!("{} made no progress towards {} through the proxy for {stall} s", spec.record.to, spec.record.from)
        }
    }
}
