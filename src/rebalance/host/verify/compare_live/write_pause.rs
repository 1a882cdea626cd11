//! Short pauses of writes, in which keys are compared at one offset.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::{KeyVerdicts, LARGE_KEY_BYTES, LiveComparison, RETRY_INTERVAL};
use crate::poll::poll_until;
use crate::rebalance::host::verify::key_sizes::fetch_key_sizes;
use crate::rebalance::host::verify::key_state::Key;
use crate::rebalance::host::verify::large_key::has_pieces;

/// Longest pause of writes for keys that are written to all the time.
const MAX_WRITE_PAUSE: Duration = Duration::from_millis(40);
/// The lag, in bytes, at which a pause of writes is worth it, and how long it is waited for.
const SMALL_LAG_BYTES: u64 = 32 << 10;
const MAX_LAG_WAIT: Duration = Duration::from_millis(500);
const LAG_POLL_INTERVAL: Duration = Duration::from_millis(2);
/// Maximum number of write pauses for a group of keys.
pub(super) const MAX_PAUSE_ATTEMPTS: u32 = 50;

impl LiveComparison<'_> {
    /// Decides about keys at one offset. Keys that take too long for one pause are decided in halves, and a single one
    /// is left to the comparison in pieces: it may be smaller than a large key and still have much to compare, such as
    /// the pending entries of a stream.
    pub(super) fn decide_with_writes_paused(&mut self, keys: &[Key]) -> Result<()> {
        for _ in 0..MAX_PAUSE_ATTEMPTS {
            let (verdicts, paused_for) = self.compare_with_writes_paused(keys)?;
            if let Some(verdicts) = verdicts {
                verdicts.iter().for_each(|(key, verdict)| self.record_final_verdict(key, *verdict));
                return Ok(());
            }
            if paused_for >= MAX_WRITE_PAUSE {
                match keys {
                    [key] if has_pieces(self.source, key)? => {
                        let sizes = fetch_key_sizes(self.source, keys, LARGE_KEY_BYTES)?;
                        self.large_keys.extend(keys.iter().cloned().zip(sizes));
                        return Ok(());
                    }
                    [_] => {}
                    _ => {
                        let (first, second) = keys.split_at(keys.len() / 2);
                        self.decide_with_writes_paused(first)?;
                        return self.decide_with_writes_paused(second);
                    }
                }
            }
            std::thread::sleep(RETRY_INTERVAL);
        }
        let key = String::from_utf8_lossy(&keys[0]).into_owned();
        bail!("shard {}: cannot compare {key}: it is too large or written to too often", self.spec.header.shard)
    }

    fn compare_with_writes_paused(&mut self, keys: &[Key]) -> Result<(Option<KeyVerdicts>, Duration)> {
        self.run_with_writes_paused(|comparison| comparison.compare_now(keys))
    }

    /// Pauses writes once: returns what was found and the pause. A result counts if the target had applied everything
    /// and nothing was written meanwhile: the pause had not ended, or the source's offset has not changed.
    pub(super) fn run_with_writes_paused<T>(
        &mut self,
        compare: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<(Option<T>, Duration)> {
        self.wait_for_small_lag()?;
        let started = Instant::now();
        self.source.run_command(&["CLIENT", "PAUSE", &MAX_WRITE_PAUSE.as_millis().to_string(), "WRITE"])?;
        let found = self.compare_at_one_offset(started, compare);
        let paused_for = started.elapsed();
        self.source.run_command(&["CLIENT", "UNPAUSE"])?;
        // The server ends the pause by itself after that time.
        let waited = paused_for.min(MAX_WRITE_PAUSE);
        self.verified.longest_pause_us =
            self.verified.longest_pause_us.max(u64::try_from(waited.as_micros()).unwrap_or(u64::MAX));
        Ok((found?, paused_for))
    }

    fn compare_at_one_offset<T>(
        &mut self,
        started: Instant,
        compare: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<Option<T>> {
        let offset = self.source_offset()?;
        if !self.wait_for_target_offset(offset, started)? {
            return Ok(None);
        }
        let found = compare(self)?;
        let is_valid = started.elapsed() < MAX_WRITE_PAUSE || self.source_offset()? == offset;
        Ok(is_valid.then_some(found))
    }

    /// Waits for a moment in which the target is close behind, so that writes are not paused in vain; the wait is
    /// bounded.
    fn wait_for_small_lag(&mut self) -> Result<()> {
        let deadline = Instant::now() + MAX_LAG_WAIT;
        poll_until(deadline, LAG_POLL_INTERVAL, || {
            let (source, target) = (self.source_offset()?, self.target_offset()?);
            Ok::<_, anyhow::Error>((source.saturating_sub(target) <= SMALL_LAG_BYTES).then_some(()))
        })
        .map(drop)
    }

    fn wait_for_target_offset(&mut self, offset: u64, started: Instant) -> Result<bool> {
        while self.target_offset()? < offset {
            if started.elapsed() > MAX_WRITE_PAUSE * 3 / 4 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn source_offset(&mut self) -> Result<u64> {
        Ok(self.source.fetch_info("replication")?.number_field("master_repl_offset"))
    }

    fn target_offset(&mut self) -> Result<u64> {
        Ok(self.target.fetch_info("replication")?.number_field("slave_repl_offset"))
    }
}
