//! Two or three "hosts" on loopback: an address and a folder each, with instances from the shipped templates.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use dunlin::plan::Digest;
use dunlin::protocol::shard::{
    Credentials, MinReplicasRequest, MoveLimits, MoveRecord, MoveSpec, Operation, RecoveryResult, RetireInstance,
    ShardReply, ShardRequest, StepHeader,
};
use dunlin::protocol::throttle::ThrottleLimits;
use dunlin::protocol::{Event, ProgressSink};
use dunlin::rebalance::host;
use dunlin::resources::{ApplyContext, BlobSource, DynResource, HostView, ReadOutcome, find_kind};
use dunlin_shards::{InstanceAddress, ShardId};
use serde_json::{Value, json};

pub const SHARD_ID: u16 = 17;
pub const APP_USER: &str = "s017";
pub const APP_PASSWORD: &str = "an app's word";

/// CAs by the port of the fixture whose instances they signed; tests of this process share no port.
static CAS: Mutex<BTreeMap<u16, String>> = Mutex::new(BTreeMap::new());

/// Contents in memory.
#[derive(Default)]
pub struct MemoryBlobs(BTreeMap<Digest, Vec<u8>>);

impl MemoryBlobs {
    pub fn write_to(&self, folder: &Path) {
        for (digest, bytes) in &self.0 {
            fs::write(folder.join(digest.as_str()), bytes).unwrap();
        }
    }
}

impl BlobSource for MemoryBlobs {
    fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        self.0.get(digest).cloned().context("no such content")
    }
}

/// A sink that keeps the notes.
#[derive(Default)]
pub struct RecordedNotes(pub Mutex<Vec<String>>);

impl ProgressSink for RecordedNotes {
    fn emit(&self, event: Event) {
        if let Event::Note { text } = event {
            self.0.lock().unwrap().push(text);
        }
    }

    fn is_cancelled(&self) -> bool {
        false
    }
}

/// A sink that wants it to stop.
struct CancelledSink;

impl ProgressSink for CancelledSink {
    fn emit(&self, _: Event) {}

    fn is_cancelled(&self) -> bool {
        true
    }
}

/// Hosts on one disk; everything that was started is killed when this is dropped.
pub struct MoveFixture {
    pub folder: tempfile::TempDir,
    pub port: u16,
    pub contents: MemoryBlobs,
    /// How many replicas a primary needs, as the playbook would say.
    pub needed: u32,
    count: u8,
    appendfsync: &'static str,
    /// Server program per instance.
    servers: Vec<String>,
    edits: Vec<(&'static str, &'static str)>,
    /// The CA of the instances' certificates, if they use TLS.
    tls_ca: Option<String>,
}

/// Returns the server program under test: that of `DUNLIN_TEST_SERVER`, or `redis-server`.
pub fn server_program() -> String {
    std::env::var("DUNLIN_TEST_SERVER").unwrap_or_else(|_| "redis-server".to_owned())
}

pub fn admin_credentials() -> Credentials {
    Credentials { user: "dunlin".to_owned(), password: "an admin's word".to_owned(), tls_ca: None }
}

pub fn app_credentials() -> Credentials {
    Credentials { user: APP_USER.to_owned(), password: APP_PASSWORD.to_owned(), tls_ca: None }
}

impl MoveFixture {
    pub fn with_instances(count: u8) -> Self {
        Self::with_appendfsync(count, "everysec")
    }

    /// Instances with that `appendfsync`.
    pub fn with_appendfsync(count: u8, appendfsync: &'static str) -> Self {
        Self::with_conf_edits(count, appendfsync, Vec::new())
    }

    /// Instances whose configuration is the template's with these replacements.
    pub fn with_conf_edits(count: u8, appendfsync: &'static str, edits: Vec<(&'static str, &'static str)>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port(count);
        let servers = vec![server_program(); usize::from(count)];
        let contents = MemoryBlobs::default();
        let mut fixture = Self { folder, port, contents, needed: 0, count, appendfsync, servers, edits, tls_ca: None };
        for n in 0..count {
            for part in ["etc", "data", "moves"] {
                fs::create_dir_all(fixture.instance_root(n).join(part)).unwrap();
            }
            fixture.render_files(n);
        }
        fixture
    }

    /// Lets the instances use TLS, with the certificates in the folder `tls` of each.
    pub fn enable_tls(&mut self, ca: &str) {
        self.tls_ca = Some(ca.to_owned());
        CAS.lock().unwrap_or_else(PoisonError::into_inner).insert(self.port, ca.to_owned());
    }

    pub fn instance_root(&self, n: u8) -> PathBuf {
        self.folder.path().join(format!("host-{n}"))
    }

    pub fn instance_address(&self, n: u8) -> InstanceAddress {
        InstanceAddress::new(format!("127.0.0.{}", n + 2), self.port)
    }

    pub fn address(&self, n: u8) -> String {
        self.instance_address(n).to_string()
    }

    pub fn data_dir(&self, n: u8) -> PathBuf {
        self.instance_root(n).join(format!("data/shard-{SHARD_ID}"))
    }

    pub fn conf_path(&self, n: u8) -> PathBuf {
        self.instance_root(n).join(format!("etc/shard-{SHARD_ID}/redis.conf"))
    }

    pub fn acl_path(&self, n: u8) -> PathBuf {
        self.instance_root(n).join(format!("etc/shard-{SHARD_ID}/users.acl"))
    }

    /// Uses another server program for an instance.
    pub fn set_server(&mut self, n: u8, server: &str) {
        server.clone_into(&mut self.servers[usize::from(n)]);
    }

    /// Uses other replacements in the template's configuration from now on.
    pub fn set_conf_edits(&mut self, edits: Vec<(&'static str, &'static str)>) {
        self.edits = edits;
    }

    fn render_files(&mut self, n: u8) -> [Value; 2] {
        let mut context = tera::Context::new();
        context.insert("item", &json!({"id": SHARD_ID, "port": self.port, "user": APP_USER, "maxmemory": "256mb"}));
        context.insert("host", &json!({"address": format!("127.0.0.{}", n + 2)}));
        context.insert(
            "secrets",
            &json!({"redis": {"admin": admin_credentials().password, "replica": "a replica's word", "app": APP_PASSWORD}}),
        );
        if let Some(ca) = &self.tls_ca {
            let redis = json!({"admin": admin_credentials().password, "replica": "a replica's word",
                               "app": APP_PASSWORD, "tls": {"ca": ca}});
            context.insert("secrets", &json!({ "redis": redis }));
            context.insert("redis_tls_dir", &self.instance_root(n).join("tls"));
        }
        context.insert("redis_appendfsync", self.appendfsync);
        context.insert("redis_processes", &true);
        context.insert("redis_data", &self.instance_root(n).join("data"));
        context.insert("redis_etc", &self.instance_root(n).join("etc"));
        let mut tera = tera::Tera::default();
        tera.register_filter("sha256", |text: &str, _: tera::Kwargs, _: &tera::State| {
            Digest::of_bytes(text.as_bytes()).as_str().to_owned()
        });
        ["shard.conf", "users.acl"].map(|name| {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("templates/redis").join(name);
            let text = tera.render_str(&fs::read_to_string(path).unwrap(), &context, false).unwrap();
            let text = self.edits.iter().fold(text, |text, (from, to)| text.replace(from, to));
            self.add_content(text.as_bytes())
        })
    }

    pub fn add_content(&mut self, bytes: &[u8]) -> Value {
        let digest = Digest::of_bytes(bytes);
        self.contents.0.insert(digest.clone(), bytes.to_vec());
        json!({"digest": digest, "len": bytes.len()})
    }

    pub fn instance_spec(&mut self, n: u8) -> Value {
        let [conf, acl] = self.render_files(n);
        let admin_password = self.add_content(admin_credentials().password.as_bytes());
        let tls_file =
            |name| self.tls_ca.as_ref().map(|_| self.instance_root(n).join("tls").join(name)).unwrap_or_default();
        let (tls_ca_file, tls_cert_file, tls_key_file) =
            (tls_file("ca.crt"), tls_file("server.crt"), tls_file("server.key"));
        json!({
            "tls_ca_file": tls_ca_file, "tls_cert_file": tls_cert_file, "tls_key_file": tls_key_file,
            "id": SHARD_ID.to_string(), "port": self.port.to_string(), "conf": conf, "acl": acl,
            "data_dir": self.data_dir(n), "conf_dir": self.instance_root(n).join(format!("etc/shard-{SHARD_ID}")),
            "user": user_name(), "admin_password": admin_password,
            "min_replicas": self.needed.to_string(), "server": self.servers[usize::from(n)],
        })
    }

    /// What each step at a place carries.
    pub fn job_for(&self, n: u8) -> StepHeader {
        let journals = self.instance_root(n).join("moves");
        StepHeader {
            run: "test".to_owned(),
            generation: 0,
            shard: ShardId(SHARD_ID),
            credentials: Credentials { tls_ca: self.tls_ca.clone(), ..admin_credentials() },
            journal_dir: journals,
        }
    }

    /// Returns the record of a move of a shard that has these replicas too.
    pub fn move_record(&mut self, from: u8, to: u8, others: &[u8]) -> MoveRecord {
        let other_replicas = others.iter().map(|n| self.instance_address(*n)).collect();
        MoveRecord {
            operation: Operation::Relocate { other_replicas },
            from: self.instance_address(from),
            to: self.instance_address(to),
            epoch: 8,
            app_user: APP_USER.to_owned(),
            instance: self.instance_spec(to),
            min_replicas: None,
            operator: "test".to_owned(),
            throttle: ThrottleLimits::default(),
        }
    }

    pub fn move_spec(&mut self, from: u8, to: u8) -> MoveSpec {
        self.move_spec_with_replicas(from, to, &[])
    }

    /// Returns the move of a shard that has these replicas too.
    pub fn move_spec_with_replicas(&mut self, from: u8, to: u8, others: &[u8]) -> MoveSpec {
        MoveSpec {
            header: self.job_for(to),
            record: self.move_record(from, to, others),
            source_file_requires_replicas: false,
            limits: MoveLimits { copy_stall_timeout_s: 20, ..MoveLimits::default() },
        }
    }

    /// A replica of a primary, in the place of another one.
    pub fn replica_spec(&mut self, primary: u8, new: u8, old: Option<u8>) -> MoveSpec {
        let mut spec = self.move_spec(primary, new);
        spec.record.operation = Operation::CreateReplica { replaces: old.map(|old| self.instance_address(old)) };
        spec.record.instance["replica_of"] = json!(self.address(primary));
        spec
    }

    /// The durable part of arming, at the source's place.
    pub fn min_replicas_request(&mut self, n: u8, replicas: u32) -> ShardRequest {
        ShardRequest::RequireReplicas(MinReplicasRequest {
            header: self.job_for(n),
            address: self.instance_address(n),
            replicas,
            instance: self.instance_spec(n),
        })
    }

    pub fn retire_spec(&mut self, n: u8, owner: u8) -> RetireInstance {
        RetireInstance {
            header: self.job_for(n),
            address: self.instance_address(n),
            primary: self.instance_address(owner),
            epoch: 8,
            app_user: APP_USER.to_owned(),
            instance: self.instance_spec(n),
            retention_hours: 24,
        }
    }

    pub fn run_request(&self, request: ShardRequest) -> Result<ShardReply> {
        self.run_with_sink(request, &RecordedNotes::default())
    }

    /// As [`Places::handle`], telling its events to somebody.
    pub fn run_with_sink(&self, request: ShardRequest, sink: &dyn ProgressSink) -> Result<ShardReply> {
        host::handle_request(request, &self.contents, sink)
    }

    /// As [`Places::handle`], with the notes that were made.
    pub fn run_with_notes(&self, request: ShardRequest) -> (Result<ShardReply>, Vec<String>) {
        let notes = RecordedNotes::default();
        let reply = self.run_with_sink(request, &notes);
        (reply, notes.0.into_inner().unwrap())
    }

    /// As [`Places::handle`], by somebody who wants it to stop.
    pub fn run_cancelled(&self, request: ShardRequest) -> Result<ShardReply> {
        self.run_with_sink(request, &CancelledSink)
    }

    /// Provisions an instance; returns what the plan said.
    pub fn provision_primary(&mut self, n: u8) -> Result<dunlin::resources::Diff> {
        let instance = self.instance_spec(n);
        self.provision_instance(n, instance)
    }

    /// Provisions a replica by the map.
    pub fn provision_replica(&mut self, n: u8, of: u8) -> Result<dunlin::resources::Diff> {
        let mut instance = self.instance_spec(n);
        instance["replica_of"] = json!(self.address(of));
        self.provision_instance(n, instance)
    }

    pub fn provision_instance(&mut self, n: u8, instance: Value) -> Result<dunlin::resources::Diff> {
        let step = (find_kind("redis_shard").unwrap().parse)(instance)?;
        let diff = self.plan_step(&*step)?;
        let ReadOutcome::Known(observed) = step.read(&mut HostView::current())? else { bail!("unknown") };
        if diff.action.is_pending() {
            step.apply(&observed, &mut ApplyContext::new(&self.contents))?;
        }
        self.wait_until_ready(n);
        Ok(diff)
    }

    pub fn plan_step(&self, step: &dyn DynResource) -> Result<dunlin::resources::Diff> {
        let ReadOutcome::Known(observed) = step.read(&mut HostView::current())? else { bail!("unknown") };
        step.diff(&observed, &self.contents)
    }

    pub fn wait_until_ready(&self, n: u8) {
        // Between two of its files an instance says for a moment that it has loaded.
        let mut times = 0;
        wait_until(Duration::from_secs(20), || {
            times = if connect_admin(&self.address(n)).is_ok_and(|mut c| is_ready(&mut c)) { times + 1 } else { 0 };
            times == 3
        });
    }

    /// SIGKILL; returns once the process is gone with all its threads, so that its port is free.
    pub fn kill_instance(&self, n: u8) {
        let Some(pid) = self.read_pid(n) else { return };
        let Ok(process) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else { return };
        rustix::process::pidfd_send_signal(&process, rustix::process::Signal::KILL).ok();
        let mut end = [rustix::event::PollFd::new(&process, rustix::event::PollFlags::IN)];
        let most = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };
        assert_eq!(rustix::event::poll(&mut end, Some(&most)), Ok(1), "instance {n} is still there");
    }

    /// A clean stop, as `systemctl stop` does it.
    pub fn stop(&mut self, n: u8) {
        let instance: dunlin::resources::redis_shard::RedisShard =
            serde_json::from_value(self.instance_spec(n)).unwrap();
        instance.stop_and_disable().unwrap();
    }

    /// What the increments of an instance's append-only file hold.
    pub fn append_only_file(&self, n: u8) -> Vec<u8> {
        let entries = fs::read_dir(self.data_dir(n).join("appendonlydir")).into_iter().flatten();
        let files = entries.map(|entry| entry.unwrap().path()).filter(|path| path.to_string_lossy().contains(".incr."));
        files.flat_map(|path| fs::read(path).unwrap()).collect()
    }

    pub fn restart_instance(&mut self, n: u8) {
        if self.conf_path(n).exists() {
            let instance: dunlin::resources::redis_shard::RedisShard =
                serde_json::from_value(self.instance_spec(n)).unwrap();
            instance.start_instance().unwrap();
        }
    }

    /// The process of an instance. The number of one that has ended may be another's by now, and that one a server as
    /// well: it is called by its file, and soon by its address.
    pub fn read_pid(&self, n: u8) -> Option<rustix::process::Pid> {
        let number: i32 = fs::read_to_string(self.data_dir(n).join("redis.pid")).ok()?.trim().parse().ok()?;
        let title = String::from_utf8_lossy(&fs::read(format!("/proc/{number}/cmdline")).ok()?).into_owned();
        let names = [self.address(n), self.conf_path(n).display().to_string()];
        names.iter().any(|name| title.contains(name)).then(|| rustix::process::Pid::from_raw(number)).flatten()
    }

    /// How many instances let the application write.
    pub fn writable_instances(&self) -> Vec<u8> {
        let write = |n: &u8| {
            connect_as(&self.address(*n), &app_credentials())
                .and_then(|mut c| redis::cmd("SET").arg("probe").arg(1).exec(&mut c))
                .is_ok()
        };
        (0..self.count).filter(write).collect()
    }

    pub fn run_recover(&mut self, from: u8, to: u8) -> RecoveryResult {
        let spec = self.move_spec(from, to);
        match self.run_request(ShardRequest::Recover(spec)).unwrap() {
            ShardReply::Recover(recovered) => recovered,
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for MoveFixture {
    fn drop(&mut self) {
        for n in 0..self.count {
            self.kill_instance(n);
        }
    }
}

/// Whoever runs the tests owns the instances; a number stands for itself.
fn user_name() -> String {
    let uid = rustix::process::geteuid();
    if uid.is_root() { "root".to_owned() } else { uid.as_raw().to_string() }
}

/// A port that is free on all places, and no other test's of this process: below the range of outgoing connections,
/// which could take it while an instance is down.
fn free_port(count: u8) -> u16 {
    free_ports(count, 1)
}

/// Returns the first of consecutive ports of which each is free as [`free_port`] says.
pub fn free_ports(hosts: u8, ports: u16) -> u16 {
    static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let ip = |n| format!("127.0.0.{}", n + 2);
    loop {
        let any = TcpListener::bind((ip(0), 0)).unwrap().local_addr().unwrap().port();
        let first = 10_000 + any % 20_000;
        let is_free = |port| !taken.contains(&port) && (0..hosts).all(|n| TcpListener::bind((ip(n), port)).is_ok());
        if (first..first + ports).all(is_free) {
            taken.extend(first..first + ports);
            return first;
        }
    }
}

pub fn connect_as(address: &str, login: &Credentials) -> redis::RedisResult<redis::Connection> {
    let (ip, port) = address.rsplit_once(':').unwrap();
    let settings = redis::RedisConnectionInfo::default()
        .set_username(&login.user)
        .set_password(&login.password)
        .set_skip_set_lib_name();
    let port = port.parse().unwrap();
    let ca = login.tls_ca.clone().or_else(|| CAS.lock().unwrap_or_else(PoisonError::into_inner).get(&port).cloned());
    let connection = dunlin_shards::build_client(ip, port, settings, ca.as_deref())?
        .get_connection_with_timeout(Duration::from_secs(5))?;
    connection.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(connection)
}

pub fn connect_admin(address: &str) -> redis::RedisResult<redis::Connection> {
    connect_as(address, &admin_credentials())
}

fn is_ready(connection: &mut redis::Connection) -> bool {
    redis::cmd("INFO").arg("persistence").query::<String>(connection).is_ok_and(|info| info.contains("loading:0"))
}

/// Waits until it is true.
#[track_caller]
pub fn wait_until(time: Duration, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + time;
    while !condition() {
        assert!(Instant::now() < end, "not within {time:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
