//! The outbox relay: publishes events that were committed, and removes them once the queue has them. In pull mode there
//! is no queue; the counters are applied directly.

use std::{sync::Arc, time::Duration};

use tokio::sync::{Notify, watch};

use super::{WorkError, Worker, WorkerOptions, counters, stopped};
use crate::{
    database::{Database, Event},
    ids::Id,
    message::{Action, Message, Task},
    queue::{Outgoing, QueueName},
    timelines::Timelines,
};

/// Number of events that are claimed at a time.
const BATCH: usize = 500;
const MIN_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Destination of events.
enum Sink {
    /// To the queue.
    Queue(Worker),
    /// To the counters; nothing else is to be done for them.
    Counters(Timelines),
}

/// Publishes the events of one outbox until `stop` becomes true.
pub(super) async fn publish_events(worker: Worker, source: i16, database: Database, stop: watch::Receiver<bool>) {
    let (options, wake) = (worker.options.clone(), worker.wake.clone());
    relay(Sink::Queue(worker), source, database, options, wake, stop).await;
}

/// Applies the events of one outbox without a queue, until `stop` becomes true.
pub async fn apply_events(
    timelines: Timelines,
    source: i16,
    database: Database,
    options: Arc<WorkerOptions>,
    wake: Arc<Notify>,
    stop: watch::Receiver<bool>,
) {
    relay(Sink::Counters(timelines), source, database, options, wake, stop).await;
}

/// Claims events, hands them on, and removes them.
async fn relay(
    sink: Sink,
    source: i16,
    database: Database,
    options: Arc<WorkerOptions>,
    wake: Arc<Notify>,
    mut stop: watch::Receiver<bool>,
) {
    let mut pause = MIN_PAUSE;
    while !*stop.borrow() {
        let wait = match relay_batch(&sink, source, &database, &options).await {
            Ok(count) => {
                pause = MIN_PAUSE;
                if count == BATCH {
                    continue;
                }
                options.poll_interval
            }
            Err(error) => {
                // the events stay in the outbox, and are claimed again once the claim is over
                tracing::warn!(error = crate::describe_error(&error), "cannot relay events yet");
                pause = (pause * 2).min(MAX_PAUSE);
                pause
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = wake.notified() => {}
            () = stopped(&mut stop) => {}
        }
    }
}

async fn relay_batch(
    sink: &Sink,
    source: i16,
    database: &Database,
    options: &WorkerOptions,
) -> Result<usize, WorkError> {
    let events = database.claim_events(BATCH, options.claim_lease).await?;
    if events.is_empty() {
        return Ok(0);
    }
    match sink {
        Sink::Queue(worker) => publish_batch(worker, source, &events).await?,
        Sink::Counters(timelines) => apply_batch(timelines, source, &events, options).await?,
    }
    let ids: Vec<Id> = events.iter().map(|event| event.id).collect();
    database.delete_events(&ids).await?;
    Ok(events.len())
}

async fn apply_batch(
    timelines: &Timelines,
    source: i16,
    events: &[Event],
    options: &WorkerOptions,
) -> Result<(), WorkError> {
    let mut counts = Vec::with_capacity(events.len());
    for event in events {
        for (_, message) in messages_of(event, source) {
            match message.task {
                Task::Count(count) => counts.push(count.to_event()),
                Task::Plan(plan) if plan.action == Action::Remove => {
                    timelines.cache().hide_tweet(plan.tweet_id).await;
                }
                _ => {}
            }
        }
    }
    counters::apply(timelines, &counts, options.thresholds).await
}

async fn publish_batch(worker: &Worker, source: i16, events: &[Event]) -> Result<(), WorkError> {
    let mut outgoing = Vec::with_capacity(events.len() * 2);
    for event in events {
        match Message::of_event(event, source) {
            Ok(messages) => {
                for (queue, message) in messages {
                    outgoing.push(Outgoing { queue, payload: message.to_json()? });
                }
            }
            Err(error) => {
                tracing::error!(event = event.id, kind = %event.kind, error = %error, "an event is not readable");
                outgoing.push(Outgoing { queue: QueueName::Dead, payload: event.payload.clone() });
            }
        }
    }
    worker.queue.publish(outgoing).await?;
    Ok(())
}

fn messages_of(event: &Event, source: i16) -> Vec<(QueueName, Message)> {
    Message::of_event(event, source).unwrap_or_else(|error| {
        tracing::error!(event = event.id, kind = %event.kind, error = %error, "an event is not readable");
        Vec::new()
    })
}
