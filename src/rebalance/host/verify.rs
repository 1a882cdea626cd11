//! P5: source and target hold the same keys with the same contents and the same times to live.
//!
//! Without `DEBUG`: `SCAN` at the source; `DUMP` bytes and `PEXPIRETIME` of both sides in pipelines; then a `SCAN` at
//! the target for keys that only it has. A key that seems to differ may just be written to: it is looked at again, and
//! what still differs is decided while writes are held for some milliseconds, at one offset.

mod content;
mod sides;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use redis::{Cmd, Value};
use serde_json::json;

use super::diary::{Diary, Mark, Step, is_finished};
use super::link::{Link, words};
use super::pace::Throttle;
use super::sync;
use crate::wire::shard::{MoveSpec, Role, Verified};
use crate::wire::{Event, Sink};
use content::contents;
use sides::{Key, Verdict, scan, states, verdict, with_key};

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

/// The request: compares anew. What a move under way is found to be decides whether it may be switched.
///
/// # Errors
/// An instance does not answer, or the target does not follow the source.
pub fn verify(spec: &MoveSpec, sink: &dyn Sink) -> Result<Verified> {
    let mut diary = Diary::open(&spec.job)?;
    let mut source = Link::open(&spec.from, &spec.job.credentials)?;
    let mut target = Link::open(&spec.to, &spec.job.credentials)?;
    match (source.role()?, target.role()?) {
        (Role::Master { .. }, role) if sync::follows(&role, &spec.from) => {
            sync::caught_up(&mut source, &mut target, spec, sink)?;
            if diary.begun().is_none() || is_finished(diary.this_move()) {
                return compare(&mut source, &mut target, spec, sink);
            }
            compared_anew(&mut diary, (&mut source, &mut target), spec, sink)
        }
        (role, Role::Master { .. }) if sync::follows(&role, &spec.to) => compare(&mut target, &mut source, spec, sink),
        (source, target) => bail!("neither follows the other: source {source:?}, target {target:?}"),
    }
}

/// Sees to it that the journal knows the copy as equal: compares, unless these very processes were found equal and no
/// full sync came between. No switch goes without it.
///
/// # Errors
/// They differ; the error names the keys. Or as [`compare`].
pub fn compared(
    diary: &mut Diary,
    (source, target): (&mut Link, &mut Link),
    spec: &MoveSpec,
    sink: &dyn Sink,
) -> Result<Verified> {
    let of = compared_processes(source, target)?;
    let last = diary.this_move().iter().rev().find(|r| r.step == Step::Verify && r.mark != Mark::Intent);
    if last.is_some_and(|record| record.mark == Mark::Done && record.detail["of"] == of) {
        return Ok(Verified::default());
    }
    let verified = compared_anew(diary, (source, target), spec, sink)?;
    if !verified.is_equal() {
        bail!("{}", told(&verified, spec));
    }
    Ok(verified)
}

fn compared_anew(
    diary: &mut Diary,
    (source, target): (&mut Link, &mut Link),
    spec: &MoveSpec,
    sink: &dyn Sink,
) -> Result<Verified> {
    let of = compared_processes(source, target)?;
    diary.intent(Step::Verify, json!({ "of": of }))?;
    let verified = compare(source, target, spec, sink)?;
    if verified.is_equal() {
        diary.done(Step::Verify, json!({ "of": of, "keys": verified.keys }))?;
        sink.emit(Event::Note { text: format!("shard {}: {} keys are equal", spec.job.shard, verified.keys) });
    } else {
        diary.failed(Step::Verify, "the copy differs from the source")?;
    }
    Ok(verified)
}

/// What a comparison is good for: two processes, and no full sync since.
fn compared_processes(source: &mut Link, target: &mut Link) -> Result<serde_json::Value> {
    let full_syncs = source.info("stats")?.number("sync_full");
    Ok(json!({ "source": source.run_id()?, "target": target.run_id()?, "full_syncs": full_syncs }))
}

/// Compares all databases of two instances, the second of which follows the first.
///
/// # Errors
/// An instance does not answer, or the run was cancelled.
pub fn compare(source: &mut Link, target: &mut Link, spec: &MoveSpec, sink: &dyn Sink) -> Result<Verified> {
    let mut verified = Verified::default();
    let mut databases = BTreeSet::from([0]);
    for link in [&mut *source, &mut *target] {
        let info = link.info("keyspace")?;
        databases.extend(info.iter().filter_map(|(name, _)| name.strip_prefix("db")?.parse::<u32>().ok()));
    }
    for database in databases.into_iter().rev() {
        for link in [&mut *source, &mut *target] {
            link.run(&["SELECT", &database.to_string()])?;
        }
        let total: u64 = source.ask(&words(&["DBSIZE"]))?;
        let sparing = spec.limits.sparing;
        let throttle = sparing.is_asked().then(|| Throttle::of(spec));
        let (started, verified, batch) = (Instant::now(), &mut verified, FEWEST);
        let mut pass = Pass { source, target, spec, sink, total, verified, started, batch, throttle, owed: 0 };
        pass.run()?;
    }
    Ok(verified)
}

/// One database.
struct Pass<'a> {
    source: &'a mut Link,
    target: &'a mut Link,
    spec: &'a MoveSpec,
    sink: &'a dyn Sink,
    total: u64,
    verified: &'a mut Verified,
    started: Instant,
    /// Keys in the next pipeline.
    batch: usize,
    /// Where the source is to be spared: what its answers pass through, and their bytes that have not been waited for.
    throttle: Option<Throttle>,
    owed: u64,
}

impl Pass<'_> {
    fn run(&mut self) -> Result<()> {
        let mut suspects = BTreeSet::new();
        let mut cursor = "0".to_owned();
        loop {
            let keys = scan(self.source, &mut cursor, self.batch)?;
            for (key, verdict) in self.look(&keys)? {
                self.count(key, verdict, &mut suspects);
            }
            self.verified.keys += keys.len() as u64;
            self.pace()?;
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
            bail!("cancelled while shard {} was being compared; nothing is handed over", self.spec.job.shard);
        }
        let (done, total) = (self.verified.keys, self.total);
        let job = format!("shard {}", self.spec.job.shard);
        self.sink.emit(Event::Progress { job, phase: "verify".to_owned(), done, total });
        if let Some(due) = (done * 1_000_000).checked_div(self.spec.limits.verify_keys_per_s) {
            std::thread::sleep(Duration::from_micros(due).saturating_sub(self.started.elapsed()));
        }
        Ok(())
    }
}

/// How many keys the next pipeline takes, after so many of so many bytes; without bytes nothing is learnt.
fn batch_after(keys: usize, bytes: usize) -> Option<usize> {
    Some((BATCH_BYTES * keys).checked_div(bytes)?.clamp(FEWEST, MOST))
}

/// What a comparison that found differences says.
pub fn told(verified: &Verified, spec: &MoveSpec) -> String {
    let list = |what: &str, keys: &[String]| match keys {
        [] => String::new(),
        keys => format!("; {what}: {}", keys.join(", ")),
    };
    format!(
        "shard {}: the copy at {} is not what {} has{}{}{}; nothing is handed over",
        spec.job.shard,
        spec.to,
        spec.from,
        list("differing", &verified.differing),
        list("missing", &verified.missing),
        list("extra", &verified.extra)
    )
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
