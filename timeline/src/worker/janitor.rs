//! Gauges of what waits, and the removal of what is no longer needed.

use std::{collections::BTreeMap, time::Duration};

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
    let mut ages = OutboxAges::default();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stopped(&mut stop) => return,
        }
        set_outbox_gauge(timelines.databases(), &mut ages).await;
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

/// The age of the oldest event of each database, with the moment at which it was read.
#[derive(Debug, Default)]
struct OutboxAges(BTreeMap<i16, (f64, Instant)>);

impl OutboxAges {
    /// Returns the age of the oldest event of all databases; `None` if none has ever answered. In one that does not
    /// answer, events get older: an event can have been committed right after the last answer.
    fn oldest(&self, now: Instant) -> Option<f64> {
        self.0.values().map(|(age, read_at)| age + (now - *read_at).as_secs_f64()).reduce(f64::max)
    }
}

async fn set_outbox_gauge(databases: &Databases, ages: &mut OutboxAges) {
    let now = Instant::now();
    for (source, database) in databases.outboxes() {
        if let Ok(age) = database.oldest_event_age().await {
            ages.0.insert(source, (age, now));
        }
    }
    if let Some(oldest) = ages.oldest(now) {
        metrics::gauge!("outbox_oldest_age_seconds").set(oldest);
    }
}

async fn set_worker_gauges(worker: &Worker) {
    let parked = worker.parked.count_by_shard(std::time::Instant::now());
    // shards without any are reported as 0, so that a query finds all of them
    for route in &worker.lists.shards().routing().shards {
        let count = parked.get(&route.id.0).copied().unwrap_or(0);
        metrics::gauge!("tl_parked_messages", "shard" => route.id.to_string()).set(count as f64);
        for name in ["tl_parked_total", "tl_dropped_total"] {
            metrics::counter!(name, "shard" => route.id.to_string()).increment(0);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_get_older_while_a_database_does_not_answer() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut ages = OutboxAges::default();
        assert_eq!(ages.oldest(start), None, "nothing is known");
        ages.0.extend([(0, (0.0, start)), (1, (3.0, start))]);
        assert_eq!(ages.oldest(start), Some(3.0));
        // the first one answers, the second one does not
        ages.0.insert(0, (1.0, at(10)));
        assert_eq!(ages.oldest(at(10)), Some(13.0));
        ages.0.insert(1, (0.0, at(20)));
        assert_eq!(ages.oldest(at(20)), Some(11.0));
    }
}
