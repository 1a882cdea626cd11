//! Tasks of a release: commands that run once per fleet, and the records of their runs.

use serde::{Deserialize, Serialize};

use super::ReleaseVersion;

/// A command that is run on one host of a rollout: a migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseTask {
    /// Its name.
    pub name: String,
    /// Program and arguments, as in [`ServiceConfig::user`](super::ServiceConfig::user).
    pub argv: Vec<String>,
    /// Time of the run: before or after the switch.
    pub phase: TaskPhase,
    /// Milliseconds until it is ended and counts as failed.
    pub timeout_ms: u64,
}

/// On which side of the switch a task runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskPhase {
    /// Before the first host is switched.
    BeforeSwitch,
    /// After the last host was switched.
    AfterSwitch,
}

/// The record of one attempt to run a task; every host of the service has a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRecord {
    /// The task's name.
    pub name: String,
    /// The release that it belongs to.
    pub version: ReleaseVersion,
    /// The run of dunlin that made the attempt.
    pub run: String,
    /// The host on which the task runs; for [`TaskStatus::Completed`] by `--task-done` the operator.
    pub runner: String,
    /// Status of the attempt.
    pub status: TaskStatus,
}

/// Status of an attempt to run a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskStatus {
    /// The attempt started; without a later status it is unknown whether the task took effect.
    Started,
    /// The task succeeded.
    Completed,
    /// The task failed or was not started; it may run again.
    Failed,
}

/// State of a task according to the records of several hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// No attempt succeeded, and none has an unknown result.
    Pending,
    /// The task succeeded.
    Completed(TaskRecord),
    /// An attempt started and its result is unknown.
    Interrupted(TaskRecord),
}

impl TaskState {
    /// Returns the state of a task from the records of all hosts.
    ///
    /// The host that ran an attempt records its end first. An attempt has ended if any host says so.
    pub fn from_records(records: &[TaskRecord], name: &str, version: &ReleaseVersion) -> Self {
        let own = || records.iter().filter(|record| record.name == name && record.version == *version);
        if let Some(record) = own().find(|record| record.status == TaskStatus::Completed) {
            return Self::Completed(record.clone());
        }
        let has_ended = |run: &str| own().any(|other| other.run == run && other.status == TaskStatus::Failed);
        own()
            .find(|record| record.status == TaskStatus::Started && !has_ended(&record.run))
            .map_or(Self::Pending, |record| Self::Interrupted(record.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(run: &str, status: TaskStatus) -> TaskRecord {
        let version = ReleaseVersion::new("1.0").unwrap();
        TaskRecord { name: "migrate".to_owned(), version, run: run.to_owned(), runner: "app-1".to_owned(), status }
    }

    fn state(records: &[TaskRecord]) -> TaskState {
        TaskState::from_records(records, "migrate", &ReleaseVersion::new("1.0").unwrap())
    }

    #[test]
    fn the_records_of_all_hosts_give_one_state() {
        use TaskStatus::{Completed, Failed, Started};
        assert_eq!(state(&[]), TaskState::Pending);
        let started = record("a", Started);
        assert_eq!(state(std::slice::from_ref(&started)), TaskState::Interrupted(started.clone()));
        assert_eq!(state(&[started.clone(), record("a", Failed)]), TaskState::Pending);
        assert_eq!(state(&[record("b", Failed), started.clone()]), TaskState::Interrupted(started.clone()));
        let done = record("b", Completed);
        assert_eq!(state(&[started.clone(), done.clone()]), TaskState::Completed(done));
        let other = TaskState::from_records(&[started], "migrate", &ReleaseVersion::new("1.1").unwrap());
        assert_eq!(other, TaskState::Pending, "a task belongs to one release");
    }
}
