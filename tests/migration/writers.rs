//! Clients that write without pause and note each acknowledgement, as a service with an old map would.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use redis::{Connection, RedisError, RedisResult};

use crate::fixture::{MoveFixture, app_credentials, connect_as};

/// Members of one timeline, and a writer's rest between two writes: a service's load, not a benchmark's.
const MAX_MEMBERS: u64 = 500;
const WRITE_PAUSE: Duration = Duration::from_micros(300);

fn timeline_key(writer: usize, member: u64) -> String {
    format!("timeline:{writer}:{}", member / MAX_MEMBERS)
}

/// A function with two writes.
const LIBRARY: &str = "#!lua name=writers
redis.register_function('add_twice', function(keys, args)
  redis.call('ZADD', keys[1], 0, args[1])
  return redis.call('ZADD', keys[1], args[1], args[1])
end)";

/// In how many forms writes are sent.
const FORMS: u64 = 4;

/// Adds a member, in a form that depends on it: Redis writes transactions, and scripts and functions with more than one
/// write, as MULTI/EXEC to its append-only file and replays them under other rules than single commands.
fn add(connection: &mut Connection, key: &str, member: u64) -> RedisResult<()> {
    let zadd = |score: u64| {
        let mut zadd = redis::cmd("ZADD");
        zadd.arg(key).arg(score).arg(member);
        zadd
    };
    match member % FORMS {
        0 => zadd(member).exec(connection),
        1 => redis::pipe().atomic().add_command(zadd(0)).add_command(zadd(member)).exec(connection),
        2 => {
            let script = "redis.call('ZADD', KEYS[1], 0, ARGV[1]) return redis.call('ZADD', KEYS[1], ARGV[1], ARGV[1])";
            redis::cmd("EVAL").arg(script).arg(1).arg(key).arg(member).exec(connection)
        }
        _ => {
            let mut call = redis::cmd("FCALL");
            call.arg("add_twice").arg(1).arg(key).arg(member);
            match call.exec(connection) {
                // A message of Redis, which has no code of its own.
                Err(error) if error.to_string().contains("Function not found") => {
                    redis::cmd("FUNCTION").arg("LOAD").arg("REPLACE").arg(LIBRARY).exec(connection)?;
                    call.exec(connection)
                }
                result => result,
            }
        }
    }
}

/// Increments a counter: alone, or in a transaction with a second one.
fn increment(connection: &mut Connection, counter: &str, is_transaction: bool) -> RedisResult<()> {
    let mut increment = redis::cmd("INCR");
    increment.arg(counter);
    match is_transaction {
        true => redis::pipe().atomic().add_command(increment).cmd("INCR").arg("count:all").exec(connection),
        false => increment.exec(connection),
    }
}

/// What one writer knows.
#[derive(Clone, Debug, Default)]
pub struct WriteLog {
    /// Members that were acknowledged, as their scores.
    pub acked: Vec<u64>,
    /// Increments that were acknowledged, and those of which nobody knows.
    pub increments: u64,
    pub unknown: u64,
    /// Longest time between two acknowledgements.
    pub longest_gap: Duration,
    /// Longest time from the first attempt of a write to its acknowledgement.
    pub longest_wait: Duration,
}

pub struct MoveWriters {
    stop: Arc<AtomicBool>,
    map: Arc<Mutex<String>>,
    logs: Vec<Arc<Mutex<WriteLog>>>,
    threads: Vec<JoinHandle<()>>,
}

impl MoveWriters {
    pub fn start_writers(count: usize, address: &str) -> Self {
        Self::spawn_writers(count, 0, address, WRITE_PAUSE)
    }

    /// Writers that rest for this time between two writes.
    pub fn start_with_pause(count: usize, address: &str, pause: Duration) -> Self {
        Self::spawn_writers(count, 0, address, pause)
    }

    /// Writers that rest for this time between two writes, and one more that asks nobody who the owner is: it writes to
    /// whom the map names, whatever that one says.
    pub fn start_with_stale_client(count: usize, address: &str, pause: Duration) -> Self {
        Self::spawn_writers(count, 1, address, pause)
    }

    fn spawn_writers(following: usize, stale: usize, address: &str, pause: Duration) -> Self {
        let (stop, map) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(address.to_owned())));
        let logs: Vec<Arc<Mutex<WriteLog>>> = (0..following + stale).map(|_| Arc::default()).collect();
        let spawn = |(id, log): (usize, &Arc<Mutex<WriteLog>>)| {
            let is_stale = id >= following;
            let primary = PrimaryConnection::new(map.clone(), is_stale);
            let writer = MoveWriter { id, primary, log: log.clone(), stop: stop.clone(), pause };
            thread::spawn(move || writer.run_until_stopped())
        };
        let threads = logs.iter().enumerate().map(spawn).collect();
        Self { stop, map, logs, threads }
    }

    /// Returns where clients look the primary's address up.
    pub fn published_address(&self) -> Arc<Mutex<String>> {
        self.map.clone()
    }

    /// The new epoch reaches the clients.
    pub fn publish_address(&self, address: &str) {
        address.clone_into(&mut self.map.lock().unwrap());
    }

    pub fn acked_count(&self) -> usize {
        self.logs.iter().map(|log| log.lock().unwrap().acked.len()).sum()
    }

    pub fn longest_gap(&self) -> Duration {
        self.logs.iter().map(|log| log.lock().unwrap().longest_gap).max().unwrap_or_default()
    }

    pub fn longest_wait(&self) -> Duration {
        self.logs.iter().map(|log| log.lock().unwrap().longest_wait).max().unwrap_or_default()
    }

    pub fn reset_gaps(&self) {
        for log in &self.logs {
            let mut log = log.lock().unwrap();
            (log.longest_gap, log.longest_wait) = (Duration::ZERO, Duration::ZERO);
        }
    }

    /// Waits until each writer was acknowledged some more.
    pub fn wait_for_writes(&self, more: usize) {
        let before: Vec<usize> = self.logs.iter().map(|log| log.lock().unwrap().acked.len()).collect();
        crate::fixture::wait_until(Duration::from_secs(30), || {
            self.logs.iter().zip(&before).all(|(log, before)| log.lock().unwrap().acked.len() >= before + more)
        });
    }

    pub fn stop_writers(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }

    /// Acknowledged members that the owner does not have, each as its command's last words in an append-only file.
    pub fn lost_writes(&self, owner: &str) -> Vec<String> {
        let snapshot: Vec<WriteLog> = self.logs.iter().map(|log| log.lock().unwrap().clone()).collect();
        let mut connection = connect_as(owner, &app_credentials()).unwrap();
        let mut lost = Vec::new();
        for (id, log) in snapshot.iter().enumerate() {
            let mut there = BTreeSet::new();
            for first in (0..=log.acked.len() as u64).step_by(MAX_MEMBERS as usize) {
                let key = timeline_key(id, first);
                let members: Vec<u64> = redis::cmd("ZRANGE").arg(key).arg(0).arg(-1).query(&mut connection).unwrap();
                assert!(members.is_sorted(), "order is kept");
                there.extend(members);
            }
            let missing: Vec<u64> = log.acked.iter().copied().filter(|member| !there.contains(member)).collect();
            if !missing.is_empty() {
                eprintln!("writer {id} lost {} of {}: {missing:?}", missing.len(), log.acked.len());
            }
            lost.extend(missing.iter().map(|member| {
                let (key, word) = (timeline_key(id, *member), member.to_string());
                format!("{key}\r\n${0}\r\n{word}\r\n${0}\r\n{word}\r\n", word.len())
            }));
        }
        lost
    }

    /// After `stop`: each counter is what was acknowledged, or more by increments whose answer never came.
    pub fn check_counters(&self, owner: &str) {
        let mut connection = connect_as(owner, &app_credentials()).unwrap();
        for (id, log) in self.logs.iter().enumerate() {
            let log = log.lock().unwrap();
            let value: Option<u64> = redis::cmd("GET").arg(format!("count:{id}")).query(&mut connection).unwrap();
            let (value, most) = (value.unwrap_or(0), log.increments + log.unknown);
            assert!(
                (log.increments..=most).contains(&value),
                "counter {id} is {value}, not in {}..={most}",
                log.increments
            );
        }
    }
}

impl Drop for MoveWriters {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

pub fn stop_and_check(writers: &mut MoveWriters, fixture: &MoveFixture, owner: u8) {
    writers.stop_writers();
    assert_eq!(writers.lost_writes(&fixture.address(owner)), Vec::<String>::new());
    writers.check_counters(&fixture.address(owner));
    assert_eq!(fixture.writable_instances(), [owner]);
}

/// A client's connection to the primary, which it finds by the published address and by the answers of replicas.
pub struct PrimaryConnection {
    published: Arc<Mutex<String>>,
    /// True for a client that asks no replica: it writes to the instance that its map names.
    is_stale: bool,
    /// The connection, and the address that it was opened to.
    current: Option<(Connection, String)>,
}

/// Returns whether the server said that the request was not applied.
pub fn is_refusal(error: &RedisError) -> bool {
    error.code().is_some() && !error.is_io_error()
}

impl PrimaryConnection {
    pub fn new(published: Arc<Mutex<String>>, is_stale: bool) -> Self {
        Self { published, is_stale, current: None }
    }

    /// Sends a request once. Without a connection the request counts as refused.
    pub fn send<T>(&mut self, request: impl FnOnce(&mut Connection) -> RedisResult<T>) -> RedisResult<T> {
        let published = self.published.lock().unwrap().clone();
        if self.is_stale && self.current.as_ref().is_some_and(|(_, address)| *address != published) {
            self.current = None;
        }
        let (connection, _) = match &mut self.current {
            Some(current) => current,
            None => match connect_as(&published, &app_credentials()) {
                Ok(new) => self.current.insert((new, published)),
                Err(_) => {
                    thread::sleep(Duration::from_millis(1));
                    return Err((redis::ErrorKind::Server(redis::ServerErrorKind::TryAgain), "not connected").into());
                }
            },
        };
        let result = request(connection);
        if let Err(error) = &result {
            // A blocked request ends with UNBLOCKED, and a transaction that was queued is refused as a whole.
            let is_moved = matches!(error.code(), Some("READONLY" | "EXECABORT" | "UNBLOCKED")) && !self.is_stale;
            let owner = is_moved.then(|| owner(connection)).flatten();
            // A replica names its primary, which may not accept writes yet.
            let next = owner.and_then(|owner| Some((connect_as(&owner, &app_credentials()).ok()?, owner)));
            if next.is_some() || !is_refusal(error) {
                self.current = next;
            }
        }
        result
    }
}

struct MoveWriter {
    id: usize,
    primary: PrimaryConnection,
    log: Arc<Mutex<WriteLog>>,
    stop: Arc<AtomicBool>,
    pause: Duration,
}

impl MoveWriter {
    fn run_until_stopped(mut self) {
        let mut last = Instant::now();
        let count = format!("count:{}", self.id);
        let (mut next, mut first_attempt) = (1_u64, None);
        while !self.stop.load(Ordering::Relaxed) {
            let begin = *first_attempt.get_or_insert_with(Instant::now);
            let key = timeline_key(self.id, next);
            // Idempotent: tried until it is acknowledged.
            if self.primary.send(|connection| add(connection, &key, next)).is_err() {
                if self.primary.is_stale {
                    thread::sleep(self.pause);
                }
                continue;
            }
            first_attempt = None;
            {
                let mut log = self.log.lock().unwrap();
                log.acked.push(next);
                log.longest_gap = log.longest_gap.max(last.elapsed());
                log.longest_wait = log.longest_wait.max(begin.elapsed());
                last = Instant::now();
            }
            next += 1;
            thread::sleep(self.pause);
            let is_transaction = next.is_multiple_of(2);
            let result = self.primary.send(|connection| increment(connection, &count, is_transaction));
            let mut log = self.log.lock().unwrap();
            match result {
                Ok(()) => log.increments += 1,
                Err(error) if is_refusal(&error) => {}
                Err(_) => log.unknown += 1,
            }
        }
    }
}

fn owner(connection: &mut Connection) -> Option<String> {
    match &redis::cmd("ROLE").query::<Vec<redis::Value>>(connection).ok()?[..] {
        [_, redis::Value::BulkString(host), redis::Value::Int(port), ..] => {
            Some(format!("{}:{port}", String::from_utf8_lossy(host)))
        }
        _ => None,
    }
}
