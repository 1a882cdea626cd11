//! From the outbox to the lists: the relay publishes events, the planner divides followers into ranges, deliveries
//! change timelines, counters are counted.
//!
//! Each task can be done twice and in any order. A handler that cannot reach a database or the queue tries again in place,
//! so that no delivery limit is used up by an outage; a shard that does not answer only holds up its own part, which is
//! parked. Where that is too much, it is dropped, and the shard's timelines are rebuilt when it answers (`refresh`).

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
};

use crate::{
    database::{Databases, DbError, PullThresholds},
    lists::{ListError, Lists},
    queue::{Queue, QueueError, QueueName},
    timelines::{SharedDbError, Timelines},
};

mod consume;
mod counters;
mod deliver;
mod follows;
pub mod janitor;
mod park;
mod plan;
pub mod reconcile;
mod refresh;
pub mod relay;
pub mod replay;

/// The sizes of the worker's parts.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// Number of followers that one delivery covers.
    pub chunk: usize,
    /// Authors with more followers than this use the bulk lane.
    pub fast_followers: usize,
    /// Up to how many deliveries wait in the bulk lane before planning for it stops.
    pub max_bulk_depth: u64,
    /// From how many followers on an author's tweets are merged on read.
    pub thresholds: PullThresholds,
    /// Number of batches of the fast lane that are handled at a time.
    pub fast_consumers: usize,
    /// Interval at which the outbox is read.
    pub poll_interval: Duration,
    /// Time for which a claim on events lasts.
    pub claim_lease: Duration,
    /// Number of messages per shard that this process parks before it drops them, and the shard's timelines are rebuilt.
    pub max_parked: usize,
    /// Timelines per second that are rebuilt after that.
    pub refresh_rate: f64,
    /// Time after which another process takes over a refresh that does not go on.
    pub refresh_lease: Duration,
}

impl Default for WorkerOptions {
    fn default() -> WorkerOptions {
        WorkerOptions {
            chunk: 2000,
            fast_followers: 10_000,
            max_bulk_depth: 500,
            thresholds: PullThresholds { upper: 1_000_000, lower: 800_000 },
            fast_consumers: 4,
            poll_interval: Duration::from_millis(50),
            claim_lease: Duration::from_secs(10),
            max_parked: 20_000,
            refresh_rate: 50.0,
            refresh_lease: Duration::from_secs(30),
        }
    }
}

/// The worker of the push mode. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Worker {
    timelines: Timelines,
    lists: Lists,
    queue: Arc<dyn Queue>,
    options: Arc<WorkerOptions>,
    wake: Arc<Notify>,
    parked: Arc<park::ParkedMessages>,
    refreshes: Arc<refresh::RequestedRefreshes>,
}

/// Something that a task needs does not answer; the task is to be tried again.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// A database.
    #[error(transparent)]
    Database(#[from] DbError),
    /// A database; the error is shared with others who waited.
    #[error("{0}")]
    Shared(SharedDbError),
    /// The queue.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// A shard.
    #[error(transparent)]
    Shard(#[from] ListError),
    /// A message cannot be written.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

impl WorkError {
    /// Tells whether a database answers, and refuses the data of the task: more tries change nothing.
    fn is_of_data(&self) -> bool {
        match self {
            WorkError::Database(error) => error.is_of_data(),
            WorkError::Shared(error) => error.is_of_data(),
            WorkError::Queue(_) | WorkError::Shard(_) | WorkError::Json(_) => false,
        }
    }
}

impl From<SharedDbError> for WorkError {
    fn from(error: SharedDbError) -> WorkError {
        WorkError::Shared(error)
    }
}

impl Worker {
    /// Creates a worker. `wake` notifies its relay of new events.
    pub fn new(
        timelines: Timelines,
        lists: Lists,
        queue: Arc<dyn Queue>,
        options: WorkerOptions,
        wake: Arc<Notify>,
    ) -> Worker {
        let options = Arc::new(options);
        Worker { timelines, lists, queue, options, wake, parked: Arc::default(), refreshes: Arc::default() }
    }

    /// Works until `stop` becomes true; then ends what was begun, and gives back the rest.
    pub async fn run(&self, stop: watch::Receiver<bool>) {
        let mut tasks = JoinSet::new();
        for (source, database) in self.databases().outboxes() {
            tasks.spawn(relay::publish_events(self.clone(), source, database, stop.clone()));
        }
        for (queue, consumers, batch) in [
            (QueueName::Plan, 2, 128),
            (QueueName::PlanBulk, 1, 1),
            (QueueName::Fast, self.options.fast_consumers, 32),
            (QueueName::Bulk, 2, 4),
            (QueueName::Parked, 1, 32),
            (QueueName::Counter, 1, 256),
            (QueueName::Follow, 2, 8),
            (QueueName::Rebuild, 2, 4),
        ] {
            for _ in 0..consumers {
                tasks.spawn(consume::consume(self.clone(), queue, batch, stop.clone()));
            }
        }
        tasks.spawn(refresh::run(self.clone(), stop.clone()));
        tasks.spawn(janitor::run(self.timelines.clone(), Some(self.clone()), stop));
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(error = %error, "a part of the worker has ended");
            }
        }
    }

    /// Returns the timelines.
    pub fn timelines(&self) -> &Timelines {
        &self.timelines
    }

    /// Returns the queue.
    pub fn queue(&self) -> &Arc<dyn Queue> {
        &self.queue
    }

    fn databases(&self) -> &Databases {
        self.timelines.databases()
    }
}

/// Waits until `stop` becomes true, or its sender is gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // an error means that the sender has ended
    let _ = stop.wait_for(|stop| *stop).await;
}
