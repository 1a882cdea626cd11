//! Work for a shard that does not answer waits in a queue of its own, first for seconds, then for longer.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{WorkError, Worker, refresh};
use crate::{
    message::{Message, Task},
    queue::{Outgoing, QueueError, QueueName},
};

/// After this many times, work is parked for longer.
const LONG_AFTER: u32 = 5;
/// After this many times (two minutes), for a minute: each attempt reads the followers again, and the parked work of
/// other shards waits behind it.
const MINUTE_AFTER: u32 = 17;
/// After this many times (a quarter of an hour), it is dropped, and the shard's timelines are rebuilt.
const MAX_TIMES: u32 = 30;

/// The messages that this process has parked and that have not come back, by shard. The numbers of all processes add up
/// to those of the queues.
#[derive(Debug, Default)]
pub(super) struct ParkedMessages {
    /// Time at which each message comes back; what fails again is then parked again.
    ends: Mutex<BTreeMap<u16, Vec<Instant>>>,
}

impl ParkedMessages {
    fn add(&self, shard: u16, end: Instant) {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).entry(shard).or_default().push(end);
    }

    /// Returns the number for one shard.
    fn count(&self, shard: u16, now: Instant) -> usize {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(ends) = ends.get_mut(&shard) else { return 0 };
        ends.retain(|end| *end > now);
        ends.len()
    }

    /// Returns the number for each shard that had any; 0 once all have come back.
    pub(super) fn count_by_shard(&self, now: Instant) -> BTreeMap<u16, usize> {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        for ends in ends.values_mut() {
            ends.retain(|end| *end > now);
        }
        ends.iter().map(|(shard, ends)| (*shard, ends.len())).collect()
    }
}

/// Returns the queue for work that is parked for the given time.
fn queue_of(times: u32) -> QueueName {
    if times > MINUTE_AFTER {
        QueueName::ParkMinute
    } else if times > LONG_AFTER {
        QueueName::ParkLong
    } else {
        QueueName::Park
    }
}

/// Work that cannot be done now.
pub(super) struct Parked<'a> {
    /// The message that asks for it.
    pub(super) message: &'a Message,
    /// The work.
    pub(super) task: Task,
    /// The shards that did not answer; none for a plan, which waits for room in a queue.
    pub(super) shards: Vec<u16>,
}

/// Publishes tasks to be done again later. Those that have waited too long, and those for which there is no room, are
/// dropped instead: the timelines of their shards are rebuilt.
pub(super) async fn park(worker: &Worker, work: Vec<Parked<'_>>) -> Result<(), WorkError> {
    let mut messages = Vec::with_capacity(work.len());
    let mut waits: Vec<(u16, Duration)> = Vec::new();
    let mut dropped: Vec<u16> = Vec::new();
    let mut has_plans = false;
    for Parked { message, mut task, shards } in work {
        let times = match &task {
            Task::Deliver(deliver) => deliver.parked,
            Task::Index(index) => index.parked,
            Task::Follow(follow) => follow.parked,
            Task::Plan(_) | Task::Count(_) | Task::Rebuild { .. } => 0,
        };
        has_plans |= shards.is_empty();
        let is_covered = !shards.is_empty();
        let (given_up, waiting): (Vec<u16>, Vec<u16>) =
            shards.into_iter().partition(|shard| is_given_up(worker, *shard, times));
        dropped.extend(given_up);
        if is_covered && waiting.is_empty() {
            continue;
        }
        if let Task::Deliver(deliver) = &mut task {
            deliver.shards = Some(waiting.clone());
        }
        let queue = queue_of(times);
        let delay = queue.delay().map_or(Duration::ZERO, |(delay, _)| delay);
        waits.extend(waiting.into_iter().map(|shard| (shard, delay)));
        let message = Message { request_id: message.request_id.clone(), committed_ms: message.committed_ms, task };
        messages.push(Outgoing { queue, payload: message.to_json()? });
    }
    refresh::drop_deliveries(worker, &dropped).await?;
    if messages.is_empty() {
        return Ok(());
    }
    match worker.queue.publish(messages).await {
        Ok(()) => {}
        Err(QueueError::Full) if !has_plans => {
            let shards: Vec<u16> = waits.iter().map(|(shard, _)| *shard).collect();
            return refresh::drop_deliveries(worker, &shards).await;
        }
        Err(error) => return Err(error.into()),
    }
    let now = Instant::now();
    for (shard, delay) in waits {
        metrics::counter!("tl_parked_total", "shard" => shard.to_string()).increment(1);
        worker.parked.add(shard, now + delay);
    }
    Ok(())
}

/// Tells whether work for a shard is dropped instead of parked.
fn is_given_up(worker: &Worker, shard: u16, times: u32) -> bool {
    times > MAX_TIMES
        || worker.refreshes.contains(shard)
        || worker.parked.count(shard, Instant::now()) >= worker.options.max_parked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_outage_causes_little_work() {
        let looks = |outage: Duration| {
            let (mut count, mut waited) = (0, Duration::ZERO);
            loop {
                waited += queue_of(count + 1).delay().expect("a park").0;
                if waited > outage {
                    return count;
                }
                count += 1;
            }
        };
        // short outages are noticed soon, and longer ones cost about one look a minute
        assert_eq!(looks(Duration::from_secs(30)), 7);
        assert_eq!(looks(Duration::from_secs(15 * 60)), MAX_TIMES - 1);
    }

    #[test]
    fn messages_count_until_they_come_back() {
        let parked = ParkedMessages::default();
        let now = Instant::now();
        for (shard, seconds) in [(3, 1), (3, 10), (5, 1)] {
            parked.add(shard, now + Duration::from_secs(seconds));
        }
        assert_eq!((parked.count(3, now), parked.count(4, now)), (2, 0));
        assert_eq!(parked.count_by_shard(now), BTreeMap::from([(3, 2), (5, 1)]));
        assert_eq!(parked.count_by_shard(now + Duration::from_secs(2)), BTreeMap::from([(3, 1), (5, 0)]));
    }
}
