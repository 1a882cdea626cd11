//! Keys compared at both servers: `DUMP` bytes and `PEXPIRETIME`, in pipelines.
//!
//! A key that seems to differ may just be written to: it is looked at again, and what still differs is decided while
//! writes are held for some milliseconds, at one offset.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use redis::{Cmd, Value};

use super::super::link::Link;
use super::super::pace::Throttle;
use super::content::contents;
use super::sides::{Key, Verdict, scan, states, verdict, with_key};
use crate::wire::shard::{MoveSpec, Verified};
use crate::wire::{Event, Sink};

/// `DUMP` bytes of one pipeline, about: a server answers all of it before it turns to its other clients, here for about a
/// millisecond.
const BATCH_BYTES: usize = 256 << 10;
/// Keys in one pipeline, at least and at most.
const FEWEST: usize = 8;
const MOST: usize = 256;
/// Looks at a live key before writes are held for it.
const LOOKS: u32 = 5;
/// Between two looks at live keys.
const REST: Duration = Duration::from_millis(20);
/// Longest hold of writes for keys that are written to all the time.
const HOLD: Duration = Duration::from_millis(100);
/// How often a hold is tried.
const HOLDS: u32 = 20;
/// Keys decided in one hold.
const HELD_KEYS: usize = 32;
/// How many keys of each kind are named.
const NAMED: usize = 20;

type Verdicts = Vec<(Key, Verdict)>;

/// One database, selected at both.
pub struct Pass<'a> {
    source: &'a mut Link,
    target: &'a mut Link,
    spec: &'a MoveSpec,
    sink: &'a dyn Sink,
    /// Keys that it holds, and how many of them are decided or need not be looked at.
    total: u64,
    done: u64,
    verified: &'a mut Verified,
    started: Instant,
    /// Keys in the next pipeline.
    batch: usize,
    /// Where the source is to be spared: what its answers pass through, and their bytes that have not been waited for.
    throttle: Option<Throttle>,
    owed: u64,
}

impl<'a> Pass<'a> {
    pub fn of(
        (source, target): (&'a mut Link, &'a mut Link),
        (spec, sink): (&'a MoveSpec, &'a dyn Sink),
        total: u64,
        verified: &'a mut Verified,
    ) -> Self {
        let throttle = spec.limits.sparing.is_asked().then(|| Throttle::of(spec));
        let (started, batch) = (Instant::now(), FEWEST);
        Self { source, target, spec, sink, total, done: 0, verified, started, batch, throttle, owed: 0 }
    }

    /// Compares all keys of both sides.
    ///
    /// # Errors
    /// One of them does not answer, the run was cancelled, or a key cannot be decided.
    pub fn all(&mut self) -> Result<()> {
        let mut suspects = BTreeSet::new();
        let mut cursor = "0".to_owned();
        loop {
            let keys = scan(self.source, &mut cursor, self.batch)?;
            self.verified.keys += keys.len() as u64;
            self.pass(&keys, &mut suspects)?;
            if cursor == "0" {
                break;
            }
        }
        loop {
            let keys = scan(self.target, &mut cursor, MOST)?;
            suspects.extend(self.strangers(&keys)?);
            if cursor == "0" {
                break;
            }
        }
        self.settle(suspects)
    }

    /// Compares these keys, where all others are known to be equal.
    ///
    /// # Errors
    /// As [`Pass::all`].
    pub fn only(&mut self, keys: BTreeSet<Key>) -> Result<()> {
        self.verified.keys += self.total;
        self.done = self.total.saturating_sub(keys.len() as u64);
        let (mut keys, mut suspects) = (keys.into_iter(), BTreeSet::new());
        loop {
            let some: Vec<Key> = keys.by_ref().take(self.batch).collect();
            self.pass(&some, &mut suspects)?;
            if some.is_empty() {
                return self.settle(suspects);
            }
        }
    }

    /// A first look at some keys.
    fn pass(&mut self, keys: &[Key], suspects: &mut BTreeSet<Key>) -> Result<()> {
        for (key, verdict) in self.look(keys)? {
            self.count(key, verdict, suspects);
        }
        self.verified.live += keys.len() as u64;
        self.done += keys.len() as u64;
        self.pace()
    }

    /// Live keys again, then the stubborn ones while writes are held.
    fn settle(&mut self, mut suspects: BTreeSet<Key>) -> Result<()> {
        for _ in 0..LOOKS {
            if suspects.is_empty() {
                return Ok(());
            }
            std::thread::sleep(REST);
            let keys: Vec<Key> = std::mem::take(&mut suspects).into_iter().collect();
            self.verified.retried += keys.len() as u64;
            for keys in keys.chunks(self.batch) {
                self.pay();
                for (key, verdict) in self.look(keys)? {
                    self.count(key, verdict, &mut suspects);
                }
            }
        }
        let keys: Vec<Key> = suspects.into_iter().collect();
        for keys in keys.chunks(HELD_KEYS) {
            self.decide_held(keys)?;
        }
        Ok(())
    }

    /// Decides about keys at one offset; what takes too long for one hold is taken in halves.
    fn decide_held(&mut self, keys: &[Key]) -> Result<()> {
        for _ in 0..HOLDS {
            let (verdicts, held) = self.held(keys)?;
            if held < HOLD
                && let Some(verdicts) = verdicts
            {
                verdicts.iter().for_each(|(key, verdict)| self.decide(key, *verdict));
                return Ok(());
            }
            if held >= HOLD && keys.len() > 1 {
                let (first, second) = keys.split_at(keys.len() / 2);
                return self.decide_held(first).and_then(|()| self.decide_held(second));
            }
            std::thread::sleep(REST);
        }
        let key = String::from_utf8_lossy(&keys[0]).into_owned();
        bail!("shard {}: {key} is too large, or written to too much, to be compared", self.spec.job.shard)
    }

    /// One hold: the verdicts, if the target had applied all in time, and how long writes were held.
    fn held(&mut self, keys: &[Key]) -> Result<(Option<Verdicts>, Duration)> {
        let started = Instant::now();
        self.source.run(&["CLIENT", "PAUSE", &HOLD.as_millis().to_string(), "WRITE"])?;
        let applied = self.applied_all(started);
        let verdicts = applied.and_then(|all| if all { self.look(keys).map(Some) } else { Ok(None) });
        let held = started.elapsed();
        self.source.run(&["CLIENT", "UNPAUSE"])?;
        Ok((verdicts?, held))
    }

    fn applied_all(&mut self, started: Instant) -> Result<bool> {
        let offset = self.source.info("replication")?.number("master_repl_offset");
        while self.target.info("replication")?.number("slave_repl_offset") < offset {
            if started.elapsed() > HOLD / 2 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Compares keys as both sides have them now.
    fn look(&mut self, keys: &[Key]) -> Result<Verdicts> {
        let (source, target) = states(self.source, self.target, keys)?;
        let bytes: usize = source.iter().filter_map(|state| Some(state.dump.as_ref()?.len())).sum();
        self.owed += bytes as u64;
        self.batch = batch_after(keys.len(), bytes).unwrap_or(self.batch);
        let mut verdicts: Verdicts =
            keys.iter().zip(source.iter().zip(&target)).map(|(key, (s, t))| (key.clone(), verdict(s, t))).collect();
        // Other bytes may be another encoding of the same content; only where the expiry is the same is that asked.
        let is_asked = |i: &usize| verdicts[*i].1 == Verdict::Differs && source[*i].expires == target[*i].expires;
        let asked: Vec<usize> = (0..keys.len()).filter(is_asked).collect();
        let names: Vec<&Key> = asked.iter().map(|&i| &keys[i]).collect();
        let (here, there) = (contents(self.source, &names)?, contents(self.target, &names)?);
        for (i, (here, there)) in asked.into_iter().zip(here.into_iter().zip(there)) {
            if here == there {
                verdicts[i].1 = Verdict::Reencoded;
            }
        }
        Ok(verdicts)
    }

    /// Keys of the target that the source does not have.
    fn strangers(&mut self, keys: &[Key]) -> Result<Vec<Key>> {
        let cmds: Vec<Cmd> = keys.iter().map(|key| with_key("EXISTS", key)).collect();
        let answers = self.source.all(&cmds)?;
        Ok(keys
            .iter()
            .zip(answers)
            .filter(|(_, answer)| *answer == Value::Int(0))
            .map(|(key, _)| key.clone())
            .collect())
    }

    fn count(&mut self, key: Key, verdict: Verdict, suspects: &mut BTreeSet<Key>) {
        match verdict {
            Verdict::Equal => {}
            Verdict::Reencoded => self.verified.reencoded += 1,
            _ => drop(suspects.insert(key)),
        }
    }

    fn decide(&mut self, key: &[u8], verdict: Verdict) {
        let list = match verdict {
            Verdict::Equal => return,
            Verdict::Reencoded => return self.verified.reencoded += 1,
            Verdict::Differs => &mut self.verified.differing,
            Verdict::Missing => &mut self.verified.missing,
            Verdict::Extra => &mut self.verified.extra,
        };
        if list.len() < NAMED {
            list.push(String::from_utf8_lossy(key).into_owned());
        }
    }

    /// Never while writes are held.
    fn pay(&mut self) {
        let owed = std::mem::take(&mut self.owed);
        if let Some(throttle) = &self.throttle {
            throttle.take(owed, &|| !self.sink.cancelled());
        }
    }

    fn pace(&mut self) -> Result<()> {
        self.pay();
        if self.sink.cancelled() {
            bail!(cancelled(self.spec));
        }
        let (done, total) = (self.done, self.total);
        let job = format!("shard {}", self.spec.job.shard);
        self.sink.emit(Event::Progress { job, phase: "verify".to_owned(), done, total });
        if let Some(due) = (self.verified.live * 1_000_000).checked_div(self.spec.limits.verify_keys_per_s) {
            std::thread::sleep(Duration::from_micros(due).saturating_sub(self.started.elapsed()));
        }
        Ok(())
    }
}

/// What a comparison says that was broken off.
pub fn cancelled(spec: &MoveSpec) -> String {
    format!("cancelled while shard {} was being compared; nothing is handed over", spec.job.shard)
}

/// How many keys the next pipeline takes, after so many of so many bytes; without bytes nothing is learnt.
fn batch_after(keys: usize, bytes: usize) -> Option<usize> {
    Some((BATCH_BYTES * keys).checked_div(bytes)?.clamp(FEWEST, MOST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipeline_takes_as_many_keys_as_the_server_answers_quickly() {
        assert_eq!(batch_after(8, 8 * (16 << 10)), Some(16), "16 KiB a key");
        assert_eq!(batch_after(16, 16 * 100), Some(MOST), "small keys");
        assert_eq!(batch_after(256, 1 << 30), Some(FEWEST), "large keys");
        assert_eq!(batch_after(8, 0), None, "nothing there any more, or nothing asked for");
    }
}
