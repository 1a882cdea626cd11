//! Compares counters and timelines with the database, and builds timelines again in bulk.

use std::{collections::BTreeSet, time::Duration};

use serde::Serialize;
use tokio::time::{Instant, sleep, sleep_until};

use super::{WorkError, follows};
use crate::{
    database::{CounterChange, FollowerRange, Range},
    ids::{Id, MAX_ID, first_before_now},
    lists::{List, Listing, Lists},
    queue::{Queue, QueueName},
    timelines::{RebuildReason, Timelines},
};

/// Number of users that are read together.
const CHUNK: usize = 500;
/// Entries and events younger than this may be on their way.
const SETTLE: Duration = Duration::from_secs(10);
/// Number of looks for a moment at which a queue is empty.
const MAX_LOOKS: usize = 50;
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Findings of a reconciliation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ReconcileSummary {
    /// Users that were looked at.
    pub users: u64,
    /// Users with a wrong counter.
    pub wrong_counters: u64,
    /// Events that change counters may still wait, in an outbox, the queue or the dead letters. Counters are not
    /// corrected then: the event would count twice.
    pub counters_are_late: bool,
    /// Timelines that are in Redis.
    pub timelines: u64,
    /// Entries that are missing there.
    pub missing: u64,
    /// Entries that do not belong there; readers do not see deleted tweets.
    pub extra: u64,
    /// Counters and timelines that were corrected.
    pub fixed: u64,
    /// Authors whose tweets are no longer merged on read.
    pub flags_cleared: u64,
}

/// Compares counters and timelines with the database; with `fix`, corrects them. What is on its way is no mistake:
/// counters are looked at twice, and not corrected while events wait. `queue` is `None` in pull mode.
///
/// # Errors
/// Returns an error if a database does not answer.
pub async fn reconcile(
    timelines: &Timelines,
    queue: Option<&dyn Queue>,
    fix: bool,
) -> Result<ReconcileSummary, WorkError> {
    let mut summary = ReconcileSummary::default();
    let mut suspects = Vec::new();
    let mut after = 0;
    loop {
        let errors = counter_errors(timelines, after, CHUNK).await?;
        let Some((last, _)) = errors.last() else { break };
        after = *last;
        summary.users += errors.len() as u64;
        for (user, change) in errors {
            if change != CounterChange::default() {
                suspects.push((user, change));
            }
            check_timeline(timelines, user, fix, &mut summary).await?;
        }
    }
    if !suspects.is_empty() {
        sleep(SETTLE).await;
        // between the two looks: what has caused an error at the first one is then applied, or will never be
        summary.counters_are_late = counters_are_late(timelines, queue).await?;
    }
    for (user, change) in suspects {
        let now = counter_errors(timelines, user - 1, 1).await?;
        if now.first() == Some(&(user, change)) {
            summary.wrong_counters += 1;
            tracing::warn!(user, ?change, "the counters are wrong");
            if fix && !summary.counters_are_late {
                timelines.databases().users.add_to_counters(user, change).await?;
                timelines.cache().refresh_profiles(&[user]).await;
                summary.fixed += 1;
            }
        }
    }
    if fix {
        summary.flags_cleared = clear_flags(timelines).await?;
    }
    Ok(summary)
}

/// Checks whether events that are older than the first look at the counters can still change them. A queue that is used
/// is seldom empty for long, so it is looked at several times.
async fn counters_are_late(timelines: &Timelines, queue: Option<&dyn Queue>) -> Result<bool, WorkError> {
    for (_, database) in timelines.databases().outboxes() {
        if database.oldest_event_age().await? > SETTLE.as_secs_f64() / 2.0 {
            tracing::warn!("old events wait in the outbox: counters are not corrected");
            return Ok(true);
        }
    }
    let Some(queue) = queue else { return Ok(false) };
    for name in [QueueName::Dead, QueueName::Counter] {
        let mut looks = 0;
        // a queue that does not answer may have some
        while queue.depth(name).await.unwrap_or(u64::MAX) > 0 {
            looks += 1;
            if looks == MAX_LOOKS {
                tracing::warn!(queue = name.as_str(), "messages wait in the queue: counters are not corrected");
                return Ok(true);
            }
            sleep(LOOK_INTERVAL).await;
        }
    }
    Ok(false)
}

/// Builds the timelines of all users on a shard, at most `rate` per second. Returns their number.
///
/// # Errors
/// Returns an error if a database does not answer.
pub async fn rebuild_shard(timelines: &Timelines, shard: u16, rate: f64) -> Result<u64, WorkError> {
    let Some(lists) = timelines.lists() else { return Ok(0) };
    let start = Instant::now();
    let mut count = 0;
    let mut range = Range::newest(CHUNK);
    loop {
        let users = timelines.databases().users.profiles_page(range).await?;
        let Some(last) = users.last() else { return Ok(count) };
        range.max_id = last.id - 1;
        for user in users.iter().filter(|user| lists.shard_of(List::Home(user.id)).0 == shard) {
            sleep_until(start + Duration::from_secs_f64(count as f64 / rate)).await;
            timelines.rebuild(List::Home(user.id), RebuildReason::Requested).await?;
            count += 1;
        }
    }
}

/// Returns, for the next users, the change that makes their counters true.
async fn counter_errors(timelines: &Timelines, after: Id, limit: usize) -> Result<Vec<(Id, CounterChange)>, WorkError> {
    let databases = timelines.databases();
    let errors = databases.users.counter_errors(after, limit).await?;
    let users: Vec<Id> = errors.iter().map(|error| error.user).collect();
    let tweets = databases.tweets.count_tweets(&users).await?;
    let with_tweets = errors.into_iter().map(|error| {
        let tweets = tweets.get(&error.user).copied().unwrap_or(0) - error.tweets;
        (error.user, CounterChange { tweets, ..error.change })
    });
    Ok(with_tweets.collect())
}

/// Compares one timeline, if it is in Redis, with the tweets of those whom the user follows.
async fn check_timeline(
    timelines: &Timelines,
    user: Id,
    fix: bool,
    summary: &mut ReconcileSummary,
) -> Result<(), WorkError> {
    let Some(lists) = timelines.lists() else { return Ok(()) };
    let cap = lists.options().cap;
    let newest = first_before_now(SETTLE);
    let Ok(Listing::Entries { floor, ids }) = lists.read(List::Home(user), Range::newest(cap)).await else {
        return Ok(());
    };
    summary.timelines += 1;
    let databases = timelines.databases();
    let followees = databases.users.followees(user).await?;
    let range = Range { max_id: MAX_ID, since_id: floor, limit: cap * 2 };
    let rows = databases.tweets.authors_page(&followees, range, cap).await?;
    let flagged = timelines.flagged_authors().await?;
    let is_merged = |author: Id| flagged.iter().any(|flagged| flagged.id == author);
    let listed: BTreeSet<Id> = ids.into_iter().collect();
    let truth: BTreeSet<Id> = rows.iter().map(|(_, id)| *id).collect();
    let is_missing = |(author, id): &&(Id, Id)| !is_merged(*author) && *id < newest && !listed.contains(id);
    let missing = rows.iter().filter(is_missing).count() as u64;
    let extra = listed.iter().filter(|id| **id < newest && !truth.contains(id)).count() as u64;
    if missing + extra > 0 {
        tracing::warn!(user, missing, extra, "the timeline differs from the database");
        summary.missing += missing;
        summary.extra += extra;
        if fix {
            timelines.rebuild(List::Home(user), RebuildReason::Requested).await?;
            summary.fixed += 1;
        }
    }
    Ok(())
}

/// Adds the tweets of authors that are pushed again to the timelines of their followers; from then on they need not be
/// merged on read.
async fn clear_flags(timelines: &Timelines) -> Result<u64, WorkError> {
    let Some(lists) = timelines.lists() else { return Ok(0) };
    let mut cleared = 0;
    let databases = timelines.databases();
    let flagged = timelines.flagged_authors().await?;
    for author in flagged.iter().filter(|author| !author.pull_author && author.is_settled) {
        let mut after = 0;
        let mut is_complete = true;
        loop {
            let chunks = databases.users.follower_chunks(&[(author.id, after)], CHUNK).await?;
            let Some(last) = chunks.first().and_then(|chunk| chunk.last) else { break };
            let range = FollowerRange { author: author.id, first: after + 1, last };
            is_complete &= merge_into_followers(timelines, lists, range).await?;
            after = last;
        }
        if is_complete {
            databases.users.delete_flag(author.id).await?;
            cleared += 1;
        }
    }
    Ok(cleared)
}

/// Adds the tweets of an author to the timelines of a range of followers; `false` if a shard does not answer.
///
/// The followers are read again after the change: an unfollow that commits in between may have been handled before it,
/// and a deletion as well. What commits later has a message of its own, which is handled after the change.
async fn merge_into_followers(timelines: &Timelines, lists: &Lists, range: FollowerRange) -> Result<bool, WorkError> {
    let databases = timelines.databases();
    let followers = databases.users.followers(&[range]).await?.concat();
    // one more than a timeline holds, so that the floor rises above those that were not read
    let ids = databases.tweets.author_page(range.author, Range::newest(lists.options().cap + 1)).await?;
    let mut is_complete = true;
    for follower in &followers {
        is_complete &= lists.merge(List::Home(*follower), &ids).await.is_ok();
    }
    let deleted = databases.tweets.deleted_among(&ids).await?;
    let still: BTreeSet<Id> = databases.users.followers(&[range]).await?.concat().into_iter().collect();
    for follower in followers {
        if !deleted.is_empty() {
            is_complete &= lists.filter(List::Home(follower), &deleted).await.is_ok();
        }
        if !still.contains(&follower) {
            is_complete &= follows::align_list(timelines, lists, follower, range.author).await?.is_ok();
        }
    }
    Ok(is_complete)
}
