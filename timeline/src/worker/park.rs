//! Work for a shard that does not answer waits in a queue of its own, first for seconds, then for longer.

use super::{WorkError, Worker};
use crate::{
    message::{Message, Task},
    queue::{Outgoing, QueueName},
};

/// From this many times on, work is parked for longer.
const LONG_AFTER: u32 = 5;

/// Publishes tasks to be done again later.
pub(super) async fn park(worker: &Worker, parked: Vec<(&Message, Task)>) -> Result<(), WorkError> {
    if parked.is_empty() {
        return Ok(());
    }
    let mut messages = Vec::with_capacity(parked.len());
    for (message, task) in parked {
        let times = match &task {
            Task::Deliver(deliver) => deliver.parked,
            Task::Index(index) => index.parked,
            Task::Follow(follow) => follow.parked,
            Task::Plan(_) | Task::Count(_) | Task::Rebuild { .. } => 0,
        };
        let queue = if times > LONG_AFTER { QueueName::ParkLong } else { QueueName::Park };
        let message = Message { request_id: message.request_id.clone(), committed_ms: message.committed_ms, task };
        messages.push(Outgoing { queue, payload: message.to_json()? });
    }
    worker.queue.publish(messages).await?;
    Ok(())
}
