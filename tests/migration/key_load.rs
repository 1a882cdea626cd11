//! One big key of a type, writes to it without pause, and how long clients wait meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use dunlin::protocol::shard::Credentials;
use redis::Connection;

use crate::fixture::connect_as;

/// Name of the key.
pub const BIG_KEY: &str = "big";
/// Members that one script adds: a call of some 100 ms.
const MEMBERS_PER_SCRIPT: usize = 50_000;
/// Bytes of one `SETRANGE`.
const CHUNK_BYTES: usize = 1 << 20;
/// Time limit for a command that fills a key.
const FILL_TIMEOUT: Duration = Duration::from_secs(120);
/// Rest of a client between two requests.
const REQUEST_INTERVAL: Duration = Duration::from_millis(2);

/// Type of a big key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyShape {
    Text,
    SortedSet,
    Set,
    Hash,
    List,
}

impl KeyShape {
    pub const ALL: [Self; 5] = [Self::Text, Self::SortedSet, Self::Set, Self::Hash, Self::List];

    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "string",
            Self::SortedSet => "zset",
            Self::Set => "set",
            Self::Hash => "hash",
            Self::List => "list",
        }
    }

    /// Fills the key: a string of `size` bytes, or another type with `size` members.
    pub fn fill_key(self, connection: &mut Connection, size: u64) {
        let command = match self {
            Self::Text => return fill_text(connection, size),
            Self::SortedSet => "redis.call('ZADD', KEYS[1], i, 'member:' .. i)",
            Self::Set => "redis.call('SADD', KEYS[1], 'member:' .. i)",
            Self::Hash => "redis.call('HSET', KEYS[1], 'member:' .. i, 'value:' .. i)",
            Self::List => "redis.call('RPUSH', KEYS[1], 'element:' .. i .. ':' .. string.rep('x', 40))",
        };
        let script = format!("for i = ARGV[1], ARGV[2] do i = string.format('%d', i); {command} end");
        for first in (0..size).step_by(MEMBERS_PER_SCRIPT) {
            let last = (first + MEMBERS_PER_SCRIPT as u64).min(size) - 1;
            redis::cmd("EVAL").arg(&script).arg(1).arg(BIG_KEY).arg(first).arg(last).exec(connection).unwrap();
        }
    }

    /// Returns one round of writes; sizes stay about as they are.
    fn write_commands(self, round: u64, size: u64) -> redis::Pipeline {
        let spread = |salt: u64| round.wrapping_add(salt).wrapping_mul(0x9e37_79b9_7f4a_7c15) % size;
        let mut batch = redis::pipe();
        for n in 0..4 {
            let (member, new) = (format!("member:{}", spread(n)), format!("new:{round}:{n}"));
            match self {
                Self::Text => batch.cmd("SETRANGE").arg(BIG_KEY).arg(spread(n)).arg(&member).ignore(),
                Self::SortedSet => batch.cmd("ZINCRBY").arg(BIG_KEY).arg(1).arg(&member).ignore(),
                Self::Set => {
                    batch.cmd("SREM").arg(BIG_KEY).arg(&member).ignore().cmd("SADD").arg(BIG_KEY).arg(&new).ignore()
                }
                Self::Hash => batch.cmd("HSET").arg(BIG_KEY).arg(&member).arg(&new).ignore(),
                // A queue that moves to the tail for a while, then to the head.
                Self::List if (round / 2000).is_multiple_of(2) => {
                    batch.cmd("LPUSH").arg(BIG_KEY).arg(&new).ignore().cmd("RPOP").arg(BIG_KEY).ignore()
                }
                Self::List => batch.cmd("RPUSH").arg(BIG_KEY).arg(&new).ignore().cmd("LPOP").arg(BIG_KEY).ignore(),
            };
        }
        batch.cmd("INCR").arg("rounds").ignore();
        batch
    }
}

fn fill_text(connection: &mut Connection, size: u64) {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut chunk: Vec<u8> = Vec::with_capacity(CHUNK_BYTES);
    while chunk.len() < CHUNK_BYTES {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        chunk.extend_from_slice(&state.to_le_bytes());
    }
    // A string that grows is copied each time.
    connection.set_read_timeout(Some(FILL_TIMEOUT)).unwrap();
    redis::cmd("SETRANGE").arg(BIG_KEY).arg(size - 1).arg("x").exec(connection).unwrap();
    for offset in (0..size).step_by(CHUNK_BYTES) {
        let bytes = CHUNK_BYTES.min(usize::try_from(size - offset).unwrap());
        chunk[..8].copy_from_slice(&offset.to_le_bytes());
        redis::cmd("SETRANGE").arg(BIG_KEY).arg(offset).arg(&chunk[..bytes]).exec(connection).unwrap();
    }
}

/// Clients of an instance: one that writes to the big key, and one that reads another key.
pub struct KeyClients {
    stop: Arc<AtomicBool>,
    longest_us: Arc<AtomicU64>,
    rounds: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl KeyClients {
    /// Starts both.
    pub fn start_clients(shape: KeyShape, size: u64, address: &str, credentials: &Credentials) -> Self {
        let [longest_us, rounds]: [Arc<AtomicU64>; 2] = Default::default();
        let stop = Arc::<AtomicBool>::default();
        let spawn = |is_writer: bool| {
            let mut connection = connect_as(address, credentials).unwrap();
            let (stop, longest_us, rounds) = (stop.clone(), longest_us.clone(), rounds.clone());
            thread::spawn(move || {
                for round in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let begin = Instant::now();
                    if is_writer {
                        shape.write_commands(round, size).exec(&mut connection).unwrap();
                        rounds.fetch_add(1, Ordering::Relaxed);
                    } else {
                        redis::cmd("GET").arg("rounds").exec(&mut connection).unwrap();
                    }
                    let waited = u64::try_from(begin.elapsed().as_micros()).unwrap();
                    longest_us.fetch_max(waited, Ordering::Relaxed);
                    thread::sleep(REQUEST_INTERVAL);
                }
            })
        };
        let threads = vec![spawn(true), spawn(false)];
        Self { stop, longest_us, rounds, threads }
    }

    /// Returns the longest wait since the last call.
    pub fn take_longest_wait(&self) -> Duration {
        Duration::from_micros(self.longest_us.swap(0, Ordering::Relaxed))
    }

    /// Stops the clients and returns the rounds of writes.
    pub fn stop_clients(&mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
        self.rounds.load(Ordering::Relaxed)
    }
}

impl Drop for KeyClients {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
