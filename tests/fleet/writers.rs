//! A service's writers: they route by the map that dunlin publishes, and note each acknowledgement.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dunlin_shards::{Options, Retry, Shards};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::cluster::APP;

/// How many there are, the timelines that they write to, and a writer's rest between two writes.
const WRITERS: usize = 4;
const TIMELINES: u64 = 400;
const REST: Duration = Duration::from_millis(3);

/// Writers at work.
pub struct Writers {
    runtime: Runtime,
    shards: Shards,
    stop: Arc<AtomicBool>,
    log: Arc<Mutex<Log>>,
    tasks: Vec<JoinHandle<()>>,
}

/// What the writers know together.
#[derive(Debug, Default)]
struct Log {
    /// By timeline, the members that were acknowledged, and when.
    acked: BTreeMap<u64, Vec<(u64, Instant)>>,
    /// Writes that were given up, with the reason.
    failed: Vec<String>,
}

fn key(timeline: u64) -> String {
    format!("tl:{timeline}")
}

impl Writers {
    /// Begins to write through the published map.
    pub fn start(map: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let options = Options { password: Some(APP.to_owned()), ..Options::default() };
        let shards = runtime.block_on(Shards::open(map, options)).unwrap();
        let (stop, log) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Log::default())));
        let spawn = |writer| runtime.spawn(write(writer as u64, shards.clone(), Arc::clone(&stop), Arc::clone(&log)));
        let tasks = (0..WRITERS).map(spawn).collect();
        let writers = Self { shards, stop, log, tasks, runtime };
        writers.write_on(TIMELINES as usize);
        writers
    }

    /// Waits until so many more writes were acknowledged.
    pub fn write_on(&self, more: usize) {
        let acked = || self.log.lock().unwrap().acked.values().map(Vec::len).sum::<usize>();
        let (goal, end) = (acked() + more, Instant::now() + Duration::from_secs(60));
        while acked() < goal {
            assert!(Instant::now() < end, "writers get nowhere: {:?}", self.log.lock().unwrap().failed);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Panics unless everything that was acknowledged so far is there, and no write had to be given up.
    #[track_caller]
    pub fn lost_nothing(&self) -> usize {
        let failed = self.log.lock().unwrap().failed.clone();
        assert_eq!(failed, Vec::<String>::new(), "writes were given up");
        self.lost_nothing_acknowledged()
    }

    /// The same where a writer may have had to give a write up: it then was not acknowledged.
    #[track_caller]
    pub fn lost_nothing_acknowledged(&self) -> usize {
        let (lost, all) = self.lost();
        assert!(lost.is_empty(), "lost {lost:?}");
        all
    }

    /// Panics where something is lost that was not acknowledged in one of these times; returns how much is. Writes may have
    /// been given up meanwhile.
    #[track_caller]
    pub fn lost_within(&self, times: &[(Instant, Instant)]) -> usize {
        let (lost, _) = self.lost();
        let is_told = |at: &Instant| times.iter().any(|(from, to)| (from..=to).contains(&at));
        let others: Vec<_> = lost.iter().filter(|(.., at)| !is_told(at)).collect();
        assert!(others.is_empty(), "lost outside of these times: {others:?}");
        lost.len()
    }

    /// The timeline, member and moment of each acknowledged write that is not there; and how many there are in all.
    fn lost(&self) -> (Vec<(u64, u64, Instant)>, usize) {
        let acked = self.log.lock().unwrap().acked.clone();
        let range = |timeline: &u64| {
            let mut range = redis::cmd("ZRANGE");
            range.arg(key(*timeline)).arg(0).arg(-1);
            (key(*timeline).into_bytes(), range)
        };
        let items = acked.keys().map(range).collect();
        let answers = self.runtime.block_on(self.shards.batch(items, Retry::Idempotent));
        let mut lost = Vec::new();
        for ((timeline, members), answer) in acked.iter().zip(answers) {
            let there: BTreeSet<u64> = redis::from_redis_value(answer.unwrap()).unwrap();
            let missing = members.iter().filter(|(member, _)| !there.contains(member));
            lost.extend(missing.map(|(member, at)| (*timeline, *member, *at)));
        }
        (lost, acked.values().map(Vec::len).sum())
    }
}

impl Drop for Writers {
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
    if (number / WRITERS as u64).is_multiple_of(2) {
        let mut add = redis::cmd("ZADD");
        add.arg(key(timeline)).arg(number).arg(number);
        return add;
    }
    let script = "redis.call('ZADD', KEYS[1], 0, ARGV[1]) return redis.call('ZADD', KEYS[1], ARGV[1], ARGV[1])";
    let mut add = redis::cmd("EVAL");
    add.arg(script).arg(1).arg(key(timeline)).arg(number);
    add
}

async fn write(writer: u64, shards: Shards, stop: Arc<AtomicBool>, log: Arc<Mutex<Log>>) {
    let mut number = writer;
    while !stop.load(Ordering::Relaxed) {
        let timeline = number % TIMELINES;
        let written =
            shards.query::<redis::Value>(key(timeline).as_bytes(), &add(timeline, number), Retry::Idempotent).await;
        {
            let mut log = log.lock().unwrap();
            match written {
                Ok(_) => log.acked.entry(timeline).or_default().push((number, Instant::now())),
                Err(error) => log.failed.push(format!("{number}: {error}")),
            }
        }
        number += WRITERS as u64;
        tokio::time::sleep(REST).await;
    }
}
