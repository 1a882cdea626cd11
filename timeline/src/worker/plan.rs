//! Divides the followers of an author into ranges. Plans with up to `fast_followers` followers go to the fast queue at
//! once; larger ones go to the bulk queue step by step, while it is short.

use std::{collections::BTreeSet, time::Duration};

use dunlin_shards::ShardId;

use super::{
    WorkError, Worker,
    park::{Parked, park},
};
use crate::{
    database::FollowerRange,
    ids::Id,
    lists::List,
    message::{Action, Deliver, Index, Message, Plan, Task},
    queue::{Outgoing, QueueError, QueueName},
};

/// Number of ranges that one bulk plan publishes before it goes to the end of its queue.
const CHUNKS_PER_STEP: usize = 50;
/// Interval between reads of the depth of the bulk queue while it is too long.
const DEPTH_INTERVAL: Duration = Duration::from_millis(200);
/// Number of these intervals that a plan waits before it goes to the end of its queue: a delivery that is held for
/// longer would be delivered to another worker as well.
const DEPTH_WAITS: usize = 10;

/// Plans tweets: puts them into the lists of author and public, and publishes deliveries.
pub(super) async fn plan(worker: &Worker, plans: &[(&Message, Plan)]) -> Result<(), WorkError> {
    let indexes: Vec<(&Message, Index)> = plans
        .iter()
        .map(|(message, Plan { action, tweet_id, author_id, .. })| {
            (*message, Index { action: *action, tweet_id: *tweet_id, author_id: *author_id, parked: 0 })
        })
        .collect();
    // at the same time: deliveries do not wait for the shard of an author's list, which may not answer
    tokio::try_join!(index(worker, &indexes), publish_deliveries(worker, plans)).map(drop)
}

/// Divides the followers into ranges and publishes a delivery for each; authors with many followers go to the bulk
/// queue.
async fn publish_deliveries(worker: &Worker, plans: &[(&Message, Plan)]) -> Result<(), WorkError> {
    let flagged = worker.timelines.flagged_authors().await?;
    let is_pulled =
        |author: Id| flagged.iter().any(|flagged| flagged.id == author && flagged.pull_author && flagged.is_settled);
    // an author that is merged on read has older tweets in timelines, so removals are always delivered
    let fanned: Vec<(&Message, Plan)> =
        plans.iter().filter(|(_, plan)| plan.action == Action::Remove || !is_pulled(plan.author_id)).copied().collect();
    let max_chunks = (worker.options.fast_followers / worker.options.chunk).max(1);
    let mut ranges: Vec<Vec<FollowerRange>> = vec![Vec::new(); fanned.len()];
    let mut open: Vec<(usize, Id)> = (0..fanned.len()).map(|place| (place, 0)).collect();
    for _ in 0..max_chunks {
        open = walk(worker, &fanned, open, &mut ranges).await?;
        if open.is_empty() {
            break;
        }
    }
    let many: BTreeSet<usize> = open.into_iter().map(|(place, _)| place).collect();
    let mut messages = Vec::new();
    let mut bulk = Vec::new();
    for (place, ((message, plan), ranges)) in fanned.iter().zip(&ranges).enumerate() {
        if many.contains(&place) {
            bulk.push((*message, Plan { after: 0, ..*plan }));
            continue;
        }
        let lane = if plan.action == Action::Remove { QueueName::Bulk } else { QueueName::Fast };
        for range in ranges {
            messages.push(outgoing(lane, message, delivery(plan, *range))?);
        }
    }
    if !messages.is_empty() {
        worker.queue.publish(messages).await?;
    }
    publish_bulk_plans(worker, bulk).await
}

/// Hands plans to the bulk lane. Those that its queue has no room for are parked: they must not hold up the other plans
/// of their batch, nor have these published again.
pub(super) async fn publish_bulk_plans(worker: &Worker, plans: Vec<(&Message, Plan)>) -> Result<(), WorkError> {
    let mut parked = Vec::new();
    for (message, plan) in plans {
        match worker.queue.publish(vec![outgoing(QueueName::PlanBulk, message, Task::Plan(plan))?]).await {
            Ok(()) => {}
            Err(QueueError::Full) => parked.push(Parked { message, task: Task::Plan(plan), shards: Vec::new() }),
            Err(error @ QueueError::Unavailable(_)) => return Err(error.into()),
        }
    }
    park(worker, parked).await
}

/// Waits for a while until the bulk lane is short; `false` if it is still deep.
async fn wait_for_bulk_lane(worker: &Worker) -> Result<bool, WorkError> {
    for _ in 0..DEPTH_WAITS {
        if worker.queue.depth(QueueName::Bulk).await? < worker.options.max_bulk_depth {
            return Ok(true);
        }
        tokio::time::sleep(DEPTH_INTERVAL).await;
    }
    Ok(false)
}

/// Plans the next step of tweets of authors with many followers. While the bulk lane is deep, plans go to the end of
/// their queue unchanged.
pub(super) async fn plan_bulk(worker: &Worker, plans: &[(&Message, Plan)]) -> Result<(), WorkError> {
    if !wait_for_bulk_lane(worker).await? {
        return publish_bulk_plans(worker, plans.to_vec()).await;
    }
    for (message, plan) in plans {
        let mut ranges = vec![Vec::new()];
        let mut open = vec![(0, plan.after)];
        for _ in 0..CHUNKS_PER_STEP {
            open = walk(worker, &[(message, *plan)], open, &mut ranges).await?;
            if open.is_empty() {
                break;
            }
        }
        let mut messages = Vec::new();
        for range in ranges.concat() {
            messages.push(outgoing(QueueName::Bulk, message, delivery(plan, range))?);
        }
        if !messages.is_empty() {
            worker.queue.publish(messages).await?;
        }
        let rest = open.first().map(|(_, after)| (*message, Plan { after: *after, ..*plan }));
        publish_bulk_plans(worker, rest.into_iter().collect()).await?;
    }
    Ok(())
}

/// Takes the next chunk of followers of each open plan; returns those that have more.
async fn walk(
    worker: &Worker,
    plans: &[(&Message, Plan)],
    open: Vec<(usize, Id)>,
    ranges: &mut [Vec<FollowerRange>],
) -> Result<Vec<(usize, Id)>, WorkError> {
    let cursors: Vec<(Id, Id)> = open.iter().map(|(place, after)| (plans[*place].1.author_id, *after)).collect();
    let chunks = worker.databases().users.follower_chunks(&cursors, worker.options.chunk).await?;
    let mut still_open = Vec::new();
    for ((place, after), chunk) in open.into_iter().zip(chunks) {
        let Some(last) = chunk.last else { continue };
        ranges[place].push(FollowerRange { author: plans[place].1.author_id, first: after + 1, last });
        if chunk.count >= worker.options.chunk {
            still_open.push((place, last));
        }
    }
    Ok(still_open)
}

/// Changes the lists of authors and of the public timeline. Parts whose shard does not answer are parked.
pub(super) async fn index(worker: &Worker, indexes: &[(&Message, Index)]) -> Result<(), WorkError> {
    let lists_of = |index: &Index| [List::Author(index.author_id), List::public_part_of(index.tweet_id)];
    let entries = |action: Action| -> Vec<(List, Id)> {
        let of_action = indexes.iter().filter(|(_, index)| index.action == action);
        of_action.flat_map(|(_, index)| lists_of(index).map(|list| (list, index.tweet_id))).collect()
    };
    let (added, removed) = (entries(Action::Add), entries(Action::Remove));
    let mut outcomes = worker.lists.push(&added).await;
    let tweets: Vec<Id> = indexes.iter().map(|(_, index)| index.tweet_id).collect();
    let deleted: BTreeSet<Id> = worker.timelines.deleted_among(&tweets).await?.into_iter().collect();
    for id in &deleted {
        worker.timelines.cache().hide_tweet(*id).await;
    }
    // a deletion can overtake the post
    let overtaken = added.into_iter().filter(|(_, id)| deleted.contains(id));
    let removed: Vec<(List, Id)> = removed.into_iter().chain(overtaken).collect();
    outcomes.extend(worker.lists.remove(&removed).await);
    let failed: BTreeSet<ShardId> =
        outcomes.iter().filter(|outcome| outcome.result.is_err()).map(|outcome| outcome.shard).collect();
    let mut parked = Vec::new();
    for (message, index) in indexes {
        let shards: BTreeSet<ShardId> = lists_of(index).iter().map(|list| worker.lists.shard_of(*list)).collect();
        let shards: Vec<u16> = shards.intersection(&failed).map(|shard| shard.0).collect();
        if !shards.is_empty() {
            parked.push(Parked { message, task: Task::Index(Index { parked: index.parked + 1, ..*index }), shards });
        }
    }
    park(worker, parked).await
}

fn delivery(plan: &Plan, range: FollowerRange) -> Task {
    Task::Deliver(Deliver {
        action: plan.action,
        tweet_id: plan.tweet_id,
        author_id: plan.author_id,
        follower_from: range.first,
        follower_to: range.last,
        shards: None,
        parked: 0,
    })
}

fn outgoing(queue: QueueName, message: &Message, task: Task) -> Result<Outgoing, WorkError> {
    let message = Message { request_id: message.request_id.clone(), committed_ms: message.committed_ms, task };
    Ok(Outgoing { queue, payload: message.to_json()? })
}
