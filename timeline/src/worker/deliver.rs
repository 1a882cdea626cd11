//! Changes the timelines of followers.
//!
//! The followers are read again after the change: the timelines of users who unfollowed in between are corrected, and a
//! tweet that was deleted in between is removed from all. So order does not matter: a deletion or an unfollow that
//! commits after the second look has a message of its own, which is handled after it.

use std::collections::{BTreeMap, BTreeSet};

use dunlin_shards::ShardId;

use super::{
    WorkError, Worker, follows,
    park::{Parked, park},
};
use crate::{
    database::FollowerRange,
    ids::{Id, unix_ms_now},
    lists::{List, ShardOutcome},
    message::{Action, Deliver, Follow, Message, Task},
};

/// Delivers a batch. Parts whose shard does not answer are parked.
pub(super) async fn deliver(worker: &Worker, deliveries: &[(&Message, &Deliver)]) -> Result<(), WorkError> {
    let ranges: Vec<FollowerRange> = deliveries.iter().map(|(_, deliver)| range_of(deliver)).collect();
    let followers = worker.databases().users.followers(&ranges).await?;
    let mut entries: Vec<Vec<(List, Id)>> = Vec::with_capacity(deliveries.len());
    for ((_, deliver), followers) in deliveries.iter().zip(&followers) {
        let lists =
            followers.iter().map(|follower| List::Home(*follower)).filter(|list| concerns(worker, deliver, *list));
        entries.push(lists.map(|list| (list, deliver.tweet_id)).collect());
    }
    let of = |action: Action| -> Vec<(List, Id)> {
        let with = deliveries.iter().zip(&entries).filter(|((_, deliver), _)| deliver.action == action);
        with.flat_map(|(_, entries)| entries.iter().copied()).collect()
    };
    let (added, removed) = (of(Action::Add), of(Action::Remove));
    let pushed = worker.lists.push(&added).await;
    count(Action::Add, &pushed);
    let now = unix_ms_now();
    let failed: BTreeSet<ShardId> =
        pushed.iter().filter(|outcome| outcome.result.is_err()).map(|outcome| outcome.shard).collect();
    for ((message, deliver), entries) in deliveries.iter().zip(&entries) {
        // what is parked has its lag when it arrives
        let is_parked = entries.iter().any(|(list, _)| failed.contains(&worker.lists.shard_of(*list)));
        if deliver.action == Action::Remove || is_parked {
            continue;
        }
        let lag = (now - message.committed_ms).max(0) as f64 / 1000.0;
        metrics::histogram!("tl_push_lag_seconds").record(lag);
    }
    let stale =
        if added.is_empty() { Stale::default() } else { find_stale(worker, deliveries, &ranges, &entries).await? };
    for (message, follow) in stale.unfollowed {
        // not a plain removal: the user can follow the author again before that, and it would remove what was merged in
        follows::align(worker, message, follow).await?;
    }
    let removed: Vec<(List, Id)> = removed.into_iter().chain(stale.deleted).collect();
    let mut outcomes = worker.lists.remove(&removed).await;
    count(Action::Remove, &outcomes);
    outcomes.extend(pushed);
    park_failed(worker, deliveries, &entries, &outcomes).await
}

/// Entries that must be removed from timelines.
#[derive(Default)]
struct Stale<'a> {
    /// Entries of deleted tweets.
    deleted: Vec<(List, Id)>,
    /// Users who have unfollowed the author.
    unfollowed: Vec<(&'a Message, Follow)>,
}

async fn find_stale<'a>(
    worker: &Worker,
    deliveries: &[(&'a Message, &Deliver)],
    ranges: &[FollowerRange],
    entries: &[Vec<(List, Id)>],
) -> Result<Stale<'a>, WorkError> {
    let tweets: BTreeSet<Id> = deliveries.iter().map(|(_, deliver)| deliver.tweet_id).collect();
    let tweets: Vec<Id> = tweets.into_iter().collect();
    let deleted: BTreeSet<Id> = worker.timelines.deleted_among(&tweets).await?.into_iter().collect();
    let followers = worker.databases().users.followers(ranges).await?;
    let mut stale = Stale::default();
    for (((message, deliver), entries), followers) in deliveries.iter().zip(entries).zip(followers) {
        if deliver.action == Action::Remove {
            continue;
        }
        if deleted.contains(&deliver.tweet_id) {
            stale.deleted.extend(entries);
            continue;
        }
        let followers: BTreeSet<Id> = followers.into_iter().collect();
        for (list, _) in entries {
            if let List::Home(follower) = list
                && !followers.contains(follower)
            {
                let follow = Follow { follower: *follower, followee: deliver.author_id, parked: 0 };
                stale.unfollowed.push((*message, follow));
            }
        }
    }
    Ok(stale)
}

async fn park_failed(
    worker: &Worker,
    deliveries: &[(&Message, &Deliver)],
    entries: &[Vec<(List, Id)>],
    outcomes: &[ShardOutcome],
) -> Result<(), WorkError> {
    let mut failed: BTreeMap<ShardId, &ShardOutcome> = BTreeMap::new();
    for outcome in outcomes.iter().filter(|outcome| outcome.result.is_err()) {
        failed.insert(outcome.shard, outcome);
    }
    if failed.is_empty() {
        return Ok(());
    }
    let mut parked = Vec::new();
    for ((message, deliver), entries) in deliveries.iter().zip(entries) {
        let shards: BTreeSet<ShardId> = entries.iter().map(|(list, _)| worker.lists.shard_of(*list)).collect();
        let shards: Vec<u16> = shards.iter().filter(|shard| failed.contains_key(shard)).map(|shard| shard.0).collect();
        if shards.is_empty() {
            continue;
        }
        let task = Task::Deliver(Deliver { parked: deliver.parked + 1, ..(*deliver).clone() });
        parked.push(Parked { message, task, shards });
    }
    for outcome in failed.values() {
        if let Err(error) = &outcome.result {
            tracing::debug!(shard = outcome.shard.0, error = %error, "deliveries fail");
        }
    }
    park(worker, parked).await
}

fn range_of(deliver: &Deliver) -> FollowerRange {
    FollowerRange { author: deliver.author_id, first: deliver.follower_from, last: deliver.follower_to }
}

fn concerns(worker: &Worker, deliver: &Deliver, list: List) -> bool {
    deliver.shards.as_ref().is_none_or(|shards| shards.contains(&worker.lists.shard_of(list).0))
}

fn count(action: Action, outcomes: &[ShardOutcome]) {
    for outcome in outcomes {
        let entries = outcome.entries as u64;
        match outcome.result {
            Ok(changed) => {
                metrics::counter!("tl_deliveries_total", "op" => action.as_str(), "result" => "ok").increment(changed);
                // these timelines are not in use; they are built when they are read
                metrics::counter!("tl_deliveries_total", "op" => action.as_str(), "result" => "cold")
                    .increment(entries.saturating_sub(changed));
            }
            Err(_) => {
                metrics::counter!("tl_deliveries_total", "op" => action.as_str(), "result" => "parked")
                    .increment(entries);
            }
        }
    }
}
