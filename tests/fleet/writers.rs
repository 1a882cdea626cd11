//! A service's writers: they route by the map that dunlin publishes, and note each acknowledgement.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dunlin_shards::{ConnectionOptions, RetryPolicy, ShardConnections};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::cluster::APP_PASSWORD;

/// How many there are, the timelines that they write to, and a writer's rest between two writes.
const WRITER_COUNT: usize = 4;
const TIMELINE_COUNT: u64 = 400;
const WRITE_PAUSE: Duration = Duration::from_millis(3);

/// Writers at work.
pub struct FleetWriters {
    runtime: Runtime,
    shards: ShardConnections,
    stop: Arc<AtomicBool>,
    log: Arc<Mutex<AckLog>>,
    tasks: Vec<JoinHandle<()>>,
}

/// What the writers know together.
#[derive(Debug, Default)]
struct AckLog {
    /// By timeline, the members that were acknowledged, and when.
    acked: BTreeMap<u64, Vec<(u64, Instant)>>,
    /// Writes that were given up, with the reason.
    failed: Vec<String>,
}

fn timeline_key(timeline: u64) -> String {
    format!("tl:{timeline}")
}

impl FleetWriters {
    /// Begins to write through the published map.
    pub fn start_writers(map: &Path) -> Self {
        Self::start_with_ca(map, None)
    }

    /// The same over TLS, if there is a CA.
    pub fn start_with_ca(map: &Path, tls_ca: Option<String>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let options =
            ConnectionOptions { password: Some(APP_PASSWORD.to_owned()), tls_ca, ..ConnectionOptions::default() };
        let shards = runtime.block_on(ShardConnections::open(map, options)).unwrap();
        let (stop, log) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(AckLog::default())));
        let spawn =
            |writer| runtime.spawn(run_writer(writer as u64, shards.clone(), Arc::clone(&stop), Arc::clone(&log)));
        let tasks = (0..WRITER_COUNT).map(spawn).collect();
        let writers = Self { shards, stop, log, tasks, runtime };
        writers.wait_for_writes(TIMELINE_COUNT as usize);
        writers
    }

    /// Waits until so many more writes were acknowledged.
    pub fn wait_for_writes(&self, more: usize) {
        let acked = || self.log.lock().unwrap().acked.values().map(Vec::len).sum::<usize>();
        let (goal, end) = (acked() + more, Instant::now() + Duration::from_secs(60));
        while acked() < goal {
            assert!(Instant::now() < end, "writers get nowhere: {:?}", self.log.lock().unwrap().failed);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Panics unless everything that was acknowledged so far is there, and no write had to be given up.
    #[track_caller]
    pub fn assert_nothing_lost(&self) -> usize {
        let failed = self.log.lock().unwrap().failed.clone();
        assert_eq!(failed, Vec::<String>::new(), "writes were given up");
        self.assert_no_acked_write_lost()
    }

    /// The same where a writer may have had to give a write up: it then was not acknowledged.
    #[track_caller]
    pub fn assert_no_acked_write_lost(&self) -> usize {
        let (lost, all) = self.find_lost_writes();
        assert!(lost.is_empty(), "lost {lost:?}");
        all
    }

    /// Panics where something is lost that was not acknowledged in one of these times; returns how much is. Writes may
    /// have been given up meanwhile.
    #[track_caller]
    pub fn assert_lost_only_within(&self, times: &[(Instant, Instant)]) -> usize {
        let (lost, _) = self.find_lost_writes();
        let is_told = |at: &Instant| times.iter().any(|(from, to)| (from..=to).contains(&at));
        let others: Vec<_> = lost.iter().filter(|(.., at)| !is_told(at)).collect();
        assert!(others.is_empty(), "lost outside of these times: {others:?}");
        lost.len()
    }

    /// The timeline, member and moment of each acknowledged write that is not there; and how many there are in all.
    fn find_lost_writes(&self) -> (Vec<(u64, u64, Instant)>, usize) {
        let acked = self.log.lock().unwrap().acked.clone();
        let range = |timeline: &u64| {
            let mut range = redis::cmd("ZRANGE");
            range.arg(timeline_key(*timeline)).arg(0).arg(-1);
            (timeline_key(*timeline).into_bytes(), range)
        };
        let items = acked.keys().map(range).collect();
        let answers = self.runtime.block_on(self.shards.query_batch(items, RetryPolicy::Idempotent));
        let mut lost = Vec::new();
        for ((timeline, members), answer) in acked.iter().zip(answers) {
            let there: BTreeSet<u64> = redis::from_redis_value(answer.unwrap()).unwrap();
            let missing = members.iter().filter(|(member, _)| !there.contains(member));
            lost.extend(missing.map(|(member, at)| (*timeline, *member, *at)));
        }
        (lost, acked.values().map(Vec::len).sum())
    }
}

impl Drop for FleetWriters {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks.drain(..) {
            // A writer that panicked was told of by its log.
            self.runtime.block_on(task).ok();
        }
    }
}

/// Adds a number to a timeline: by one command, or by a script with two writes, which Redis replays as a transaction.
fn add(timeline: u64, number: u64) -> redis::Cmd {
    if (number / WRITER_COUNT as u64).is_multiple_of(2) {
        let mut add = redis::cmd("ZADD");
        add.arg(timeline_key(timeline)).arg(number).arg(number);
        return add;
    }
    let script = "redis.call('ZADD', KEYS[1], 0, ARGV[1]) return redis.call('ZADD', KEYS[1], ARGV[1], ARGV[1])";
    let mut add = redis::cmd("EVAL");
    add.arg(script).arg(1).arg(timeline_key(timeline)).arg(number);
    add
}

async fn run_writer(writer: u64, shards: ShardConnections, stop: Arc<AtomicBool>, log: Arc<Mutex<AckLog>>) {
    let mut number = writer;
    while !stop.load(Ordering::Relaxed) {
        let timeline = number % TIMELINE_COUNT;
        let written = shards
            .query_shard::<redis::Value>(
                timeline_key(timeline).as_bytes(),
                &add(timeline, number),
                RetryPolicy::Idempotent,
            )
            .await;
        {
            let mut log = log.lock().unwrap();
            match written {
                Ok(_) => log.acked.entry(timeline).or_default().push((number, Instant::now())),
                Err(error) => log.failed.push(format!("{number}: {error}")),
            }
        }
        number += WRITER_COUNT as u64;
        tokio::time::sleep(WRITE_PAUSE).await;
    }
}
