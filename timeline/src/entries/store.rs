//! Timelines in Redis: a sorted set `tl:<uid>` per user, member = the entry's id, score = −id. The only place that
//! knows those keys.
//!
//! With negative scores the newest entry has the lowest rank: that is the cheap end of a listpack to insert at.

use std::fmt;

use dunlin_shards::{RetryPolicy, ShardConnections, ShardError, ShardId};
use redis::{Cmd, Value};
use serde::Serialize;

/// Number of entries that a timeline keeps.
pub const CAP: usize = 1000;

/// The largest id: scores are doubles, which are exact up to 53 bits.
pub const MAX_ID: u64 = (1 << 53) - 1;

/// Adds and trims in one step, so that no reader and no crash finds more than the cap. Doing it twice is the same as
/// once.
const PUSH: &str = "redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2]) \
                    return redis.call('ZREMRANGEBYRANK', KEYS[1], ARGV[3], -1)";

/// The timelines behind a set of shards. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    shards: ShardConnections,
}

/// Part of a timeline to read.
#[derive(Debug, Clone, Copy)]
pub struct EntryRange {
    /// The maximum number of entries.
    pub limit: usize,
    /// Only ids up to this one, itself included.
    pub max_id: Option<u64>,
    /// Only ids above this one.
    pub since_id: Option<u64>,
}

/// Entries of one timeline, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EntryPage {
    /// The ids.
    pub entries: Vec<u64>,
    /// The `max_id` of the next page: given with every page that holds an entry, `null` at the end.
    pub next_max_id: Option<u64>,
}

impl Store {
    /// A store on open shards.
    pub fn new(shards: ShardConnections) -> Store {
        Store { shards }
    }

    /// The shards below.
    pub fn shards(&self) -> &ShardConnections {
        &self.shards
    }

    /// Puts an entry into a user's timeline; returns once Redis has acknowledged it.
    pub async fn push(&self, uid: u64, id: u64) -> Result<ShardId, ShardError> {
        let key = key(uid);
        let mut push = redis::cmd("EVAL");
        push.arg(PUSH).arg(1).arg(&key).arg(format!("-{id}")).arg(id).arg(CAP);
        self.shards.query_shard::<Value>(key.as_bytes(), &push, RetryPolicy::Idempotent).await?;
        Ok(self.shards.shard_for_key(key.as_bytes()))
    }

    /// Reads a part of one timeline.
    pub async fn read(&self, uid: u64, range: EntryRange) -> Result<EntryPage, ShardError> {
        let key = key(uid);
        let entries = self.shards.query_shard(key.as_bytes(), &select(&key, range), RetryPolicy::Idempotent).await?;
        Ok(EntryPage::of(entries))
    }

    /// Reads the same part of many timelines: one round trip per shard, and a result for each user, in their order.
    pub async fn read_many(&self, uids: &[u64], range: EntryRange) -> Vec<Result<EntryPage, ShardError>> {
        let items = uids.iter().map(|uid| key(*uid)).map(|key| (key.clone().into_bytes(), select(&key, range)));
        let results = self.shards.query_batch(items.collect(), RetryPolicy::Idempotent).await;
        let page = |(uid, result): (&u64, Result<Value, ShardError>)| {
            let shard = || self.shards.shard_for_key(key(*uid).as_bytes());
            redis::from_redis_value(result?)
                .map(EntryPage::of)
                .map_err(|source| ShardError::UnexpectedReply { shard: shard(), source })
        };
        uids.iter().zip(results).map(page).collect()
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shards.fmt(f)
    }
}

impl EntryPage {
    fn of(entries: Vec<u64>) -> EntryPage {
        let next_max_id = entries.last().and_then(|last| last.checked_sub(1));
        EntryPage { entries, next_max_id }
    }
}

fn key(uid: u64) -> String {
    format!("tl:{uid}")
}

fn select(key: &str, range: EntryRange) -> Cmd {
    let newest = range.max_id.map_or("-inf".to_owned(), |id| format!("-{id}"));
    let oldest = range.since_id.map_or("+inf".to_owned(), |id| format!("(-{id}"));
    let mut select = redis::cmd("ZRANGE");
    select.arg(key).arg(newest).arg(oldest).arg("BYSCORE").arg("LIMIT").arg(0).arg(range.limit);
    select
}
