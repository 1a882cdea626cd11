//! Which shards have not answered lately: their callers fail at once instead of waiting.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use dunlin_shards::ShardId;

/// Time for which calls fail at once after one that did not work; then one of them is let through.
pub const OPEN_FOR: Duration = Duration::from_secs(1);

/// The shards that did not answer, each with the moment of the next try.
#[derive(Debug, Default)]
pub struct Breakers {
    retry_at: Mutex<HashMap<ShardId, Instant>>,
}

impl Breakers {
    /// Tells whether a call may be made. Of the calls after a failure, one per [`OPEN_FOR`] may.
    pub fn allow(&self, shard: ShardId) -> bool {
        let mut retry_at = self.retry_at.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(moment) = retry_at.get_mut(&shard) else { return true };
        let now = Instant::now();
        if now < *moment {
            return false;
        }
        *moment = now + OPEN_FOR;
        true
    }

    /// Notes how a call ended.
    pub fn record(&self, shard: ShardId, is_ok: bool) {
        let mut retry_at = self.retry_at.lock().unwrap_or_else(PoisonError::into_inner);
        if is_ok {
            retry_at.remove(&shard);
        } else {
            retry_at.insert(shard, Instant::now() + OPEN_FOR);
        }
    }
}

#[cfg(test)]
mod tests {
    use dunlin_shards::ShardId;

    use super::Breakers;

    #[test]
    fn a_shard_that_failed_is_left_alone_until_it_answers() {
        let (breakers, shard) = (Breakers::default(), ShardId(3));
        assert!(breakers.allow(shard));
        breakers.record(shard, false);
        assert!(!breakers.allow(shard) && breakers.allow(ShardId(4)));
        breakers.record(shard, true);
        assert!(breakers.allow(shard));
    }
}
