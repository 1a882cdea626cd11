//! Decides which tasks of a release are due, from the records of all hosts of the service.

use crate::protocol::deploy::{ReleaseTask, ReleaseVersion, TaskPhase, TaskRecord, TaskState, TaskStatus};

/// The tasks of a release, and what the operator says about those whose result is unknown.
pub struct TaskSelection<'a> {
    /// Tasks of the recipe.
    pub tasks: &'a [ReleaseTask],
    /// The release.
    pub version: &'a ReleaseVersion,
    /// Names of tasks of unknown result that were done.
    pub assume_done: &'a [String],
    /// Names of tasks of unknown result that run again.
    pub run_again: &'a [String],
    /// The operator, as in the records.
    pub operator: &'a str,
    /// The run of dunlin.
    pub run: &'a str,
}

/// Records of tasks on one host.
pub struct HostRecords {
    /// The host.
    pub host: String,
    /// The records; without them why they are unknown.
    pub records: Result<Vec<TaskRecord>, String>,
}

/// The tasks that a rollout runs, and the records that it puts on hosts without them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DueTasks {
    /// Tasks to run, in the order of the recipe.
    pub due: Vec<ReleaseTask>,
    /// Completed tasks of the release.
    pub completed: Vec<TaskRecord>,
}

/// Describes a task whose result is unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownTask {
    /// The task's name.
    pub name: String,
    /// Reason in one line.
    pub reason: String,
}

/// Describes a name of a task that the operator must not give.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TaskNameError {
    /// The recipe has no such task.
    #[error("the recipe has no task `{name}`")]
    Unknown {
        /// The name.
        name: String,
        /// Names of the tasks of the recipe.
        known: Vec<String>,
    },
    /// A task is both done and to run again.
    #[error("task `{0}` is both done and to run again")]
    Contradiction(String),
}

/// Checks that the operator names tasks of the recipe, each task once.
///
/// # Errors
/// See [`TaskNameError`].
pub fn check_task_names(
    tasks: &[ReleaseTask],
    assume_done: &[String],
    run_again: &[String],
) -> Result<(), TaskNameError> {
    let is_unknown = |name: &&String| tasks.iter().all(|task| task.name != **name);
    if let Some(name) = assume_done.iter().chain(run_again).find(is_unknown) {
        let known = tasks.iter().map(|task| task.name.clone()).collect();
        return Err(TaskNameError::Unknown { name: name.clone(), known });
    }
    match assume_done.iter().find(|name| run_again.contains(name)) {
        Some(name) => Err(TaskNameError::Contradiction(name.clone())),
        None => Ok(()),
    }
}

impl TaskSelection<'_> {
    /// Selects the tasks to run. Tasks behind the switch wait for a rollout that has all hosts of the service.
    ///
    /// # Errors
    /// Returns the tasks of unknown result about which the operator says nothing.
    pub fn select_due(&self, hosts: &[HostRecords], has_all_hosts: bool) -> Result<DueTasks, Vec<UnknownTask>> {
        let (mut selected, mut unknown) = (DueTasks::default(), Vec::new());
        for task in self.tasks {
            let reason = match self.find_state(task, hosts) {
                Ok(TaskState::Completed(record)) => {
                    selected.completed.push(record);
                    continue;
                }
                _ if self.assume_done.contains(&task.name) => {
                    selected.completed.push(self.assumed_record(task));
                    continue;
                }
                _ if task.phase == TaskPhase::AfterSwitch && !has_all_hosts => continue,
                Ok(TaskState::Pending) => None,
                Ok(TaskState::Interrupted(record)) => Some(format!(
                    "it started on {} in run {}, and there is no record of its end",
                    record.runner, record.run
                )),
                Err(reason) => Some(reason),
            };
            match reason {
                Some(reason) if !self.run_again.contains(&task.name) => {
                    unknown.push(UnknownTask { name: task.name.clone(), reason });
                }
                _ => selected.due.push(task.clone()),
            }
        }
        if unknown.is_empty() { Ok(selected) } else { Err(unknown) }
    }

    /// Returns the state of a task; `Err`: a host that may have run it does not answer.
    fn find_state(&self, task: &ReleaseTask, hosts: &[HostRecords]) -> Result<TaskState, String> {
        let known: Vec<TaskRecord> =
            hosts.iter().filter_map(|host| host.records.as_ref().ok()).flatten().cloned().collect();
        let state = TaskState::from_records(&known, &task.name, self.version);
        let silent = hosts.iter().find_map(|host| Some((&host.host, host.records.as_ref().err()?)));
        match (state, silent) {
            (TaskState::Pending, Some((host, why))) => {
                Err(format!("{host} may have run it and cannot be asked ({why})"))
            }
            (state, _) => Ok(state),
        }
    }

    /// Returns the record of an attempt of this run.
    pub fn new_record(&self, task: &ReleaseTask, runner: &str, status: TaskStatus) -> TaskRecord {
        TaskRecord {
            name: task.name.clone(),
            version: self.version.clone(),
            run: self.run.to_owned(),
            runner: runner.to_owned(),
            status,
        }
    }

    fn assumed_record(&self, task: &ReleaseTask) -> TaskRecord {
        self.new_record(task, self.operator, TaskStatus::Completed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages;

    fn task(phase: TaskPhase) -> ReleaseTask {
        ReleaseTask { name: "migrate".to_owned(), argv: vec!["true".to_owned()], phase, timeout_ms: 1000 }
    }

    fn select(
        tasks: &[ReleaseTask],
        hosts: &[HostRecords],
        (assume_done, run_again): (&[String], &[String]),
    ) -> Result<DueTasks, Vec<UnknownTask>> {
        let version = ReleaseVersion::new("1.0").unwrap();
        let selection =
            TaskSelection { tasks, version: &version, assume_done, run_again, operator: "alice@laptop", run: "r2" };
        selection.select_due(hosts, true)
    }

    fn host(name: &str, status: Option<TaskStatus>) -> HostRecords {
        let version = ReleaseVersion::new("1.0").unwrap();
        let record = |status| TaskRecord {
            name: "migrate".to_owned(),
            version,
            run: "r1".to_owned(),
            runner: "app-1".to_owned(),
            status,
        };
        HostRecords { host: name.to_owned(), records: Ok(status.map(record).into_iter().collect()) }
    }

    #[test]
    fn a_task_runs_if_no_host_knows_of_it() {
        let tasks = [task(TaskPhase::BeforeSwitch)];
        let selected = select(&tasks, &[host("app-1", None), host("app-2", None)], (&[], &[])).unwrap();
        assert_eq!(selected.due, tasks);
        let failed = [host("app-1", Some(TaskStatus::Failed)), host("app-2", Some(TaskStatus::Started))];
        assert_eq!(select(&tasks, &failed, (&[], &[])).unwrap().due, tasks, "the attempt ended and may be repeated");
    }

    #[test]
    fn a_task_that_one_host_completed_does_not_run() {
        let tasks = [task(TaskPhase::BeforeSwitch)];
        let hosts = [host("app-1", Some(TaskStatus::Completed)), host("app-2", None)];
        let selected = select(&tasks, &hosts, (&[], &[])).unwrap();
        assert!(selected.due.is_empty());
        assert_eq!(selected.completed[0].runner, "app-1");
    }

    #[test]
    fn an_unknown_result_needs_the_operator() {
        let tasks = [task(TaskPhase::BeforeSwitch)];
        let interrupted = [host("app-1", Some(TaskStatus::Started)), host("app-2", Some(TaskStatus::Started))];
        let silent = [
            HostRecords { host: "app-1".to_owned(), records: Err("connection refused".to_owned()) },
            host("app-2", None),
        ];
        let reasons = [("interrupted", &interrupted), ("silent", &silent)].map(|(case, hosts)| {
            let unknown = select(&tasks, hosts, (&[], &[])).unwrap_err();
            (case, format!("{}: {}", unknown[0].name, unknown[0].reason))
        });
        messages::check("task-unknown", reasons);
        let name = ["migrate".to_owned()];
        for hosts in [&interrupted, &silent] {
            assert_eq!(select(&tasks, hosts, (&[], &name)).unwrap().due, tasks);
            let done = select(&tasks, hosts, (&name, &[])).unwrap();
            assert!(done.due.is_empty());
            assert_eq!(
                (done.completed[0].runner.as_str(), done.completed[0].status),
                ("alice@laptop", TaskStatus::Completed)
            );
        }
    }

    #[test]
    fn a_silent_host_is_not_asked_for_a_completed_task() {
        let hosts = [
            HostRecords { host: "app-1".to_owned(), records: Err("connection refused".to_owned()) },
            host("app-2", Some(TaskStatus::Completed)),
        ];
        assert!(select(&[task(TaskPhase::BeforeSwitch)], &hosts, (&[], &[])).unwrap().due.is_empty());
    }
}
