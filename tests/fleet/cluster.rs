//! Redis shards on the fleet: the shipped playbook and templates with an inventory and a map of the test's.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use dunlin::protocol::lock::{LockRequest, LockResult};
use dunlin::protocol::{AgentMessage, ControllerMessage, Reply, Request, frame};
use dunlin_shards::{InstanceAddress, ShardMap, build_client};
use redis::Value;
use serde_json::Value as Json;

use crate::hosts::{HOST_NAMES, TestFleet, run_in_parallel};
use crate::project::FleetProject;

/// The hosts of shards; the last one joins later.
pub const REDIS_HOSTS: [&str; 3] = ["redis-01", "redis-02", "redis-03"];
/// Eight shards of one size cannot be spread over three hosts any better than 2, 3, 3: a quarter under the share.
pub const TOLERANCE: &str = "30%";
/// Exits with 2 if a move is open.
pub const NOTHING_TO_RESUME: [&str; 4] = ["shards", "resume", "--dry-run", "--detailed-exitcode"];
/// Exits with 2 if there is something to repair, and with 4 if nothing of it can be repaired.
pub const NOTHING_TO_REPAIR: [&str; 4] = ["shards", "repair", "--dry-run", "--detailed-exitcode"];
/// How many shards there are, and how many where their number is not what counts.
pub const SHARD_COUNT: u16 = 8;
pub const SMALL_SHARD_COUNT: u16 = 4;
const PORT_BASE: u16 = 7000;
/// Keys of 64 KiB that each shard holds from the beginning.
const KEYS_PER_SHARD: usize = 32;
/// The admin's and the application's passwords.
const ADMIN_PASSWORD: &str = "admin-of-the-test";
pub const APP_PASSWORD: &str = "app-of-the-test";
/// How long something that is bound to come may take.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Shards on redis-01 and redis-02, with their map on app-01.
pub struct TestCluster<'f> {
    pub fleet: &'f TestFleet,
    pub project: FleetProject,
    pub shards: u16,
    /// The CA of instances that use TLS.
    pub tls_ca: Option<String>,
    /// Where instances may be.
    hosts: Vec<&'static str>,
}

/// Somebody who holds a host's lock; killed when it is dropped.
pub struct LockHolderProcess {
    agent: Child,
    _answers: ChildStdout,
}

impl Drop for LockHolderProcess {
    fn drop(&mut self) {
        self.agent.kill().unwrap();
        self.agent.wait().unwrap();
    }
}

/// What an instance says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InstanceRole {
    Master,
    /// Of whom.
    Replica(String),
}

impl<'f> TestCluster<'f> {
    /// Removes what tests before left, and provisions; nothing is pending afterwards.
    pub fn without_replicas(fleet: &'f TestFleet) -> Self {
        Self::create_cluster(fleet, SHARD_COUNT, false, false)
    }

    /// The same with TLS, and certificates of `dunlin shards certificates`.
    pub fn with_tls(fleet: &'f TestFleet) -> Self {
        Self::create_cluster(fleet, SHARD_COUNT, false, true)
    }

    /// The same in two zones, each shard with a replica in the other one; the host that joins later is in redis-01's.
    pub fn with_replicas(fleet: &'f TestFleet) -> Self {
        Self::create_cluster(fleet, SHARD_COUNT, true, false)
    }

    /// The same with a few shards.
    pub fn small_with_replicas(fleet: &'f TestFleet) -> Self {
        Self::create_cluster(fleet, SMALL_SHARD_COUNT, true, false)
    }

    fn create_cluster(fleet: &'f TestFleet, shards: u16, replicas: bool, tls: bool) -> Self {
        fleet.root_on(&HOST_NAMES, CLEANUP_SCRIPT);
        let mut project = FleetProject::with_fleet(fleet);
        project.hosts["groups"]["redis"] = toml::from_str(
            "hosts = [\"redis-01\", \"redis-02\"]\nvars = { shard_maxmemory = \"64MiB\", redis_appendfsync = \"always\" }",
        )
        .unwrap();
        for (host, zone) in REDIS_HOSTS.into_iter().zip(["a", "b", "a"]) {
            project.host_table(host).insert("memory".to_owned(), "1GiB".into());
            if replicas {
                project.host_table(host).insert("zone".to_owned(), zone.into());
            }
        }
        project.write_files();
        std::fs::write(project.file_path("inventory/shards.toml"), initial_map(shards, replicas)).unwrap();
        let secrets = project.file_path("inventory/secrets.toml");
        let words = format!(
            "[redis]\nadmin = \"{ADMIN_PASSWORD}\"\nreplica = \"replica-of-the-test\"\napp = \"{APP_PASSWORD}\"\n"
        );
        std::fs::write(&secrets, words).unwrap();
        std::fs::set_permissions(&secrets, std::fs::Permissions::from_mode(0o600)).unwrap();
        let mut cluster = Self { fleet, project, shards, tls_ca: None, hosts: REDIS_HOSTS.to_vec() };
        if tls {
            cluster.project.run_dunlin(&["shards", "certificates"]).assert_status(0);
            let secrets: toml::Table = std::fs::read_to_string(&secrets).unwrap().parse().unwrap();
            cluster.tls_ca = Some(secrets["redis"]["tls"]["ca"].as_str().unwrap().to_owned());
        }
        cluster.project.run_dunlin(&["provision", "--yes", "--quiet"]).assert_status(0);
        cluster.fill_shards();
        cluster
    }

    /// As much data in each shard, so that the plans do not hang on what the writers happen to have written.
    fn fill_shards(&self) {
        for entry in &self.read_map().shards {
            // One that needs its replica accepts nothing before that has come.
            let end = Instant::now() + SETTLE_TIMEOUT;
            while self.writable_hosts(entry.id.0) != [entry.host.as_str()] {
                assert!(Instant::now() < end, "shard {} on {} accepts no writes", entry.id, entry.host);
            }
            let mut connection = self.connect(&entry.host, entry.id.0, (&entry.id.acl_user(), APP_PASSWORD)).unwrap();
            let mut pipe = redis::pipe();
            for number in 0..KEYS_PER_SHARD {
                pipe.set(format!("fill:{number}"), vec![b'x'; 64 << 10]).ignore();
            }
            pipe.exec(&mut connection).unwrap();
        }
    }

    /// The third host joins the group, and is provisioned.
    pub fn add_third_host(&mut self) {
        self.add_hosts(&REDIS_HOSTS);
    }

    /// These are the hosts of the group now, and are provisioned.
    pub fn add_hosts(&mut self, hosts: &[&'static str]) {
        self.hosts = hosts.to_vec();
        self.project.hosts["groups"]["redis"]["hosts"] =
            hosts.iter().map(|name| (*name).into()).collect::<Vec<toml::Value>>().into();
        self.project.write_files();
        if self.tls_ca.is_some() {
            self.project.run_dunlin(&["shards", "certificates"]).assert_status(0);
        }
        self.project.run_dunlin(&["provision", "--yes", "--quiet"]).assert_status(0);
    }

    /// The authored map.
    pub fn read_map(&self) -> ShardMap {
        ShardMap::parse(&self.map_text()).unwrap()
    }

    /// Its text.
    pub fn map_text(&self) -> String {
        std::fs::read_to_string(self.project.file_path("inventory/shards.toml")).unwrap()
    }

    /// The map that consumers on app-01 read, seen from this machine.
    pub fn published_map_path(&self) -> PathBuf {
        self.fleet.disk_path("app-01").join("etc/timeline/shards.toml")
    }

    /// `ip:port` of a shard's instance on a host.
    pub fn address(&self, host: &str, shard: u16) -> String {
        format!("{}:{}", self.project.hosts["hosts"][host]["address"].as_str().unwrap(), PORT_BASE + shard)
    }

    /// What an instance says it is; `None` where none answers.
    pub fn instance_role(&self, host: &str, shard: u16) -> Option<InstanceRole> {
        let mut connection = self.connect(host, shard, ("dunlin", ADMIN_PASSWORD))?;
        let said: Vec<Value> = redis::cmd("ROLE").query(&mut connection).ok()?;
        match &said[..] {
            [Value::BulkString(kind), ..] if kind == b"master" => Some(InstanceRole::Master),
            [_, Value::BulkString(of), Value::Int(port), ..] => {
                Some(InstanceRole::Replica(format!("{}:{port}", String::from_utf8_lossy(of))))
            }
            other => panic!("{host}, shard {shard}: {other:?}"),
        }
    }

    /// The hosts whose instance of a shard takes a write of the application.
    pub fn writable_hosts(&self, shard: u16) -> Vec<&'static str> {
        let user = format!("s{shard:03}");
        let takes = |host| {
            let mut connection = self.connect(host, shard, (&user, APP_PASSWORD))?;
            redis::cmd("SET").arg("probe").arg(host).exec(&mut connection).is_ok().then_some(host)
        };
        run_in_parallel(&self.hosts, takes).into_iter().flatten().collect()
    }

    /// The same of all shards at the same time: a host that is off is waited for once.
    pub fn all_writable(&self) -> Vec<Vec<&'static str>> {
        run_in_parallel(&self.shard_ids(), |shard| self.writable_hosts(shard))
    }

    /// As the admin.
    pub fn connect_admin(&self, host: &str, shard: u16) -> redis::Connection {
        self.connect(host, shard, ("dunlin", ADMIN_PASSWORD)).unwrap()
    }

    /// How many replicas an instance has.
    pub fn attached_replicas(&self, host: &str, shard: u16) -> u64 {
        let mut connection = self.connect(host, shard, ("dunlin", ADMIN_PASSWORD)).unwrap();
        let info: String = redis::cmd("INFO").arg("replication").query(&mut connection).unwrap();
        info.lines().find_map(|line| line.strip_prefix("connected_slaves:")).unwrap().trim().parse().unwrap()
    }

    pub fn connect(&self, host: &str, shard: u16, (user, password): (&str, &str)) -> Option<redis::Connection> {
        let login = redis::RedisConnectionInfo::default().set_username(user).set_password(password);
        let address: InstanceAddress = self.address(host, shard).parse().unwrap();
        let client = build_client(&address.host, address.port, login, self.tls_ca.as_deref()).unwrap();
        let limit = Duration::from_secs(2);
        let connection = client.get_connection_with_timeout(limit).ok()?;
        connection.set_read_timeout(Some(limit)).unwrap();
        Some(connection)
    }

    /// Panics unless each shard has the instances that the map says, and only the primary takes writes.
    #[track_caller]
    pub fn assert_matches_map(&self) {
        let map = self.read_map();
        let (writable, roles) = (self.all_writable(), self.all_roles());
        for (entry, writable) in map.shards.iter().zip(writable) {
            assert_eq!(writable, [entry.host.as_str()], "shard {}, epoch {}", entry.id, map.epoch);
            let follows = InstanceRole::Replica(self.address(&entry.host, entry.id.0));
            for host in self.hosts.iter().copied().filter(|host| *host != entry.host) {
                let wanted = entry.replicas.iter().any(|replica| replica == host).then_some(&follows);
                assert_eq!(roles.get(&(entry.id.0, host)), wanted, "shard {} on {host}", entry.id);
            }
        }
    }

    /// Panics unless nothing is pending: for provisioning, and for the rebalancer.
    #[track_caller]
    pub fn assert_converged(&self) {
        self.assert_matches_map();
        self.project.run_dunlin(&["provision", "--dry-run", "--detailed-exitcode"]).assert_status(0);
        let dry = ["shard-rebalance", "--tolerance", TOLERANCE, "--dry-run", "--detailed-exitcode"];
        self.project.run_dunlin(&dry).assert_status(0);
    }

    /// All shards.
    fn shard_ids(&self) -> Vec<u16> {
        (0..self.shards).collect()
    }

    /// All places where an instance answers, with its role: by shard and host.
    pub fn all_roles(&self) -> BTreeMap<(u16, &'static str), InstanceRole> {
        let ids = self.shard_ids();
        let places: Vec<(u16, &'static str)> =
            ids.iter().flat_map(|shard| self.hosts.iter().map(|host| (*shard, *host))).collect();
        let roles = run_in_parallel(&places, |(shard, host)| self.instance_role(host, shard));
        places.into_iter().zip(roles).filter_map(|(place, role)| Some((place, role?))).collect()
    }

    /// Waits until no agent is left on any host: what one whose dunlin was killed had begun, it has ended by then.
    pub fn wait_for_agents_to_exit(&self) {
        self.wait_for_agents_to_exit_on(&HOST_NAMES);
    }

    /// The same, while other hosts are off.
    pub fn wait_for_agents_to_exit_on(&self, hosts: &[&str]) {
        let patience = 2 * SETTLE_TIMEOUT.as_secs();
        let ended = format!(
            "timeout {patience} sh -c \"while pgrep -f '[/]var/lib/dunlin/agent/' >/dev/null; do sleep 0.02; done\" \
             && echo ended || true"
        );
        for (host, said) in hosts.iter().zip(self.fleet.root_on(hosts, &ended)) {
            assert_eq!(said.trim(), "ended", "an agent is still at work on {host}");
        }
    }

    /// Takes a host's lock as somebody else, and keeps it until what is returned is dropped.
    pub fn hold_lock(&self, host: &str) -> LockHolderProcess {
        let agent = "exec /var/lib/dunlin/agent/$(ls -t /var/lib/dunlin/agent | head -n 1) agent";
        let mut command = self.fleet.ssh_command(host, agent);
        let mut agent = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let take = LockRequest {
            operator: "somebody-else@test".to_owned(),
            command: "a test".to_owned(),
            run: "theirs".to_owned(),
            shared: false,
        };
        let asked = frame::encode_message(&ControllerMessage::Request { id: 1, request: Request::Lock(take) }).unwrap();
        agent.stdin.as_mut().unwrap().write_all(&asked).unwrap();
        let mut answers = agent.stdout.take().unwrap();
        let hello = frame::read_frame(&mut answers, frame::Receiver::Controller).unwrap().unwrap();
        assert!(matches!(hello.parse_message().unwrap(), AgentMessage::Hello(_)));
        let answer = frame::read_frame(&mut answers, frame::Receiver::Controller).unwrap().unwrap();
        let AgentMessage::Reply { reply: Reply::Lock(LockResult::Acquired), .. } = answer.parse_message().unwrap()
        else {
            panic!("{answer:?}");
        };
        LockHolderProcess { agent, _answers: answers }
    }

    /// The journals of a host's moves: the records of each shard.
    pub fn read_journals(&self, host: &str) -> BTreeMap<u16, Vec<Json>> {
        let mut found = BTreeMap::new();
        let Ok(files) = std::fs::read_dir(self.fleet.disk_path(host).join("var/lib/dunlin/moves")) else {
            return found;
        };
        for path in files.map(|file| file.unwrap().path()) {
            let name = path.file_name().unwrap().to_str().unwrap();
            let number = name.strip_prefix("shard-").and_then(|name| name.strip_suffix(".jsonl"));
            let Some(shard) = number.and_then(|number| number.parse().ok()) else { continue };
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            found.insert(shard, text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect());
        }
        found
    }
}

/// The map that a cluster begins with: half of the shards on redis-01, half on redis-02, each with its replica on the
/// other.
fn initial_map(shards: u16, replicas: bool) -> String {
    let mut map = format!("cluster = \"test\"\nepoch = 1\nport_base = {PORT_BASE}\n");
    let width = 16384 / shards;
    for id in 0..shards {
        let half = usize::from(id / (shards / 2));
        let (first, host) = (id * width, REDIS_HOSTS[half]);
        let slots = format!("{first}-{}", first + width - 1);
        writeln!(map, "\n[[shard]]\nid = {id}\nslots = \"{slots}\"\nhost = \"{host}\"").unwrap();
        if replicas {
            writeln!(map, "replicas = [\"{}\"]", REDIS_HOSTS[1 - half]).unwrap();
        }
    }
    map
}

/// Ends and removes shards of an earlier test, and what dunlin knows of them; the packages stay.
const CLEANUP_SCRIPT: &str = "systemctl disable --now --quiet $(systemctl list-units --all --plain --no-legend 'redis-shard@*' | cut -d' ' -f1) 2>/dev/null
    systemctl reset-failed 'redis-shard@*' 2>/dev/null
    rm -rf /etc/redis/shard-* /var/lib/redis/shard-* /var/lib/dunlin/moves /var/lib/dunlin/locks /var/lib/dunlin/pending.json /etc/timeline /etc/redis-tls";
