//! A project whose hosts are mount namespaces on this machine: each has its own `/var/lib`, an address on loopback, and
//! instances without systemd.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use dunlin::protocol::shard::Credentials;
use regex::Regex;
use serde_json::{Value, json};

use crate::fixture::{admin_credentials, connect_as, free_ports, wait_until};
use crate::invariants::info_field;
use crate::program::{Output, Project};
use crate::ssh_master::{agents, listen};

/// The hosts, with the last number of the address; the last one is the consumer of the map.
const HOSTS: [(&str, u8); 4] = [("redis-01", 2), ("redis-02", 3), ("redis-03", 4), ("app-01", 5)];
const SHARDS: u16 = 2;
const KEYS_PER_SHARD: usize = 50;

const PLAYBOOK: &str = r#"[[play]]
name  = "redis"
hosts = "redis"

[[play.step]]
name     = "shard {{ item.id }}"
for_each = "shards_here"

[play.step.redis_shard]
id             = "{{ item.id }}"
port           = "{{ item.port }}"
address        = "{{ host.address }}"
conf           = "redis/shard.conf"
acl            = "redis/users.acl"
admin_password = "{{ secrets.redis.admin }}"
data_dir       = "/var/lib/redis/shard-{{ item.id }}"
conf_dir       = "/var/lib/redis-etc/shard-{{ item.id }}"
user           = "root"
replica_of     = "{{ item.replica_of }}"
min_replicas   = "{% if item.replicas | length > 0 %}1{% else %}0{% endif %}"

[[play]]
name  = "app"
hosts = "app"

[[play.step]]
shard_map = { dest = "/var/lib/app/shards.toml" }
"#;

/// A provisioned project; all its instances are killed when it is dropped.
pub struct ShardProject {
    project: Project,
    port_base: u16,
}

impl ShardProject {
    /// Provisions shard 0 on redis-01 and shard 1 on redis-02, with these lines more in the entry of each; writes keys.
    pub fn provision(entries: [&str; 2]) -> Self {
        let port_base = free_ports(3, SHARDS);
        let project = Project::new(&[
            ("inventory/hosts.toml", &inventory()),
            ("inventory/secrets.toml", "[redis]\nadmin = \"one\"\nreplica = \"two\"\napp = \"three\"\n"),
            ("playbooks/site.toml", PLAYBOOK),
            ("templates/redis/shard.conf", include_str!("../../../templates/redis/shard.conf")),
            ("templates/redis/users.acl", include_str!("../../../templates/redis/users.acl")),
        ]);
        let private = fs::Permissions::from_mode(0o600);
        fs::set_permissions(project.path("inventory/secrets.toml"), private).unwrap();
        let created = Self { project, port_base };
        created.write_map(3, entries);
        for (host, _) in HOSTS {
            for folder in ["dunlin", "redis", "redis-etc", "app"] {
                fs::create_dir_all(created.host_folder(host).join(folder)).unwrap();
            }
            let var_lib = created.host_folder(host);
            listen(&created.socket(host), move |command| in_namespace(command, &var_lib));
        }
        created.run(&["provision", "--yes"]).ends(0);
        (0..SHARDS).for_each(|shard| created.write_keys(shard));
        created
    }

    /// Writes the map of the two shards.
    pub fn write_map(&self, epoch: u64, entries: [&str; 2]) {
        let shard = |id: usize, slots: &str| {
            format!("\n[[shard]]\nid = {id}\nslots = \"{slots}\"\nhost = \"redis-0{}\"\n{}\n", id + 1, entries[id])
        };
        let map = format!(
            "cluster = \"timeline\"\nepoch = {epoch}\nport_base = {}\nreplicas = 1\n{}{}",
            self.port_base,
            shard(0, "0-8191"),
            shard(1, "8192-16383")
        );
        self.project.write("inventory/shards.toml", &map);
    }

    /// Saves a move as one that an earlier run did not start.
    pub fn save_pending_move(&self, shard: u16, from: &str, to: &str) {
        let pending = json!([{"shard": shard, "from": from, "to": to, "wave": 0}]);
        self.project.write(".dunlin/rebalance-inventory.json", &pending.to_string());
    }

    /// Runs dunlin; what differs from run to run is replaced in its output.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let mut output = self.project.dunlin(arguments);
        if output.command.contains(" --json") {
            let lines = output.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            output.stdout = mask_events(lines.map(mask_json));
        } else {
            output.stdout = mask_text(&output.stdout);
        }
        output.stderr = mask_text(&output.stderr);
        self.wait_for_links();
        output
    }

    /// Waits until each replica is connected to its primary, if that lives: Redis connects once a second.
    fn wait_for_links(&self) {
        let admin = Credentials { password: "one".to_owned(), ..admin_credentials() };
        let hosts = HOSTS[..3].iter().map(|(host, _)| *host);
        let places: Vec<_> = hosts.flat_map(|host| (0..SHARDS).map(move |shard| (host, shard))).collect();
        let living = places.into_iter().filter(|(host, shard)| self.read_pid(host, *shard).is_some());
        let addresses: Vec<String> = living.map(|(host, shard)| self.address(host, shard)).collect();
        let is_connected = |address: &String| {
            let Ok(mut instance) = connect_as(address, &admin) else { return false };
            let mut field = |name: &str| info_field(&mut instance, "replication", name);
            field("role") == "master"
                || !addresses.contains(&format!("{}:{}", field("master_host"), field("master_port")))
                || field("master_link_status") == "up"
        };
        wait_until(Duration::from_secs(60), || addresses.iter().all(is_connected));
    }

    /// Runs commands one after the other. The exit code is part of the snapshot.
    pub fn run_all(&self, commands: &[&[&str]]) -> Vec<Output> {
        commands.iter().map(|command| self.run(command)).collect()
    }

    /// Kills an instance.
    pub fn kill_instance(&self, host: &str, shard: u16) {
        let Some(pid) = self.read_pid(host, shard) else { return };
        let Ok(process) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else { return };
        rustix::process::pidfd_send_signal(&process, rustix::process::Signal::KILL).ok();
        let mut end = [rustix::event::PollFd::new(&process, rustix::event::PollFlags::IN)];
        let most = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };
        assert_eq!(rustix::event::poll(&mut end, Some(&most)), Ok(1), "shard {shard} on {host} is still there");
    }

    /// Kills all instances of a host and lets nobody reach it.
    pub fn lose_host(&self, host: &str) {
        (0..SHARDS).for_each(|shard| self.kill_instance(host, shard));
        fs::remove_file(self.socket(host)).unwrap();
    }

    fn write_keys(&self, shard: u16) {
        let app = Credentials { user: format!("s{shard:03}"), password: "three".to_owned(), tls_ca: None };
        let host = HOSTS[usize::from(shard)].0;
        // Until its replica follows, a primary refuses writes.
        wait_until(Duration::from_secs(60), || {
            connect_as(&self.address(host, shard), &app)
                .and_then(|mut connection| {
                    let mut pipe = redis::pipe();
                    for key in 0..KEYS_PER_SHARD {
                        pipe.cmd("SET").arg(format!("key-{key}")).arg("x".repeat(100));
                    }
                    pipe.exec(&mut connection)
                })
                .is_ok()
        });
    }

    fn address(&self, host: &str, shard: u16) -> String {
        let (_, number) = HOSTS.into_iter().find(|(name, _)| *name == host).unwrap();
        format!("127.0.0.{number}:{}", self.port_base + shard)
    }

    /// Returns the folder that a host sees as `/var/lib`.
    fn host_folder(&self, host: &str) -> PathBuf {
        self.project.path(&format!("hosts/{host}"))
    }

    fn socket(&self, host: &str) -> PathBuf {
        self.project.path(&format!("loopback-{host}.sock"))
    }

    fn read_pid(&self, host: &str, shard: u16) -> Option<rustix::process::Pid> {
        let path = self.host_folder(host).join(format!("redis/shard-{shard}/redis.pid"));
        let number: i32 = fs::read_to_string(path).ok()?.trim().parse().ok()?;
        let title = fs::read(format!("/proc/{number}/cmdline")).ok()?;
        let is_instance = String::from_utf8_lossy(&title).contains(&self.address(host, shard));
        is_instance.then(|| rustix::process::Pid::from_raw(number)).flatten()
    }
}

impl Drop for ShardProject {
    fn drop(&mut self) {
        for (host, _) in &HOSTS[..3] {
            (0..SHARDS).for_each(|shard| self.kill_instance(host, shard));
        }
    }
}

fn inventory() -> String {
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPHioFyK2+ckjCSAwbhLix5/AwNtfk4OgTOaryCzfNXt";
    let host = |(name, number): &(&str, u8)| {
        format!("\n[hosts.{name}]\naddress = \"127.0.0.{number}\"\nmemory = \"256MiB\"\nhost_key = \"{key}\"\n")
    };
    let hosts: String = HOSTS.iter().map(host).collect();
    "[groups.redis]\nhosts = [\"redis-[01:03]\"]\nvars = { shard_maxmemory = \"64MiB\", redis_processes = true, \
     redis_data = \"/var/lib/redis\", redis_etc = \"/var/lib/redis-etc\" }\n\n[groups.app]\nhosts = [\"app-01\"]\n"
        .to_owned()
        + &hosts
}

/// Runs a command of a host in a mount namespace of its own, as root of that namespace.
fn in_namespace(command: &str, var_lib: &Path) -> Command {
    let mut unshare = Command::new("/usr/bin/unshare");
    if !rustix::process::geteuid().is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    unshare
        .args(["--mount", "sh", "-c", "mount --bind \"$1\" /var/lib && cd / && exec sh -c \"$2\"", "sh"])
        .arg(var_lib)
        .arg(command)
        .env_clear()
        .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
        .env("HOME", "/nonexistent")
        .env("XDG_CACHE_HOME", agents());
    unshare
}

/// Replaces sizes, durations, times, ports and the name of this machine.
fn mask_text(text: &str) -> String {
    static PATTERNS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
        let patterns = [
            (r"( *)\b\d+(\.\d+)? ?([KMGT]i)?B\b", " [SIZE]"),
            (r"\[SIZE\] {2,}", "[SIZE]  "),
            (r" *\b\d+(\.\d+)? ?%", " [N] %"),
            (r"[█░]{8}", "[BAR]"),
            (r"\b\d+(\.\d+)? (ms|s)\b", "[N] $2"),
            (r"\b(at offset|of about) \d+", "$1 [N]"),
            (r"\b127\.0\.0\.(\d+):\d{4,5}\b", "127.0.0.$1:[PORT]"),
            (r"\bon \d{4}-\d\d-\d\d\b", "on [DATE]"),
            (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "[TIME]"),
            (r"\b\d{8}T\d{6}-\d+", "[RUN]"),
            (r"\b\d{8}T\d{6}\b", "[TIME]"),
            // Only a copy that takes a while has these phases.
            (r"(?m)^shard \d+ → \S+: (copy|verify)\n", ""),
        ];
        patterns.into_iter().map(|(pattern, name)| (Regex::new(pattern).unwrap(), name)).collect()
    });
    let machine = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let text = text.replace(&format!("alice@{}", machine.trim()), "alice@[MACHINE]");
    PATTERNS.iter().fold(text, |text, (pattern, name)| pattern.replace_all(&text, *name).into_owned())
}

/// Replaces the measured numbers of an event, and masks its texts.
fn mask_json(value: Value) -> Value {
    const MEASURED: [&str; 6] = ["bytes", "seconds", "offset", "_ms", "_us", "_s"];
    match value {
        Value::Number(number) if number.as_u64().is_none_or(|number| number >= 1000) => json!("[N]"),
        Value::String(text) => json!(mask_text(&text)),
        Value::Array(values) => values.into_iter().map(mask_json).collect(),
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, value)| {
                let is_measured = value.is_number() && MEASURED.iter().any(|measured| name.ends_with(measured));
                let masked = if is_measured { json!("[N]") } else { mask_json(value) };
                (name, masked)
            })
            .collect(),
        other => other,
    }
}

/// Returns the events without those of progress, whose number depends on the speed of the machine.
fn mask_events(events: impl Iterator<Item = Value>) -> String {
    events.filter(|event| event["event"] != "progress").map(|event| format!("{event}\n")).collect()
}
