//! Gauges of what waits, and the removal of what is no longer needed.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior},
};

use super::{Worker, stopped};
use crate::{ids::first_before_now, queue::QueueName};

const GAUGE_INTERVAL: Duration = Duration::from_secs(2);
const PRUNE_INTERVAL: Duration = Duration::from_secs(3600);
/// Time for which an idempotency key is remembered.
const KEY_AGE: Duration = Duration::from_secs(24 * 3600);
/// Time for which an event is remembered as applied; no queue delivers it again after that time.
const EVENT_AGE: Duration = Duration::from_secs(14 * 24 * 3600);

/// Runs until `stop` becomes true.
pub(super) async fn run(worker: Worker, mut stop: watch::Receiver<bool>) {
    let mut ticks = tokio::time::interval(GAUGE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pruned = Instant::now();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stopped(&mut stop) => return,
        }
        set_gauges(&worker).await;
        if pruned.elapsed() >= PRUNE_INTERVAL {
            pruned = Instant::now();
            prune(&worker).await;
        }
    }
}

async fn set_gauges(worker: &Worker) {
    let mut oldest: f64 = 0.0;
    for (_, database) in worker.databases().outboxes() {
        // a database that does not answer shows in readiness
        oldest = oldest.max(database.oldest_event_age().await.unwrap_or(0.0));
    }
    metrics::gauge!("outbox_oldest_age_seconds").set(oldest);
    for queue in QueueName::ALL {
        if let Ok(depth) = worker.queue.depth(queue).await {
            metrics::gauge!("queue_depth", "queue" => queue.as_str()).set(depth as f64);
        }
    }
    let stats = worker.lists.shards().stats();
    metrics::counter!("shard_redirects_total").absolute(stats.redirects);
    metrics::gauge!("shard_map_epoch").set(stats.epoch.0 as f64);
}

async fn prune(worker: &Worker) {
    let keys = worker.databases().tweets.prune_keys(KEY_AGE).await;
    let events = worker.databases().users.prune_applied_events(first_before_now(EVENT_AGE)).await;
    match (keys, events) {
        (Ok(keys), Ok(events)) => tracing::info!(keys, events, "pruned"),
        (Err(error), _) | (_, Err(error)) => {
            tracing::warn!(error = crate::describe_error(&error), "cannot prune");
        }
    }
}
