//! Sends dead letters back to the queues that they came from.

use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::{
    message::Message,
    queue::{Outgoing, Queue, QueueError, QueueName, Settlement},
};

const BATCH: usize = 100;
/// Time that the connection to the queue may take. It is opened in the background.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const CONNECT_INTERVAL: Duration = Duration::from_millis(50);
/// Time for which an empty queue is waited for.
const WAIT: Duration = Duration::from_secs(2);

/// The outcome of a replay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ReplaySummary {
    /// Messages that were published again.
    pub replayed: u64,
    /// Messages that cannot be read and stay dead.
    pub unreadable: u64,
}

/// Publishes up to `limit` dead letters again.
///
/// # Errors
/// The queue does not answer. What was published and not removed yet is published twice.
pub async fn replay(queue: &dyn Queue, limit: u64) -> Result<ReplaySummary, QueueError> {
    wait_until_connected(queue).await?;
    let mut summary = ReplaySummary::default();
    let mut stay = Vec::new();
    while summary.replayed < limit {
        let max = BATCH.min(usize::try_from(limit - summary.replayed).unwrap_or(BATCH));
        let deliveries = queue.receive(QueueName::Dead, max, WAIT).await?;
        if deliveries.is_empty() {
            break;
        }
        let (mut outgoing, mut done) = (Vec::new(), Vec::new());
        for delivery in deliveries {
            match serde_json::from_str::<Message>(&delivery.payload) {
                Ok(message) => {
                    outgoing.push(Outgoing { queue: message.task.replay_queue(), payload: delivery.payload });
                    done.push((delivery.receipt, Settlement::Done));
                }
                Err(error) => {
                    tracing::warn!(payload = %delivery.payload, error = %error, "a dead letter is not readable");
                    stay.push((delivery.receipt, Settlement::Retry));
                }
            }
        }
        summary.replayed += outgoing.len() as u64;
        queue.publish(outgoing).await?;
        queue.settle(QueueName::Dead, done).await?;
    }
    summary.unreadable = stay.len() as u64;
    queue.settle(QueueName::Dead, stay).await?;
    Ok(summary)
}

async fn wait_until_connected(queue: &dyn Queue) -> Result<(), QueueError> {
    let end = Instant::now() + CONNECT_LIMIT;
    loop {
        match queue.ping().await {
            Err(_) if Instant::now() < end => sleep(CONNECT_INTERVAL).await,
            result => return result,
        }
    }
}
