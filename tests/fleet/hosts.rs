//! A small pool of fleets with the same hosts; each test has one of them to itself.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

/// The hosts that tests have.
pub const HOST_NAMES: [&str; 4] = ["redis-01", "redis-02", "redis-03", "app-01"];

/// One fleet of the pool.
pub struct TestFleet {
    name: String,
    /// Its state on this machine.
    folder: PathBuf,
    /// The fleet's own inventory: addresses, host keys, login key.
    pub inventory: toml::Table,
}

/// The fleets that no test uses at the moment.
struct FleetPool {
    free: Mutex<Vec<TestFleet>>,
    returned: Condvar,
}

/// The right to change the hosts of one fleet; gives the fleet back to the pool when it is dropped.
pub struct FleetLease {
    pool: &'static FleetPool,
    fleet: Option<TestFleet>,
}

/// A fleet with every host up, reachable and nobody else's until it is dropped; `None` where fleets were left out.
pub fn lock_fleet() -> Option<FleetLease> {
    static POOL: OnceLock<FleetPool> = OnceLock::new();
    if let Some(reason) = std::env::var("DUNLIN_NO_FLEET").ok().filter(|reason| !reason.is_empty()) {
        assert!(std::env::var_os("CI").is_none(), "the fleet's tests are never left out in continuous integration");
        eprintln!("NOT TESTED: the fleet was left out: {reason}");
        return None;
    }
    let pool = POOL.get_or_init(FleetPool::start);
    let mut free = pool.lock_free();
    loop {
        if let Some(fleet) = free.pop() {
            return Some(FleetLease { pool, fleet: Some(fleet) });
        }
        free = pool.returned.wait(free).unwrap_or_else(PoisonError::into_inner);
    }
}

impl FleetPool {
    /// Brings up the fleets that `DUNLIN_TEST_FLEETS` names (comma-separated), or the one fleet `test`.
    fn start() -> Self {
        let names = std::env::var("DUNLIN_TEST_FLEETS").unwrap_or_else(|_| "test".to_owned());
        let names: Vec<&str> = names.split(',').collect();
        let free = run_in_parallel(&names, TestFleet::start);
        Self { free: Mutex::new(free), returned: Condvar::new() }
    }

    /// A test that failed leaves the pool usable for the next one.
    fn lock_free(&self) -> MutexGuard<'_, Vec<TestFleet>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deref for FleetLease {
    type Target = TestFleet;

    fn deref(&self) -> &TestFleet {
        self.fleet.as_ref().unwrap()
    }
}

impl Drop for FleetLease {
    fn drop(&mut self) {
        self.pool.lock_free().extend(self.fleet.take());
        self.pool.returned.notify_one();
    }
}

impl TestFleet {
    fn start(name: &str) -> Self {
        run_fleet_script(name, &["up", "--names", &HOST_NAMES.join(",")]);
        let path = run_fleet_script(name, &["inventory"]);
        let text = std::fs::read_to_string(Path::new(path.trim()).join("hosts.toml")).unwrap();
        let folder = PathBuf::from(run_fleet_script(name, &["path"]).trim());
        Self { name: name.to_owned(), folder, inventory: text.parse().unwrap() }
    }

    /// Runs a command on a host as root and returns its standard output; it must succeed.
    pub fn run_as_root(&self, host: &str, command: &str) -> String {
        let mut ssh = self.multiplexed_ssh(host);
        let output =
            ssh.args(["-o", "ControlMaster=auto", "-o", "ControlPersist=60", "-l", "root"]).args([host, command]);
        let output = output.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{host}: {command}: {}\n{said}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    /// The same on several hosts at the same time: what each of them said.
    pub fn root_on(&self, hosts: &[&str], command: &str) -> Vec<String> {
        run_in_parallel(hosts, |host| self.run_as_root(host, command))
    }

    /// ssh to a host over a connection that is kept for a minute: most of a short command is the login.
    fn multiplexed_ssh(&self, host: &str) -> Command {
        let mut ssh = Command::new("ssh");
        let path = format!("ControlPath={}", self.folder.join(format!("kept-{host}")).display());
        ssh.arg("-F").arg(self.folder.join("ssh_config")).args(["-o", &path]).stdin(Stdio::null());
        ssh
    }

    /// Closes that connection: it would hang on a host that goes without a word.
    fn close_multiplexed_ssh(&self, host: &str) {
        // Where there is none, that is said and all is well.
        self.multiplexed_ssh(host).args(["-O", "exit", host]).output().unwrap();
    }

    /// A command on a host as root, to be run by the caller.
    pub fn ssh_command(&self, host: &str, command: &str) -> Command {
        let mut ssh = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("script/fleet"));
        ssh.args(["--fleet", &self.name, "ssh", "--root", host, command]);
        ssh
    }

    /// A host's disk as this machine sees it while the host runs: for looking closely, without a login.
    pub fn disk_path(&self, host: &str) -> PathBuf {
        self.folder.join("hosts").join(host).join("root")
    }

    /// The content of a file of a host, or `None` where it has none.
    pub fn read_file(&self, host: &str, path: &str) -> Option<String> {
        let text = self.run_as_root(host, &format!("if [ -e {path} ]; then printf =; cat {path}; fi"));
        text.strip_prefix('=').map(str::to_owned)
    }

    /// Removes paths on all hosts.
    pub fn remove_paths(&self, paths: &str) {
        self.root_on(&HOST_NAMES, &format!("rm -rf {paths}"));
    }

    /// Pulls a host's cable until what is returned is dropped.
    pub fn partition_host(&self, host: &'static str) -> PartitionedHost {
        self.close_multiplexed_ssh(host);
        run_fleet_script(&self.name, &["cut", host]);
        PartitionedHost { fleet: self.name.clone(), host }
    }

    /// Powers a host off until what is returned is dropped.
    pub fn power_off(&self, host: &'static str) -> PoweredOffHost {
        self.close_multiplexed_ssh(host);
        run_fleet_script(&self.name, &["kill", host]);
        PoweredOffHost { fleet: self.name.clone(), host }
    }
}

/// A host that is off; booted from its disk when this is dropped.
pub struct PoweredOffHost {
    fleet: String,
    host: &'static str,
}

impl Drop for PoweredOffHost {
    fn drop(&mut self) {
        run_fleet_script(&self.fleet, &["start", self.host]);
    }
}

/// A host whose cable is pulled; plugged in again when it is dropped.
pub struct PartitionedHost {
    fleet: String,
    host: &'static str,
}

impl Drop for PartitionedHost {
    fn drop(&mut self) {
        run_fleet_script(&self.fleet, &["heal", self.host]);
    }
}

/// Does the same with all of these at the same time; what came of each, in their order.
pub fn run_in_parallel<T: Copy + Send, R: Send>(items: &[T], work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let work = &work;
    thread::scope(|scope| {
        let all: Vec<_> = items.iter().map(|&item| scope.spawn(move || work(item))).collect();
        all.into_iter().map(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

fn run_fleet_script(fleet: &str, arguments: &[&str]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("script/fleet");
    let mut command = Command::new(script);
    command.args(["--fleet", fleet]).args(arguments).stdin(Stdio::null());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "script/fleet {arguments:?}: {}\n{said}\nwhere a machine cannot carry a fleet, set DUNLIN_NO_FLEET=reason",
        output.status
    );
    String::from_utf8(output.stdout).unwrap()
}
