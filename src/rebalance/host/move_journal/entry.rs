//! The entries of a shard's journal: phase, state and detail of each step of a move.

use dunlin_shards::InstanceAddress;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::protocol::shard::{MovePhase, MoveRecord, PhaseState, failover};

/// Represents one line of the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "UncheckedEntry")]
pub struct JournalEntry {
    /// Time of the entry, RFC 3339.
    pub recorded_at: String,
    /// Run that wrote the entry.
    pub run: String,
    /// Phase of the move.
    pub phase: MovePhase,
    /// State of the phase.
    pub state: PhaseState,
    /// Data that recovery needs.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub detail: Value,
}

/// Represents a line of the journal before its detail is checked.
#[derive(Deserialize)]
struct UncheckedEntry {
    recorded_at: String,
    run: String,
    phase: MovePhase,
    state: PhaseState,
    #[serde(default)]
    detail: Value,
}

impl TryFrom<UncheckedEntry> for JournalEntry {
    type Error = serde_json::Error;

    /// Rejects a `Begin` entry without a move: recovery would treat the shard as one without a move in progress.
    fn try_from(line: UncheckedEntry) -> Result<Self, serde_json::Error> {
        let UncheckedEntry { recorded_at, run, phase, state, detail } = line;
        if phase == MovePhase::Begin {
            MoveRecord::deserialize(&detail)?;
        }
        Ok(Self { recorded_at, run, phase, state, detail })
    }
}

/// Returns the entries of the last move in a journal, starting with its `Begin`.
pub fn last_move_entries(entries: &[JournalEntry]) -> &[JournalEntry] {
    let begin = entries.iter().rposition(|record| record.phase == MovePhase::Begin).unwrap_or(entries.len());
    &entries[begin..]
}

/// Returns the failover that a journal ends with, and the address of the replica that it promotes.
pub fn recorded_failover(entries: &[JournalEntry]) -> Option<(failover::FailoverRecord, InstanceAddress)> {
    let records = last_move_entries(entries);
    let begun: MoveRecord = serde_json::from_value(records.first()?.detail.clone()).ok()?;
    let promoted =
        records.iter().any(|record| record.phase == MovePhase::Promote && record.state == PhaseState::Intent);
    let stage =
        failover::FailoverRecord { from: begun.from, promotion_started: promoted, is_finished: is_finished(records) };
    begun.operation.is_failover().then_some((stage, begun.to))
}

/// Returns the instance that the operator chose, from the entries of the last move in a journal.
pub fn chosen_instance(entries: &[JournalEntry]) -> Option<InstanceAddress> {
    let is_choice = |entry: &&JournalEntry| entry.phase == MovePhase::ChooseInstance && entry.state == PhaseState::Done;
    let entry = entries.iter().rev().find(is_choice)?;
    serde_json::from_value(entry.detail["chosen"].clone()).ok()
}

/// Returns true if the move has ended, at the source or at the target.
pub fn is_finished(entries: &[JournalEntry]) -> bool {
    let ends = |record: &JournalEntry| {
        matches!(record.phase, MovePhase::Finalize | MovePhase::Abort) && record.state == PhaseState::Done
    };
    entries.iter().any(ends)
}

/// Returns the entries since the last rollback.
pub fn entries_since_roll_back(entries: &[JournalEntry]) -> &[JournalEntry] {
    let last =
        entries.iter().rposition(|record| record.phase == MovePhase::RollBack && record.state == PhaseState::Done);
    &entries[last.map_or(0, |last| last + 1)..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_that_does_not_say_what_it_moves_is_refused() {
        let line = |step: &str| {
            format!(r#"{{"recorded_at": "now", "run": "r1", "phase": "{step}", "state": "done", "detail": {{}}}}"#)
        };
        let error = serde_json::from_str::<JournalEntry>(&line("begin")).unwrap_err().to_string();
        assert!(error.contains("from"), "{error}");
        serde_json::from_str::<JournalEntry>(&line("copy")).unwrap();
    }
}
