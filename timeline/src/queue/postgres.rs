//! The queue in the tweets database: rows taken with `FOR UPDATE SKIP LOCKED`. For development and small set-ups.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::{sync::Notify, time::Instant};

use super::{DELIVERY_LIMIT, Delivery, Outgoing, Queue, QueueError, QueueName, Receipt, Settlement};
use crate::database::{Database, DbError, QueueRow};

/// Time for which a message is hidden from others once it was taken.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(30);
/// Interval at which an empty queue is read; messages that this process publishes are seen at once.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The queue.
#[derive(Debug)]
pub struct PostgresQueue {
    database: Database,
    lease: Duration,
    /// The receiver of a queue that looks for messages; the others wait for it.
    turns: BTreeMap<QueueName, Turn>,
}

#[derive(Debug, Default)]
struct Turn {
    receiving: tokio::sync::Mutex<()>,
    published: Arc<Notify>,
}

impl PostgresQueue {
    /// A queue in the tweets database. A message that is taken and not settled is delivered again after `lease`.
    pub fn new(database: Database, lease: Duration) -> PostgresQueue {
        let turns = QueueName::ALL.into_iter().map(|queue| (queue, Turn::default())).collect();
        PostgresQueue { database, lease, turns }
    }

    async fn take(&self, queue: QueueName, max: usize, wait: Duration) -> Result<Vec<Delivery>, DbError> {
        let Some(turn) = self.turns.get(&queue) else { return Ok(Vec::new()) };
        let end = Instant::now() + wait;
        let Ok(_receiving) = tokio::time::timeout_at(end, turn.receiving.lock()).await else { return Ok(Vec::new()) };
        loop {
            let rows = self.database.dequeue(queue.as_str(), max, self.lease).await?;
            let (poison, good): (Vec<QueueRow>, Vec<QueueRow>) =
                rows.into_iter().partition(|row| row.attempts > DELIVERY_LIMIT as i32 && queue != QueueName::Dead);
            if !poison.is_empty() {
                let ids: Vec<i64> = poison.iter().map(|row| row.id).collect();
                self.database.move_messages(queue.as_str(), &ids, QueueName::Dead.as_str()).await?;
            }
            if !good.is_empty() {
                let delivery = |row: QueueRow| Delivery { payload: row.payload, receipt: Receipt::Row(row.id) };
                return Ok(good.into_iter().map(delivery).collect());
            }
            if Instant::now() >= end {
                return Ok(Vec::new());
            }
            // either way it is time to look again
            let _ = tokio::time::timeout_at(end.min(Instant::now() + POLL_INTERVAL), turn.published.notified()).await;
        }
    }
}

impl Queue for PostgresQueue {
    fn publish(&self, messages: Vec<Outgoing>) -> BoxFuture<'_, Result<(), QueueError>> {
        Box::pin(async move {
            let mut queues = Vec::with_capacity(messages.len());
            let (mut payloads, mut delays) = (Vec::with_capacity(messages.len()), Vec::with_capacity(messages.len()));
            for message in messages {
                let (delay, queue) = message.queue.delay().unwrap_or((Duration::ZERO, message.queue));
                queues.push(queue);
                payloads.push(message.payload);
                delays.push(delay.as_secs_f64());
            }
            let names: Vec<&str> = queues.iter().map(|queue| queue.as_str()).collect();
            self.database.enqueue(&names, &payloads, &delays).await?;
            queues.sort_unstable();
            queues.dedup();
            for turn in queues.iter().filter_map(|queue| self.turns.get(queue)) {
                turn.published.notify_one();
            }
            Ok(())
        })
    }

    fn receive(
        &self,
        queue: QueueName,
        max: usize,
        wait: Duration,
    ) -> BoxFuture<'_, Result<Vec<Delivery>, QueueError>> {
        Box::pin(async move { Ok(self.take(queue, max, wait).await?) })
    }

    fn settle(
        &self,
        queue: QueueName,
        deliveries: Vec<(Receipt, Settlement)>,
    ) -> BoxFuture<'_, Result<(), QueueError>> {
        Box::pin(async move {
            let with = |wanted: Settlement| -> Vec<i64> {
                let row = |(receipt, settlement): &(Receipt, Settlement)| match receipt {
                    Receipt::Row(id) if *settlement == wanted => Some(*id),
                    Receipt::Row(_) | Receipt::Tag(_) => None,
                };
                deliveries.iter().filter_map(row).collect()
            };
            let (done, retry, dead) = (with(Settlement::Done), with(Settlement::Retry), with(Settlement::Dead));
            if !done.is_empty() {
                self.database.acknowledge(queue.as_str(), &done).await?;
            }
            if !retry.is_empty() {
                self.database.release(queue.as_str(), &retry).await?;
            }
            if !dead.is_empty() {
                self.database.move_messages(queue.as_str(), &dead, QueueName::Dead.as_str()).await?;
            }
            Ok(())
        })
    }

    fn depth(&self, queue: QueueName) -> BoxFuture<'_, Result<u64, QueueError>> {
        Box::pin(async move { Ok(self.database.queue_depth(queue.as_str()).await?) })
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), QueueError>> {
        Box::pin(async move { Ok(self.database.ping().await?) })
    }
}

impl From<DbError> for QueueError {
    fn from(error: DbError) -> QueueError {
        QueueError::Unavailable(crate::describe_error(&error))
    }
}
