//! Gauges of what waits, and the removal of what is no longer needed.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior},
};

use super::{Worker, stopped};
use crate::{database::Databases, ids::first_before_now, queue::QueueName, timelines::Timelines};

const GAUGE_INTERVAL: Duration = Duration::from_secs(2);
const PRUNE_INTERVAL: Duration = Duration::from_secs(3600);
/// Time for which an idempotency key is remembered.
const KEY_AGE: Duration = Duration::from_secs(24 * 3600);
/// Time for which an event is remembered as applied; no queue delivers it again after that time.
const EVENT_AGE: Duration = Duration::from_secs(14 * 24 * 3600);

/// Runs until `stop` becomes true. In pull mode there is no worker, and the API process calls it.
pub async fn run(timelines: Timelines, worker: Option<Worker>, mut stop: watch::Receiver<bool>) {
    let mut ticks = tokio::time::interval(GAUGE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pruned: Option<Instant> = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stopped(&mut stop) => return,
        }
        set_outbox_gauge(timelines.databases()).await;
        if let Some(worker) = &worker {
            set_worker_gauges(worker).await;
        }
        // at the start as well: processes may live shorter than the interval
        if pruned.is_none_or(|pruned| pruned.elapsed() >= PRUNE_INTERVAL) {
            pruned = Some(Instant::now());
            prune(timelines.databases()).await;
        }
    }
}

async fn set_outbox_gauge(databases: &Databases) {
    let mut oldest: f64 = 0.0;
    for (_, database) in databases.outboxes() {
        // a database that does not answer shows in readiness
        oldest = oldest.max(database.oldest_event_age().await.unwrap_or(0.0));
    }
    metrics::gauge!("outbox_oldest_age_seconds").set(oldest);
}

async fn set_worker_gauges(worker: &Worker) {
    let parked = worker.parked.count_by_shard(std::time::Instant::now());
    // shards without any are reported as 0, so that a query finds all of them
    for route in &worker.lists.shards().routing().shards {
        let count = parked.get(&route.id.0).copied().unwrap_or(0);
        metrics::gauge!("tl_parked_messages", "shard" => route.id.to_string()).set(count as f64);
        metrics::counter!("tl_parked_total", "shard" => route.id.to_string()).increment(0);
    }
    for queue in QueueName::ALL {
        if let Ok(depth) = worker.queue.depth(queue).await {
            metrics::gauge!("queue_depth", "queue" => queue.as_str()).set(depth as f64);
        }
    }
    let stats = worker.lists.shards().stats();
    metrics::counter!("shard_redirects_total").absolute(stats.redirects);
    metrics::gauge!("shard_map_epoch").set(stats.epoch.0 as f64);
}

async fn prune(databases: &Databases) {
    let keys = databases.tweets.prune_keys(KEY_AGE).await;
    let events = databases.users.prune_applied_events(first_before_now(EVENT_AGE)).await;
    match (keys, events) {
        (Ok(keys), Ok(events)) => tracing::info!(keys, events, "pruned"),
        (Err(error), _) | (_, Err(error)) => {
            tracing::warn!(error = crate::describe_error(&error), "cannot prune");
        }
    }
}
