//! Brings a timeline into line with whether an author is followed now: merges the author's tweets in, or filters them
//! out.
//!
//! The state in the database decides, not the message; so follows and unfollows can be handled in any order.

use super::{
    WorkError, Worker,
    park::{Parked, park},
};
use crate::{
    database::Range,
    ids::Id,
    lists::{List, ListError, Lists},
    message::{Follow, Message, Task},
    timelines::Timelines,
};

/// Number of times that the state is looked at. A change that commits later has a message of its own.
const MAX_ROUNDS: usize = 5;

/// Aligns one timeline. Where its shard does not answer, the message is parked.
pub(super) async fn align(worker: &Worker, message: &Message, follow: Follow) -> Result<(), WorkError> {
    match align_list(&worker.timelines, &worker.lists, follow.follower, follow.followee).await? {
        Ok(()) => Ok(()),
        Err(_) => {
            let task = Task::Follow(Follow { parked: follow.parked + 1, ..follow });
            let shard = worker.lists.shard_of(List::Home(follow.follower)).0;
            park(worker, vec![Parked { message, task, shards: vec![shard] }]).await
        }
    }
}

/// Aligns one timeline. The inner result is that of its shard.
pub(super) async fn align_list(
    timelines: &Timelines,
    lists: &Lists,
    follower: Id,
    followee: Id,
) -> Result<Result<(), ListError>, WorkError> {
    let databases = timelines.databases();
    let list = List::Home(follower);
    let cap = lists.options().cap;
    let mut is_following = databases.users.is_following(follower, followee).await?;
    for _ in 0..MAX_ROUNDS {
        // One more than a timeline holds: if the author has more tweets than these, the timeline gets full, and its
        // floor rises above those that were not read.
        let ids = databases.tweets.author_page(followee, Range::newest(cap + 1)).await?;
        let mut result = Ok(());
        if is_following {
            result = lists.merge(list, &ids).await;
            let deleted = databases.tweets.deleted_among(&ids).await?;
            if result.is_ok() && !deleted.is_empty() {
                result = lists.filter(list, &deleted).await;
            }
        } else if !ids.is_empty() {
            result = lists.filter(list, &ids).await;
        }
        if result.is_err() {
            return Ok(result);
        }
        let now = databases.users.is_following(follower, followee).await?;
        if now == is_following {
            break;
        }
        is_following = now;
    }
    Ok(Ok(()))
}
