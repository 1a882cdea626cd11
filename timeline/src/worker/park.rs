//! Work for a shard that does not answer waits in a queue of its own, first for seconds, then for longer.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{WorkError, Worker};
use crate::{
    lists::List,
    message::{Message, Task},
    queue::{Outgoing, QueueName},
};

/// After this many times, work is parked for longer.
const LONG_AFTER: u32 = 5;
/// After this many times (two minutes), for a minute: each attempt reads the followers again, and the parked work of
/// other shards waits behind it.
const MINUTE_AFTER: u32 = 17;

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

/// Publishes tasks to be done again later.
pub(super) async fn park(worker: &Worker, parked: Vec<(&Message, Task)>) -> Result<(), WorkError> {
    if parked.is_empty() {
        return Ok(());
    }
    let mut messages = Vec::with_capacity(parked.len());
    let mut waits: Vec<(u16, Duration)> = Vec::new();
    for (message, task) in parked {
        let times = match &task {
            Task::Deliver(deliver) => deliver.parked,
            Task::Index(index) => index.parked,
            Task::Follow(follow) => follow.parked,
            Task::Plan(_) | Task::Count(_) | Task::Rebuild { .. } => 0,
        };
        let queue = queue_of(times);
        let delay = queue.delay().map_or(Duration::ZERO, |(delay, _)| delay);
        match &task {
            Task::Deliver(deliver) => waits.extend(deliver.shards.iter().flatten().map(|shard| (*shard, delay))),
            Task::Follow(follow) => waits.push((worker.lists.shard_of(List::Home(follow.follower)).0, delay)),
            Task::Index(index) => waits.push((worker.lists.shard_of(List::Author(index.author_id)).0, delay)),
            Task::Plan(_) | Task::Count(_) | Task::Rebuild { .. } => {}
        }
        let message = Message { request_id: message.request_id.clone(), committed_ms: message.committed_ms, task };
        messages.push(Outgoing { queue, payload: message.to_json()? });
    }
    worker.queue.publish(messages).await?;
    let now = Instant::now();
    for (shard, delay) in waits {
        worker.parked.add(shard, now + delay);
    }
    Ok(())
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
        // short outages are noticed soon, and an hour of one costs about one look a minute
        assert_eq!(looks(Duration::from_secs(30)), 7);
        assert_eq!(looks(Duration::from_secs(3600)), 74);
    }

    #[test]
    fn messages_count_until_they_come_back() {
        let parked = ParkedMessages::default();
        let now = Instant::now();
        for (shard, seconds) in [(3, 1), (3, 10), (5, 1)] {
            parked.add(shard, now + Duration::from_secs(seconds));
        }
        assert_eq!(parked.count_by_shard(now), BTreeMap::from([(3, 2), (5, 1)]));
        assert_eq!(parked.count_by_shard(now + Duration::from_secs(2)), BTreeMap::from([(3, 1), (5, 0)]));
    }
}
