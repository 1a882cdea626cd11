//! Takes batches of messages from a queue, handles them, and settles them.

use std::{ops::Range, time::Duration};

use tokio::sync::watch;
use tracing::Instrument as _;

use super::{WorkError, Worker, counters, deliver, follows, plan, stopped};
use crate::{
    lists::List,
    message::{Message, Task},
    queue::{Delivery, QueueName, Receipt, Settlement},
    timelines::RebuildReason,
};

/// Time for which an empty queue is waited for before a look at the stop signal.
const RECEIVE_WAIT: Duration = Duration::from_millis(500);
const MIN_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// Number of times that a database must refuse the data of messages: another transaction can be the reason once.
const MAX_REJECTIONS: u32 = 3;

/// Consumes a queue until `stop` becomes true.
pub(super) async fn consume(worker: Worker, queue: QueueName, max: usize, mut stop: watch::Receiver<bool>) {
    let mut pause = MIN_PAUSE;
    while !*stop.borrow() {
        match worker.queue.receive(queue, max, RECEIVE_WAIT).await {
            Ok(deliveries) if deliveries.is_empty() => {}
            Ok(deliveries) => {
                pause = MIN_PAUSE;
                let settled = handle(&worker, queue, deliveries, &mut stop).await;
                if let Err(error) = worker.queue.settle(queue, settled).await {
                    tracing::warn!(queue = queue.as_str(), error = %error, "messages will be delivered again");
                }
            }
            Err(error) => {
                tracing::debug!(queue = queue.as_str(), error = %error, "cannot receive");
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = stopped(&mut stop) => {}
                }
                pause = (pause * 2).min(MAX_PAUSE);
            }
        }
    }
}

/// Handles a batch. If a database refuses the data of a message, the batch is halved until that message is alone; then
/// it is a dead letter.
async fn handle(
    worker: &Worker,
    queue: QueueName,
    deliveries: Vec<Delivery>,
    stop: &mut watch::Receiver<bool>,
) -> Vec<(Receipt, Settlement)> {
    let mut settled = Vec::with_capacity(deliveries.len());
    let mut receipts = Vec::with_capacity(deliveries.len());
    let mut messages: Vec<Message> = Vec::with_capacity(deliveries.len());
    for delivery in deliveries {
        match serde_json::from_str(&delivery.payload) {
            Ok(message) => {
                messages.push(message);
                receipts.push(delivery.receipt);
            }
            Err(error) => {
                tracing::error!(queue = queue.as_str(), payload = %delivery.payload, error = %error, "not a message");
                settled.push((delivery.receipt, Settlement::Dead));
            }
        }
    }
    let span = batch_span(queue, &messages);
    // parts of the batch that are still to be handled
    let whole: Range<usize> = 0..messages.len();
    let mut parts = vec![whole];
    while let Some(part) = parts.pop() {
        let end = handle_part(worker, queue, &messages[part.clone()], stop).instrument(span.clone()).await;
        let settlement = match end {
            PartEnd::Settled(settlement) => settlement,
            PartEnd::Rejected if part.len() > 1 => {
                let middle = part.start + part.len() / 2;
                parts.extend([middle..part.end, part.start..middle]);
                continue;
            }
            PartEnd::Rejected => {
                let message = &messages[part.start];
                let request_id = &message.request_id;
                tracing::error!(queue = queue.as_str(), request_id, task = ?message.task, "the database rejects it");
                Settlement::Dead
            }
        };
        settled.extend(receipts[part].iter().map(|receipt| (receipt.clone(), settlement)));
    }
    settled
}

/// The end of a part of a batch.
enum PartEnd {
    Settled(Settlement),
    /// A database refuses its data: at least one of the messages will never be handled.
    Rejected,
}

/// Handles messages; while a database or the queue does not answer, again and again, until `stop` becomes true.
async fn handle_part(
    worker: &Worker,
    queue: QueueName,
    messages: &[Message],
    stop: &mut watch::Receiver<bool>,
) -> PartEnd {
    let mut pause = MIN_PAUSE;
    let mut rejections = 0;
    loop {
        if *stop.borrow() {
            return PartEnd::Settled(Settlement::Retry);
        }
        let error = match handle_messages(worker, queue, messages).await {
            Ok(()) => return PartEnd::Settled(Settlement::Done),
            Err(error) => error,
        };
        if error.is_of_data() {
            rejections += 1;
            if rejections == MAX_REJECTIONS {
                return PartEnd::Rejected;
            }
        }
        let request_id = messages.first().map_or("", |message| &message.request_id);
        let error = crate::describe_error(&error);
        tracing::warn!(queue = queue.as_str(), request_id, error, "cannot handle messages yet");
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stopped(stop) => {}
        }
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

fn batch_span(queue: QueueName, messages: &[Message]) -> tracing::Span {
    match messages {
        [message] => tracing::info_span!("batch", queue = queue.as_str(), request_id = %message.request_id),
        _ => tracing::info_span!("batch", queue = queue.as_str(), messages = messages.len()),
    }
}

/// Sorts messages by task, and does those of a kind together.
async fn handle_messages(worker: &Worker, queue: QueueName, messages: &[Message]) -> Result<(), WorkError> {
    let (mut plans, mut indexes, mut deliveries) = (Vec::new(), Vec::new(), Vec::new());
    let (mut counts, mut pairs) = (Vec::new(), Vec::new());
    for message in messages {
        tracing::debug!(request_id = %message.request_id, task = ?message.task, "handling");
        match &message.task {
            Task::Plan(plan) => plans.push((message, *plan)),
            Task::Index(index) => indexes.push((message, *index)),
            Task::Deliver(deliver) => deliveries.push((message, deliver)),
            Task::Count(count) => counts.push(count.to_event()),
            Task::Follow(follow) => pairs.push((message, *follow)),
            Task::Rebuild { user } => {
                worker.timelines.rebuild(List::Home(*user), RebuildReason::Requested).await?;
            }
        }
    }
    if !counts.is_empty() {
        counters::apply(&worker.timelines, &counts, worker.options.thresholds).await?;
    }
    if !indexes.is_empty() {
        plan::index(worker, &indexes).await?;
    }
    if !plans.is_empty() {
        match queue {
            QueueName::PlanBulk => plan::plan_bulk(worker, &plans).await?,
            _ => {
                // those that were parked between two steps go on where they were
                let (begun, new): (Vec<_>, Vec<_>) = plans.into_iter().partition(|(_, plan)| plan.after > 0);
                if !new.is_empty() {
                    plan::plan(worker, &new).await?;
                }
                plan::publish_bulk_plans(worker, begun).await?;
            }
        }
    }
    if !deliveries.is_empty() {
        deliver::deliver(worker, &deliveries).await?;
    }
    for (message, follow) in pairs {
        follows::align(worker, message, follow).await?;
    }
    Ok(())
}
