//! Limits a rate of bytes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Maximum burst after an idle time.
const MAX_BURST: Duration = Duration::from_millis(50);

/// Lets bytes pass at a rate; shared by all that send or receive them.
#[derive(Debug)]
pub struct TokenBucket {
    state: Mutex<BucketState>,
    passed_bytes: AtomicU64,
}

#[derive(Debug)]
struct BucketState {
    /// Bytes per second; 0: no limit.
    rate: u64,
    /// Time at which the bytes that were taken last have passed.
    due: Instant,
}

impl Default for TokenBucket {
    fn default() -> Self {
        Self { state: Mutex::new(BucketState { rate: 0, due: Instant::now() }), passed_bytes: AtomicU64::new(0) }
    }
}

impl TokenBucket {
    /// Returns a bucket with a rate in bytes per second; 0: no limit.
    pub fn with_rate(rate: u64) -> Self {
        let bucket = Self::default();
        bucket.set_rate(rate);
        bucket
    }

    /// Sets the rate from now on, in bytes per second; 0: no limit.
    pub fn set_rate(&self, rate: u64) {
        self.update_rate(|_| rate);
    }

    /// Replaces the rate by one that depends on it, in bytes per second; returns the new one.
    pub fn update_rate(&self, change: impl FnOnce(u64) -> u64) -> u64 {
        let mut state = self.lock_state();
        state.rate = change(state.rate);
        state.rate
    }

    /// Returns the rate in bytes per second; 0: no limit.
    pub fn rate(&self) -> u64 {
        self.lock_state().rate
    }

    /// Takes tokens for a number of bytes; returns the time that the caller waits for, or `None` without a limit.
    pub fn take_tokens(&self, bytes: u64) -> Option<Instant> {
        self.passed_bytes.fetch_add(bytes, Ordering::Relaxed);
        let mut state = self.lock_state();
        let price = bytes.saturating_mul(1_000_000).checked_div(state.rate)?;
        let from = Instant::now().checked_sub(MAX_BURST).map_or(state.due, |earliest| state.due.max(earliest));
        state.due = from + Duration::from_micros(price);
        Some(state.due)
    }

    /// Returns the number of bytes for which tokens were taken.
    pub fn passed_bytes(&self) -> u64 {
        self.passed_bytes.load(Ordering::Relaxed)
    }

    fn lock_state(&self) -> MutexGuard<'_, BucketState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn concurrent_takers_share_the_rate() {
        let bucket = TokenBucket::default();
        assert_eq!(bucket.take_tokens(1 << 30), None, "without a rate nothing is owed");
        bucket.set_rate(1_000_000);
        let begin = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..10).map(|_| bucket.take_tokens(20_000)).max());
            }
        });
        let due = bucket.take_tokens(0).unwrap();
        assert!(due - begin >= Duration::from_millis(400) - MAX_BURST, "{:?}", due - begin);
        assert_eq!(bucket.passed_bytes(), (1 << 30) + 400_000);
    }
}
