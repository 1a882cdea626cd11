//! Sending, and sending again: which outcome leads to another attempt, when, and where.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use redis::{Cmd, RedisError, Value};
use tokio::task::JoinSet;

use super::{
    Retry,
    error::{Error, Outcome},
    node::Node,
    state::Inner,
    table::Target,
};
use crate::{
    map::ShardId,
    slot::{Slot, slot_of},
};

const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Until when a request is tried. Pauses grow with the time that has passed, so that a gap is overshot by a quarter.
struct Patience {
    start: Instant,
    end: Instant,
    /// Whether an attempt has followed a redirection at once; the next one waits.
    followed: bool,
}

impl Patience {
    fn new(retry_for: Duration) -> Patience {
        let start = Instant::now();
        Patience { start, end: start + retry_for, followed: false }
    }

    /// Waits before another attempt; `false` where there is to be none. The first time that requests go elsewhere, there
    /// is nothing to wait for: the new owner accepts, or it says no like any other.
    async fn wait(&mut self, elsewhere: bool) -> bool {
        if elsewhere && !std::mem::replace(&mut self.followed, true) {
            return Instant::now() < self.end;
        }
        let pause = (self.start.elapsed() / 4).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        if Instant::now() + pause >= self.end {
            return false;
        }
        tokio::time::sleep(pause).await;
        true
    }
}

/// One command that has no result yet.
struct Item<'c> {
    index: usize,
    slot: Slot,
    cmd: &'c Cmd,
    /// Whether an earlier attempt may have been applied.
    unknown: bool,
    /// Why the last attempt has no result.
    last: Option<(ShardId, RedisError)>,
}

impl Item<'_> {
    fn give_up(self, inner: &Inner) -> Result<Value, Error> {
        let Some((shard, source)) = self.last else {
            // there is an attempt before anybody gives up
            let shard = inner.table().target(self.slot).id;
            let source = std::io::Error::from(std::io::ErrorKind::TimedOut).into();
            return Err(Error::Unavailable { shard, source });
        };
        if self.unknown {
            inner.counters.unknown.fetch_add(1, Ordering::Relaxed);
            return Err(Error::Unknown { shard, source });
        }
        inner.counters.unavailable.fetch_add(1, Ordering::Relaxed);
        Err(Error::Unavailable { shard, source })
    }
}

pub(super) async fn single(inner: &Arc<Inner>, slot: Slot, cmd: &Cmd, retry: Retry) -> Result<Value, Error> {
    let mut results = group(inner, vec![Item { index: 0, slot, cmd, unknown: false, last: None }], retry).await;
    results.pop().expect("a group gives one result for each of its items").1
}

/// Groups by shard, and lets each group go its own way: none waits for the retries of another.
pub(super) async fn batch(inner: &Arc<Inner>, items: Vec<(Vec<u8>, Cmd)>, retry: Retry) -> Vec<Result<Value, Error>> {
    let table = inner.table();
    let mut groups: BTreeMap<ShardId, Vec<(usize, Slot, Cmd)>> = BTreeMap::new();
    let mut results: Vec<Option<Result<Value, Error>>> = items.iter().map(|_| None).collect();
    for (index, (key, cmd)) in items.into_iter().enumerate() {
        let slot = slot_of(&key);
        groups.entry(table.target(slot).id).or_default().push((index, slot, cmd));
    }
    let mut running = JoinSet::new();
    for owned in groups.into_values() {
        let inner = inner.clone();
        running.spawn(async move {
            let items = owned
                .iter()
                .map(|(index, slot, cmd)| Item { index: *index, slot: *slot, cmd, unknown: false, last: None })
                .collect();
            group(&inner, items, retry).await
        });
    }
    for (index, result) in running.join_all().await.into_iter().flatten() {
        results[index] = Some(result);
    }
    results.into_iter().map(|result| result.expect("each item is in one group")).collect()
}

/// What one group has come to so far.
struct Round<'c> {
    results: Vec<(usize, Result<Value, Error>)>,
    again: Vec<Item<'c>>,
    /// Whether requests go to another node now than the one that refused.
    elsewhere: bool,
}

/// Tries commands that belonged to one shard when they were grouped. A map that splits the shard splits the group.
async fn group(inner: &Arc<Inner>, items: Vec<Item<'_>>, retry: Retry) -> Vec<(usize, Result<Value, Error>)> {
    let mut patience = Patience::new(inner.options.retry_for);
    let mut round = Round { results: Vec::with_capacity(items.len()), again: Vec::new(), elsewhere: false };
    let mut pending = items;
    loop {
        let table = inner.table();
        while let Some(first) = pending.first() {
            let target = table.target(first.slot).clone();
            let (here, elsewhere) = pending.into_iter().partition(|item| Arc::ptr_eq(table.target(item.slot), &target));
            pending = elsewhere;
            attempt(inner, &target, here, &mut round, retry).await;
        }
        // a map that is replaced meanwhile takes its connections with it
        drop(table);
        if round.again.is_empty() {
            return round.results;
        }
        if !patience.wait(std::mem::take(&mut round.elsewhere)).await {
            round.results.extend(round.again.into_iter().map(|item| (item.index, item.give_up(inner))));
            return round.results;
        }
        inner.counters.retries.fetch_add(round.again.len() as u64, Ordering::Relaxed);
        pending = std::mem::take(&mut round.again);
    }
}

/// One attempt at one shard: puts each item among the results or among those to be tried again.
async fn attempt<'c>(
    inner: &Arc<Inner>,
    target: &Arc<Target>,
    items: Vec<Item<'c>>,
    round: &mut Round<'c>,
    retry: Retry,
) {
    let node = target.node();
    let cmds: Vec<&Cmd> = items.iter().map(|item| item.cmd).collect();
    let mut outcomes = node.send(&cmds).await.into_iter();
    let shard = target.id;
    let mut refused = false;
    for mut item in items {
        let missing = || Outcome::Unknown(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        match outcomes.next().unwrap_or_else(missing) {
            Outcome::Done(value) => round.results.push((item.index, Ok(value))),
            Outcome::Refused(source) => {
                let error =
                    if item.unknown { Error::Unknown { shard, source } } else { Error::Refused { shard, source } };
                round.results.push((item.index, Err(error)));
            }
            Outcome::NotApplied(error) => {
                refused = true;
                item.last = Some((shard, error));
                round.again.push(item);
            }
            Outcome::Unknown(error) => {
                refused = true;
                (item.unknown, item.last) = (true, Some((shard, error)));
                match retry {
                    Retry::Idempotent => round.again.push(item),
                    Retry::OnlyIfNotApplied => round.results.push((item.index, item.give_up(inner))),
                }
            }
        }
    }
    if refused {
        reconsider(inner, target, &node).await;
        round.elsewhere |= !Arc::ptr_eq(&target.node(), &node);
    }
}

/// Asks for a look at the map, and for the node's role.
async fn reconsider(inner: &Inner, target: &Target, node: &Arc<Node>) {
    inner.look.notify_one();
    if target.reconsider(node, &inner.options).await {
        inner.counters.redirects.fetch_add(1, Ordering::Relaxed);
    }
}
