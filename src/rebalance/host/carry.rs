//! The full sync of a copy that is to spare its source: through a relay, at the rate that cap and guard allow; then the
//! target changes over to the source itself, by a partial resync, and all that follows sees what it always sees.

use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::guard::{Guard, Strain, tell};
use super::link::{Link, host_and_port};
use super::pace::Throttle;
use super::relay::{self, Relay};
use super::sync;
use crate::resources::redis_shard::RedisShard;
use crate::wire::shard::{MoveSpec, Role};
use crate::wire::{Event, Sink};

/// How often a copy is begun that has to be given up for its source's memory.
const TRIES: u32 = 3;
/// Between two looks.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A copy that may begin.
pub struct Admitted<'t> {
    /// Watches its source until the copy is done, where there are limits.
    guard: Option<Guard>,
    /// What its bytes and those of its comparison pass through.
    throttle: Throttle,
    /// Held until it has begun.
    turn: Option<MutexGuard<'t, ()>>,
}

/// What carries one copy.
pub struct Carriage<'a> {
    pub spec: &'a MoveSpec,
    pub instance: &'a RedisShard,
    pub sink: &'a dyn Sink,
}

/// Waits until the source is calm and no other copy to this host is being begun: each sees what the one before costs,
/// so that under limits fewer copies run at the same time. What is returned is to be kept until the copy was compared.
///
/// # Errors
/// The source did not become calm in time, or the run was cancelled: nothing was begun.
pub fn admitted<'t>(spec: &MoveSpec, turns: &'t Mutex<()>, sink: &dyn Sink) -> Result<Admitted<'t>> {
    let throttle = Throttle::of(spec);
    let Some(guard) = Guard::of(spec) else { return Ok(Admitted { guard: None, throttle, turn: None }) };
    let turn = loop {
        match turns.try_lock() {
            Ok(turn) => break turn,
            Err(TryLockError::Poisoned(poisoned)) => break poisoned.into_inner(),
            Err(TryLockError::WouldBlock) if sink.cancelled() => {
                bail!("cancelled before the copy of shard {} was begun", spec.job.shard)
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(POLL_INTERVAL),
        }
    };
    guard.calm("copy", sink)?;
    Ok(Admitted { guard: Some(guard), throttle, turn: Some(turn) })
}

/// Is the target's copy whole, and follows the source itself?
///
/// # Errors
/// The target does not answer.
pub fn is_attached(target: &mut Link, spec: &MoveSpec) -> Result<bool> {
    Ok(matches!(target.role()?, Role::Replica { of, linked: true, .. } if of == spec.from))
}

/// Has the target follow the source itself, and then its file say so: one that starts anew in between waits at its dead
/// end.
///
/// # Errors
/// What the target or the system said.
pub fn attach(instance: &RedisShard, target: &mut Link, spec: &MoveSpec) -> Result<()> {
    if !sync::follows(&target.role()?, &spec.from) {
        follow(target, &spec.from)?;
    }
    match instance.current()?.and_then(|conf| conf.replica_of()) {
        Some(of) if of == spec.from => Ok(()),
        _ => instance.follow(&spec.from),
    }
}

/// Ends a full sync that is under way: the target waits at its dead end, the source's process for it ends. A copy that
/// is whole goes on following.
pub fn park(target: &mut Link, spec: &MoveSpec) -> Result<()> {
    match target.role()? {
        Role::Replica { linked: false, .. } => follow(target, &relay::dead_end(spec.job.shard)),
        _ => Ok(()),
    }
}

fn follow(target: &mut Link, address: &str) -> Result<()> {
    let (host, port) = host_and_port(address)?;
    target.run(&["REPLICAOF", host, &port.to_string()]).map(drop)
}

impl Carriage<'_> {
    /// Carries the full sync, and ends with a target that was told to follow the source itself.
    ///
    /// # Errors
    /// No progress within `copy_stall_s`, given up too often for the source's memory, or cancelled. The target then
    /// waits, and the source has nothing to do with it any more.
    pub fn carry(&self, source: &mut Link, target: &mut Link, admitted: &mut Admitted<'_>) -> Result<()> {
        let spec = self.spec;
        self.instance.follow(&relay::dead_end(spec.job.shard))?;
        for tried in 1..=TRIES {
            admitted.throttle.free();
            let relay = Relay::open(spec, admitted.throttle.clone())?;
            follow(target, &relay.address)?;
            drop(admitted.turn.take());
            let strain = match self.through(source, target, admitted.guard.as_ref()) {
                Ok(None) => return self.change_over(source, target),
                Ok(Some(strain)) => strain,
                Err(error) => {
                    // Where the target does not answer, the end of the relay cuts it off all the same.
                    follow(target, &relay::dead_end(spec.job.shard)).ok();
                    return Err(error);
                }
            };
            follow(target, &relay::dead_end(spec.job.shard))?;
            drop(relay);
            if tried == TRIES {
                bail!(
                    "shard {}: the copy was given up {TRIES} times ({strain}); {} serves on, `dunlin shards resume` \
                     tries again",
                    spec.job.shard,
                    spec.from
                );
            }
            tell(spec, &format!("copy given up: {strain}"), self.sink);
            if let Some(guard) = &admitted.guard {
                guard.calm("copy", self.sink)?;
            }
        }
        Ok(())
    }

    /// Waits until the target has come near enough for a partial resync; says so if the copy is to be given up.
    fn through(&self, source: &mut Link, target: &mut Link, guard: Option<&Guard>) -> Result<Option<Strain>> {
        let (spec, stall) = (self.spec, Duration::from_secs(self.spec.limits.copy_stall_s));
        let (mut best, mut nearest, mut since) = (0, u64::MAX, Instant::now());
        let (mut windows, mut is_slow) = (guard.map_or(0, |guard| guard.judged().0), false);
        loop {
            let (from, to) = (source.info("replication")?, target.info("replication")?);
            let behind = from.number("master_repl_offset").saturating_sub(to.number("slave_repl_offset"));
            let is_linked = to.text("master_link_status") == "up" && to.text("master_sync_in_progress") == "0";
            if is_linked && sync::is_in_reach(&from, &to) && behind <= spec.limits.lag_bytes {
                return Ok(None);
            }
            if self.sink.cancelled() {
                bail!("cancelled while shard {} was being copied; nothing is handed over", spec.job.shard);
            }
            if let Some(guard) = guard {
                let (judged, strain) = guard.judged();
                if judged > windows {
                    windows = judged;
                    match strain {
                        Some(strain @ Strain::Cow(..)) if !is_linked => return Ok(Some(strain)),
                        strain => is_slow = self.told(strain.as_ref(), is_slow),
                    }
                }
            }
            let read = to.number("master_sync_read_bytes");
            if read > best || (is_linked && behind < nearest) {
                (best, since) = (best.max(read), Instant::now());
                nearest = if is_linked { behind } else { nearest };
                let (job, phase) = (format!("shard {}", spec.job.shard), "copy".to_owned());
                self.sink.emit(Event::Progress { job, phase, done: read, total: to.number("master_sync_total_bytes") });
            }
            if since.elapsed() > stall {
                bail!("{}", stalled(spec, is_linked.then_some(behind)));
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Tells that the guard slows the copy down, or no longer does; returns which.
    fn told(&self, strain: Option<&Strain>, is_slow: bool) -> bool {
        match strain {
            Some(strain) if !is_slow => tell(self.spec, &format!("copy slowed down: {strain}"), self.sink),
            None if is_slow => tell(self.spec, "copy no longer slowed down", self.sink),
            _ => {}
        }
        strain.is_some()
    }

    /// What the source has forgotten meanwhile would have to come anew, past the cap: then that is told.
    fn change_over(&self, source: &mut Link, target: &mut Link) -> Result<()> {
        let spec = self.spec;
        let before = source.info("stats")?.number("sync_full");
        attach(self.instance, target, spec)?;
        sync::caught_up(source, target, spec, self.sink)?;
        if source.info("stats")?.number("sync_full") > before {
            let text =
                format!("shard {}: {} has made another full sync meanwhile, past the cap", spec.job.shard, spec.from);
            self.sink.emit(Event::Note { text });
        }
        Ok(())
    }
}

fn stalled(spec: &MoveSpec, behind: Option<u64>) -> String {
    let stall = spec.limits.copy_stall_s;
    match behind {
        Some(behind) => format!(
            "{} stays {behind} bytes behind {} for {stall} s: it is written to faster than the cap lets the copy follow; \
             a higher --bandwidth does",
            spec.to, spec.from
        ),
        None => format!("{} has not come nearer to {} through its relay for {stall} s", spec.to, spec.from),
    }
}
