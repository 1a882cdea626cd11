//! How many bytes copies may take: one bucket for all that arrive at a host, and one for each shard, which its guard
//! sets.
//!
//! A host is known by the folder of its journals. The buckets are those of this process: a run's moves to one host are
//! requests to the same agent, and the host's lock keeps other runs away.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::wire::shard::MoveSpec;

/// The guard slows a copy down to this many bytes a second and no further: a source drops a replica that takes nothing.
const FLOOR: u64 = 1 << 20;
/// What may be caught up with after a rest.
const BURST: Duration = Duration::from_millis(50);
/// Between two looks whether a wait is still wanted.
const RATE_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A host, or one shard there.
type Whose = (PathBuf, Option<u32>);

/// Lets bytes pass at a rate.
#[derive(Debug)]
pub struct Bucket {
    /// Bytes per second, 0: any; and when the last bytes are paid for.
    state: Mutex<(u64, Instant)>,
    passed: AtomicU64,
}

impl Default for Bucket {
    fn default() -> Self {
        Self { state: Mutex::new((0, Instant::now())), passed: AtomicU64::new(0) }
    }
}

impl Bucket {
    /// Bytes per second from now on; 0: any.
    pub fn set_rate(&self, rate: u64) {
        lock(&self.state).0 = rate;
    }

    /// Waits until so many bytes may pass, or nobody wants them any more.
    fn take(&self, bytes: u64, is_wanted: &dyn Fn() -> bool) {
        self.passed.fetch_add(bytes, Ordering::Relaxed);
        let due = {
            let mut state = lock(&self.state);
            let Some(price) = bytes.saturating_mul(1_000_000).checked_div(state.0) else { return };
            let from = Instant::now().checked_sub(BURST).map_or(state.1, |earliest| state.1.max(earliest));
            state.1 = from + Duration::from_micros(price);
            state.1
        };
        while let Some(wait) = due.checked_duration_since(Instant::now()).filter(|wait| !wait.is_zero())
            && is_wanted()
        {
            std::thread::sleep(wait.min(RATE_POLL_INTERVAL));
        }
    }
}

/// The two buckets that a shard's bytes pass through.
#[derive(Clone, Debug)]
pub struct Throttle {
    host: Arc<Bucket>,
    own: Arc<Bucket>,
}

impl Throttle {
    /// That of a move; the host's cap becomes the one that the move comes with, if it has one.
    pub fn of(spec: &MoveSpec) -> Self {
        let (host, own) =
            (shared((spec.job.journals.clone(), None)), shared((spec.job.journals.clone(), Some(spec.job.shard))));
        // A request that knows of no cap does not lift the one that others keep to.
        if spec.limits.sparing.bandwidth > 0 {
            host.set_rate(spec.limits.sparing.bandwidth);
        }
        Self { host, own }
    }

    /// Waits until so many bytes may pass, or nobody wants them any more.
    pub fn take(&self, bytes: u64, is_wanted: &dyn Fn() -> bool) {
        self.own.take(bytes, is_wanted);
        self.host.take(bytes, is_wanted);
    }

    /// How many bytes of this shard have passed.
    pub fn passed(&self) -> u64 {
        self.own.passed.load(Ordering::Relaxed)
    }

    /// Half of what passed in a second of late, from now on; returns that rate.
    pub fn slower(&self, lately: u64) -> u64 {
        let mut state = lock(&self.own.state);
        let now = if state.0 == 0 { lately } else { state.0.min(lately) };
        state.0 = (now / 2).max(FLOOR);
        state.0
    }

    /// As if it had never been slowed down.
    pub fn free(&self) {
        self.own.set_rate(0);
    }

    /// A tenth more, where it was slowed down.
    pub fn faster(&self) {
        let mut state = lock(&self.own.state);
        state.0 = state.0.saturating_add(state.0 / 10);
    }
}

/// Held by the move of a host that is being looked at before its copy begins: the next one sees what that one costs.
pub fn turn(spec: &MoveSpec) -> Arc<Mutex<()>> {
    static TURNS: Mutex<BTreeMap<PathBuf, Arc<Mutex<()>>>> = Mutex::new(BTreeMap::new());
    Arc::clone(lock(&TURNS).entry(spec.job.journals.clone()).or_default())
}

/// A bucket lives as long as somebody's bytes pass through it.
fn shared(key: Whose) -> Arc<Bucket> {
    static BUCKETS: Mutex<BTreeMap<Whose, Weak<Bucket>>> = Mutex::new(BTreeMap::new());
    let mut buckets = lock(&BUCKETS);
    buckets.retain(|_, bucket| bucket.strong_count() > 0);
    if let Some(bucket) = buckets.get(&key).and_then(Weak::upgrade) {
        return bucket;
    }
    let bucket = Arc::new(Bucket::default());
    buckets.insert(key, Arc::downgrade(&bucket));
    bucket
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_wait_for_their_turn_whoever_takes_them() {
        let bucket = Bucket::default();
        let begin = Instant::now();
        bucket.take(1 << 30, &|| true);
        assert_eq!(lock(&bucket.state).1.checked_duration_since(begin), None, "without a rate nothing is owed");
        bucket.set_rate(1_000_000);
        let begin = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..10).for_each(|_| bucket.take(20_000, &|| true)));
            }
        });
        assert!(begin.elapsed() >= Duration::from_millis(400) - BURST, "{:?}", begin.elapsed());
    }

    #[test]
    fn the_moves_to_one_host_share_its_bucket_and_no_more() {
        let mut spec = crate::rebalance::host::recover::tests::spec();
        spec.job.journals = PathBuf::from("/one host");
        spec.limits.sparing.bandwidth = 5;
        let one = Throttle::of(&spec);
        spec.job.shard += 1;
        spec.limits.sparing.bandwidth = 0;
        let other = Throttle::of(&spec);
        assert!(Arc::ptr_eq(&one.host, &other.host) && !Arc::ptr_eq(&one.own, &other.own));
        assert_eq!(lock(&one.host.state).0, 5);
        spec.job.journals = PathBuf::from("/another");
        assert!(!Arc::ptr_eq(&one.host, &Throttle::of(&spec).host));
    }

    #[test]
    fn nobody_waits_for_what_is_not_wanted() {
        let bucket = Bucket::default();
        bucket.set_rate(1);
        let begin = Instant::now();
        bucket.take(1_000_000, &|| false);
        assert!(begin.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn a_strained_copy_is_halved_to_the_floor_and_comes_back_by_tenths() {
        let throttle = Throttle { host: Arc::default(), own: Arc::default() };
        throttle.faster();
        assert_eq!(lock(&throttle.own.state).0, 0, "what was never slowed down has no rate");
        assert_eq!(throttle.slower(40 << 20), 20 << 20);
        assert_eq!(throttle.slower(40 << 20), 10 << 20);
        assert_eq!(throttle.slower(5 << 20), 5 << 19, "half of what passes, not of what might");
        assert_eq!(throttle.slower(10), FLOOR);
        throttle.faster();
        assert_eq!(lock(&throttle.own.state).0, FLOOR + FLOOR / 10);
    }
}
