//! Watches the source of a move as its clients see it, and reports when it exceeds a limit.
//!
//! Commands of clients and `PING`s from here wait in the same queue, so the round trips of many `PING`s show what
//! forks, page faults of copy-on-write, large commands and a full network cost the clients. `LATENCY HISTOGRAM` and
//! `INFO latencystats` would not: they measure from the time when a command leaves the queue. A slow round trip delays
//! the `PING`s after it; each of them counts with the delay that it would have seen.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use dunlin_shards::InstanceAddress;

use super::rate_limiter::RateLimiter;
use super::redis_client::{RedisClient, RedisInfo};
use crate::protocol::shard::MoveSpec;
use crate::protocol::throttle::{MemoryLimit, ThrottleLimits};
use crate::protocol::{Event, ProgressSink};

/// Interval of the `PING`s.
const PING_INTERVAL: Duration = Duration::from_millis(10);
/// Length of one window: a hundred `PING`s.
const SAMPLE_WINDOW: Duration = Duration::from_secs(1);
/// Poll interval for cancellation.
const SOURCE_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Measurements of one window.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadSample {
    /// Round trip that 99 of 100 did not exceed; nothing where the source did not answer.
    pub p99: Option<Duration>,
    /// Largest lag of a replica, in bytes.
    pub lag_bytes: u64,
    /// Copy-on-write memory of a running fork, in bytes, as its process said last.
    pub cow_bytes: u64,
    /// Memory in use.
    pub used_bytes: u64,
}

/// Limit that was exceeded, with the measured value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Overload {
    /// The source does not answer.
    Unresponsive,
    /// Milliseconds: seen, limit.
    P99(u64, u64),
    /// Bytes: seen, limit.
    Lag(u64, u64),
    /// Bytes: seen, limit.
    Cow(u64, u64),
}

impl std::fmt::Display for Overload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unresponsive => write!(f, "the source does not answer"),
            Self::P99(seen, limit) => write!(f, "p99 {seen} ms over {limit} ms"),
            Self::Lag(seen, limit) => write!(f, "a replica {seen} bytes behind, over {limit}"),
            Self::Cow(seen, limit) => write!(f, "copy-on-write memory {seen} bytes over {limit}"),
        }
    }
}

/// Compares the measurements with the limits; copy-on-write first, since only stopping the copy helps there.
pub fn exceeded_limit(limits: &ThrottleLimits, sample: &LoadSample) -> Option<Overload> {
    let cow = limits.max_cow_memory.map(|cow| match cow {
        MemoryLimit::Bytes(bytes) => bytes,
        MemoryLimit::Percent(percent) => sample.used_bytes.saturating_mul(percent) / 100,
    });
    if let Some(limit) = cow.filter(|limit| sample.cow_bytes > *limit) {
        return Some(Overload::Cow(sample.cow_bytes, limit));
    }
    let Some(p99) = sample.p99 else { return Some(Overload::Unresponsive) };
    let p99 = u64::try_from(p99.as_millis()).unwrap_or(u64::MAX);
    if limits.max_p99_ms > 0 && p99 > limits.max_p99_ms {
        return Some(Overload::P99(p99, limits.max_p99_ms));
    }
    (limits.max_lag_bytes > 0 && sample.lag_bytes > limits.max_lag_bytes)
        .then_some(Overload::Lag(sample.lag_bytes, limits.max_lag_bytes))
}

/// A watch over one source; ends when dropped.
pub struct SourceMonitor {
    state: Arc<MonitorState>,
    thread: Option<JoinHandle<()>>,
}

struct MonitorState {
    spec: MoveSpec,
    /// Rate limiter of the copy and its verification.
    rate_limiter: RateLimiter,
    is_stopped: AtomicBool,
    /// Number of evaluated windows, and the last result.
    last_window: Mutex<(u64, Option<Overload>)>,
    window_done: Condvar,
}

impl SourceMonitor {
    /// Starts to watch if the move has limits for its source. From then on each window that exceeds one halves the rate
    /// of the shard's bytes, and each other window raises a reduced rate by a tenth.
    pub fn start_for(spec: &MoveSpec) -> Option<Self> {
        if !spec.record.throttle.has_source_limits() {
            return None;
        }
        let state = MonitorState {
            spec: spec.clone(),
            rate_limiter: RateLimiter::for_move(spec),
            is_stopped: AtomicBool::new(false),
            last_window: Mutex::new((0, None)),
            window_done: Condvar::new(),
        };
        let watch = Arc::new(state);
        let thread = std::thread::spawn({
            let watch = Arc::clone(&watch);
            move || watch.run_windows()
        });
        Some(Self { state: watch, thread: Some(thread) })
    }

    /// Returns the number of evaluated windows and the last result.
    pub fn last_window(&self) -> (u64, Option<Overload>) {
        self.state.lock_last_window().clone()
    }

    /// Waits for a window, starting now, in which no limit was exceeded.
    ///
    /// # Errors
    /// Returns an error if there was none within the time limit, or the run was cancelled; `operation` was not started.
    pub fn wait_until_below_limits(&self, operation: &str, sink: &dyn ProgressSink) -> Result<()> {
        let (spec, begin, windows_before) = (&self.state.spec, Instant::now(), self.last_window().0);
        let timeout = Duration::from_secs(spec.record.throttle.overload_timeout_s);
        let mut overload = None;
        // The current window began earlier, except for the first one.
        let mut next = if windows_before == 0 { 1 } else { windows_before + 2 };
        loop {
            let (count, exceeded) = self.wait_for_window(next);
            if count >= next {
                next = count + 1;
                match exceeded {
                    None if overload.is_none() => return Ok(()),
                    None => {
                        let seconds = begin.elapsed().as_secs();
                        let text = format!("shard {}: the {operation} continues after {seconds} s", spec.header.shard);
                        sink.emit(Event::Note { text });
                        return Ok(());
                    }
                    Some(strain) => {
                        if overload.is_none() {
                            report_status(spec, &format!("{operation} held: {strain}"), sink);
                        }
                        overload = Some(strain);
                    }
                }
            }
            if sink.is_cancelled() {
                bail!(
                    "cancelled while the {operation} of shard {} was waiting; {} serves it",
                    spec.header.shard,
                    spec.record.from
                );
            }
            if begin.elapsed() > timeout {
                let why = overload.map_or_else(|| "it could not be monitored".to_owned(), |strain| strain.to_string());
                bail!(
                    "shard {}: the {operation} was not started: {} was over a limit for {} s ({why}); `dunlin shards resume` \
                     tries again",
                    spec.header.shard,
                    spec.record.from,
                    timeout.as_secs()
                );
            }
        }
    }

    /// Returns the count and result of the last window, after waiting a moment for the given count.
    fn wait_for_window(&self, count: u64) -> (u64, Option<Overload>) {
        let mut window = self.state.lock_last_window();
        if window.0 < count {
            window = self
                .state
                .window_done
                .wait_timeout(window, SOURCE_POLL_INTERVAL)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        window.clone()
    }
}

impl Drop for SourceMonitor {
    fn drop(&mut self) {
        self.state.is_stopped.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Reports a status for the progress bar and the line of a shard, and for readers of events.
pub fn report_status(spec: &MoveSpec, message: &str, sink: &dyn ProgressSink) {
    let shard = spec.header.shard;
    sink.emit(Event::Note { text: format!("shard {shard}: {message}") });
    sink.emit(Event::shard_progress(shard, message, 0, 1));
}

impl MonitorState {
    fn lock_last_window(&self) -> MutexGuard<'_, (u64, Option<Overload>)> {
        self.last_window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Evaluates window after window. A source that does not answer delays its window until the connection times out;
    /// [`SourceMonitor::wait_until_below_limits`] waits for it.
    fn run_windows(&self) {
        let (mut link, mut passed, mut since) = (None, self.rate_limiter.passed_bytes(), Instant::now());
        while !self.is_stopped.load(Ordering::SeqCst) {
            if link.is_none() {
                link = RedisClient::open(&self.spec.record.from, &self.spec.header.credentials).ok();
            }
            let sample = match &mut link {
                Some(open) => self.measure_window(open),
                None => {
                    std::thread::sleep(SOURCE_POLL_INTERVAL);
                    Ok(LoadSample::default())
                }
            };
            let seen = sample.unwrap_or_else(|_| {
                link = None;
                LoadSample::default()
            });
            let overload = exceeded_limit(&self.spec.record.throttle, &seen);
            let milliseconds = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
            let recent_rate = (self.rate_limiter.passed_bytes() - passed).saturating_mul(1000) / milliseconds;
            (passed, since) = (self.rate_limiter.passed_bytes(), Instant::now());
            match &overload {
                Some(_) => drop(self.rate_limiter.halve_rate(recent_rate)),
                None => self.rate_limiter.raise_rate(),
            }
            let mut window = self.lock_last_window();
            *window = (window.0 + 1, overload);
            self.window_done.notify_all();
        }
    }

    fn measure_window(&self, link: &mut RedisClient) -> Result<LoadSample> {
        let (begin, mut trips) = (Instant::now(), Vec::new());
        while begin.elapsed() < SAMPLE_WINDOW && !self.is_stopped.load(Ordering::SeqCst) {
            let asked = Instant::now();
            link.run_command(&["PING"])?;
            let trip = asked.elapsed();
            record_round_trip(&mut trips, trip);
            std::thread::sleep(PING_INTERVAL.saturating_sub(trip));
        }
        let info = link.fetch_info("all")?;
        Ok(LoadSample {
            p99: Some(percentile_99(&mut trips)),
            lag_bytes: max_replica_lag(&info, &self.spec),
            cow_bytes: info.number_field("current_cow_size"),
            used_bytes: info.number_field("used_memory"),
        })
    }
}

/// Records a round trip, and the delays of those `PING`s that it held up.
fn record_round_trip(trips: &mut Vec<Duration>, trip: Duration) {
    let mut trip = Some(trip);
    while let Some(waited) = trip {
        trips.push(waited);
        trip = waited.checked_sub(PING_INTERVAL).filter(|rest| !rest.is_zero());
    }
}

/// Returns the 99th percentile.
fn percentile_99(trips: &mut [Duration]) -> Duration {
    trips.sort_unstable();
    trips.get((trips.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default()
}

/// Returns the largest lag of the online replicas, in bytes. The move's own target counts once its copy is complete:
/// until then it is not online.
fn max_replica_lag(source: &RedisInfo, spec: &MoveSpec) -> u64 {
    let InstanceAddress { host, port } = &spec.record.to;
    let own = [format!("ip={host}"), format!("port={port}")];
    let end = source.number_field("master_repl_offset");
    let slaves = source.iter().filter(|(name, _)| name.strip_prefix("slave").is_some_and(|n| n.parse::<u32>().is_ok()));
    let behind = slaves.filter_map(|(_, line)| {
        let fields: Vec<&str> = line.split(',').collect();
        let offset: u64 = fields.iter().find_map(|field| field.strip_prefix("offset="))?.parse().ok()?;
        let is_own = own.iter().all(|field| fields.contains(&field.as_str()));
        // Its first acknowledgement comes up to a second after it counts as online.
        (fields.contains(&"state=online") && !(is_own && offset == 0)).then(|| end.saturating_sub(offset))
    });
    behind.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_long_round_trip_counts_for_the_pings_it_delayed() {
        let mut trips = Vec::new();
        (0..50).for_each(|_| record_round_trip(&mut trips, ms(1)));
        record_round_trip(&mut trips, ms(500));
        assert_eq!(trips.len(), 100, "half a second is half of the window");
        assert_eq!(percentile_99(&mut trips), ms(490));
        assert_eq!(percentile_99(&mut [ms(3)]), ms(3));
        assert_eq!(percentile_99(&mut []), ms(0));
    }

    #[test]
    fn each_limit_is_checked_on_its_own() {
        let calm = LoadSample { p99: Some(ms(20)), lag_bytes: 1000, cow_bytes: 10, used_bytes: 100 };
        let limits = ThrottleLimits {
            max_p99_ms: 20,
            max_lag_bytes: 1000,
            max_cow_memory: Some(MemoryLimit::Percent(10)),
            ..ThrottleLimits::default()
        };
        assert_eq!(exceeded_limit(&limits, &calm), None);
        assert_eq!(
            exceeded_limit(&limits, &LoadSample { p99: Some(ms(21)), ..calm.clone() }),
            Some(Overload::P99(21, 20))
        );
        assert_eq!(exceeded_limit(&limits, &LoadSample { p99: None, ..calm.clone() }), Some(Overload::Unresponsive));
        assert_eq!(
            exceeded_limit(&limits, &LoadSample { lag_bytes: 1001, ..calm.clone() }),
            Some(Overload::Lag(1001, 1000))
        );
        assert_eq!(exceeded_limit(&limits, &LoadSample { cow_bytes: 11, ..calm.clone() }), Some(Overload::Cow(11, 10)));
        let bytes = ThrottleLimits { max_cow_memory: Some(MemoryLimit::Bytes(11)), ..limits };
        assert_eq!(exceeded_limit(&bytes, &LoadSample { cow_bytes: 11, ..calm.clone() }), None);
        let worst = LoadSample { p99: Some(ms(900)), lag_bytes: 1 << 30, cow_bytes: 1 << 30, used_bytes: 100 };
        assert_eq!(
            exceeded_limit(&ThrottleLimits { bandwidth: 1, ..ThrottleLimits::default() }, &worst),
            None,
            "no limit, no strain"
        );
    }

    #[test]
    fn the_largest_replica_lag_counts() {
        let spec = crate::rebalance::host::assessment::tests::test_spec();
        let of = |own: &str| {
            let own = format!("slave0:ip=b,port=1,{own},lag=0");
            let other = "slave1:ip=c,port=1,state=online,offset=900,lag=1";
            let text = format!("connected_slaves:2\nslave_repl_offset:7\n{own}\n{other}\nmaster_repl_offset:1000\n");
            max_replica_lag(&RedisInfo::parse(&text), &spec)
        };
        assert_eq!(of("state=send_bulk,offset=0"), 100);
        assert_eq!(of("state=online,offset=0"), 100);
        assert_eq!(of("state=online,offset=400"), 600);
    }
}
