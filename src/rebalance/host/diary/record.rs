//! The lines of a shard's journal: which step of which move, and what of it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::wire::shard::{MoveSpec, failover};
use crate::wire::sparing::Sparing;

/// The steps of a move, in their order; `RollBack` and `Abort` end it at the source, `Settle` at the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// A move is taken on; its detail is the move without its secrets.
    Begin,
    /// The target is started as a replica.
    Birth,
    /// It catches up.
    Copy,
    /// The two are compared.
    Verify,
    /// The source accepts writes only with its replicas attached, also after a restart.
    Arm,
    /// The target's files make it a master that is closed to the application.
    StandBy,
    /// The source holds writes.
    Pause,
    /// The target takes the rest.
    Drain,
    /// The source becomes the target's replica.
    Fence,
    /// The target becomes the master, and the application may use it.
    Promote,
    /// So it is after a restart too.
    Open,
    /// The source's new role is durable, the other replicas follow.
    Settle,
    /// The source is as before, the copy goes on.
    RollBack,
    /// The source is as before, the copy is gone.
    Abort,
    /// An instance that handed its shard over is stopped.
    Retire,
}

impl Step {
    /// All, in order.
    pub const ALL: [Self; 15] = [
        Self::Begin,
        Self::Birth,
        Self::Copy,
        Self::Verify,
        Self::Arm,
        Self::StandBy,
        Self::Pause,
        Self::Drain,
        Self::Fence,
        Self::Promote,
        Self::Open,
        Self::Settle,
        Self::RollBack,
        Self::Abort,
        Self::Retire,
    ];

    /// Its name as in the journal.
    pub fn name(self) -> &'static str {
        match self {
            Self::Begin => "begin",
            Self::Birth => "birth",
            Self::Copy => "copy",
            Self::Verify => "verify",
            Self::Arm => "arm",
            Self::StandBy => "stand_by",
            Self::Pause => "pause",
            Self::Drain => "drain",
            Self::Fence => "fence",
            Self::Promote => "promote",
            Self::Open => "open",
            Self::Settle => "settle",
            Self::RollBack => "roll_back",
            Self::Abort => "abort",
            Self::Retire => "retire",
        }
    }
}

/// What is said of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// It is going to be done.
    Intent,
    /// It is done.
    Done,
    /// It failed.
    Failed,
}

/// One line of the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "UncheckedRecord")]
pub struct Record {
    /// When, RFC 3339.
    pub at: String,
    /// The run.
    pub run: String,
    /// The step.
    pub step: Step,
    /// What of it.
    pub mark: Mark,
    /// What recovery needs to know.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub detail: Value,
}

/// A line of the journal whose detail was not looked at.
#[derive(Deserialize)]
struct UncheckedRecord {
    at: String,
    run: String,
    step: Step,
    mark: Mark,
    #[serde(default)]
    detail: Value,
}

impl TryFrom<UncheckedRecord> for Record {
    type Error = serde_json::Error;

    /// Refuses a first step that does not say which move it begins: recovery would take the shard for one that has no
    /// move in progress.
    fn try_from(line: UncheckedRecord) -> Result<Self, serde_json::Error> {
        let UncheckedRecord { at, run, step, mark, detail } = line;
        if step == Step::Begin {
            Begun::deserialize(&detail)?;
        }
        Ok(Self { at, run, step, mark, detail })
    }
}

/// A move as the journal keeps it: without secrets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Begun {
    /// Source.
    pub from: String,
    /// Target.
    pub to: String,
    /// The source's other replicas.
    pub others: Vec<String>,
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
    pub by: String,
    /// Is it a failover? Then the source was given up, and `min_replicas` is the target's.
    #[serde(default)]
    pub failover: bool,
    /// What it leaves to the source's clients; whoever goes on with it keeps to that.
    #[serde(default)]
    pub sparing: Sparing,
    /// Is it a replica that is made? Then `others` is the one that it replaces.
    #[serde(default)]
    pub replica: bool,
}

impl Begun {
    /// A move that is taken on.
    pub fn of(spec: &MoveSpec) -> Self {
        Self {
            from: spec.from.clone(),
            to: spec.to.clone(),
            others: spec.others.clone(),
            epoch: spec.epoch,
            app_user: spec.app_user.clone(),
            instance: spec.instance.clone(),
            min_replicas: None,
            by: spec.by.clone(),
            failover: false,
            sparing: spec.limits.sparing,
            replica: false,
        }
    }
}

/// The records of the last move in a journal, its `Begin` first.
pub fn last_move(records: &[Record]) -> &[Record] {
    let begin = records.iter().rposition(|record| record.step == Step::Begin).unwrap_or(records.len());
    &records[begin..]
}

/// The failover that a journal is about last, and the copy that it promotes.
pub fn stage(records: &[Record]) -> Option<(failover::Begun, String)> {
    let records = last_move(records);
    let begun: Begun = serde_json::from_value(records.first()?.detail.clone()).ok()?;
    let promoted = records.iter().any(|record| record.step == Step::Promote && record.mark == Mark::Intent);
    let stage = failover::Begun { from: begun.from, promoted, finished: is_finished(records) };
    begun.failover.then_some((stage, begun.to))
}

/// Has a move come to its end, at the source or at the target?
pub fn is_finished(records: &[Record]) -> bool {
    let ends = |record: &Record| matches!(record.step, Step::Settle | Step::Abort) && record.mark == Mark::Done;
    records.iter().any(ends)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_has_the_name_it_has_in_the_journal() {
        for step in Step::ALL {
            assert_eq!(serde_json::to_value(step).unwrap(), step.name());
        }
    }

    #[test]
    fn a_move_that_does_not_say_what_it_moves_is_refused() {
        let line =
            |step: &str| format!(r#"{{"at": "now", "run": "r1", "step": "{step}", "mark": "done", "detail": {{}}}}"#);
        let error = serde_json::from_str::<Record>(&line("begin")).unwrap_err().to_string();
        assert!(error.contains("from"), "{error}");
        serde_json::from_str::<Record>(&line("copy")).unwrap();
    }
}
