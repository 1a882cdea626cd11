//! Runs the tasks of a release once per fleet: every host of the service records the start and the end.

use super::{CallFailure, HostFailure, HostRecords, NewRelease, PlannedDeploy, Rollout, RolloutEvent, RolloutOutcome};
use crate::fleet::Session;
use crate::protocol::deploy::{
    LockService, RecordTask, ReleaseTask, RunTask, TaskPhase, TaskRecord, TaskRun, TaskStatus,
};

impl Rollout<'_> {
    /// Locks the service on all its hosts, and checks that no other run recorded a task after the plan was made.
    pub(super) async fn lock_service(&self, planned: &[PlannedDeploy], outcome: &mut RolloutOutcome) {
        let sessions = self.all_sessions(planned);
        let lock = |session| self.send_to_session(session, LockService { scope: self.scope.clone() });
        let mut records = Vec::new();
        for (session, reply) in self.fleet.lock_in_order(&sessions, lock, Result::is_ok).await {
            match reply {
                Ok(tasks) => records.push(HostRecords { host: session.host.clone(), records: Ok(tasks) }),
                Err(CallFailure::Failed(error)) => outcome.record_failure(&session.host, HostFailure::Refused(error)),
                Err(rejected) => outcome.record_call_failure(&session.host, rejected),
            }
        }
        let Some(release) = self.new_release.as_ref().filter(|_| !self.should_stop(outcome)) else { return };
        let selected = release.selection.select_due(&records, release.has_all_hosts);
        // Hosts that do not answer may leave a task unknown; the operator decided about it when the plan was made.
        let is_stale = selected.map_or(true, |selected| {
            selected.completed.iter().any(|record| release.due_tasks.due.iter().any(|task| task.name == record.name))
        });
        if is_stale && let Some(first) = planned.first() {
            let reason = "another run started a task of this release after the plan was made".to_owned();
            outcome.record_failure(&first.session.host, HostFailure::Refused(reason));
        }
    }

    /// Puts the records of completed tasks on all hosts, so that each host alone can tell that they are done.
    pub(super) async fn share_completed_tasks(
        &self,
        release: &NewRelease<'_>,
        planned: &[PlannedDeploy],
        outcome: &mut RolloutOutcome,
    ) {
        for record in &release.due_tasks.completed {
            self.record_on_all(record, planned, outcome).await;
        }
    }

    /// Runs the tasks due before or after the switch.
    pub(super) async fn run_tasks(
        &self,
        release: &NewRelease<'_>,
        phase: TaskPhase,
        planned: &[PlannedDeploy],
        outcome: &mut RolloutOutcome,
    ) {
        let Some(runner) = planned.first() else { return };
        for task in release.due_tasks.due.iter().filter(|task| task.phase == phase) {
            if self.should_stop(outcome) {
                return;
            }
            let name = &runner.session.host;
            (self.event_sink)(&RolloutEvent::Phase(format!("running task {} on {name}", task.name)));
            let started = release.selection.new_record(task, name, TaskStatus::Started);
            if self.record_on_all(&started, planned, outcome).await {
                self.run_task(release, task, runner, planned, outcome).await;
            } else {
                // It did not run: the hosts that recorded its start must not report it as interrupted.
                let failed = TaskRecord { status: TaskStatus::Failed, ..started };
                self.record_on_all(&failed, planned, &mut RolloutOutcome::default()).await;
            }
        }
    }

    async fn run_task(
        &self,
        release: &NewRelease<'_>,
        task: &ReleaseTask,
        runner: &PlannedDeploy,
        planned: &[PlannedDeploy],
        outcome: &mut RolloutOutcome,
    ) {
        let name = &runner.session.host;
        outcome.has_side_effects = true;
        let request = RunTask {
            scope: self.scope.clone(),
            target: runner.desired.to_release_target(),
            task: task.clone(),
            run: release.selection.run.to_owned(),
        };
        let status = match self.send_to_session(&runner.session, request).await {
            Ok(TaskRun { ran, failure: None }) => {
                (self.event_sink)(&RolloutEvent::Task(name, &task.name, ran));
                TaskStatus::Completed
            }
            Ok(TaskRun { failure: Some(error), .. }) => {
                let text = format!("task {} failed: {error}", task.name);
                outcome.record_failure(name, HostFailure::Failed(text, Vec::new()));
                TaskStatus::Failed
            }
            // The connection or the agent ended: the task may still run, and the start stays recorded.
            Err(CallFailure::Failed(error)) => {
                let text = format!("task {}: its result is unknown: {error}", task.name);
                return outcome.record_failure(name, HostFailure::Failed(text, Vec::new()));
            }
            Err(rejected) => {
                outcome.record_call_failure(name, rejected);
                TaskStatus::Failed
            }
        };
        let record = release.selection.new_record(task, name, status);
        self.record_on_all(&record, planned, outcome).await;
    }

    /// Records a task on all hosts of the service; `false` if a host did not.
    async fn record_on_all(
        &self,
        record: &TaskRecord,
        planned: &[PlannedDeploy],
        outcome: &mut RolloutOutcome,
    ) -> bool {
        let sessions = self.all_sessions(planned);
        let request = || RecordTask { scope: self.scope.clone(), record: record.clone() };
        let replies = self.fleet.map_parallel(&sessions, |session| self.send_to_session(session, request())).await;
        let mut is_recorded = true;
        for (session, reply) in sessions.iter().zip(replies) {
            match reply {
                Ok(()) => continue,
                Err(CallFailure::Failed(error)) => {
                    let text = format!("task {} was not recorded: {error}", record.name);
                    outcome.record_failure(&session.host, HostFailure::Failed(text, Vec::new()));
                }
                Err(rejected) => outcome.record_call_failure(&session.host, rejected),
            }
            is_recorded = false;
        }
        is_recorded
    }

    fn all_sessions<'s>(&'s self, planned: &'s [PlannedDeploy]) -> Vec<&'s Session> {
        planned.iter().map(|host| &host.session).chain(self.other_sessions.iter().copied()).collect()
    }
}
