//! Keys compared at both servers: `DUMP` bytes and `PEXPIRETIME`, in pipelines.
//!
//! A key that seems to differ may just be written to: it is looked at again, and what still differs is decided while
//! writes are paused for some milliseconds, at one offset. Large keys are compared in pieces ([`super::large_key`]), so
//! that neither memory nor a client's wait grows with a key. So are the keys of a pipeline: it ends where they get too
//! large.

mod large_keys;
mod write_pause;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use redis::{Cmd, Value};

use super::super::rate_limiter::RateLimiter;
use super::super::redis_client::RedisClient;
use super::canonical_content::content_digests;
use super::key_sizes::{BATCH_BYTES, fetch_key_sizes, split_by_memory};
use super::key_state::{Key, KeyVerdict, command_with_key, compare_states, fetch_states, scan_keys};
use crate::protocol::shard::{MoveSpec, VerifyResult};
use crate::protocol::{Event, ProgressSink};

/// Keys in one pipeline, at least and at most.
const MIN_BATCH_KEYS: usize = 8;
const MAX_BATCH_KEYS: usize = 256;
/// Comparisons of a live key before writes are paused for it.
const MAX_LIVE_RETRIES: u32 = 5;
/// Poll interval for keys that are being written to.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// Keys with more memory than this, in bytes, are compared in pieces.
const LARGE_KEY_BYTES: u64 = 512 << 10;
/// Keys decided in one pause.
const MAX_KEYS_PER_PAUSE: usize = 32;
/// Maximum number of keys to name per list.
const MAX_NAMED_KEYS: usize = 20;

type KeyVerdicts = Vec<(Key, KeyVerdict)>;

/// Compares one database, selected at both servers.
pub struct LiveComparison<'a> {
    source: &'a mut RedisClient,
    target: &'a mut RedisClient,
    spec: &'a MoveSpec,
    sink: &'a dyn ProgressSink,
    /// Keys that it holds, and how many of them are decided or need not be looked at.
    total_keys: u64,
    done_keys: u64,
    verified: &'a mut VerifyResult,
    started: Instant,
    /// Keys in the next pipeline.
    batch_keys: usize,
    /// Limits the replies of the source, where limits are set. `unpaid_bytes` have passed without a wait so far.
    rate_limiter: Option<RateLimiter>,
    unpaid_bytes: u64,
    /// Keys that are too large for one command, with their memory in bytes.
    large_keys: BTreeMap<Key, u64>,
}

impl<'a> LiveComparison<'a> {
    pub fn new(
        source: &'a mut RedisClient,
        target: &'a mut RedisClient,
        spec: &'a MoveSpec,
        sink: &'a dyn ProgressSink,
        total_keys: u64,
        verified: &'a mut VerifyResult,
    ) -> Self {
        let rate_limiter = spec.record.throttle.is_enabled().then(|| RateLimiter::for_move(spec));
        let (started, batch_keys) = (Instant::now(), MIN_BATCH_KEYS);
        Self {
            source,
            target,
            spec,
            sink,
            total_keys,
            done_keys: 0,
            verified,
            started,
            batch_keys,
            rate_limiter,
            unpaid_bytes: 0,
            large_keys: BTreeMap::new(),
        }
    }

    /// Compares all keys of both sides.
    ///
    /// # Errors
    /// Returns an error if one of them does not answer, the run was cancelled, or a key cannot be decided.
    pub fn compare_all(&mut self) -> Result<()> {
        let mut candidates = BTreeSet::new();
        let mut cursor = "0".to_owned();
        loop {
            let keys = scan_keys(self.source, &mut cursor, self.batch_keys)?;
            self.verified.keys += keys.len() as u64;
            self.compare_batch(&keys, &mut candidates)?;
            if cursor == "0" {
                break;
            }
        }
        loop {
            let keys = scan_keys(self.target, &mut cursor, MAX_BATCH_KEYS)?;
            candidates.extend(self.find_extra_keys(&keys)?);
            if cursor == "0" {
                break;
            }
        }
        self.resolve_candidates(candidates)
    }

    /// Compares these keys, where all others are known to be equal.
    ///
    /// # Errors
    /// Returns an error under the same conditions as [`Self::compare_all`].
    pub fn compare_only(&mut self, keys: BTreeSet<Key>) -> Result<()> {
        self.verified.keys += self.total_keys;
        self.done_keys = self.total_keys.saturating_sub(keys.len() as u64);
        let (mut keys, mut candidates) = (keys.into_iter(), BTreeSet::new());
        loop {
            let some: Vec<Key> = keys.by_ref().take(self.batch_keys).collect();
            self.compare_batch(&some, &mut candidates)?;
            if some.is_empty() {
                return self.resolve_candidates(candidates);
            }
        }
    }

    /// Compares some keys for the first time.
    fn compare_batch(&mut self, keys: &[Key], candidates: &mut BTreeSet<Key>) -> Result<()> {
        for (key, verdict) in self.compare_now(keys)? {
            self.record_verdict(key, verdict, candidates);
        }
        self.verified.compared_live += keys.len() as u64;
        self.done_keys += keys.len() as u64;
        self.finish_batch()
    }

    /// Compares candidates again, then those that still differ while writes are paused, then the large keys.
    fn resolve_candidates(&mut self, candidates: BTreeSet<Key>) -> Result<()> {
        self.resolve_small_candidates(candidates)?;
        for (key, memory) in std::mem::take(&mut self.large_keys) {
            let verdict = self.compare_large_key(&key, memory)?;
            self.record_final_verdict(&key, verdict);
        }
        Ok(())
    }

    fn resolve_small_candidates(&mut self, mut candidates: BTreeSet<Key>) -> Result<()> {
        for _ in 0..MAX_LIVE_RETRIES {
            if candidates.is_empty() {
                return Ok(());
            }
            std::thread::sleep(RETRY_INTERVAL);
            let keys: Vec<Key> = std::mem::take(&mut candidates).into_iter().collect();
            self.verified.retried += keys.len() as u64;
            for keys in keys.chunks(self.batch_keys) {
                self.wait_for_rate_limit();
                for (key, verdict) in self.compare_now(keys)? {
                    self.record_verdict(key, verdict, &mut candidates);
                }
            }
        }
        let keys: Vec<Key> = candidates.into_iter().collect();
        for keys in keys.chunks(MAX_KEYS_PER_PAUSE) {
            self.decide_with_writes_paused(keys)?;
        }
        Ok(())
    }

    /// Compares keys as both sides have them now. Large ones are set aside, and their verdict is left for later.
    fn compare_now(&mut self, keys: &[Key]) -> Result<KeyVerdicts> {
        let sizes = fetch_key_sizes(self.source, keys, LARGE_KEY_BYTES)?;
        let (large, small): (Vec<_>, Vec<_>) =
            keys.iter().cloned().zip(sizes).partition(|(_, memory)| *memory > LARGE_KEY_BYTES);
        self.large_keys.extend(large);
        let mut verdicts = Vec::with_capacity(small.len());
        for keys in split_by_memory(small) {
            verdicts.extend(self.compare_small_keys(&keys)?);
        }
        Ok(verdicts)
    }

    fn compare_small_keys(&mut self, keys: &[Key]) -> Result<KeyVerdicts> {
        let (source, target) = fetch_states(self.source, self.target, keys)?;
        let bytes: usize = source.iter().filter_map(|state| Some(state.dump.as_ref()?.len())).sum();
        self.unpaid_bytes += bytes as u64;
        self.batch_keys = next_batch_keys(keys.len(), bytes).unwrap_or(self.batch_keys);
        let mut verdicts: KeyVerdicts = keys
            .iter()
            .zip(source.iter().zip(&target))
            .map(|(key, (s, t))| (key.clone(), compare_states(s, t)))
            .collect();
        // Other bytes may be another encoding of the same content; only where the expiry is the same is that asked.
        let is_asked =
            |i: &usize| verdicts[*i].1 == KeyVerdict::Differs && source[*i].expires_at_ms == target[*i].expires_at_ms;
        let asked: Vec<usize> = (0..keys.len()).filter(is_asked).collect();
        let names: Vec<&Key> = asked.iter().map(|&i| &keys[i]).collect();
        let (at_source, at_target) = (content_digests(self.source, &names)?, content_digests(self.target, &names)?);
        for (i, (here, there)) in asked.into_iter().zip(at_source.into_iter().zip(at_target)) {
            if here == there {
                verdicts[i].1 = KeyVerdict::Reencoded;
            }
        }
        Ok(verdicts)
    }

    /// Returns the keys of the target that the source does not have.
    fn find_extra_keys(&mut self, keys: &[Key]) -> Result<Vec<Key>> {
        let cmds: Vec<Cmd> = keys.iter().map(|key| command_with_key("EXISTS", key)).collect();
        let answers = self.source.run_all(&cmds)?;
        Ok(keys
            .iter()
            .zip(answers)
            .filter(|(_, answer)| *answer == Value::Int(0))
            .map(|(key, _)| key.clone())
            .collect())
    }

    fn record_verdict(&mut self, key: Key, verdict: KeyVerdict, candidates: &mut BTreeSet<Key>) {
        match verdict {
            KeyVerdict::Equal => {}
            KeyVerdict::Reencoded => self.verified.reencoded += 1,
            _ => drop(candidates.insert(key)),
        }
    }

    fn record_final_verdict(&mut self, key: &[u8], verdict: KeyVerdict) {
        let list = match verdict {
            KeyVerdict::Equal => return,
            KeyVerdict::Reencoded => return self.verified.reencoded += 1,
            KeyVerdict::Differs => &mut self.verified.differing,
            KeyVerdict::Missing => &mut self.verified.missing,
            KeyVerdict::Extra => &mut self.verified.extra,
        };
        if list.len() < MAX_NAMED_KEYS {
            list.push(String::from_utf8_lossy(key).into_owned());
        }
    }

    /// Waits for the rate limit; must not be called while writes are paused.
    fn wait_for_rate_limit(&mut self) {
        let unpaid_bytes = std::mem::take(&mut self.unpaid_bytes);
        if let Some(throttle) = &self.rate_limiter {
            throttle.acquire_bytes(unpaid_bytes, &|| !self.sink.is_cancelled());
        }
    }

    fn finish_batch(&mut self) -> Result<()> {
        self.wait_for_rate_limit();
        if self.sink.is_cancelled() {
            bail!(cancelled_message(self.spec));
        }
        let (done, total) = (self.done_keys, self.total_keys);
        self.sink.emit(Event::shard_progress(self.spec.header.shard, "verify", done, total));
        if let Some(due) = (self.verified.compared_live * 1_000_000).checked_div(self.spec.limits.verify_keys_per_s) {
            std::thread::sleep(Duration::from_micros(due).saturating_sub(self.started.elapsed()));
        }
        Ok(())
    }
}

/// Returns the bytes of an answer.
fn value_bytes(value: &Value) -> u64 {
    match value {
        Value::BulkString(bytes) => bytes.len() as u64,
        Value::Array(values) => values.iter().map(value_bytes).sum(),
        _ => 8,
    }
}

/// Returns the message of a canceled comparison.
pub fn cancelled_message(spec: &MoveSpec) -> String {
    format!("cancelled while shard {} was being compared; no cutover was started", spec.header.shard)
}

/// Returns the number of keys for the next pipeline, from the keys and bytes of the last one; `None` without bytes.
fn next_batch_keys(keys: usize, bytes: usize) -> Option<usize> {
    Some((BATCH_BYTES * keys).checked_div(bytes)?.clamp(MIN_BATCH_KEYS, MAX_BATCH_KEYS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipeline_takes_as_many_keys_as_the_server_answers_quickly() {
        assert_eq!(next_batch_keys(8, 8 * (16 << 10)), Some(16), "16 KiB a key");
        assert_eq!(next_batch_keys(16, 16 * 100), Some(MAX_BATCH_KEYS), "small keys");
        assert_eq!(next_batch_keys(256, 1 << 30), Some(MIN_BATCH_KEYS), "large keys");
        assert_eq!(next_batch_keys(8, 0), None, "nothing there any more, or nothing asked for");
    }
}
