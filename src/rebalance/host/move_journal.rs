//! The journal of a shard on the target's host: records intent and result of each move step, and locks the shard.

pub(super) mod entry;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use dunlin_shards::ShardId;
use serde_json::{Value, json};

use super::failpoint::{self, FailpointPosition};
use super::redis_client::RedisClient;
use super::run_generation;
use crate::journal::{Journal, JournalError};
use crate::protocol::shard::{MovePhase, MoveRecord, MoveSpec, Operation, PhaseState, StepHeader, failover};
pub use entry::{
    JournalEntry, chosen_instance, entries_since_roll_back, is_finished, last_move_entries, recorded_failover,
};

/// Holds the locked journal of one shard.
#[derive(Debug)]
pub struct MoveJournal {
    journal: Journal,
    entries: Vec<JournalEntry>,
    run: String,
    /// Generation of the run; `journal_dir` holds the latest one.
    generation: u64,
    journal_dir: PathBuf,
}

/// Returns the path of a shard's journal.
pub fn journal_path(folder: &Path, shard: ShardId) -> PathBuf {
    folder.join(format!("shard-{shard}.jsonl"))
}

impl MoveJournal {
    /// Opens the shard's journal for appending, which locks the shard, and reads it.
    ///
    /// # Errors
    /// Returns an error if another request works on this shard, a later run uses this host, or the journal is damaged.
    pub fn open(job: &StepHeader) -> Result<Self> {
        run_generation::check_generation(&job.journal_dir, job.generation)?;
        let path = journal_path(&job.journal_dir, job.shard);
        let mut journal = Journal::open(&path).map_err(|error| match error.downcast_ref() {
            Some(JournalError::Locked { .. }) => {
                anyhow!("another request is working on shard {} on this host", job.shard)
            }
            _ => error,
        })?;
        let records =
            journal.entries().with_context(|| format!("shard {}: no step of its moves was run", job.shard))?;
        Ok(Self {
            journal,
            entries: records,
            run: job.run.clone(),
            generation: job.generation,
            journal_dir: job.journal_dir.clone(),
        })
    }

    /// Resumes the unfinished move in the journal, or begins a new one whose source is not prepared yet.
    ///
    /// # Errors
    /// Returns an error if another move is unfinished, or the source does not answer.
    pub fn start_move(&mut self, spec: &MoveSpec) -> Result<()> {
        ensure!(
            matches!(spec.record.operation, Operation::Relocate { .. }),
            "{} does not replace {}",
            spec.record.to,
            spec.record.from
        );
        if self.is_resuming(spec)? {
            return Ok(());
        }
        let min_replicas =
            RedisClient::open(&spec.record.from, &spec.header.credentials)?.fetch_setting("min-replicas-to-write")?;
        self.append_entry(
            MovePhase::Begin,
            PhaseState::Done,
            json!(MoveRecord { min_replicas: Some(min_replicas), ..spec.record.clone() }),
        )
    }

    /// Begins or resumes building a replica, like [`Self::start_move`]; the primary's settings stay unchanged.
    ///
    /// # Errors
    /// Returns an error if another move is unfinished.
    pub fn start_replica_build(&mut self, spec: &MoveSpec) -> Result<()> {
        ensure!(
            spec.record.operation.creates_replica(),
            "{} is not a new replica of {}",
            spec.record.to,
            spec.record.from
        );
        if self.is_resuming(spec)? {
            return Ok(());
        }
        self.append_entry(MovePhase::Begin, PhaseState::Done, json!(spec.record))
    }

    /// Returns true if this move is the unfinished one in the journal.
    fn is_resuming(&self, spec: &MoveSpec) -> Result<bool> {
        let Some(last) = self.move_record().filter(|_| !is_finished(self.current_entries())) else { return Ok(false) };
        if last.operation.is_same_kind(&spec.record.operation)
            && (&last.from, &last.to) == (&spec.record.from, &spec.record.to)
        {
            return Ok(true);
        }
        bail!(
            "shard {} has an unfinished {} on this host, from {} to {}; run `dunlin shards resume` or `abort`",
            spec.header.shard,
            last.operation.as_str(),
            last.from,
            last.to
        );
    }

    /// Resumes the unfinished failover in the journal, or begins a new one.
    ///
    /// # Errors
    /// Returns an error if another move or failover is unfinished.
    pub fn start_failover(&mut self, request: &failover::PromoteReplica, min_replicas: String) -> Result<()> {
        if let Some(last) = self.move_record().filter(|_| !is_finished(self.current_entries())) {
            if last.operation.is_failover() && (&last.from, &last.to) == (&request.record.from, &request.record.to) {
                return Ok(());
            }
            bail!(
                "shard {} has an unfinished move on this host, from {} to {}",
                request.header.shard,
                last.from,
                last.to
            );
        }
        let begun = MoveRecord { min_replicas: Some(min_replicas), ..request.record.clone() };
        self.append_entry(MovePhase::Begin, PhaseState::Done, json!(begun))
    }

    /// Returns the last move in the journal.
    pub fn move_record(&self) -> Option<MoveRecord> {
        let first = self.current_entries().first()?;
        serde_json::from_value(first.detail.clone()).ok()
    }

    /// Returns the entries of the last move.
    pub fn current_entries(&self) -> &[JournalEntry] {
        last_move_entries(&self.entries)
    }

    /// Returns the last entry of a step with this state in the last move.
    pub fn last_entry(&self, step: MovePhase, mark: PhaseState) -> Option<&JournalEntry> {
        self.current_entries().iter().rev().find(|record| record.phase == step && record.state == mark)
    }

    /// Records durably that a step is about to run; the caller may run it only after this has returned.
    ///
    /// # Errors
    /// Returns an error if the entry could not be synced, or a later run uses this host; the step must not run then.
    pub fn log_intent(&mut self, step: MovePhase, detail: Value) -> Result<()> {
        run_generation::check_generation(&self.journal_dir, self.generation)?;
        self.append_entry(step, PhaseState::Intent, detail)?;
        failpoint::hit_failpoint(step, FailpointPosition::Before);
        Ok(())
    }

    /// Records that a step is about to run, without a sync; only for steps that recovery does not depend on.
    ///
    /// # Errors
    /// Returns an error if the entry cannot be written.
    pub fn log_intent_unsynced(&mut self, step: MovePhase) -> Result<()> {
        self.append_entry_unsynced(step, PhaseState::Intent, Value::Null)?;
        failpoint::hit_failpoint(step, FailpointPosition::Before);
        Ok(())
    }

    /// Records durably that a step is done.
    ///
    /// # Errors
    /// Returns an error if the entry cannot be written or synced.
    pub fn log_done(&mut self, step: MovePhase, detail: Value) -> Result<()> {
        failpoint::hit_failpoint(step, FailpointPosition::After);
        self.append_entry(step, PhaseState::Done, detail)
    }

    /// Records that a step is done, without a sync.
    ///
    /// # Errors
    /// Returns an error if the entry cannot be written.
    pub fn log_done_unsynced(&mut self, step: MovePhase) -> Result<()> {
        failpoint::hit_failpoint(step, FailpointPosition::After);
        self.append_entry_unsynced(step, PhaseState::Done, Value::Null)
    }

    /// Records durably that a step failed.
    ///
    /// # Errors
    /// Returns an error if the entry cannot be written or synced.
    pub fn log_failure(&mut self, step: MovePhase, reason: &str) -> Result<()> {
        self.append_entry(step, PhaseState::Failed, json!({ "reason": reason }))
    }

    fn append_entry(&mut self, step: MovePhase, mark: PhaseState, detail: Value) -> Result<()> {
        let record = self.new_entry(step, mark, detail);
        self.journal.append(&record)?;
        self.entries.push(record);
        Ok(())
    }

    fn append_entry_unsynced(&mut self, step: MovePhase, mark: PhaseState, detail: Value) -> Result<()> {
        let record = self.new_entry(step, mark, detail);
        self.journal.append_unsynced(&record)?;
        self.entries.push(record);
        Ok(())
    }

    fn new_entry(&self, step: MovePhase, mark: PhaseState, detail: Value) -> JournalEntry {
        JournalEntry {
            recorded_at: jiff::Timestamp::now().to_string(),
            run: self.run.clone(),
            phase: step,
            state: mark,
            detail,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A step of a run on a shard, for tests.
    pub fn test_header(journals: &Path, shard: u16, run: &str, generation: u64) -> StepHeader {
        let credentials =
            crate::protocol::shard::Credentials { user: String::new(), password: String::new(), tls_ca: None };
        StepHeader {
            run: run.to_owned(),
            generation,
            shard: ShardId(shard),
            credentials,
            journal_dir: journals.to_owned(),
        }
    }

    #[test]
    fn a_shard_cannot_be_locked_twice() {
        let folder = tempfile::tempdir().unwrap();
        let held = MoveJournal::open(&test_header(folder.path(), 3, "r1", 0)).unwrap();
        let locked = MoveJournal::open(&test_header(folder.path(), 3, "r2", 0)).unwrap_err();
        crate::messages::check("journal-locked", [("a second run", locked)]);
        drop(held);
        MoveJournal::open(&test_header(folder.path(), 3, "r2", 0)).unwrap();
    }

    #[test]
    fn no_step_is_taken_by_a_damaged_journal() {
        let folder = tempfile::tempdir().unwrap();
        let job = test_header(folder.path(), 3, "r1", 0);
        let mut diary = MoveJournal::open(&job).unwrap();
        diary.log_intent(MovePhase::StartReplica, Value::Null).unwrap();
        diary.log_done(MovePhase::StartReplica, Value::Null).unwrap();
        drop(diary);
        let path = journal_path(folder.path(), ShardId(3));
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replacen("start_replica", "restart_replica", 1)).unwrap();
        let error = format!("{:#}", MoveJournal::open(&job).unwrap_err());
        assert!(error.contains("shard-3.jsonl:1: not a journal entry") && error.contains("restart_replica"), "{error}");
    }
}
