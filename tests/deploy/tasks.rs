//! Tasks of a release on one host: recorded before they run, and run once.

use std::fs;
use std::time::{Duration, Instant};

use dunlin::deploy::host::DeployAgent;
use dunlin::protocol::deploy::{
    CompareWith, PruneReleases, RecordTask, Rejection, ReleaseTarget, ReleaseTask, ReleaseVersion, RunTask,
    StageRelease, TaskPhase, TaskRecord, TaskRun, TaskStatus,
};

use crate::fixture::{DeployFixture, desired_release};
use crate::messages;
use crate::model::CrashPoint;

fn migrate_record(run: &str, status: TaskStatus) -> TaskRecord {
    TaskRecord {
        name: "migrate".to_owned(),
        version: ReleaseVersion::new("1.0").unwrap(),
        run: run.to_owned(),
        runner: "host-1".to_owned(),
        status,
    }
}

/// A host on which 1.0 is staged, with the requests for its task.
struct TaskHost {
    fixture: DeployFixture,
    agent: DeployAgent,
    target: ReleaseTarget,
}

impl TaskHost {
    fn new() -> Self {
        let mut fixture = DeployFixture::new_fixture();
        let desired = fixture.desired_state(&desired_release("1.0"));
        let agent = fixture.host_agent(&CrashPoint::never());
        let target = desired.to_release_target();
        let scope = fixture.service_scope("test");
        let stage = StageRelease { scope, desired: Box::new(desired), expected_changes: Vec::new(), adopt: false };
        assert!(fixture.handle_request(&agent, &stage).is_ok());
        Self { fixture, agent, target }
    }

    fn record(&self, record: TaskRecord) -> Result<(), Rejection> {
        let scope = self.fixture.service_scope("test");
        self.fixture.handle_request(&self.agent, &RecordTask { scope, record })
    }

    fn run(&self, run: &str, shell: &str) -> Result<TaskRun, Rejection> {
        let task = ReleaseTask {
            name: "migrate".to_owned(),
            argv: ["/bin/sh", "-c", shell].map(str::to_owned).to_vec(),
            phase: TaskPhase::BeforeSwitch,
            timeout_ms: 20_000,
        };
        let scope = self.fixture.service_scope("test");
        let request = RunTask { scope, target: self.target.clone(), task, run: run.to_owned() };
        self.fixture.handle_request(&self.agent, &request)
    }

    fn start_and_run(&self, run: &str, shell: &str) -> Result<TaskRun, Rejection> {
        assert_eq!(self.record(migrate_record(run, TaskStatus::Started)), Ok(()));
        self.run(run, shell)
    }

    fn statuses(&self) -> Vec<TaskStatus> {
        let observed = self.fixture.observe_host(&self.agent, CompareWith::Nothing);
        observed.task_records.iter().map(|record| record.status).collect()
    }
}

#[test]
fn a_task_runs_once_per_release() {
    let host = TaskHost::new();
    let note = host.fixture.folder.path().join("note");
    let shell = |end: &str| format!("echo $DUNLIN_VERSION >> {}{end}", note.display());
    let failed = host.start_and_run("r1", &shell("; echo no table >&2; exit 7"));
    let Ok(TaskRun { ran: true, failure: Some(why) }) = failed else { panic!("{failed:?}") };
    messages::check("once-step-failed", [("exit 7", why)]);
    assert_eq!(host.statuses(), [TaskStatus::Failed]);
    assert_eq!(host.start_and_run("r2", &shell("")), Ok(TaskRun { ran: true, failure: None }));
    assert_eq!(host.statuses(), [TaskStatus::Completed]);
    assert_eq!(host.run("r2", &shell("")), Ok(TaskRun { ran: false, failure: None }));
    let Err(Rejection::Refused(again)) = host.record(migrate_record("r3", TaskStatus::Started)) else { panic!() };
    assert_eq!(fs::read_to_string(&note).unwrap(), "1.0\n1.0\n");
    messages::check("task-completed-before", [("a second start", again)]);
}

#[test]
fn a_task_runs_only_if_its_start_is_recorded() {
    let host = TaskHost::new();
    let Err(Rejection::Refused(why)) = host.run("r1", "true") else { panic!("it ran without a record") };
    messages::check("task-not-recorded", [("no record", why)]);
    host.record(migrate_record("r1", TaskStatus::Started)).unwrap();
    assert!(matches!(host.run("r2", "true"), Err(Rejection::Refused(_))), "the record of another run");
    assert_eq!(host.statuses(), [TaskStatus::Started]);
}

#[test]
fn a_process_of_an_earlier_task_keeps_the_next_from_starting() {
    let host = TaskHost::new();
    // The command ends, and a process that inherited its input goes on, as a task does whose agent was killed.
    let background = "exec 3<&0; sleep 2 <&3 >/dev/null 2>&1 &";
    assert_eq!(host.start_and_run("r1", background), Ok(TaskRun { ran: true, failure: None }));
    let next = TaskRecord { name: "migrate".to_owned(), ..migrate_record("r2", TaskStatus::Failed) };
    assert!(matches!(host.record(next), Err(Rejection::Refused(_))));
    let other = TaskRecord { name: "index".to_owned(), ..migrate_record("r2", TaskStatus::Started) };
    host.record(other).unwrap();
    let run_index = || {
        let task = ReleaseTask {
            name: "index".to_owned(),
            argv: vec!["/bin/true".to_owned()],
            phase: TaskPhase::BeforeSwitch,
            timeout_ms: 20_000,
        };
        let scope = host.fixture.service_scope("test");
        let request = RunTask { scope, target: host.target.clone(), task, run: "r2".to_owned() };
        host.fixture.handle_request(&host.agent, &request)
    };
    let Err(Rejection::Refused(why)) = run_index() else { panic!("two tasks ran at the same time") };
    messages::check("task-still-running", [("a process of the first task", why)]);
    let deadline = Instant::now() + Duration::from_secs(20);
    while matches!(run_index(), Err(Rejection::Refused(_))) {
        assert!(Instant::now() < deadline, "the lock ends with the process");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_task_sees_the_configuration_of_its_release() {
    let mut host = TaskHost::new();
    let config = host.fixture.config_path();
    let show = format!("cat {0} >&2; stat -c %a {0} >&2; exit 1", config.display());
    let seen = |reply| match reply {
        Ok(TaskRun { failure: Some(text), .. }) => text,
        other => panic!("{other:?}"),
    };
    let text = seen(host.start_and_run("r1", &show));
    assert!(text.contains("same") && text.contains("640"), "{text}");
    assert!(!config.exists(), "a task that failed leaves no configuration");
    drop(host.agent);
    host.fixture.deploy_release(&desired_release("1.0"), &CrashPoint::never());

    let mut next = desired_release("1.1");
    next.config = "of 1.1";
    let desired = host.fixture.desired_state(&next);
    host.agent = host.fixture.host_agent(&CrashPoint::never());
    host.target = desired.to_release_target();
    let scope = host.fixture.service_scope("test");
    let stage = StageRelease { scope, desired: Box::new(desired), expected_changes: Vec::new(), adopt: false };
    assert!(host.fixture.handle_request(&host.agent, &stage).is_ok());
    let version = ReleaseVersion::new("1.1").unwrap();
    host.record(TaskRecord { version, ..migrate_record("r2", TaskStatus::Started) }).unwrap();
    let text = seen(host.run("r2", &show));
    assert!(text.contains("of 1.1") && text.contains("640"), "{text}");
    assert_eq!(fs::read_to_string(&config).unwrap(), "same", "the release that serves keeps its configuration");
}

#[test]
fn records_outlive_their_release() {
    let mut host = TaskHost::new();
    assert_eq!(host.start_and_run("r1", "true"), Ok(TaskRun { ran: true, failure: None }));
    drop(host.agent);
    for version in ["1.0", "1.1", "1.2"] {
        host.fixture.deploy_release(&desired_release(version), &CrashPoint::never());
    }
    host.agent = host.fixture.host_agent(&CrashPoint::never());
    let scope = host.fixture.service_scope("test");
    let pruned = host.fixture.handle_request(&host.agent, &PruneReleases { scope, keep_releases: 2 });
    assert_eq!(pruned, Ok(vec!["1.0".to_owned()]));
    assert_eq!(host.statuses(), [TaskStatus::Completed], "1.0 may be deployed again");
}
