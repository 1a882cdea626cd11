//! Lists of tweet ids in Redis, behind the shards. The only module that knows these keys; `functions.lua` is the other
//! half, a function library whose names carry its version, so that old and new workers can run side by side.
//!
//! A call to a shard that does not answer ends after [`ListOptions::call_timeout`]; calls that follow fail at once for
//! `breaker::OPEN_FOR`, except for one that looks whether the shard is back.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use dunlin_shards::{RetryPolicy, Routing, ShardConnections, ShardError, ShardId, SlotRange};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use redis::{Cmd, FromRedisValue};

use crate::{
    database::Range,
    ids::{Id, first_before_now},
};

mod breaker;

use breaker::Breakers;

/// The source of the function library.
const LIBRARY: &str = include_str!("lists/functions.lua");

/// Number of keys that one call of a function has: a call blocks its shard for some 8 µs per key.
const KEYS_PER_CALL: usize = 128;

/// In how many sets the public timeline is divided, so that no single shard takes all of its writes.
pub const PUBLIC_PARTS: i64 = 4;

/// A list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum List {
    /// The home timeline of a user.
    Home(Id),
    /// The tweets of an author.
    Author(Id),
    /// The tweets of all, as far as their id modulo [`PUBLIC_PARTS`] is this number.
    Public(i64),
}

/// The limits of lists.
#[derive(Debug, Clone)]
pub struct ListOptions {
    /// Largest number of entries of a list.
    pub cap: usize,
    /// Entries older than this are not kept.
    pub max_age: Duration,
    /// Time for which an unread list is kept.
    pub ttl: Duration,
    /// Time that one call may take; longer than any pause of a move.
    pub call_timeout: Duration,
    /// Time that a rebuild may take before another one takes its place.
    pub rebuild_lease: Duration,
}

impl Default for ListOptions {
    fn default() -> ListOptions {
        let month = Duration::from_secs(30 * 24 * 3600);
        ListOptions {
            cap: 1000,
            max_age: month,
            ttl: month,
            call_timeout: Duration::from_millis(600),
            rebuild_lease: Duration::from_secs(10),
        }
    }
}

/// The state of a list, and a page of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listing {
    /// The list does not exist.
    Cold,
    /// The list is being built.
    Rebuilding,
    /// The newest first; the list has every entry above the floor.
    Entries {
        /// At and below this id, entries are in the database only. 0: there are none.
        floor: Id,
        /// The page.
        ids: Vec<Id>,
    },
}

/// Result of starting a rebuild.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RebuildStart {
    /// The rebuild may begin; entries pushed from now on are kept.
    Begun,
    /// Another one is running.
    Busy,
    /// The list already exists.
    Warm,
}

/// A shard did not do it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("shard {shard}: {reason}")]
pub struct ListError {
    /// The shard.
    pub shard: ShardId,
    /// The cause.
    pub reason: String,
}

/// The entries of one shard and what came of them.
#[derive(Debug)]
pub struct ShardOutcome {
    /// The shard.
    pub shard: ShardId,
    /// The number of entries.
    pub entries: usize,
    /// The number of lists that were changed, or why that is not known.
    pub result: Result<u64, ListError>,
}

/// The lists. Cheap to clone.
#[derive(Clone)]
pub struct Lists {
    shards: ShardConnections,
    breakers: Arc<Breakers>,
    options: Arc<ListOptions>,
}

impl List {
    fn key(self) -> String {
        match self {
            List::Home(user) => format!("tl:{user}"),
            List::Author(author) => format!("au:{author}"),
            List::Public(part) => format!("pub:{part}"),
        }
    }

    /// Returns the part of the public timeline that a tweet belongs to.
    pub fn public_part_of(tweet: Id) -> List {
        List::Public(tweet.rem_euclid(PUBLIC_PARTS))
    }
}

impl Lists {
    /// Lists on open shards.
    pub fn new(shards: ShardConnections, options: ListOptions) -> Lists {
        Lists { shards, breakers: Arc::default(), options: Arc::new(options) }
    }

    /// Returns the shards below.
    pub fn shards(&self) -> &ShardConnections {
        &self.shards
    }

    /// Returns the limits.
    pub fn options(&self) -> &ListOptions {
        &self.options
    }

    /// Returns the shard of a list.
    pub fn shard_of(&self, list: List) -> ShardId {
        self.shards.shard_for_key(list.key().as_bytes())
    }

    /// Adds each entry to its list, if the list exists.
    pub async fn push(&self, entries: &[(List, Id)]) -> Vec<ShardOutcome> {
        self.change("tl_v2_push", Some(self.options.cap), entries).await
    }

    /// Removes each entry from its list.
    pub async fn remove(&self, entries: &[(List, Id)]) -> Vec<ShardOutcome> {
        self.change("tl_v2_remove", None, entries).await
    }

    /// Adds many entries to one list, if it exists.
    ///
    /// # Errors
    /// Returns an error if the shard does not answer.
    pub async fn merge(&self, list: List, ids: &[Id]) -> Result<(), ListError> {
        let key = list.key();
        let mut merge = fcall("tl_v2_merge", &[&key]);
        merge.arg(self.options.cap).arg(ids);
        self.call::<i64>(&key, &merge).await.map(drop)
    }

    /// Removes many entries from one list.
    ///
    /// # Errors
    /// Returns an error if the shard does not answer.
    pub async fn filter(&self, list: List, ids: &[Id]) -> Result<(), ListError> {
        let key = list.key();
        let mut filter = fcall("tl_v2_filter", &[&key]);
        filter.arg(ids);
        self.call::<i64>(&key, &filter).await.map(drop)
    }

    /// Reads a page, and keeps the list from expiring.
    ///
    /// # Errors
    /// Returns an error if the shard does not answer.
    pub async fn read(&self, list: List, range: Range) -> Result<Listing, ListError> {
        let key = list.key();
        let mut read = fcall("tl_v2_read", &[&key]);
        read.arg(range.max_id).arg(range.since_id).arg(range.limit);
        read.arg(self.options.ttl.as_secs()).arg(first_before_now(self.options.max_age));
        let reply: Vec<Id> = self.call(&key, &read).await?;
        Ok(match reply.split_first() {
            Some((2, rest)) => match rest.split_first() {
                Some((floor, ids)) => Listing::Entries { floor: *floor, ids: ids.to_vec() },
                None => Listing::Cold,
            },
            Some((1, _)) => Listing::Rebuilding,
            _ => Listing::Cold,
        })
    }

    /// Marks a list as being built. With `force`, an existing one is built again.
    ///
    /// # Errors
    /// Returns an error if the shard does not answer.
    pub async fn begin_rebuild(&self, list: List, token: &str, force: bool) -> Result<RebuildStart, ListError> {
        let key = list.key();
        let mut begin = fcall("tl_v2_rebuild_begin", &[&key]);
        let lease = u64::try_from(self.options.rebuild_lease.as_millis()).unwrap_or(u64::MAX);
        begin.arg(token).arg(lease).arg(if force { "force" } else { "" });
        let reply: String = self.call(&key, &begin).await?;
        Ok(match reply.as_str() {
            "begun" => RebuildStart::Begun,
            "busy" => RebuildStart::Busy,
            _ => RebuildStart::Warm,
        })
    }

    /// Ends a rebuild: the entries are joined with those that were pushed meanwhile. `false` where the rebuild was no
    /// longer this one's.
    ///
    /// # Errors
    /// Returns an error if the shard does not answer.
    pub async fn commit_rebuild(&self, list: List, token: &str, floor: Id, ids: &[Id]) -> Result<bool, ListError> {
        let key = list.key();
        let mut commit = fcall("tl_v2_rebuild_commit", &[&key]);
        commit.arg(token).arg(self.options.cap).arg(self.options.ttl.as_secs()).arg(floor).arg(ids);
        Ok(self.call::<i64>(&key, &commit).await? == 1)
    }

    /// Removes lists of one shard, so that they are built again when they are read. Returns for each whether it existed.
    ///
    /// # Errors
    /// The shard does not answer; some may be removed.
    pub async fn forget(&self, lists: &[List]) -> Result<Vec<bool>, ListError> {
        let mut existed = Vec::with_capacity(lists.len());
        for part in lists.chunks(KEYS_PER_CALL) {
            let keys: Vec<String> = part.iter().map(|list| list.key()).collect();
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            let removed: Vec<i64> = self.call(keys[0], &fcall("tl_v2_forget", &keys)).await?;
            existed.extend(removed.iter().map(|count| *count == 1));
        }
        Ok(existed)
    }

    /// Tells whether each shard has the slots that it has had in an earlier map.
    pub fn has_slots_of(&self, earlier: &Arc<Routing>) -> bool {
        let now = self.shards.routing();
        let slots = |routing: &Routing| -> Vec<(ShardId, Vec<SlotRange>)> {
            routing.shards.iter().map(|route| (route.id, route.slots.clone())).collect()
        };
        Arc::ptr_eq(earlier, &now) || slots(earlier) == slots(&now)
    }

    /// Returns the share of the shards that answer within `limit`, between 0 and 1.
    pub async fn share_alive(&self, limit: Duration) -> f64 {
        let health = self.shards.check_health(limit).await;
        for shard in &health {
            let is_alive = if shard.failure.is_none() { 1.0 } else { 0.0 };
            metrics::gauge!("shard_state", "shard" => shard.shard.to_string()).set(is_alive);
        }
        let alive = health.iter().filter(|shard| shard.failure.is_none()).count();
        alive as f64 / health.len().max(1) as f64
    }

    /// Makes one call per shard and [`KEYS_PER_CALL`] keys. Keys are grouped by the slots of the map before; where the
    /// map has divided slots differently meanwhile, all of it is done again: each change can be done twice.
    async fn change(&self, function: &str, cap: Option<usize>, entries: &[(List, Id)]) -> Vec<ShardOutcome> {
        loop {
            let before = self.shards.routing();
            let outcomes = self.change_once(function, cap, entries).await;
            if self.has_slots_of(&before) {
                return outcomes;
            }
        }
    }

    async fn change_once(&self, function: &str, cap: Option<usize>, entries: &[(List, Id)]) -> Vec<ShardOutcome> {
        let mut groups: BTreeMap<ShardId, Vec<(String, Id)>> = BTreeMap::new();
        for (list, id) in entries {
            let key = list.key();
            groups.entry(self.shards.shard_for_key(key.as_bytes())).or_default().push((key, *id));
        }
        let mut running: FuturesUnordered<_> = groups
            .into_iter()
            .map(|(shard, group)| async move {
                let mut outcome = ShardOutcome { shard, entries: group.len(), result: Ok(0) };
                for part in group.chunks(KEYS_PER_CALL) {
                    let keys: Vec<&str> = part.iter().map(|(key, _)| key.as_str()).collect();
                    let mut cmd = fcall(function, &keys);
                    if let Some(cap) = cap {
                        cmd.arg(cap);
                    }
                    for (_, id) in part {
                        cmd.arg(*id);
                    }
                    let changed = self.call::<u64>(keys[0], &cmd).await;
                    match (&mut outcome.result, changed) {
                        (Ok(sum), Ok(changed)) => *sum += changed,
                        (_, Err(error)) => {
                            outcome.result = Err(error);
                            break;
                        }
                        (Err(_), Ok(_)) => {}
                    }
                }
                outcome
            })
            .collect();
        let mut outcomes = Vec::with_capacity(running.len());
        while let Some(outcome) = running.next().await {
            outcomes.push(outcome);
        }
        outcomes
    }

    /// Calls a function at the shard of `key`; loads the library there if it is missing.
    async fn call<T: FromRedisValue>(&self, key: &str, cmd: &Cmd) -> Result<T, ListError> {
        let shard = self.shards.shard_for_key(key.as_bytes());
        let failed = |reason: String| ListError { shard, reason };
        if !self.breakers.allow(shard) {
            return Err(failed("it did not answer a moment ago".to_owned()));
        }
        let called = tokio::time::timeout(self.options.call_timeout, self.call_or_load(key, cmd)).await;
        let (answers, result) = match called {
            // a full shard still does what reads and what removes
            Ok(result) => (
                result.as_ref().err().is_none_or(is_out_of_memory),
                result.map_err(|error| failed(crate::describe_error(&error))),
            ),
            Err(_) => (false, Err(failed(format!("no reply within {} ms", self.options.call_timeout.as_millis())))),
        };
        self.breakers.record(shard, answers);
        result
    }

    async fn call_or_load<T: FromRedisValue>(&self, key: &str, cmd: &Cmd) -> Result<T, ShardError> {
        match self.shards.query_shard(key.as_bytes(), cmd, RetryPolicy::Idempotent).await {
            Err(ShardError::Refused { source, .. }) if source.to_string().contains("Function not found") => {
                let mut load = redis::cmd("FUNCTION");
                load.arg("LOAD").arg("REPLACE").arg(LIBRARY);
                self.shards.query_shard::<String>(key.as_bytes(), &load, RetryPolicy::Idempotent).await?;
                self.shards.query_shard(key.as_bytes(), cmd, RetryPolicy::Idempotent).await
            }
            result => result,
        }
    }
}

impl fmt::Debug for Lists {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shards.fmt(f)
    }
}

fn is_out_of_memory(error: &ShardError) -> bool {
    matches!(error, ShardError::Refused { source, .. } if source.code() == Some("OOM"))
}

fn fcall(function: &str, keys: &[&str]) -> Cmd {
    let mut cmd = redis::cmd("FCALL");
    cmd.arg(function).arg(keys.len()).arg(keys);
    cmd
}
