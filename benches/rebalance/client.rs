//! A service's writers: paced writes through the connection set that services use, and the gaps that they see.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dunlin_shards::{ConnectionOptions, RetryPolicy, ShardConnections};
use tokio::runtime::Runtime;
use tokio::time::{MissedTickBehavior, interval_at};

/// Tasks that write; together they keep the rate, open-loop: a write that was held is made up for.
const WRITER_TASKS: u64 = 50;

/// What the writers have seen since it was last asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct WriteStats {
    /// Longest time without any acknowledgement.
    pub gap: Duration,
    /// Longest time that one write took.
    pub slowest: Duration,
    /// Acknowledged writes.
    pub acked: u64,
}

/// Waits are counted in steps of this many microseconds, up to this many steps.
const WAIT_BUCKET_US: usize = 50;
const WAIT_BUCKETS: usize = 4_000;

struct WriteCounters {
    last_us: AtomicU64,
    gap_us: AtomicU64,
    slowest_us: AtomicU64,
    acked: AtomicU64,
    total: AtomicU64,
    stop: AtomicBool,
    waits: Vec<AtomicU64>,
}

impl Default for WriteCounters {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        let waits = (0..=WAIT_BUCKETS).map(|_| zero()).collect();
        let [last_us, gap_us, slowest_us, acked, total] = [zero(), zero(), zero(), zero(), zero()];
        Self { last_us, gap_us, slowest_us, acked, total, stop: AtomicBool::new(false), waits }
    }
}

/// The writers, on a runtime of their own.
pub struct LoadClient {
    runtime: Option<Runtime>,
    counters: Arc<WriteCounters>,
    map: PathBuf,
    epoch: u64,
    user: String,
}

impl LoadClient {
    /// Starts writing at `rate` a second; the map is published in `folder`.
    pub fn start_writers(folder: &Path, address: &str, (user, password): (&str, &str), rate: u64) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let map = folder.join("shards.toml");
        let mut client =
            Self { runtime: Some(runtime), counters: Arc::default(), map, epoch: 0, user: user.to_owned() };
        client.publish_map(address);
        let options = ConnectionOptions { password: Some(password.to_owned()), ..ConnectionOptions::default() };
        let runtime = client.runtime.as_ref().unwrap();
        let shards = runtime.block_on(ShardConnections::open(&client.map, options)).unwrap();
        let begin = Instant::now();
        for task in 0..WRITER_TASKS {
            runtime.spawn(run_writer(shards.clone(), client.counters.clone(), begin, (task, rate)));
        }
        client
    }

    /// The next epoch of the map.
    pub fn publish_map(&mut self, address: &str) {
        self.epoch += 1;
        let line = format!("{{ id = 17, slots = \"0-16383\", primary = \"{address}\", user = \"{}\" }}", self.user);
        let next = self.map.with_extension("next");
        fs::write(&next, format!("cluster = \"bench\"\nepoch = {}\nshard = [ {line} ]\n", self.epoch)).unwrap();
        fs::rename(next, &self.map).unwrap();
    }

    /// What was seen since the last call.
    pub fn take_stats(&self) -> WriteStats {
        let take = |counter: &AtomicU64| counter.swap(0, Ordering::Relaxed);
        WriteStats {
            gap: Duration::from_micros(take(&self.counters.gap_us)),
            slowest: Duration::from_micros(take(&self.counters.slowest_us)),
            acked: take(&self.counters.acked),
        }
    }

    /// How long 99 of 100 writes took at most since the last call, in milliseconds.
    pub fn wait_p99_ms(&self) -> f64 {
        let counts: Vec<u64> = self.counters.waits.iter().map(|count| count.swap(0, Ordering::Relaxed)).collect();
        let (all, mut sum) = (counts.iter().sum::<u64>(), 0);
        let reaches = |count: &u64| {
            sum += count;
            sum * 100 >= all * 99
        };
        let step = counts.iter().position(reaches).unwrap_or(WAIT_BUCKETS);
        ((step + 1) * WAIT_BUCKET_US) as f64 / 1000.0
    }

    /// Acknowledged writes since the last call.
    pub fn take_total(&self) -> u64 {
        self.counters.total.swap(0, Ordering::Relaxed)
    }

    /// Waits for that many more acknowledgements.
    pub fn wait_for_acks(&self, more: u64) {
        let (end, goal) =
            (Instant::now() + Duration::from_secs(20), self.counters.acked.load(Ordering::Relaxed) + more);
        while self.counters.acked.load(Ordering::Relaxed) < goal {
            assert!(Instant::now() < end, "the writers are stuck");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for LoadClient {
    fn drop(&mut self) {
        self.counters.stop.store(true, Ordering::Relaxed);
        self.runtime.take().unwrap().shutdown_timeout(Duration::from_secs(10));
    }
}

async fn run_writer(shards: ShardConnections, counters: Arc<WriteCounters>, begin: Instant, (task, rate): (u64, u64)) {
    // Evenly over time, not all at once.
    let period = Duration::from_nanos(1_000_000_000 * WRITER_TASKS / rate);
    let share = u32::try_from(task).unwrap() * period / u32::try_from(WRITER_TASKS).unwrap();
    let mut tick = interval_at(tokio::time::Instant::now() + share, period);
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut member = 0_u64;
    while !counters.stop.load(Ordering::Relaxed) {
        tick.tick().await;
        member += 1;
        let key = format!("live:{task}:{}", member / 500 % 20);
        let mut add = redis::cmd("ZADD");
        add.arg(&key).arg(member).arg(member % 1000);
        let started = Instant::now();
        let added: Result<u64, _> = shards.query_shard(key.as_bytes(), &add, RetryPolicy::Idempotent).await;
        added.unwrap_or_else(|error| panic!("a write failed: {error:?}"));
        let now = u64::try_from(begin.elapsed().as_micros()).unwrap();
        let last = counters.last_us.fetch_max(now, Ordering::Relaxed);
        if last > 0 {
            counters.gap_us.fetch_max(now.saturating_sub(last), Ordering::Relaxed);
        }
        let took = u64::try_from(started.elapsed().as_micros()).unwrap();
        counters.slowest_us.fetch_max(took, Ordering::Relaxed);
        let step = usize::try_from(took).unwrap() / WAIT_BUCKET_US;
        counters.waits[step.min(WAIT_BUCKETS)].fetch_add(1, Ordering::Relaxed);
        counters.acked.fetch_add(1, Ordering::Relaxed);
        counters.total.fetch_add(1, Ordering::Relaxed);
    }
}
