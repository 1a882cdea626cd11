//! The time for which the attempts of a cutover hold writes at the source.

use std::time::{Duration, Instant};

/// Measures each attempt; also the abandoned ones hold writes.
#[derive(Debug)]
pub struct WriteHold {
    /// Length of the write pause, after which the source accepts writes again by itself.
    max_pause: Duration,
    paused_at: Option<Instant>,
    may_be_demoted: bool,
    longest: Duration,
}

impl WriteHold {
    /// Returns a measurement of attempts with write pauses of this length.
    pub fn new(max_pause: Duration) -> Self {
        Self { max_pause, paused_at: None, may_be_demoted: false, longest: Duration::ZERO }
    }

    /// Records that writes are about to be paused. Returns the time.
    pub fn begin(&mut self) -> Instant {
        let now = Instant::now();
        (self.paused_at, self.may_be_demoted) = (Some(now), false);
        now
    }

    /// Records that the source is about to be demoted: it then refuses writes until an instance is promoted.
    pub fn mark_demotion(&mut self) {
        self.may_be_demoted = true;
    }

    /// Records that an instance accepts writes again. Returns the time of this attempt.
    pub fn end(&mut self) -> Duration {
        let elapsed = self.paused_at.take().map_or(Duration::ZERO, |paused_at| paused_at.elapsed());
        let held = if self.may_be_demoted { elapsed } else { elapsed.min(self.max_pause) };
        self.longest = self.longest.max(held);
        held
    }

    /// Returns the longest time of all attempts, in microseconds.
    pub fn longest_us(&self) -> u64 {
        u64::try_from(self.longest.as_micros()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ends an attempt that began some time ago.
    fn end_after(hold: &mut WriteHold, time: Duration) -> Duration {
        hold.paused_at = hold.paused_at.and_then(|paused_at| paused_at.checked_sub(time));
        hold.end()
    }

    #[test]
    fn the_longest_attempt_counts_and_a_pause_ends_by_itself() {
        let (pause, hour) = (Duration::from_millis(200), Duration::from_secs(3600));
        let mut hold = WriteHold::new(pause);
        assert_eq!((hold.end(), hold.longest_us()), (Duration::ZERO, 0));
        hold.begin();
        assert_eq!(end_after(&mut hold, hour), pause, "the pause had expired");
        hold.begin();
        hold.mark_demotion();
        assert!(end_after(&mut hold, hour) >= hour);
        let longest = hold.longest_us();
        hold.begin();
        assert_eq!(end_after(&mut hold, hour), pause, "the source was not demoted in this attempt");
        assert!(hold.longest_us() == longest && longest >= 3_600_000_000);
    }
}
