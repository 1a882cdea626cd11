//! Events of the outbox, and the messages that they become: what travels through the queue.

use serde::{Deserialize, Serialize};

use crate::{
    database::{CounterChange, CounterEvent, Event},
    ids::Id,
    queue::QueueName,
};

/// A message, with what is needed to follow it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The id of the HTTP request that caused it.
    pub request_id: String,
    /// The moment of the commit, in milliseconds since 1970.
    pub committed_ms: i64,
    /// The work to do.
    #[serde(flatten)]
    pub task: Task,
}

/// The work that a message asks for. Each can be done twice, and in any order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "task", rename_all = "snake_case")]
pub enum Task {
    /// Divide the followers of an author into ranges.
    Plan(Plan),
    /// Repeat a change of the author and public lists that a shard rejected.
    Index(Index),
    /// Change the timelines of the followers in a range.
    Deliver(Deliver),
    /// Change counters.
    Count(Count),
    /// Bring a timeline into line with whether an author is followed.
    Follow(Follow),
    /// Build a timeline again.
    Rebuild {
        /// The user.
        user: Id,
    },
}

/// A change of an entry: added or removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The tweet is added.
    Add,
    /// The tweet is removed.
    Remove,
}

/// See [`Task::Plan`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The change: the tweet is added or removed.
    pub action: Action,
    /// The tweet.
    pub tweet_id: Id,
    /// Its author.
    pub author_id: Id,
    /// The last follower that was planned; 0 at the beginning.
    pub after: Id,
}

/// See [`Task::Index`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// The change: the tweet is added or removed.
    pub action: Action,
    /// The tweet.
    pub tweet_id: Id,
    /// Its author.
    pub author_id: Id,
    /// Number of times that the task was parked.
    pub parked: u32,
}

/// See [`Task::Deliver`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deliver {
    /// The change: the tweet is added or removed.
    pub action: Action,
    /// The tweet.
    pub tweet_id: Id,
    /// Its author.
    pub author_id: Id,
    /// The first follower.
    pub follower_from: Id,
    /// The last follower.
    pub follower_to: Id,
    /// Only these shards; all where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shards: Option<Vec<u16>>,
    /// Number of times that the task was parked.
    #[serde(default)]
    pub parked: u32,
}

/// See [`Task::Count`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// The event's id.
    pub event: Id,
    /// The number of its database.
    pub source: i16,
    /// The changes: user, followers, following, tweets.
    pub changes: Vec<(Id, i64, i64, i64)>,
}

/// See [`Task::Follow`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Follow {
    /// The user whose timeline it is.
    pub follower: Id,
    /// The author.
    pub followee: Id,
    /// Number of times that the task was parked.
    #[serde(default)]
    pub parked: u32,
}

/// The payload of `tweet_added` and `tweet_deleted`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct TweetEvent {
    tweet_id: Id,
    author_id: Id,
    request_id: String,
}

/// The payload of `follow` and `unfollow`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FollowEvent {
    /// The user who follows or no longer follows.
    pub follower: Id,
    /// The user who is or was followed.
    pub followee: Id,
    /// The request.
    pub request_id: String,
}

impl Message {
    /// Returns the messages that an event becomes, each with its queue.
    ///
    /// # Errors
    /// Returns an error if the event is of an unknown kind, or its payload of another shape.
    pub fn of_event(event: &Event, source: i16) -> Result<Vec<(QueueName, Message)>, serde_json::Error> {
        let followed = |sign: i64| -> Result<Vec<(QueueName, Message)>, serde_json::Error> {
            let FollowEvent { follower, followee, request_id } = serde_json::from_str(&event.payload)?;
            let changes = vec![(followee, sign, 0, 0), (follower, 0, sign, 0)];
            let message = |task| Message { request_id: request_id.clone(), committed_ms: event.created_ms, task };
            Ok(vec![
                (QueueName::Follow, message(Task::Follow(Follow { follower, followee, parked: 0 }))),
                (QueueName::Counter, message(Task::Count(Count { event: event.id, source, changes }))),
            ])
        };
        let tweet = |action: Action, sign: i64| -> Result<Vec<(QueueName, Message)>, serde_json::Error> {
            let TweetEvent { tweet_id, author_id, request_id } = serde_json::from_str(&event.payload)?;
            let changes = vec![(author_id, 0, 0, sign)];
            let message = |task| Message { request_id: request_id.clone(), committed_ms: event.created_ms, task };
            Ok(vec![
                (QueueName::Plan, message(Task::Plan(Plan { action, tweet_id, author_id, after: 0 }))),
                (QueueName::Counter, message(Task::Count(Count { event: event.id, source, changes }))),
            ])
        };
        match event.kind.as_str() {
            "tweet_added" => tweet(Action::Add, 1),
            "tweet_deleted" => tweet(Action::Remove, -1),
            "follow" => followed(1),
            "unfollow" => followed(-1),
            kind => Err(serde::de::Error::custom(format!("events of the kind \"{kind}\" are not known"))),
        }
    }

    /// Writes it as JSON.
    ///
    /// # Errors
    /// Returns an error if the message cannot be written as JSON, which does not happen for the tasks above.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }
}

impl Task {
    /// Returns the queue to which a task goes that failed for good and is tried again.
    pub fn replay_queue(&self) -> QueueName {
        match self {
            Task::Plan(plan) if plan.after == 0 => QueueName::Plan,
            Task::Plan(_) => QueueName::PlanBulk,
            Task::Index(_) | Task::Deliver(_) => QueueName::Parked,
            Task::Count(_) => QueueName::Counter,
            Task::Follow(_) => QueueName::Follow,
            Task::Rebuild { .. } => QueueName::Rebuild,
        }
    }
}

impl Count {
    /// Returns the changes in the database's terms.
    pub fn to_event(&self) -> CounterEvent {
        let change = |(user, followers, following, tweets): &(Id, i64, i64, i64)| {
            (*user, CounterChange { followers: *followers, following: *following, tweets: *tweets })
        };
        CounterEvent { id: self.event, source: self.source, changes: self.changes.iter().map(change).collect() }
    }
}

impl Action {
    /// Returns its name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Add => "add",
            Action::Remove => "remove",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Action, Deliver, Message, Task};

    #[test]
    fn a_delivery_is_small_and_reads_back() {
        let task = Task::Deliver(Deliver {
            action: Action::Add,
            tweet_id: 893_353_197_568_000,
            author_id: 17,
            follower_from: 1,
            follower_to: 2000,
            shards: None,
            parked: 0,
        });
        let message = Message { request_id: "r1".to_owned(), committed_ms: 1_795_000_000_000, task };
        let json = message.to_json().unwrap();
        assert_eq!(serde_json::from_str::<Message>(&json).unwrap(), message);
        assert!(json.len() < 220, "{json}");
    }
}
