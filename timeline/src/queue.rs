//! The queue between the outbox and the work: one trait, in RabbitMQ ([`rabbit`]) or in Postgres ([`postgres`]).
//!
//! Deliveries are at least once and in any order. A message is gone once it is settled as done; one that is never
//! settled is delivered again, up to a limit, and then goes to the dead letters.

use std::{fmt, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

pub mod postgres;
pub mod rabbit;

/// Number of times that a message is delivered before it counts as poison.
pub const DELIVERY_LIMIT: u32 = 20;

/// A queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QueueName {
    /// Tweets whose followers are to be divided into ranges.
    Plan,
    /// The same for authors with many followers: stops while the bulk lane is deep.
    PlanBulk,
    /// Deliveries for authors with few followers.
    Fast,
    /// Deliveries for authors with many followers, and deletions.
    Bulk,
    /// Deliveries for shards that were down.
    Parked,
    /// Holds deliveries for one second, then hands them to [`QueueName::Parked`].
    Park,
    /// Holds deliveries for ten seconds, then hands them to [`QueueName::Parked`].
    ParkLong,
    /// Holds deliveries for a minute, then hands them to [`QueueName::Parked`].
    ParkMinute,
    /// Changes of counters.
    Counter,
    /// Follows and unfollows.
    Follow,
    /// Timelines to build again.
    Rebuild,
    /// Messages that failed too often.
    Dead,
}

/// Error of a queue operation.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// No connection, or it broke. The messages may have been published.
    #[error("the queue is not available: {0}")]
    Unavailable(String),
    /// The queue has reached its largest length, or the broker refuses messages.
    #[error("the queue is full")]
    Full,
}

/// A message on its way in.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// The queue.
    pub queue: QueueName,
    /// The text.
    pub payload: String,
}

/// A message on its way out.
#[derive(Debug)]
pub struct Delivery {
    /// The text.
    pub payload: String,
    /// Names it when it is settled.
    pub receipt: Receipt,
}

/// Names one delivery.
#[derive(Debug, Clone)]
pub enum Receipt {
    /// A row of the Postgres queue.
    Row(i64),
    /// A delivery of RabbitMQ.
    Tag(Arc<rabbit::Unsettled>),
}

/// The end of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// Handled: it is removed.
    Done,
    /// To be delivered again.
    Retry,
    /// Not to be handled by anybody: it goes to the dead letters.
    Dead,
}

/// A queue server.
pub trait Queue: Send + Sync + fmt::Debug {
    /// Publishes messages; returns once all of them are stored durably. After an error some may be stored.
    fn publish(&self, messages: Vec<Outgoing>) -> BoxFuture<'_, Result<(), QueueError>>;

    /// Returns up to `max` messages, as soon as there is one; none if there is none within `wait`.
    fn receive(&self, queue: QueueName, max: usize, wait: Duration)
    -> BoxFuture<'_, Result<Vec<Delivery>, QueueError>>;

    /// Ends deliveries of one queue. What is not settled because of an error is delivered again.
    fn settle(&self, queue: QueueName, deliveries: Vec<(Receipt, Settlement)>)
    -> BoxFuture<'_, Result<(), QueueError>>;

    /// Returns the number of messages that wait in a queue; the Postgres queue counts up to 100,000.
    fn depth(&self, queue: QueueName) -> BoxFuture<'_, Result<u64, QueueError>>;

    /// Checks that the queue answers.
    fn ping(&self) -> BoxFuture<'_, Result<(), QueueError>>;
}

impl QueueName {
    /// The queues of the service.
    pub const ALL: [QueueName; 12] = [
        QueueName::Plan,
        QueueName::PlanBulk,
        QueueName::Fast,
        QueueName::Bulk,
        QueueName::Parked,
        QueueName::Park,
        QueueName::ParkLong,
        QueueName::ParkMinute,
        QueueName::Counter,
        QueueName::Follow,
        QueueName::Rebuild,
        QueueName::Dead,
    ];

    /// Returns the name without the prefix.
    pub fn as_str(self) -> &'static str {
        match self {
            QueueName::Plan => "plan",
            QueueName::PlanBulk => "plan.bulk",
            QueueName::Fast => "deliver.fast",
            QueueName::Bulk => "deliver.bulk",
            QueueName::Parked => "deliver.parked",
            QueueName::Park => "park",
            QueueName::ParkLong => "park.long",
            QueueName::ParkMinute => "park.minute",
            QueueName::Counter => "counter",
            QueueName::Follow => "follow",
            QueueName::Rebuild => "rebuild",
            QueueName::Dead => "dead",
        }
    }

    /// Returns for how long a message is held, and the queue that gets it then.
    pub fn delay(self) -> Option<(Duration, QueueName)> {
        match self {
            QueueName::Park => Some((Duration::from_secs(1), QueueName::Parked)),
            QueueName::ParkLong => Some((Duration::from_secs(10), QueueName::Parked)),
            QueueName::ParkMinute => Some((Duration::from_secs(60), QueueName::Parked)),
            _ => None,
        }
    }

    /// Returns the largest number of messages; more are refused, so that they wait in the outbox.
    pub fn max_length(self) -> i64 {
        match self {
            QueueName::Plan | QueueName::Counter | QueueName::Follow | QueueName::Fast => 1_000_000,
            QueueName::PlanBulk => 10_000,
            QueueName::Bulk | QueueName::Rebuild => 200_000,
            QueueName::Parked | QueueName::Park | QueueName::ParkLong | QueueName::ParkMinute => 2_000_000,
            QueueName::Dead => 10_000_000,
        }
    }
}
