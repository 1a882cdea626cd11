//! Rollouts to several hosts: each has an agent of its own in this process, and a folder of its own.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use dunlin::deploy::host::DeployAgent;
use dunlin::deploy::plan::plan_host;
use dunlin::deploy::rollout::{
    DeployPlanError, EventSink, HostFailure, NewRelease, PlannedDeploy, Rollout, RolloutEvent, RolloutOutcome,
    TaskSelection, observe_retained_release,
};
use dunlin::fleet::{Fleet, Session};
use dunlin::plan::Digest;
use dunlin::playbook::BatchSize;
use dunlin::protocol::deploy::{CompareWith, DeployRequest, DesiredState, ReleaseVersion, SwitchHooks, SwitchOutcome};
use dunlin::protocol::frame::{Receiver, encode_message, read_frame};
use dunlin::protocol::{
    AgentMessage, ControllerMessage, Hello, HostFacts, PROTOCOL_VERSION, Reply, Request, SystemLoad,
};
use dunlin::resources::BlobSource;
use dunlin::transport::Channel;
use tokio_util::sync::CancellationToken;

use crate::fixture::{DEMO_UNIT, DeployBlobs, DeployFixture, desired_release};
use crate::messages;
use crate::model::{CrashPoint, CrashingSink};

/// Returns the request for the folder of this host: a rollout has one folder for all hosts.
fn with_root(request: &DeployRequest, root: &Path) -> DeployRequest {
    let mut json = serde_json::to_value(request).unwrap();
    for fields in json.as_object_mut().unwrap().values_mut() {
        fields["scope"]["base_dir"] = root.to_str().unwrap().into();
    }
    serde_json::from_value(json).unwrap()
}

/// Answers a controller's requests until it closes the connection.
fn serve(mut stream: UnixStream, root: &Path, agent: &DeployAgent, store: &DeployBlobs) {
    let hello = Hello {
        protocol_version: PROTOCOL_VERSION,
        version: "test".to_owned(),
        binary_digest: Digest::of_bytes(b"binary"),
        uid: 0,
        facts: HostFacts::default(),
        load: SystemLoad::default(),
    };
    stream.write_all(&encode_message(&AgentMessage::Hello(hello)).unwrap()).unwrap();
    while let Ok(Some(frame)) = read_frame(&mut stream, Receiver::Agent) {
        let Ok(ControllerMessage::Request { id, request: Request::Deploy(request) }) = frame.parse_message() else {
            continue;
        };
        let reply = match agent.handle_request(&with_root(&request, root), store, &CrashingSink(CrashPoint::never())) {
            Ok(reply) => Reply::Deploy(reply),
            Err(error) => Reply::Failed { error: format!("{error:#}") },
        };
        stream.write_all(&encode_message(&AgentMessage::Reply { id, reply }).unwrap()).unwrap();
    }
}

/// A host, and the state that the rollout gives it.
struct Host {
    name: &'static str,
    fixture: DeployFixture,
    desired: DesiredState,
}

impl Host {
    fn new(name: &'static str, serving: Option<&'static str>, program: &'static str, hooks: SwitchHooks) -> Self {
        let mut fixture = DeployFixture::new_fixture();
        if let Some(version) = serving {
            fixture.deploy_release(&desired_release(version), &CrashPoint::never());
        }
        let mut release = desired_release("2.0");
        (release.program, release.drain) = (program, hooks);
        let desired = fixture.desired_state(&release);
        Self { name, fixture, desired }
    }

    async fn connect(&self) -> Session {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (agent, store) = (self.fixture.host_agent(&CrashPoint::never()), self.fixture.store.clone());
        let root = self.fixture.root();
        thread::spawn(move || serve(theirs, &root, &agent, &store));
        ours.set_nonblocking(true).unwrap();
        let (reader, writer) = tokio::net::UnixStream::from_std(ours).unwrap().into_split();
        let channel =
            Channel { reader: Box::new(reader), writer: Box::new(writer), guard: Box::new(()), agent_pushed: false };
        Session::open(self.name, channel, None).await.unwrap()
    }

    async fn plan(&self) -> PlannedDeploy {
        let agent = self.fixture.host_agent(&CrashPoint::never());
        let compare_with = CompareWith::Desired(Box::new(self.desired.clone()));
        let observation = self.fixture.observe_host(&agent, compare_with);
        let texts = |digest: &Digest| String::from_utf8(self.fixture.store.read_blob(digest).ok()?).ok();
        let plan = plan_host(self.name, &self.desired, &observation, &[], &texts).unwrap();
        let session = self.connect().await;
        PlannedDeploy { session, desired: self.desired.clone(), observation, plan, listen_ports: Vec::new() }
    }

    fn serving(&self) -> Option<String> {
        let agent = self.fixture.host_agent(&CrashPoint::never());
        let observation = self.fixture.observe_host(&agent, CompareWith::Nothing);
        observation.confirmed.map(|confirmed| confirmed.version.to_string())
    }
}

fn roll_out(hosts: &[Host], batches: &[BatchSize]) -> RolloutOutcome {
    roll_out_with_events(hosts, batches, &|_| {})
}

fn roll_out_with_events(hosts: &[Host], batches: &[BatchSize], event_sink: EventSink<'_>) -> RolloutOutcome {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let fleet = Fleet::new(&[], 8, CancellationToken::new(), Arc::new(|_, _| {})).unwrap();
        let scope = hosts[0].fixture.service_scope("test");
        let mut planned = Vec::new();
        for host in hosts {
            planned.push(host.plan().await);
        }
        let version = ReleaseVersion::new("2.0").unwrap();
        let selection = TaskSelection {
            tasks: &[],
            version: &version,
            assume_done: &[],
            run_again: &[],
            operator: "test",
            run: "",
        };
        let new_release =
            NewRelease { selection: &selection, due_tasks: Default::default(), has_all_hosts: true, keep_releases: 3 };
        let rollout = Rollout {
            fleet: &fleet,
            scope: &scope,
            other_sessions: &[],
            batches,
            new_release: Some(new_release),
            event_sink,
        };
        rollout.run_rollout(&planned).await
    })
}

#[test]
fn a_host_that_is_out_of_rotation_returns_with_the_fleet() {
    let hooks = SwitchHooks { after: vec![vec!["false".to_owned()]], ..SwitchHooks::default() };
    let hosts =
        [Host::new("a", Some("1.0"), "2.0", hooks), Host::new("b", Some("1.0"), "broken 2.0", SwitchHooks::default())];
    let outcome = roll_out(&hosts, &[]);
    assert_eq!(outcome.returned.len(), 1, "{outcome:?}");
    assert_eq!(outcome.returned[0].0, "a");
    messages::check(
        "rollout-failed-on-one-host",
        outcome.failed.iter().map(|(host, failure)| (host, format!("{failure:?}"))),
    );
    assert_eq!(hosts.each_ref().map(|host| host.serving().unwrap()), ["1.0", "1.0"]);
}

#[test]
fn a_host_that_served_nothing_before_is_stopped_with_the_fleet() {
    let mut hosts = [
        Host::new("new", None, "2.0", SwitchHooks::default()),
        Host::new("b", Some("1.0"), "broken 2.0", SwitchHooks::default()),
    ];
    let outcome = roll_out(&hosts, &[BatchSize::Count(1)]);
    assert_eq!((&outcome.stopped[..], outcome.switched.len()), (&["new".to_owned()][..], 0), "{outcome:?}");
    assert_eq!(hosts.each_ref().map(Host::serving), [None, Some("1.0".to_owned())]);
    let fixture = &mut hosts[0].fixture;
    assert!(std::fs::read_link(fixture.root().join("current")).is_err());
    assert!(fixture.lock_machine().find_process(DEMO_UNIT).is_none());
    // The next deploy begins again.
    let release = desired_release("3.0");
    let switched = fixture.deploy_release(&release, &CrashPoint::never());
    assert!(matches!(switched, Some(SwitchOutcome::Healthy { .. })), "{switched:?}");
    fixture.assert_serves(&release);
}

#[test]
fn a_host_that_changes_during_the_rollout_is_not_switched() {
    let hosts = ["a", "b"].map(|name| Host::new(name, Some("1.0"), "2.0", SwitchHooks::default()));
    let by_hand = hosts[1].fixture.config_path();
    // The first host is switched; the second one waits for its batch.
    let outcome = roll_out_with_events(&hosts, &[BatchSize::Count(1)], &|event| {
        if matches!(event, RolloutEvent::Switched("a", _)) {
            std::fs::write(&by_hand, "by hand").unwrap();
        }
    });
    let [(host, HostFailure::Refused(reason))] = &outcome.failed[..] else { panic!("{outcome:?}") };
    assert_eq!(host, "b");
    assert_eq!(*reason, format!("config {} changed after the plan was made", by_hand.display()));
    assert_eq!(outcome.returned.len(), 1, "{outcome:?}");
    assert_eq!(hosts.each_ref().map(|host| host.serving().unwrap()), ["1.0", "1.0"]);
    assert_eq!(std::fs::read_to_string(&by_hand).unwrap(), "by hand");
}

#[test]
fn a_host_without_a_release_has_no_part_in_a_rollback() {
    let hosts = [None, Some("1.0")].map(|serving| Host::new("a", serving, "2.0", SwitchHooks::default()));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let results = hosts.each_ref().map(|host| {
        runtime.block_on(async {
            let fleet = Fleet::new(&[], 1, CancellationToken::new(), Arc::new(|_, _| {})).unwrap();
            let scope = host.fixture.service_scope("test");
            let compare_with = CompareWith::RetainedRelease(None);
            observe_retained_release(&fleet, host.connect().await, &scope, compare_with).await.err()
        })
    });
    assert!(matches!(results, [Some(DeployPlanError::Idle(_)), Some(DeployPlanError::Impossible(_))]), "{results:?}");
}

#[test]
fn a_host_without_a_switch_of_the_run_has_no_part_in_its_rollback() {
    let mut switched = Host::new("a", Some("1.0"), "2.0", SwitchHooks::default());
    let other = Host::new("b", Some("1.0"), "2.0", SwitchHooks::default());
    switched.fixture.run = "r2";
    switched.fixture.deploy_release(&desired_release("2.0"), &CrashPoint::never());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let observe = |host: &Host| {
        runtime.block_on(async {
            let fleet = Fleet::new(&[], 1, CancellationToken::new(), Arc::new(|_, _| {})).unwrap();
            let (scope, compare_with) = (host.fixture.service_scope("test"), CompareWith::BeforeRun("r2".to_owned()));
            observe_retained_release(&fleet, host.connect().await, &scope, compare_with).await.err()
        })
    };
    assert!(observe(&switched).is_none());
    let error = observe(&other);
    assert!(matches!(error, Some(DeployPlanError::NotInRun(_))), "{error:?}");
}
