//! A host in a temporary folder, releases to deploy on it, and the controller's part of a deploy.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::{Context, Result};
use dunlin::deploy::host::DeployAgent;
use dunlin::deploy::plan::{plan_host, planned_rows};
use dunlin::plan::{Digest, HostPlan};
use dunlin::protocol::deploy::{
    CompareWith, ConfigFile, DesiredState, HealthCheck, MANIFEST_FORMAT, ObserveService, Rejection, ReleaseFile,
    ReleaseLink, ReleaseManifest, ReleasePath, ReleaseVersion, RollBack, ServiceConfig, ServiceName,
    ServiceObservation, ServiceRef, SharedPath, SignatureCheck, StageRelease, SwitchHooks, SwitchOutcome,
    SwitchPurpose, SwitchRelease, UnitFile,
};
use dunlin::protocol::{Call, ProgressSink, Reply, Request};
use dunlin::resources::BlobSource;

use crate::model::{CrashPoint, CrashingSink, FakeMachine, FakeServices, SimulatedCrash};

pub const DEMO_UNIT: &str = "demo.service";

/// Contents by digest; counts what was taken.
#[derive(Clone, Default)]
pub struct DeployBlobs {
    contents: BTreeMap<Digest, Vec<u8>>,
    only: Option<Vec<Digest>>,
}

impl DeployBlobs {
    pub fn add_blob(&mut self, bytes: &[u8]) -> Digest {
        let digest = Digest::of_bytes(bytes);
        self.contents.insert(digest.clone(), bytes.to_vec());
        digest
    }
}

impl BlobSource for DeployBlobs {
    fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        let sent = self.only.as_ref().is_none_or(|only| only.contains(digest));
        self.contents.get(digest).filter(|_| sent).cloned().context("this content was not sent")
    }
}

/// What a test wants to deploy.
#[derive(Clone)]
pub struct DesiredRelease {
    pub version: &'static str,
    pub program: &'static str,
    pub config: &'static str,
    pub units: Vec<&'static str>,
    pub drain: SwitchHooks,
    pub steady_ms: u64,
    pub sensitive: bool,
    pub shared: Vec<SharedPath>,
}

/// A release whose program and configuration are their own version's.
pub fn desired_release(version: &'static str) -> DesiredRelease {
    DesiredRelease {
        version,
        program: version,
        config: "same",
        units: vec![DEMO_UNIT],
        drain: SwitchHooks::default(),
        steady_ms: 0,
        sensitive: false,
        shared: Vec::new(),
    }
}

pub struct DeployFixture {
    pub folder: tempfile::TempDir,
    pub machine: Arc<Mutex<FakeMachine>>,
    pub store: DeployBlobs,
    /// The run of dunlin.
    pub run: &'static str,
}

impl DeployFixture {
    pub fn new_fixture() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("units")).unwrap();
        Self { folder, machine: Arc::default(), store: DeployBlobs::default(), run: "r1" }
    }

    pub fn root(&self) -> PathBuf {
        self.folder.path().join("srv/demo")
    }

    pub fn lock_machine(&self) -> MutexGuard<'_, FakeMachine> {
        self.machine.lock().unwrap()
    }

    pub fn service_scope(&self, by: &str) -> ServiceRef {
        let (service, base_dir) = (ServiceName::new("demo").unwrap(), self.root());
        ServiceRef { service, base_dir, operator: by.to_owned(), run: self.run.to_owned() }
    }

    pub fn host_agent(&self, fuse: &Arc<CrashPoint>) -> DeployAgent {
        let folder = self.folder.path().join("units");
        DeployAgent::new(Box::new(FakeServices { machine: self.machine.clone(), folder, fuse: fuse.clone() }))
    }

    pub fn config_path(&self) -> PathBuf {
        self.folder.path().join("etc/demo.env")
    }

    pub fn desired_state(&mut self, wish: &DesiredRelease) -> DesiredState {
        let mut files: Vec<ReleaseFile> = [("bin/demo", wish.program), ("share/same", "the same in all releases")]
            .map(|(path, text)| ReleaseFile {
                path: ReleasePath::new(path).unwrap(),
                mode: 0o755,
                size: text.len() as u64,
                sha256: self.store.add_blob(text.as_bytes()),
                chunks: Vec::new(),
                owner: None,
            })
            .to_vec();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let (program, config_path) = (self.root().join("current/bin/demo"), self.config_path());
        let mut unit = |name: &&str| {
            let text =
                format!("[Service]\nExecStart={}\nEnvironmentFile={}\n", program.display(), config_path.display());
            let digest = self.store.add_blob(text.as_bytes());
            UnitFile {
                template: None,
                name: (*name).to_owned(),
                digest,
                size: text.len() as u64,
                start_at_boot: true,
                restart_on_release: true,
                reload_on_release: false,
            }
        };
        let units = wish.units.iter().map(&mut unit).collect();
        let stat = fs::metadata(self.folder.path()).unwrap();
        let config = ConfigFile {
            dest: config_path,
            digest: self.store.add_blob(wish.config.as_bytes()),
            size: wish.config.len() as u64,
            mode: 0o640,
            owner: account_name("/etc/passwd", stat.uid()),
            group: account_name("/etc/group", stat.gid()),
            sensitive: wish.sensitive,
        };
        let health = HealthCheck { probe: None, timeout_ms: 20_000, interval_ms: 1, steady_ms: wish.steady_ms };
        DesiredState {
            manifest: ReleaseManifest {
                format_version: MANIFEST_FORMAT,
                service: ServiceName::new("demo").unwrap(),
                version: ReleaseVersion::new(wish.version).unwrap(),
                origin: None,
                files,
                links: vec![ReleaseLink {
                    path: ReleasePath::new("bin/demo-link").unwrap(),
                    target: "demo".to_owned(),
                }],
                folders: Vec::new(),
            },
            config: ServiceConfig {
                units,
                configs: vec![config],
                health,
                hooks: wish.drain.clone(),
                user: None,
                adopted: None,
                shared: wish.shared.clone(),
            },
            signature_check: SignatureCheck::default(),
        }
    }

    pub fn handle_request<C: Call + Clone>(&self, host: &DeployAgent, call: &C) -> C::Reply {
        self.try_request(host, call, &CrashPoint::never()).unwrap()
    }

    /// Sends a request to an agent; an error if an operation failed.
    pub fn try_request<C: Call + Clone>(
        &self,
        host: &DeployAgent,
        call: &C,
        fuse: &Arc<CrashPoint>,
    ) -> Result<C::Reply> {
        call_agent(host, call, &self.store, &CrashingSink(fuse.clone()))
    }

    pub fn observe_host(&self, host: &DeployAgent, about: CompareWith) -> ServiceObservation {
        *self.handle_request(host, &ObserveService { scope: self.service_scope("test"), compare_with: about }).unwrap()
    }

    /// The plan, as the controller makes it.
    pub fn plan_host(&self, host: &DeployAgent, desired: &DesiredState) -> (ServiceObservation, HostPlan) {
        let seen = self.observe_host(host, CompareWith::Desired(Box::new(desired.clone())));
        let texts = |digest: &Digest| self.store.read_blob(digest).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let plan = plan_host("host-1", desired, &seen, &[], &texts).unwrap();
        (seen, plan)
    }

    /// Plans a rollback as the controller does; returns the request for it.
    pub fn plan_rollback(&self, host: &DeployAgent, to: Option<&str>) -> Result<RollBack, Rejection> {
        let (scope, version) = (self.service_scope("test"), to.map(|to| ReleaseVersion::new(to).unwrap()));
        let compare_with = CompareWith::RetainedRelease(version.clone());
        let seen = self.handle_request(host, &ObserveService { scope: scope.clone(), compare_with })?;
        let plan = plan_host("host-1", seen.retained_release.as_ref().unwrap(), &seen, &[], &|_| None).unwrap();
        let purpose = SwitchPurpose::Plan { expected_changes: planned_rows(&plan) };
        Ok(RollBack { scope, version, expected_current: seen.confirmed, purpose })
    }

    /// The pending rows of the plan, in short.
    pub fn pending_rows(&self, desired: &DesiredState) -> Vec<String> {
        let (_, plan) = self.plan_host(&self.host_agent(&CrashPoint::never()), desired);
        plan.pending_rows().map(|row| format!("{} {}", row.action.symbol_char(), row.resource)).collect()
    }

    /// A whole deploy: observe, plan, stage, switch; `None` where the fuse blew.
    pub fn deploy_release(&mut self, wish: &DesiredRelease, fuse: &Arc<CrashPoint>) -> Option<SwitchOutcome> {
        let desired = self.desired_state(wish);
        self.catch_crash(|fixture| fixture.deploy_desired(&desired, fuse))
    }

    /// Runs something that a blown fuse may end.
    pub fn catch_crash<T>(&mut self, run: impl FnOnce(&mut Self) -> T) -> Option<T> {
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(self))) {
            Ok(done) => Some(done),
            Err(why) if why.is::<SimulatedCrash>() => None,
            Err(why) => std::panic::resume_unwind(why),
        }
    }

    pub fn deploy_desired(&mut self, desired: &DesiredState, fuse: &Arc<CrashPoint>) -> SwitchOutcome {
        let host = self.host_agent(fuse);
        let (seen, plan) = self.plan_host(&host, desired);
        let scope = self.service_scope("test");
        let desired_box = Box::new(desired.clone());
        let stage = StageRelease {
            scope: scope.clone(),
            desired: desired_box,
            expected_changes: planned_rows(&plan),
            adopt: !seen.unmanaged_paths.is_empty(),
        };
        // Only what the host says that it lacks travels.
        self.store.only = Some(host.missing_blobs(&stage).unwrap());
        let staged = self.try_request(&host, &stage, fuse).unwrap();
        self.store.only = None;
        staged.unwrap();
        let switch = SwitchRelease {
            scope,
            target: desired.to_release_target(),
            expected_current: seen.confirmed,
            purpose: SwitchPurpose::Plan { expected_changes: planned_rows(&plan) },
        };
        self.try_request(&host, &switch, fuse).unwrap().unwrap()
    }

    /// The release serves: link, unit, process and journal agree, and nothing is left to do.
    pub fn assert_serves(&mut self, wish: &DesiredRelease) {
        let desired = self.desired_state(wish);
        assert_eq!(self.pending_rows(&desired), Vec::<String>::new(), "release {} serves", wish.version);
        let link = fs::read_link(self.root().join("current")).unwrap();
        assert_eq!(link, PathBuf::from(format!("releases/{}", wish.version)));
        let units = fs::read_dir(self.folder.path().join("units")).unwrap();
        let mut units: Vec<String> = units.map(|unit| unit.unwrap().file_name().into_string().unwrap()).collect();
        units.sort();
        assert_eq!(units, wish.units, "units of another release are gone");
        for unit in &wish.units {
            let machine = self.lock_machine();
            let process = machine.find_process(unit).unwrap_or_else(|| panic!("{unit} runs"));
            assert_eq!((process.program.as_str(), process.config.as_str()), (wish.program, wish.config));
            assert!(machine.is_enabled(unit));
        }
    }
}

/// Sends a request to an agent in this process.
pub fn call_agent<C: Call + Clone>(
    host: &DeployAgent,
    call: &C,
    blobs: &dyn BlobSource,
    sink: &dyn ProgressSink,
) -> Result<C::Reply> {
    let Request::Deploy(request) = call.clone().into_request() else { panic!("{} is about no service", C::NAME) };
    let reply = Reply::Deploy(host.handle_request(&request, blobs, sink)?);
    C::from_reply(reply).with_context(|| format!("another reply than to {}", C::NAME))
}

/// The name of an account, else its number.
fn account_name(file: &str, id: u32) -> String {
    let accounts = fs::read_to_string(file).unwrap();
    let found = accounts.lines().find(|line| line.split(':').nth(2) == Some(id.to_string().as_str()));
    found.and_then(|line| line.split(':').next()).map_or(id.to_string(), str::to_owned)
}
