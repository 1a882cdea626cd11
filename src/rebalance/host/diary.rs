//! A shard's journal on the target's host: intent and result of each step of its moves, and the lock on the shard.

mod record;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use super::crash::{self, Moment};
use super::fence;
use super::link::Link;
use crate::journal::{Journal, JournalError};
use crate::wire::shard::{Job, MoveSpec, failover};
use crate::wire::sparing::Sparing;
pub use record::{Begun, Mark, Record, Step, is_finished, last_move, stage};

/// The journal of one shard, locked.
#[derive(Debug)]
pub struct Diary {
    journal: Journal,
    records: Vec<Record>,
    run: String,
    /// The run's number, and the folder that says which is the latest.
    fence: u64,
    folder: PathBuf,
}

/// Where a shard's journal stands.
pub fn path(folder: &Path, shard: u32) -> PathBuf {
    folder.join(format!("shard-{shard}.jsonl"))
}

impl Diary {
    /// Opens the shard's journal for appending, which locks the shard, and reads it.
    ///
    /// # Errors
    /// Fails where another request works on this shard, a later run has this host, or the journal is damaged.
    pub fn open(job: &Job) -> Result<Self> {
        fence::check(&job.journals, job.fence)?;
        let path = path(&job.journals, job.shard);
        let mut journal = Journal::open(&path).map_err(|error| match error.downcast_ref() {
            Some(JournalError::Locked { .. }) => {
                anyhow!("another request is working on shard {} on this host", job.shard)
            }
            _ => error,
        })?;
        let records = journal.entries().with_context(|| format!("shard {}: its moves are not touched", job.shard))?;
        Ok(Self { journal, records, run: job.run.clone(), fence: job.fence, folder: job.journals.clone() })
    }

    /// Takes on a move: the one that the journal is in the middle of, or a new one, of a source that is not armed yet.
    ///
    /// # Errors
    /// The journal is in the middle of another one, or the source does not answer.
    pub fn begin(&mut self, spec: &MoveSpec) -> Result<()> {
        if self.goes_on(spec, false)? {
            return Ok(());
        }
        let armed = Link::open(&spec.from, &spec.job.credentials)?.setting("min-replicas-to-write")?;
        self.append(Step::Begin, Mark::Done, json!(Begun { min_replicas: Some(armed), ..Begun::of(spec) }))
    }

    /// Takes on the making of a replica, as [`Diary::begin`]; its primary is never armed for it.
    ///
    /// # Errors
    /// The journal is in the middle of another move.
    pub fn begin_replica(&mut self, spec: &MoveSpec) -> Result<()> {
        if self.goes_on(spec, true)? {
            return Ok(());
        }
        self.append(Step::Begin, Mark::Done, json!(Begun { replica: true, ..Begun::of(spec) }))
    }

    /// Is the journal in the middle of this very move?
    fn goes_on(&self, spec: &MoveSpec, replica: bool) -> Result<bool> {
        let Some(last) = self.begun().filter(|_| !is_finished(self.this_move())) else { return Ok(false) };
        if !last.failover && (&last.from, &last.to, last.replica) == (&spec.from, &spec.to, replica) {
            return Ok(true);
        }
        let what = match last {
            Begun { replica: true, .. } => "replica in the making",
            Begun { failover: true, .. } => "failover",
            _ => "move",
        };
        bail!(
            "shard {} has an unfinished {what} here, from {} to {}; `dunlin shards resume` or `abort` ends it",
            spec.job.shard,
            last.from,
            last.to
        );
    }

    /// Takes on a failover: the one that the journal is in the middle of, or a new one.
    ///
    /// # Errors
    /// The journal is in the middle of something else.
    pub fn take_over(&mut self, what: &failover::Promote, min_replicas: String) -> Result<()> {
        if let Some(last) = self.begun().filter(|_| !is_finished(self.this_move())) {
            if last.failover && (&last.from, &last.to) == (&what.from, &what.to) {
                return Ok(());
            }
            bail!("shard {} has an unfinished move here, from {} to {}", what.job.shard, last.from, last.to);
        }
        let begun = Begun {
            from: what.from.clone(),
            to: what.to.clone(),
            others: what.others.clone(),
            epoch: what.epoch,
            app_user: what.app_user.clone(),
            instance: what.instance.clone(),
            min_replicas: Some(min_replicas),
            by: what.by.clone(),
            replica: false,
            sparing: Sparing::default(),
            failover: true,
        };
        self.append(Step::Begin, Mark::Done, json!(begun))
    }

    /// The move that the journal is about, last.
    pub fn begun(&self) -> Option<Begun> {
        let first = self.this_move().first()?;
        serde_json::from_value(first.detail.clone()).ok()
    }

    /// The records of the last move.
    pub fn this_move(&self) -> &[Record] {
        last_move(&self.records)
    }

    /// The last record of a step in the last move.
    pub fn last(&self, step: Step, mark: Mark) -> Option<&Record> {
        self.this_move().iter().rev().find(|record| record.step == step && record.mark == mark)
    }

    /// Announces a step; it may be done once this has returned.
    ///
    /// # Errors
    /// It is not on the disk, or a later run has this host: the step must not be done.
    pub fn intent(&mut self, step: Step, detail: Value) -> Result<()> {
        fence::check(&self.folder, self.fence)?;
        self.append(step, Mark::Intent, detail)?;
        crash::point(step, Moment::Before);
        Ok(())
    }

    /// Announces a step without waiting for the disk, where recovery can do without it.
    ///
    /// # Errors
    /// What the system said.
    pub fn announce(&mut self, step: Step) -> Result<()> {
        self.note(step, Mark::Intent, Value::Null)?;
        crash::point(step, Moment::Before);
        Ok(())
    }

    /// Notes that a step is done.
    ///
    /// # Errors
    /// What the system said.
    pub fn done(&mut self, step: Step, detail: Value) -> Result<()> {
        crash::point(step, Moment::After);
        self.append(step, Mark::Done, detail)
    }

    /// Notes that a step is done, without waiting for the disk.
    ///
    /// # Errors
    /// What the system said.
    pub fn passed(&mut self, step: Step) -> Result<()> {
        crash::point(step, Moment::After);
        self.note(step, Mark::Done, Value::Null)
    }

    /// Notes that a step failed.
    ///
    /// # Errors
    /// What the system said.
    pub fn failed(&mut self, step: Step, why: &str) -> Result<()> {
        self.append(step, Mark::Failed, json!({ "why": why }))
    }

    fn append(&mut self, step: Step, mark: Mark, detail: Value) -> Result<()> {
        let record = self.record(step, mark, detail);
        self.journal.append(&record)?;
        self.records.push(record);
        Ok(())
    }

    fn note(&mut self, step: Step, mark: Mark, detail: Value) -> Result<()> {
        let record = self.record(step, mark, detail);
        self.journal.append_unsynced(&record)?;
        self.records.push(record);
        Ok(())
    }

    fn record(&self, step: Step, mark: Mark, detail: Value) -> Record {
        Record { at: jiff::Timestamp::now().to_string(), run: self.run.clone(), step, mark, detail }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A step of a run on a shard, for tests.
    pub fn job(journals: &Path, shard: u32, (run, fence): (&str, u64)) -> Job {
        let credentials = crate::wire::shard::Credentials { user: String::new(), password: String::new() };
        Job { run: run.to_owned(), fence, shard, credentials, journals: journals.to_owned() }
    }

    #[test]
    fn a_shard_is_locked_once() {
        let folder = tempfile::tempdir().unwrap();
        let held = Diary::open(&job(folder.path(), 3, ("r1", 0))).unwrap();
        let locked = Diary::open(&job(folder.path(), 3, ("r2", 0))).unwrap_err();
        crate::messages::check("journal-locked", [("a second run", locked)]);
        drop(held);
        Diary::open(&job(folder.path(), 3, ("r2", 0))).unwrap();
    }

    #[test]
    fn no_step_is_taken_by_a_damaged_journal() {
        let folder = tempfile::tempdir().unwrap();
        let job = job(folder.path(), 3, ("r1", 0));
        let mut diary = Diary::open(&job).unwrap();
        diary.intent(Step::Birth, Value::Null).unwrap();
        diary.done(Step::Birth, Value::Null).unwrap();
        drop(diary);
        let path = path(folder.path(), 3);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replacen("birth", "rebirth", 1)).unwrap();
        let error = format!("{:#}", Diary::open(&job).unwrap_err());
        assert!(error.contains("shard-3.jsonl:1: not a journal entry") && error.contains("rebirth"), "{error}");
    }
}
