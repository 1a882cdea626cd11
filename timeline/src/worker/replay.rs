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

/// Publishes up to `limit` dead letters again. Those that cannot be read go to the end of their queue, so that others
/// are not behind them for ever.
///
/// # Errors
/// Returns an error if the queue does not answer. What was published and not removed yet is published twice.
pub async fn replay(queue: &dyn Queue, limit: u64) -> Result<ReplaySummary, QueueError> {
    wait_until_connected(queue).await?;
    let mut summary = ReplaySummary::default();
    // behind these are the letters that this replay has moved to the end
    let mut rest = queue.depth(QueueName::Dead).await?;
    while summary.replayed < limit && (summary.unreadable == 0 || rest > 0) {
        let wanted = limit - summary.replayed;
        let wanted = if summary.unreadable == 0 { wanted } else { wanted.min(rest) };
        let max = BATCH.min(usize::try_from(wanted).unwrap_or(BATCH));
        let deliveries = queue.receive(QueueName::Dead, max, WAIT).await?;
        if deliveries.is_empty() {
            break;
        }
        rest = rest.saturating_sub(deliveries.len() as u64);
        let (mut outgoing, mut done) = (Vec::new(), Vec::new());
        for delivery in deliveries {
            let to = match serde_json::from_str::<Message>(&delivery.payload) {
                Ok(message) => {
                    summary.replayed += 1;
                    message.task.replay_queue()
                }
                Err(error) => {
                    tracing::warn!(payload = %delivery.payload, error = %error, "a dead letter is not readable");
                    summary.unreadable += 1;
                    QueueName::Dead
                }
            };
            outgoing.push(Outgoing { queue: to, payload: delivery.payload });
            done.push((delivery.receipt, Settlement::Done));
        }
        queue.publish(outgoing).await?;
        queue.settle(QueueName::Dead, done).await?;
    }
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
