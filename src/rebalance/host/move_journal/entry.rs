//! The lines of a shard's journal: which step of which move, and what of it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::protocol::shard::{MoveSpec, failover};
use crate::protocol::throttle::ThrottleLimits;

/// The steps of a move, in their order; `RollBack` and `Abort` end it at the source, `Settle` at the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MovePhase {
    /// A move is taken on; its detail is the move without its secrets.
    Begin,
    /// The target is started as a replica.
    StartReplica,
    /// It catches up.
    Copy,
    /// The two are compared.
    Verify,
    /// The source accepts writes only with its replicas attached, also after a restart.
    RequireReplicas,
    /// The target's files make it a master that is closed to the application.
    PrepareStandby,
    /// The source holds writes.
    Pause,
    /// The target takes the rest.
    Drain,
    /// The source becomes the target's replica.
    DemoteSource,
    /// The target becomes the master, and the application may use it.
    Promote,
    /// So it is after a restart too.
    OpenTarget,
    /// The source's new role is durable, the other replicas follow.
    Finalize,
    /// The source is as before, the copy goes on.
    RollBack,
    /// The source is as before, the copy is gone.
    Abort,
    /// An instance that handed its shard over is stopped.
    Retire,
}

impl MovePhase {
    /// All, in order.
    pub const ALL: [Self; 15] = [
        Self::Begin,
        Self::StartReplica,
        Self::Copy,
        Self::Verify,
        Self::RequireReplicas,
        Self::PrepareStandby,
        Self::Pause,
        Self::Drain,
        Self::DemoteSource,
        Self::Promote,
        Self::OpenTarget,
        Self::Finalize,
        Self::RollBack,
        Self::Abort,
        Self::Retire,
    ];

    /// Its name as in the journal.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Begin => "begin",
            Self::StartReplica => "start_replica",
            Self::Copy => "copy",
            Self::Verify => "verify",
            Self::RequireReplicas => "require_replicas",
            Self::PrepareStandby => "prepare_standby",
            Self::Pause => "pause",
            Self::Drain => "drain",
            Self::DemoteSource => "demote_source",
            Self::Promote => "promote",
            Self::OpenTarget => "open_target",
            Self::Finalize => "finalize",
            Self::RollBack => "roll_back",
            Self::Abort => "abort",
            Self::Retire => "retire",
        }
    }
}

/// What is said of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PhaseState {
    /// It is going to be done.
    Intent,
    /// It is done.
    Done,
    /// It failed.
    Failed,
}

/// One line of the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "UncheckedEntry")]
pub struct JournalEntry {
    /// When, RFC 3339.
    pub recorded_at: String,
    /// The run.
    pub run: String,
    /// The step.
    pub phase: MovePhase,
    /// What of it.
    pub state: PhaseState,
    /// What recovery needs to know.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub detail: Value,
}

/// A line of the journal whose detail was not looked at.
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

    /// Refuses a first step that does not say which move it begins: recovery would take the shard for one that has no
    /// move in progress.
    fn try_from(line: UncheckedEntry) -> Result<Self, serde_json::Error> {
        let UncheckedEntry { recorded_at, run, phase, state, detail } = line;
        if phase == MovePhase::Begin {
            MoveRecord::deserialize(&detail)?;
        }
        Ok(Self { recorded_at, run, phase, state, detail })
    }
}

/// A move as the journal keeps it: without secrets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MoveRecord {
    /// Source.
    pub from: String,
    /// Target.
    pub to: String,
    /// The source's other replicas.
    pub other_replicas: Vec<String>,
    /// The epoch it is for.
    pub epoch: u64,
    /// The application's user.
    pub app_user: String,
    /// The target instance.
    pub instance: Value,
    /// The source's `min-replicas-to-write` before it was armed.
    #[serde(default)]
    pub min_replicas: Option<String>,
    /// Who ran it.
    #[serde(default)]
    pub operator: String,
    /// Is it a failover? Then the source was given up, and `min_replicas` is the target's.
    #[serde(default)]
    pub is_failover: bool,
    /// What it leaves to the source's clients; whoever goes on with it keeps to that.
    #[serde(default)]
    pub throttle: ThrottleLimits,
    /// Is it a replica that is made? Then `others` is the one that it replaces.
    #[serde(default)]
    pub is_replica: bool,
}

impl MoveRecord {
    /// A move that is taken on.
    pub fn from_spec(spec: &MoveSpec) -> Self {
        Self {
            from: spec.from.clone(),
            to: spec.to.clone(),
            other_replicas: spec.other_replicas.clone(),
            epoch: spec.epoch,
            app_user: spec.app_user.clone(),
            instance: spec.instance.clone(),
            min_replicas: None,
            operator: spec.operator.clone(),
            is_failover: false,
            throttle: spec.limits.throttle,
            is_replica: false,
        }
    }
}

/// The records of the last move in a journal, its `Begin` first.
pub fn last_move_entries(entries: &[JournalEntry]) -> &[JournalEntry] {
    let begin = entries.iter().rposition(|record| record.phase == MovePhase::Begin).unwrap_or(entries.len());
    &entries[begin..]
}

/// The failover that a journal is about last, and the copy that it promotes.
pub fn recorded_failover(entries: &[JournalEntry]) -> Option<(failover::FailoverRecord, String)> {
    let records = last_move_entries(entries);
    let begun: MoveRecord = serde_json::from_value(records.first()?.detail.clone()).ok()?;
    let promoted =
        records.iter().any(|record| record.phase == MovePhase::Promote && record.state == PhaseState::Intent);
    let stage =
        failover::FailoverRecord { from: begun.from, promotion_started: promoted, is_finished: is_finished(records) };
    begun.is_failover.then_some((stage, begun.to))
}

/// Has a move come to its end, at the source or at the target?
pub fn is_finished(entries: &[JournalEntry]) -> bool {
    let ends = |record: &JournalEntry| {
        matches!(record.phase, MovePhase::Finalize | MovePhase::Abort) && record.state == PhaseState::Done
    };
    entries.iter().any(ends)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phase_name_matches_its_journal_name() {
        for step in MovePhase::ALL {
            assert_eq!(serde_json::to_value(step).unwrap(), step.as_str());
        }
    }

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
