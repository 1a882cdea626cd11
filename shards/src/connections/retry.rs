//! Sends requests and retries them: decides by the outcome whether, when and where to retry.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use redis::{Cmd, RedisError, Value};
use tokio::task::JoinSet;

use super::{
    RetryPolicy,
    error::{AttemptOutcome, ShardError},
    routing_table::ShardTarget,
    shard_client::ShardClient,
    state::SharedState,
};
use crate::{
    map::ShardId,
    slot::{Slot, slot_for_key},
};

const MIN_RETRY_PAUSE: Duration = Duration::from_millis(1);
const MAX_RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Until when a request is tried. Pauses grow with the time that has passed, so that a gap is overshot by a quarter.
struct RetryDeadline {
    start: Instant,
    deadline: Instant,
    /// An attempt has followed a redirection immediately; the next one waits.
    has_followed_redirect: bool,
}

impl RetryDeadline {
    fn new(retry_for: Duration) -> RetryDeadline {
        let start = Instant::now();
        RetryDeadline { start, deadline: start + retry_for, has_followed_redirect: false }
    }

    /// Waits before another attempt; returns `false` if there is no time left for one. The first redirection is
    /// followed at once: the new owner accepts the request, or refuses it like any other node.
    async fn wait_before_retry(&mut self, is_redirected: bool) -> bool {
        if is_redirected && !std::mem::replace(&mut self.has_followed_redirect, true) {
            return Instant::now() < self.deadline;
        }
        let pause = (self.start.elapsed() / 4).clamp(MIN_RETRY_PAUSE, MAX_RETRY_PAUSE);
        if Instant::now() + pause >= self.deadline {
            return false;
        }
        tokio::time::sleep(pause).await;
        true
    }
}

/// A command without a result yet.
struct PendingRequest<'c> {
    index: usize,
    slot: Slot,
    cmd: &'c Cmd,
    /// An earlier attempt may have been applied.
    may_be_applied: bool,
    /// Reason why the last attempt has no result.
    last_failure: Option<(ShardId, RedisError)>,
}

impl PendingRequest<'_> {
    /// Returns the error for an answer that no retry cures.
    fn to_refusal(&self, shard: ShardId, source: RedisError) -> ShardError {
        if self.may_be_applied { ShardError::Unknown { shard, source } } else { ShardError::Refused { shard, source } }
    }

    fn into_error(self, inner: &SharedState) -> Result<Value, ShardError> {
        let Some((shard, source)) = self.last_failure else {
            // at least one attempt is made before giving up
            let shard = inner.current_table().target_for_slot(self.slot).id;
            let source = std::io::Error::from(std::io::ErrorKind::TimedOut).into();
            return Err(ShardError::Unavailable { shard, source });
        };
        if self.may_be_applied {
            inner.counters.unknown_outcomes.fetch_add(1, Ordering::Relaxed);
            return Err(ShardError::Unknown { shard, source });
        }
        inner.counters.unavailable.fetch_add(1, Ordering::Relaxed);
        Err(ShardError::Unavailable { shard, source })
    }
}

pub(super) async fn send_one(
    inner: &Arc<SharedState>,
    slot: Slot,
    cmd: &Cmd,
    retry: RetryPolicy,
) -> Result<Value, ShardError> {
    let mut results = send_group(
        inner,
        vec![PendingRequest { index: 0, slot, cmd, may_be_applied: false, last_failure: None }],
        retry,
    )
    .await;
    results.pop().expect("a group gives one result for each of its items").1
}

/// Groups commands by shard, and sends the groups independently: none waits for the retries of another.
pub(super) async fn send_batch(
    inner: &Arc<SharedState>,
    items: Vec<(Vec<u8>, Cmd)>,
    retry: RetryPolicy,
) -> Vec<Result<Value, ShardError>> {
    let table = inner.current_table();
    let mut groups: BTreeMap<ShardId, Vec<(usize, Slot, Cmd)>> = BTreeMap::new();
    let mut results: Vec<Option<Result<Value, ShardError>>> = items.iter().map(|_| None).collect();
    for (index, (key, cmd)) in items.into_iter().enumerate() {
        let slot = slot_for_key(&key);
        groups.entry(table.target_for_slot(slot).id).or_default().push((index, slot, cmd));
    }
    let mut running = JoinSet::new();
    for owned in groups.into_values() {
        let inner = inner.clone();
        running.spawn(async move {
            let items = owned
                .iter()
                .map(|(index, slot, cmd)| PendingRequest {
                    index: *index,
                    slot: *slot,
                    cmd,
                    may_be_applied: false,
                    last_failure: None,
                })
                .collect();
            send_group(&inner, items, retry).await
        });
    }
    for (index, result) in running.join_all().await.into_iter().flatten() {
        results[index] = Some(result);
    }
    results.into_iter().map(|result| result.expect("each item is in one group")).collect()
}

/// Results of one group so far.
struct AttemptResults<'c> {
    results: Vec<(usize, Result<Value, ShardError>)>,
    to_retry: Vec<PendingRequest<'c>>,
    /// Requests now go to another node than the one that rejected them.
    is_redirected: bool,
}

/// Tries commands that belonged to one shard when they were grouped. A map that splits the shard splits the group.
async fn send_group(
    inner: &Arc<SharedState>,
    items: Vec<PendingRequest<'_>>,
    retry: RetryPolicy,
) -> Vec<(usize, Result<Value, ShardError>)> {
    let mut deadline = RetryDeadline::new(inner.options.retry_for);
    let mut attempt =
        AttemptResults { results: Vec::with_capacity(items.len()), to_retry: Vec::new(), is_redirected: false };
    let mut pending = items;
    loop {
        let table = inner.current_table();
        while let Some(first) = pending.first() {
            let target = table.target_for_slot(first.slot).clone();
            let (here, elsewhere) =
                pending.into_iter().partition(|item| Arc::ptr_eq(table.target_for_slot(item.slot), &target));
            pending = elsewhere;
            try_once(inner, &target, here, &mut attempt, retry).await;
        }
        // a map that is replaced meanwhile takes its connections with it
        drop(table);
        if attempt.to_retry.is_empty() {
            return attempt.results;
        }
        if !deadline.wait_before_retry(std::mem::take(&mut attempt.is_redirected)).await {
            attempt.results.extend(attempt.to_retry.into_iter().map(|item| (item.index, item.into_error(inner))));
            return attempt.results;
        }
        inner.counters.retries.fetch_add(attempt.to_retry.len() as u64, Ordering::Relaxed);
        pending = std::mem::take(&mut attempt.to_retry);
    }
}

/// Tries one shard once and sorts each item into the results or the items to retry.
async fn try_once<'c>(
    inner: &Arc<SharedState>,
    target: &Arc<ShardTarget>,
    items: Vec<PendingRequest<'c>>,
    results: &mut AttemptResults<'c>,
    retry: RetryPolicy,
) {
    let node = target.active_client();
    let cmds: Vec<&Cmd> = items.iter().map(|item| item.cmd).collect();
    let mut outcomes = node.send_commands(&cmds).await.into_iter();
    let shard = target.id;
    let mut refused = false;
    let mut denied = Vec::new();
    for mut item in items {
        let missing = || AttemptOutcome::Unknown(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        match outcomes.next().unwrap_or_else(missing) {
            AttemptOutcome::Replied(value) => results.results.push((item.index, Ok(value))),
            AttemptOutcome::Refused(source) => results.results.push((item.index, Err(item.to_refusal(shard, source)))),
            AttemptOutcome::NoPermission(error) => {
                refused = true;
                denied.push((item, error));
            }
            AttemptOutcome::NotApplied(error) => {
                refused = true;
                item.last_failure = Some((shard, error));
                results.to_retry.push(item);
            }
            AttemptOutcome::Unknown(error) => {
                refused = true;
                (item.may_be_applied, item.last_failure) = (true, Some((shard, error)));
                match retry {
                    RetryPolicy::Idempotent => results.to_retry.push(item),
                    RetryPolicy::OnlyIfNotApplied => results.results.push((item.index, item.into_error(inner))),
                }
            }
        }
    }
    if refused {
        refresh_target(inner, target, &node).await;
        results.is_redirected |= !Arc::ptr_eq(&target.active_client(), &node);
    }
    for (mut item, error) in denied {
        let next = inner.current_table().target_for_slot(item.slot).active_client();
        if Arc::ptr_eq(&next, &node) {
            // The shard's own node denies it: no retry gives the application's user more rights.
            results.results.push((item.index, Err(item.to_refusal(shard, error))));
        } else {
            item.last_failure = Some((shard, error));
            results.to_retry.push(item);
        }
    }
}

/// Asks for a look at the map, and for the node's role.
async fn refresh_target(inner: &SharedState, target: &ShardTarget, node: &Arc<ShardClient>) {
    inner.map_check.notify_one();
    if target.update_from_role(node, &inner.options).await {
        inner.counters.redirects.fetch_add(1, Ordering::Relaxed);
    }
}
