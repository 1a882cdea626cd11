//! A host in a temporary folder, releases to deploy on it, and the controller's part of a deploy.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::{Context, Result};
use dunlin::deploy::host::Host;
use dunlin::deploy::plan::{expected, plan_host};
use dunlin::plan::{Digest, HostPlan};
use dunlin::resources::Blobs;
use dunlin::wire::deploy::{
    About, Config, Desired, Drain, FORMAT, Health, Manifest, Observation, Outcome, RelPath, ReleaseFile, Reply,
    Request, Scope, Service, Setup, Unit, Version,
};

use crate::model::{Fuse, Killed, Machine, Model, Quiet};

pub const UNIT: &str = "demo.service";

/// Contents by digest; counts what was taken.
#[derive(Default)]
pub struct Store {
    contents: BTreeMap<Digest, Vec<u8>>,
    only: Option<Vec<Digest>>,
}

impl Store {
    fn put(&mut self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        self.contents.insert(digest.clone(), bytes.to_vec());
        digest
    }
}

impl Blobs for Store {
    fn get(&self, digest: &Digest) -> Result<Vec<u8>> {
        let sent = self.only.as_ref().is_none_or(|only| only.contains(digest));
        self.contents.get(digest).filter(|_| sent).cloned().context("this content was not sent")
    }
}

/// What a test wants to deploy.
#[derive(Clone)]
pub struct Wish {
    pub version: &'static str,
    pub program: &'static str,
    pub config: &'static str,
    pub units: Vec<&'static str>,
    pub drain: Drain,
}

/// A release whose program and configuration are their own version's.
pub fn wish(version: &'static str) -> Wish {
    Wish { version, program: version, config: "same", units: vec![UNIT], drain: Drain::default() }
}

pub struct World {
    pub folder: tempfile::TempDir,
    pub machine: Arc<Mutex<Machine>>,
    pub store: Store,
}

impl World {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("units")).unwrap();
        Self { folder, machine: Arc::default(), store: Store::default() }
    }

    pub fn root(&self) -> PathBuf {
        self.folder.path().join("srv/demo")
    }

    pub fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap()
    }

    pub fn scope(&self, by: &str) -> Scope {
        Scope { service: Service::new("demo").unwrap(), root: self.root(), by: by.to_owned() }
    }

    pub fn host(&self, fuse: &Arc<Fuse>) -> Host {
        let folder = self.folder.path().join("units");
        Host::new(Box::new(Model { machine: self.machine.clone(), folder, fuse: fuse.clone() }))
    }

    pub fn config_path(&self) -> PathBuf {
        self.folder.path().join("etc/demo.env")
    }

    pub fn desired(&mut self, wish: &Wish) -> Desired {
        let mut files: Vec<ReleaseFile> = [("bin/demo", wish.program), ("share/same", "the same in all releases")]
            .map(|(path, text)| ReleaseFile {
                path: RelPath::new(path).unwrap(),
                mode: 0o755,
                size: text.len() as u64,
                sha256: self.store.put(text.as_bytes()),
            })
            .to_vec();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let (program, config_path) = (self.root().join("current/bin/demo"), self.config_path());
        let mut unit = |name: &&str| {
            let text =
                format!("[Service]\nExecStart={}\nEnvironmentFile={}\n", program.display(), config_path.display());
            let digest = self.store.put(text.as_bytes());
            Unit { name: (*name).to_owned(), digest, size: text.len() as u64, enable: true, restart: true }
        };
        let units = wish.units.iter().map(&mut unit).collect();
        let stat = fs::metadata(self.folder.path()).unwrap();
        let config = Config {
            dest: config_path,
            digest: self.store.put(wish.config.as_bytes()),
            size: wish.config.len() as u64,
            mode: 0o640,
            owner: name_of("/etc/passwd", stat.uid()),
            group: name_of("/etc/group", stat.gid()),
            sensitive: false,
        };
        let health = Health { probe: None, timeout_ms: 20_000, interval_ms: 1 };
        Desired {
            manifest: Manifest {
                format_version: FORMAT,
                service: Service::new("demo").unwrap(),
                version: Version::new(wish.version).unwrap(),
                files,
            },
            setup: Setup { units, configs: vec![config], health, drain: wish.drain.clone(), user: None },
        }
    }

    pub fn ask(&self, host: &Host, request: &Request) -> Reply {
        host.handle(request, &self.store, &Quiet(Fuse::none())).unwrap()
    }

    pub fn observe(&self, host: &Host, about: About) -> Observation {
        match self.ask(host, &Request::Observe { scope: self.scope("test"), about }) {
            Reply::Observed(seen) => *seen,
            other => panic!("{other:?}"),
        }
    }

    /// The plan, as the controller makes it.
    pub fn plan(&self, host: &Host, desired: &Desired) -> (Observation, HostPlan) {
        let seen = self.observe(host, About::Desired(Box::new(desired.clone())));
        let texts = |digest: &Digest| self.store.get(digest).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let plan = plan_host("host-1", desired, &seen, &[], &texts).unwrap();
        (seen, plan)
    }

    /// The pending rows of the plan, in short.
    pub fn pending(&self, desired: &Desired) -> Vec<String> {
        let (_, plan) = self.plan(&self.host(&Fuse::none()), desired);
        plan.pending().map(|row| format!("{} {}", row.action.sign(), row.resource)).collect()
    }

    /// A whole deploy: observe, plan, stage, switch; `None` where the fuse blew.
    pub fn deploy(&mut self, wish: &Wish, fuse: &Arc<Fuse>) -> Option<Outcome> {
        let desired = self.desired(wish);
        self.killable(|world| world.deploy_desired(&desired, fuse))
    }

    /// Runs something that a blown fuse may end.
    pub fn killable<T>(&mut self, run: impl FnOnce(&mut Self) -> T) -> Option<T> {
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(self))) {
            Ok(done) => Some(done),
            Err(why) if why.is::<Killed>() => None,
            Err(why) => std::panic::resume_unwind(why),
        }
    }

    fn deploy_desired(&mut self, desired: &Desired, fuse: &Arc<Fuse>) -> Outcome {
        let (host, sink) = (self.host(fuse), Quiet(fuse.clone()));
        let (seen, plan) = self.plan(&host, desired);
        let scope = self.scope("test");
        let desired_box = Box::new(desired.clone());
        let stage = Request::Stage { scope: scope.clone(), desired: desired_box, expected: expected(&plan) };
        // Only what the host says that it lacks travels.
        self.store.only = Some(host.missing(&stage).unwrap());
        let staged = host.handle(&stage, &self.store, &sink).unwrap();
        self.store.only = None;
        assert!(matches!(staged, Reply::Staged { .. }), "{staged:?}");
        let switch = Request::Switch { scope, target: desired.target(), from: seen.confirmed };
        match host.handle(&switch, &self.store, &sink).unwrap() {
            Reply::Switched(outcome) => outcome,
            other => panic!("{other:?}"),
        }
    }

    /// The release serves: link, unit, process and journal agree, and nothing is left to do.
    pub fn assert_serves(&mut self, wish: &Wish) {
        let desired = self.desired(wish);
        assert_eq!(self.pending(&desired), Vec::<String>::new(), "release {} serves", wish.version);
        let link = fs::read_link(self.root().join("current")).unwrap();
        assert_eq!(link, PathBuf::from(format!("releases/{}", wish.version)));
        let units = fs::read_dir(self.folder.path().join("units")).unwrap();
        let mut units: Vec<String> = units.map(|unit| unit.unwrap().file_name().into_string().unwrap()).collect();
        units.sort();
        assert_eq!(units, wish.units, "units of another release are gone");
        for unit in &wish.units {
            let machine = self.machine();
            let process = machine.process(unit).unwrap_or_else(|| panic!("{unit} runs"));
            assert_eq!((process.program.as_str(), process.config.as_str()), (wish.program, wish.config));
            assert!(machine.is_enabled(unit));
        }
    }
}

/// The name of an account, else its number.
fn name_of(file: &str, id: u32) -> String {
    let accounts = fs::read_to_string(file).unwrap();
    let found = accounts.lines().find(|line| line.split(':').nth(2) == Some(id.to_string().as_str()));
    found.and_then(|line| line.split(':').next()).map_or(id.to_string(), str::to_owned)
}
