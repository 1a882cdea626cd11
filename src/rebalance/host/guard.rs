//! Watches the source of a move as its clients see it, and tells when it is over a limit.
//!
//! Commands wait in one queue, a client's as well as a `PING` from here, so the round trips of many `PING`s tell what
//! forks, page faults of copy-on-write, large commands and a full network cost the clients. `LATENCY HISTOGRAM` and
//! `INFO latencystats` would not: they count from when a command leaves the queue. A round trip that takes long keeps
//! later ones from being begun; those count as what they would have been.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::link::{Info, Link, host_and_port};
use super::pace::Throttle;
use crate::wire::shard::MoveSpec;
use crate::wire::sparing::{Cow, Sparing};
use crate::wire::{Event, Sink};

/// Between two `PING`s.
const EVERY: Duration = Duration::from_millis(10);
/// What one judgement is about: a hundred of them.
const WINDOW: Duration = Duration::from_secs(1);
/// Between two looks whether a wait is still wanted.
const SOURCE_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// What a window showed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Round trip that 99 of 100 did not exceed; nothing where the source did not answer.
    pub p99: Option<Duration>,
    /// How far the replica that is furthest behind is, in bytes.
    pub lag: u64,
    /// Copy-on-write memory of a running fork, in bytes, as its process said last.
    pub cow: u64,
    /// Memory in use.
    pub used: u64,
}

/// Which limit was passed, and by what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Strain {
    /// The source does not answer.
    Silent,
    /// Milliseconds: seen, limit.
    P99(u64, u64),
    /// Bytes: seen, limit.
    Lag(u64, u64),
    /// Bytes: seen, limit.
    Cow(u64, u64),
}

impl std::fmt::Display for Strain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Silent => write!(f, "the source does not answer"),
            Self::P99(seen, limit) => write!(f, "p99 {seen} ms over {limit} ms"),
            Self::Lag(seen, limit) => write!(f, "a replica {seen} bytes behind, over {limit}"),
            Self::Cow(seen, limit) => write!(f, "copy-on-write memory {seen} bytes over {limit}"),
        }
    }
}

/// Holds what was seen against the limits; copy-on-write first, since only giving up helps there.
pub fn strain(limits: &Sparing, seen: &Seen) -> Option<Strain> {
    let cow = limits.cow.map(|cow| match cow {
        Cow::Bytes(bytes) => bytes,
        Cow::Percent(percent) => seen.used.saturating_mul(percent) / 100,
    });
    if let Some(limit) = cow.filter(|limit| seen.cow > *limit) {
        return Some(Strain::Cow(seen.cow, limit));
    }
    let Some(p99) = seen.p99 else { return Some(Strain::Silent) };
    let p99 = u64::try_from(p99.as_millis()).unwrap_or(u64::MAX);
    if limits.p99_ms > 0 && p99 > limits.p99_ms {
        return Some(Strain::P99(p99, limits.p99_ms));
    }
    (limits.lag_bytes > 0 && seen.lag > limits.lag_bytes).then_some(Strain::Lag(seen.lag, limits.lag_bytes))
}

/// A watch over one source; ends when dropped.
pub struct Guard {
    watch: Arc<Watch>,
    thread: Option<JoinHandle<()>>,
}

struct Watch {
    spec: MoveSpec,
    /// What the copy's and the comparison's bytes pass through.
    throttle: Throttle,
    is_over: AtomicBool,
    /// How many windows were judged, and the last judgement.
    judged: Mutex<(u64, Option<Strain>)>,
    news: Condvar,
}

impl Guard {
    /// Begins to watch, where the move has limits to be held. From then on each window in which one was passed halves the
    /// rate of the shard's bytes, and each other one lets a tenth more of them pass.
    pub fn of(spec: &MoveSpec) -> Option<Self> {
        if !spec.limits.sparing.is_guarded() {
            return None;
        }
        let watch = Watch {
            spec: spec.clone(),
            throttle: Throttle::of(spec),
            is_over: AtomicBool::new(false),
            judged: Mutex::new((0, None)),
            news: Condvar::new(),
        };
        let watch = Arc::new(watch);
        let thread = std::thread::spawn({
            let watch = Arc::clone(&watch);
            move || watch.run()
        });
        Some(Self { watch, thread: Some(thread) })
    }

    /// How many windows were judged so far, and the last judgement.
    pub fn judged(&self) -> (u64, Option<Strain>) {
        self.watch.lock().clone()
    }

    /// Waits for a window, from now on, in which no limit was passed.
    ///
    /// # Errors
    /// There was none for as long as the limits say, or the run was cancelled; `what` was to begin and was not.
    pub fn calm(&self, what: &str, sink: &dyn Sink) -> Result<()> {
        let (spec, begin, first) = (&self.watch.spec, Instant::now(), self.judged().0);
        let bound = Duration::from_secs(spec.limits.sparing.hold_s);
        let mut held = None;
        // A window that is under way has begun before, but for the first of all.
        let mut next = if first == 0 { 1 } else { first + 2 };
        loop {
            let (count, strain) = self.later(next);
            if count >= next {
                next = count + 1;
                match strain {
                    None if held.is_none() => return Ok(()),
                    None => {
                        let seconds = begin.elapsed().as_secs();
                        let text = format!("shard {}: the {what} goes on after {seconds} s", spec.job.shard);
                        sink.emit(Event::Note { text });
                        return Ok(());
                    }
                    Some(strain) => {
                        if held.is_none() {
                            tell(spec, &format!("{what} held: {strain}"), sink);
                        }
                        held = Some(strain);
                    }
                }
            }
            if sink.cancelled() {
                bail!("cancelled while the {what} of shard {} was held; {} serves it", spec.job.shard, spec.from);
            }
            if begin.elapsed() > bound {
                let why = held.map_or_else(|| "it could not be watched".to_owned(), |strain| strain.to_string());
                bail!(
                    "shard {}: the {what} was not begun: {} was over a limit for {} s ({why}); `dunlin shards resume` \
                     tries again",
                    spec.job.shard,
                    spec.from,
                    bound.as_secs()
                );
            }
        }
    }

    /// The judgement once there were so many, or what there is after a moment.
    fn later(&self, count: u64) -> (u64, Option<Strain>) {
        let mut judged = self.watch.lock();
        if judged.0 < count {
            judged =
                self.watch.news.wait_timeout(judged, SOURCE_POLL_INTERVAL).unwrap_or_else(PoisonError::into_inner).0;
        }
        judged.clone()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.watch.is_over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// For the bar and the line of a shard, and for those who read events.
pub fn tell(spec: &MoveSpec, what: &str, sink: &dyn Sink) {
    let job = format!("shard {}", spec.job.shard);
    sink.emit(Event::Note { text: format!("{job}: {what}") });
    sink.emit(Event::Progress { job, phase: what.to_owned(), done: 0, total: 1 });
}

impl Watch {
    fn lock(&self) -> MutexGuard<'_, (u64, Option<Strain>)> {
        self.judged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One window after the other. A source that does not answer holds its window up for as long as a connection waits;
    /// [`Guard::calm`] waits all the while.
    fn run(&self) {
        let (mut link, mut passed, mut since) = (None, self.throttle.passed(), Instant::now());
        while !self.is_over.load(Ordering::SeqCst) {
            if link.is_none() {
                link = Link::open(&self.spec.from, &self.spec.job.credentials).ok();
            }
            let seen = match &mut link {
                Some(open) => self.window(open),
                None => {
                    std::thread::sleep(SOURCE_POLL_INTERVAL);
                    Ok(Seen::default())
                }
            };
            let seen = seen.unwrap_or_else(|_| {
                link = None;
                Seen::default()
            });
            let strain = strain(&self.spec.limits.sparing, &seen);
            let milliseconds = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
            let lately = (self.throttle.passed() - passed).saturating_mul(1000) / milliseconds;
            (passed, since) = (self.throttle.passed(), Instant::now());
            match &strain {
                Some(_) => drop(self.throttle.slower(lately)),
                None => self.throttle.faster(),
            }
            let mut judged = self.lock();
            *judged = (judged.0 + 1, strain);
            self.news.notify_all();
        }
    }

    fn window(&self, link: &mut Link) -> Result<Seen> {
        let (begin, mut trips) = (Instant::now(), Vec::new());
        while begin.elapsed() < WINDOW && !self.is_over.load(Ordering::SeqCst) {
            let asked = Instant::now();
            link.run(&["PING"])?;
            let trip = asked.elapsed();
            note(&mut trips, trip);
            std::thread::sleep(EVERY.saturating_sub(trip));
        }
        let info = link.info("all")?;
        Ok(Seen {
            p99: Some(p99(&mut trips)),
            lag: lag(&info, &self.spec)?,
            cow: info.number("current_cow_size"),
            used: info.number("used_memory"),
        })
    }
}

/// A round trip, and those that it kept from being begun.
fn note(trips: &mut Vec<Duration>, trip: Duration) {
    let mut trip = Some(trip);
    while let Some(waited) = trip {
        trips.push(waited);
        trip = waited.checked_sub(EVERY).filter(|rest| !rest.is_zero());
    }
}

/// What 99 of 100 did not exceed.
fn p99(trips: &mut [Duration]) -> Duration {
    trips.sort_unstable();
    trips.get((trips.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default()
}

/// How far the furthest of the replicas that are online is behind. The move's own target counts once its copy is whole:
/// until then it is not online, and it is caught up with before it takes part in anything.
fn lag(source: &Info, spec: &MoveSpec) -> Result<u64> {
    let (ip, port) = host_and_port(&spec.to)?;
    let own = [format!("ip={ip}"), format!("port={port}")];
    let end = source.number("master_repl_offset");
    let slaves = source.iter().filter(|(name, _)| name.strip_prefix("slave").is_some_and(|n| n.parse::<u32>().is_ok()));
    let behind = slaves.filter_map(|(_, line)| {
        let fields: Vec<&str> = line.split(',').collect();
        let offset: u64 = fields.iter().find_map(|field| field.strip_prefix("offset="))?.parse().ok()?;
        let is_own = own.iter().all(|field| fields.contains(&field.as_str()));
        // Its first acknowledgement comes up to a second after it counts as online.
        (fields.contains(&"state=online") && !(is_own && offset == 0)).then(|| end.saturating_sub(offset))
    });
    Ok(behind.max().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn one_long_wait_counts_for_all_who_would_have_waited() {
        let mut trips = Vec::new();
        (0..50).for_each(|_| note(&mut trips, ms(1)));
        note(&mut trips, ms(500));
        assert_eq!(trips.len(), 100, "half a second is half of the window");
        assert_eq!(p99(&mut trips), ms(490));
        assert_eq!(p99(&mut [ms(3)]), ms(3));
        assert_eq!(p99(&mut []), ms(0));
    }

    #[test]
    fn every_limit_is_held_by_itself() {
        let calm = Seen { p99: Some(ms(20)), lag: 1000, cow: 10, used: 100 };
        let limits = Sparing { p99_ms: 20, lag_bytes: 1000, cow: Some(Cow::Percent(10)), ..Sparing::default() };
        assert_eq!(strain(&limits, &calm), None);
        assert_eq!(strain(&limits, &Seen { p99: Some(ms(21)), ..calm.clone() }), Some(Strain::P99(21, 20)));
        assert_eq!(strain(&limits, &Seen { p99: None, ..calm.clone() }), Some(Strain::Silent));
        assert_eq!(strain(&limits, &Seen { lag: 1001, ..calm.clone() }), Some(Strain::Lag(1001, 1000)));
        assert_eq!(strain(&limits, &Seen { cow: 11, ..calm.clone() }), Some(Strain::Cow(11, 10)));
        let bytes = Sparing { cow: Some(Cow::Bytes(11)), ..limits };
        assert_eq!(strain(&bytes, &Seen { cow: 11, ..calm.clone() }), None);
        let worst = Seen { p99: Some(ms(900)), lag: 1 << 30, cow: 1 << 30, used: 100 };
        assert_eq!(strain(&Sparing { bandwidth: 1, ..Sparing::default() }, &worst), None, "no limit, no strain");
    }

    #[test]
    fn the_replica_that_is_furthest_behind_counts() {
        let spec = crate::rebalance::host::recover::tests::spec();
        let of = |own: &str| {
            let own = format!("slave0:ip=b,port=1,{own},lag=0");
            let other = "slave1:ip=c,port=1,state=online,offset=900,lag=1";
            let text = format!("connected_slaves:2\nslave_repl_offset:7\n{own}\n{other}\nmaster_repl_offset:1000\n");
            lag(&Info::parse(&text), &spec).unwrap()
        };
        assert_eq!(of("state=send_bulk,offset=0"), 100);
        assert_eq!(of("state=online,offset=0"), 100);
        assert_eq!(of("state=online,offset=400"), 600);
    }
}
