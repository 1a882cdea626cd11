//! Redis shards on the fleet: the shipped playbook and templates with an inventory and a map of the test's.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use dunlin::wire::lock::{Take, Taken};
use dunlin::wire::{FromAgent, Reply, Request, ToAgent, frame};
use dunlin_shards::ShardMap;
use redis::Value;
use serde_json::Value as Json;

use crate::hosts::{Fleet, HOSTS, together};
use crate::project::Project;

/// The hosts of shards; the last one joins later.
pub const REDIS: [&str; 3] = ["redis-01", "redis-02", "redis-03"];
/// Eight shards of one size cannot be spread over three hosts any better than 2, 3, 3: a quarter under the share.
pub const TOLERANCE: &str = "30%";
/// How many shards there are, and how many where their number is not what counts.
pub const SHARDS: u16 = 8;
pub const FEW: u16 = 4;
const PORT: u16 = 7000;
/// Keys of 64 KiB that each shard holds from the beginning.
const FILL: usize = 32;
/// The admin's and the application's passwords.
const ADMIN: &str = "admin-of-the-test";
pub const APP: &str = "app-of-the-test";
/// How long something that is bound to come may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Shards on redis-01 and redis-02, with their map on app-01.
pub struct Cluster<'f> {
    pub fleet: &'f Fleet,
    pub project: Project,
    pub shards: u16,
    /// Where instances may be.
    hosts: Vec<&'static str>,
}

/// Somebody who holds a host's lock; killed when it is dropped.
pub struct Holder {
    agent: Child,
    _answers: ChildStdout,
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.agent.kill().unwrap();
        self.agent.wait().unwrap();
    }
}

/// What an instance says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    Master,
    /// Of whom.
    Replica(String),
}

impl<'f> Cluster<'f> {
    /// Removes what tests before left, and provisions; nothing is pending afterwards.
    pub fn new(fleet: &'f Fleet) -> Self {
        Self::made(fleet, SHARDS, false)
    }

    /// The same in two zones, each shard with a replica in the other one; the host that joins later is in redis-01's.
    pub fn with_replicas(fleet: &'f Fleet) -> Self {
        Self::made(fleet, SHARDS, true)
    }

    /// The same with a few shards.
    pub fn few_with_replicas(fleet: &'f Fleet) -> Self {
        Self::made(fleet, FEW, true)
    }

    fn made(fleet: &'f Fleet, shards: u16, replicas: bool) -> Self {
        fleet.root_on(&HOSTS, WIPE);
        let mut project = Project::new(fleet);
        project.hosts["groups"]["redis"] = toml::from_str(
            "hosts = [\"redis-01\", \"redis-02\"]\nvars = { shard_maxmemory = \"64MiB\", redis_appendfsync = \"always\" }",
        )
        .unwrap();
        for (host, zone) in REDIS.into_iter().zip(["a", "b", "a"]) {
            project.host(host).insert("memory".to_owned(), "1GiB".into());
            if replicas {
                project.host(host).insert("zone".to_owned(), zone.into());
            }
        }
        project.write();
        std::fs::write(project.path("inventory/shards.toml"), first_map(shards, replicas)).unwrap();
        let secrets = project.path("inventory/secrets.toml");
        let words = format!("[redis]\nadmin = \"{ADMIN}\"\nreplica = \"replica-of-the-test\"\napp = \"{APP}\"\n");
        std::fs::write(&secrets, words).unwrap();
        std::fs::set_permissions(&secrets, std::fs::Permissions::from_mode(0o600)).unwrap();
        let cluster = Self { fleet, project, shards, hosts: REDIS.to_vec() };
        cluster.project.dunlin(&["provision", "--yes", "--quiet"]).ends(0);
        cluster.fill();
        cluster
    }

    /// As much data in each shard, so that the plans do not hang on what the writers happen to have written.
    fn fill(&self) {
        for entry in &self.map().shards {
            // One that needs its replica accepts nothing before that has come.
            let end = Instant::now() + PATIENCE;
            while self.writable(entry.id.0) != [entry.host.as_str()] {
                assert!(Instant::now() < end, "shard {} on {} accepts no writes", entry.id, entry.host);
            }
            let mut connection = self.connect(&entry.host, entry.id.0, (&entry.id.user(), APP)).unwrap();
            let mut pipe = redis::pipe();
            for number in 0..FILL {
                pipe.set(format!("fill:{number}"), vec![b'x'; 64 << 10]).ignore();
            }
            pipe.exec(&mut connection).unwrap();
        }
    }

    /// The third host joins the group, and is provisioned.
    pub fn grow(&mut self) {
        self.grow_to(&REDIS);
    }

    /// These are the hosts of the group now, and are provisioned.
    pub fn grow_to(&mut self, hosts: &[&'static str]) {
        self.hosts = hosts.to_vec();
        self.project.hosts["groups"]["redis"]["hosts"] =
            hosts.iter().map(|name| (*name).into()).collect::<Vec<toml::Value>>().into();
        self.project.write();
        self.project.dunlin(&["provision", "--yes", "--quiet"]).ends(0);
    }

    /// The authored map.
    pub fn map(&self) -> ShardMap {
        ShardMap::parse(&self.map_text()).unwrap()
    }

    /// Its text.
    pub fn map_text(&self) -> String {
        std::fs::read_to_string(self.project.path("inventory/shards.toml")).unwrap()
    }

    /// The map that consumers on app-01 read, seen from this machine.
    pub fn published(&self) -> PathBuf {
        self.fleet.disk("app-01").join("etc/timeline/shards.toml")
    }

    /// `ip:port` of a shard's instance on a host.
    pub fn address(&self, host: &str, shard: u16) -> String {
        format!("{}:{}", self.project.hosts["hosts"][host]["address"].as_str().unwrap(), PORT + shard)
    }

    /// What an instance says it is; `None` where none answers.
    pub fn role(&self, host: &str, shard: u16) -> Option<Role> {
        let mut connection = self.connect(host, shard, ("dunlin", ADMIN))?;
        let said: Vec<Value> = redis::cmd("ROLE").query(&mut connection).ok()?;
        match &said[..] {
            [Value::BulkString(kind), ..] if kind == b"master" => Some(Role::Master),
            [_, Value::BulkString(of), Value::Int(port), ..] => {
                Some(Role::Replica(format!("{}:{port}", String::from_utf8_lossy(of))))
            }
            other => panic!("{host}, shard {shard}: {other:?}"),
        }
    }

    /// The hosts whose instance of a shard takes a write of the application.
    pub fn writable(&self, shard: u16) -> Vec<&'static str> {
        let user = format!("s{shard:03}");
        let takes = |host| {
            let mut connection = self.connect(host, shard, (&user, APP))?;
            redis::cmd("SET").arg("probe").arg(host).exec(&mut connection).is_ok().then_some(host)
        };
        together(&self.hosts, takes).into_iter().flatten().collect()
    }

    /// The same of all shards at the same time: a host that is off is waited for once.
    pub fn all_writable(&self) -> Vec<Vec<&'static str>> {
        together(&self.ids(), |shard| self.writable(shard))
    }

    /// As the admin.
    pub fn admin(&self, host: &str, shard: u16) -> redis::Connection {
        self.connect(host, shard, ("dunlin", ADMIN)).unwrap()
    }

    /// How many replicas an instance has.
    pub fn replicas(&self, host: &str, shard: u16) -> u64 {
        let mut connection = self.connect(host, shard, ("dunlin", ADMIN)).unwrap();
        let info: String = redis::cmd("INFO").arg("replication").query(&mut connection).unwrap();
        info.lines().find_map(|line| line.strip_prefix("connected_slaves:")).unwrap().trim().parse().unwrap()
    }

    pub fn connect(&self, host: &str, shard: u16, (user, password): (&str, &str)) -> Option<redis::Connection> {
        let url = format!("redis://{user}:{password}@{}/", self.address(host, shard));
        let limit = Duration::from_secs(2);
        let connection = redis::Client::open(url).unwrap().get_connection_with_timeout(limit).ok()?;
        connection.set_read_timeout(Some(limit)).unwrap();
        Some(connection)
    }

    /// Panics unless each shard has the instances that the map says, and only the primary takes writes.
    #[track_caller]
    pub fn is_as_the_map_says(&self) {
        let map = self.map();
        let (writable, roles) = (self.all_writable(), self.roles());
        for (entry, writable) in map.shards.iter().zip(writable) {
            assert_eq!(writable, [entry.host.as_str()], "shard {}, epoch {}", entry.id, map.epoch);
            let follows = Role::Replica(self.address(&entry.host, entry.id.0));
            for host in self.hosts.iter().copied().filter(|host| *host != entry.host) {
                let wanted = entry.replicas.iter().any(|replica| replica == host).then_some(&follows);
                assert_eq!(roles.get(&(entry.id.0, host)), wanted, "shard {} on {host}", entry.id);
            }
        }
    }

    /// Panics unless nothing is pending: for provisioning, and for the rebalancer.
    #[track_caller]
    pub fn is_settled(&self) {
        self.is_as_the_map_says();
        self.project.dunlin(&["provision", "--dry-run", "--detailed-exitcode"]).ends(0);
        let dry = ["shard-rebalance", "--tolerance", TOLERANCE, "--dry-run", "--detailed-exitcode"];
        self.project.dunlin(&dry).ends(0);
    }

    /// All shards.
    fn ids(&self) -> Vec<u16> {
        (0..self.shards).collect()
    }

    /// All places where an instance answers, with its role: by shard and host.
    pub fn roles(&self) -> BTreeMap<(u16, &'static str), Role> {
        let ids = self.ids();
        let places: Vec<(u16, &'static str)> =
            ids.iter().flat_map(|shard| self.hosts.iter().map(|host| (*shard, *host))).collect();
        let roles = together(&places, |(shard, host)| self.role(host, shard));
        places.into_iter().zip(roles).filter_map(|(place, role)| Some((place, role?))).collect()
    }

    /// Waits until no agent is left on any host: what one whose dunlin was killed had begun, it has ended by then.
    pub fn without_agents(&self) {
        self.without_agents_on(&HOSTS);
    }

    /// The same, while other hosts are off.
    pub fn without_agents_on(&self, hosts: &[&str]) {
        let patience = 2 * PATIENCE.as_secs();
        let ended = format!(
            "timeout {patience} sh -c \"while pgrep -f '[/]var/lib/dunlin/agent/' >/dev/null; do sleep 0.02; done\" \
             && echo ended || true"
        );
        for (host, said) in hosts.iter().zip(self.fleet.root_on(hosts, &ended)) {
            assert_eq!(said.trim(), "ended", "an agent is still at work on {host}");
        }
    }

    /// Takes a host's lock as somebody else, and keeps it until what is returned is dropped.
    pub fn hold(&self, host: &str) -> Holder {
        let agent = "exec /var/lib/dunlin/agent/$(ls -t /var/lib/dunlin/agent | head -n 1) agent";
        let mut command = self.fleet.ssh(host, agent);
        let mut agent = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let take = Take {
            by: "somebody-else@test".to_owned(),
            command: "a test".to_owned(),
            run: "theirs".to_owned(),
            shared: false,
        };
        let asked = frame::encode(&ToAgent::Request { id: 1, request: Request::Lock(take) }).unwrap();
        agent.stdin.as_mut().unwrap().write_all(&asked).unwrap();
        let mut answers = agent.stdout.take().unwrap();
        let hello = frame::read(&mut answers).unwrap().unwrap();
        assert!(matches!(hello.message().unwrap(), FromAgent::Hello(_)));
        let answer = frame::read(&mut answers).unwrap().unwrap();
        let FromAgent::Reply { reply: Reply::Lock(Taken::Held), .. } = answer.message().unwrap() else {
            panic!("{answer:?}");
        };
        Holder { agent, _answers: answers }
    }

    /// The journals of a host's moves: the records of each shard.
    pub fn journals(&self, host: &str) -> BTreeMap<u16, Vec<Json>> {
        let mut found = BTreeMap::new();
        let Ok(files) = std::fs::read_dir(self.fleet.disk(host).join("var/lib/dunlin/moves")) else { return found };
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

/// The map that a cluster begins with: half of the shards on redis-01, half on redis-02, each with its replica on the other.
fn first_map(shards: u16, replicas: bool) -> String {
    let mut map = format!("cluster = \"test\"\nepoch = 1\nport_base = {PORT}\n");
    let width = 16384 / shards;
    for id in 0..shards {
        let half = usize::from(id / (shards / 2));
        let (first, host) = (id * width, REDIS[half]);
        let slots = format!("{first}-{}", first + width - 1);
        writeln!(map, "\n[[shard]]\nid = {id}\nslots = \"{slots}\"\nhost = \"{host}\"").unwrap();
        if replicas {
            writeln!(map, "replicas = [\"{}\"]", REDIS[1 - half]).unwrap();
        }
    }
    map
}

/// Ends and removes shards of an earlier test, and what dunlin knows of them; the packages stay.
const WIPE: &str = "systemctl disable --now --quiet $(systemctl list-units --all --plain --no-legend 'redis-shard@*' | cut -d' ' -f1) 2>/dev/null
    systemctl reset-failed 'redis-shard@*' 2>/dev/null
    rm -rf /etc/redis/shard-* /var/lib/redis/shard-* /var/lib/dunlin/moves /var/lib/dunlin/locks /var/lib/dunlin/pending.json /etc/timeline";
