//! Rate limits of copies: one bucket for all copies to a host, and one for each shard, which its source monitor
//! adjusts.
//!
//! A host is known by the folder of its journals. The buckets are those of this process: a run's moves to one host are
//! requests to the same agent, and the host's lock keeps other runs away.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use dunlin_shards::ShardId;

use crate::protocol::shard::MoveSpec;
use crate::token_bucket::TokenBucket;

/// Minimum rate of a throttled copy, in bytes per second: a source drops a replica that reads nothing.
const MIN_RATE: u64 = 1 << 20;
/// Poll interval for cancellation.
const RATE_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A host, or one shard there.
type BucketKey = (PathBuf, Option<ShardId>);

/// Waits until a number of bytes may pass, or the request is cancelled.
fn wait_for_tokens(bucket: &TokenBucket, bytes: u64, is_wanted: &dyn Fn() -> bool) {
    let Some(due) = bucket.take_tokens(bytes) else { return };
    while let Some(wait) = due.checked_duration_since(Instant::now()).filter(|wait| !wait.is_zero())
        && is_wanted()
    {
        std::thread::sleep(wait.min(RATE_POLL_INTERVAL));
    }
}

/// The two buckets that a shard's bytes pass through.
#[derive(Clone, Debug)]
pub struct RateLimiter {
    host: Arc<TokenBucket>,
    shard: Arc<TokenBucket>,
}

impl RateLimiter {
    /// Returns the limiter of a move; a bandwidth cap of the move becomes the cap of the host.
    pub fn for_move(spec: &MoveSpec) -> Self {
        let (host, shard) = (
            shared_bucket((spec.header.journal_dir.clone(), None)),
            shared_bucket((spec.header.journal_dir.clone(), Some(spec.header.shard))),
        );
        // A request without a limit does not lift the limit of others.
        if spec.record.throttle.bandwidth > 0 {
            host.set_rate(spec.record.throttle.bandwidth);
        }
        Self { host, shard }
    }

    /// Waits until this many bytes may pass, or the request is cancelled.
    pub fn acquire_bytes(&self, bytes: u64, is_wanted: &dyn Fn() -> bool) {
        wait_for_tokens(&self.shard, bytes, is_wanted);
        wait_for_tokens(&self.host, bytes, is_wanted);
    }

    /// Returns the bytes of this shard that have passed.
    pub fn passed_bytes(&self) -> u64 {
        self.shard.passed_bytes()
    }

    /// Halves the rate, starting from the recent rate, in bytes per second; returns the new one.
    pub fn halve_rate(&self, recent_rate: u64) -> u64 {
        self.shard.update_rate(|rate| {
            let now = if rate == 0 { recent_rate } else { rate.min(recent_rate) };
            (now / 2).max(MIN_RATE)
        })
    }

    /// Removes the slowdown.
    pub fn clear_shard_rate(&self) {
        self.shard.set_rate(0);
    }

    /// Raises a reduced rate by a tenth.
    pub fn raise_rate(&self) {
        self.shard.update_rate(|rate| rate.saturating_add(rate / 10));
    }
}

/// Returns the lock that a move to this host holds while its source is measured, before its copy starts: the next move
/// sees the load of this one.
pub fn copy_start_lock(spec: &MoveSpec) -> Arc<Mutex<()>> {
    static TURNS: Mutex<BTreeMap<PathBuf, Arc<Mutex<()>>>> = Mutex::new(BTreeMap::new());
    Arc::clone(lock_ignoring_poison(&TURNS).entry(spec.header.journal_dir.clone()).or_default())
}

/// Returns the bucket of a host or shard, which exists as long as bytes pass through it.
fn shared_bucket(key: BucketKey) -> Arc<TokenBucket> {
    static BUCKETS: Mutex<BTreeMap<BucketKey, Weak<TokenBucket>>> = Mutex::new(BTreeMap::new());
    let mut buckets = lock_ignoring_poison(&BUCKETS);
    buckets.retain(|_, bucket| bucket.strong_count() > 0);
    if let Some(bucket) = buckets.get(&key).and_then(Weak::upgrade) {
        return bucket;
    }
    let bucket = Arc::new(TokenBucket::default());
    buckets.insert(key, Arc::downgrade(&bucket));
    bucket
}

fn lock_ignoring_poison<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_to_one_host_share_its_bucket_only() {
        let mut spec = crate::rebalance::host::assessment::tests::test_spec();
        spec.header.journal_dir = PathBuf::from("/one host");
        spec.record.throttle.bandwidth = 5;
        let one = RateLimiter::for_move(&spec);
        spec.header.shard = ShardId(18);
        spec.record.throttle.bandwidth = 0;
        let other = RateLimiter::for_move(&spec);
        assert!(Arc::ptr_eq(&one.host, &other.host) && !Arc::ptr_eq(&one.shard, &other.shard));
        assert_eq!(one.host.rate(), 5);
        spec.header.journal_dir = PathBuf::from("/another");
        assert!(!Arc::ptr_eq(&one.host, &RateLimiter::for_move(&spec).host));
    }

    #[test]
    fn a_cancelled_wait_ends() {
        let bucket = TokenBucket::with_rate(1);
        let begin = Instant::now();
        wait_for_tokens(&bucket, 1_000_000, &|| false);
        assert!(begin.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn an_overload_halves_the_rate_and_recovery_adds_a_tenth() {
        let throttle = RateLimiter { host: Arc::default(), shard: Arc::default() };
        throttle.raise_rate();
        assert_eq!(throttle.shard.rate(), 0, "what was never slowed down has no rate");
        assert_eq!(throttle.halve_rate(40 << 20), 20 << 20);
        assert_eq!(throttle.halve_rate(40 << 20), 10 << 20);
        assert_eq!(throttle.halve_rate(5 << 20), 5 << 19, "half of what passes, not of what might");
        assert_eq!(throttle.halve_rate(10), MIN_RATE);
        throttle.raise_rate();
        assert_eq!(throttle.shard.rate(), MIN_RATE + MIN_RATE / 10);
    }
}
