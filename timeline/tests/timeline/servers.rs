//! Real servers on loopback, each in a temporary folder, gone when the value is dropped: also when a test panics, and
//! when the test process is killed.

use std::{
    fs,
    net::TcpStream,
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::redis_server::free_port;

const START_LIMIT: Duration = Duration::from_secs(120);

/// A child that is killed with the value, and with the process: the kernel kills it when the thread ends that has
/// started it, and that thread lives as long as the process.
pub struct Process(Child);

impl Process {
    pub fn spawn(program: &str, args: &[&str], configure: impl FnOnce(&mut Command)) -> Process {
        let mut command = Command::new("setpriv");
        command.arg("--pdeathsig").arg("KILL").arg(program).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // a group of its own, so that its own children end with it
        command.process_group(0);
        configure(&mut command);
        let (reply, child) = mpsc::channel();
        spawner().send((command, reply)).expect("the spawner lives as long as the process");
        let child = child.recv().expect("the spawner answers").unwrap_or_else(|error| panic!("{program}: {error}"));
        Process(child)
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    #[allow(dead_code, reason = "not every test binary sends signals")]
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.id().to_string()]).status().expect("kill runs");
        assert!(status.success(), "kill -s {name}");
        // a thread that is in the middle of an answer stops a moment later
        let end = Instant::now() + Duration::from_secs(10);
        while name == "STOP" && !self.is_stopped() {
            assert!(Instant::now() < end, "process {} does not stop", self.id());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Returns whether all threads are stopped.
    fn is_stopped(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.id())).expect("it runs");
        threads.flatten().all(|thread| {
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
        })
    }

    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().expect("a child's state can be read").is_some()
    }

    /// Waits for it to end by itself.
    #[allow(dead_code, reason = "not every test binary waits")]
    pub fn wait(&mut self, limit: Duration) {
        let end = Instant::now() + limit;
        while !self.has_ended() {
            assert!(Instant::now() < end, "process {} does not end", self.id());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.lock().unwrap_or_else(PoisonError::into_inner).take() {
            process.signal("QUIT");
            process.wait(START_LIMIT);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            // the whole group; it may be gone already
            let group = format!("-{}", self.id());
            drop(Command::new("kill").args(["-s", "KILL", "--", &group]).stderr(Stdio::null()).status());
            drop(self.0.wait());
        }
    }
}

type Spawn = (Command, mpsc::Sender<std::io::Result<Child>>);

fn spawner() -> mpsc::Sender<Spawn> {
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Spawn>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, receiver) = mpsc::channel::<Spawn>();
        std::thread::spawn(move || {
            for (mut command, reply) in receiver {
                drop(reply.send(command.spawn()));
            }
        });
        Mutex::new(sender)
    });
    spawner.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Returns what several tests use at the same time: started by the first, ended by the last.
fn shared<T: Send + Sync + 'static>(slot: &'static Mutex<Weak<T>>, start: impl FnOnce() -> T) -> Arc<T> {
    let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(running) = slot.upgrade() {
        return running;
    }
    let started = Arc::new(start());
    *slot = Arc::downgrade(&started);
    started
}

fn wait_for(what: &str, process: &mut Process, mut ready: impl FnMut() -> bool) {
    let end = Instant::now() + START_LIMIT;
    while !ready() {
        assert!(!process.has_ended(), "{what} has ended instead of starting");
        assert!(Instant::now() < end, "{what} does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn accepts(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

/// Waits for the children of a server that was killed.
fn wait_until_closed(port: u16) {
    let end = Instant::now() + START_LIMIT;
    while accepts(port) {
        assert!(Instant::now() < end, "the port {port} stays open");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Postgres, with one superuser `timeline` and a database per test.
pub struct Postgres {
    process: Mutex<Option<Process>>,
    dir: TempDir,
    port: u16,
    programs: PathBuf,
    fsync: &'static str,
}

/// Where Debian has the programs of the newest version.
fn postgres_programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("the package postgresql is installed");
    let mut versions: Vec<PathBuf> = versions.map(|version| version.expect("a folder").path().join("bin")).collect();
    versions.retain(|path| path.join("initdb").is_file());
    versions.sort();
    versions.pop().expect("the package postgresql is installed")
}

/// Postgres refuses to run as root.
fn as_postgres(command: &mut Command) {
    let id = |flag: &str| {
        let output = Command::new("id").args([flag, "postgres"]).output().expect("id runs");
        String::from_utf8_lossy(&output.stdout).trim().parse::<u32>().expect("the user postgres exists")
    };
    command.uid(id("-u")).gid(id("-g"));
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output().expect("id runs");
    output.stdout.trim_ascii() == b"0"
}

impl Postgres {
    pub fn shared() -> Arc<Postgres> {
        static SLOT: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());
        shared(&SLOT, Postgres::start)
    }

    /// Starts one that does not wait for the disk.
    pub fn start() -> Postgres {
        Postgres::start_with("off")
    }

    /// Starts one whose commits survive a power cut.
    #[allow(dead_code, reason = "only benches wait for the disk")]
    pub fn start_durable() -> Postgres {
        Postgres::start_with("on")
    }

    fn start_with(fsync: &'static str) -> Postgres {
        let dir = TempDir::new().expect("a temporary folder");
        let programs = postgres_programs();
        let mut init = Command::new(programs.join("initdb"));
        init.args(["--no-sync", "--auth=trust", "-U", "timeline", "-E", "UTF8", "--locale=C", "-D"]);
        init.arg(dir.path().join("data")).current_dir("/");
        if is_root() {
            let output = Command::new("id").args(["-u", "postgres"]).output().expect("id runs");
            let uid = String::from_utf8_lossy(&output.stdout).trim().parse().expect("the user postgres exists");
            chown(dir.path(), Some(uid), None).expect("root changes owners");
            as_postgres(&mut init);
        }
        let output = init.output().expect("initdb runs");
        assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
        let postgres = Postgres { process: Mutex::new(None), dir, port: free_port(), programs, fsync };
        postgres.run();
        postgres
    }

    fn run(&self) {
        let program = self.programs.join("postgres");
        let data = self.dir.path().join("data");
        let port = self.port.to_string();
        let folder = self.dir.path().to_str().expect("UTF-8").to_owned();
        let (data, program) = (data.to_str().expect("UTF-8"), program.to_str().expect("UTF-8"));
        let mut args = vec![program, "-D", data, "-p", &port, "-k", &folder, "-c", "listen_addresses=127.0.0.1"];
        let fsync = format!("fsync={}", self.fsync);
        args.extend(["-c", "max_connections=300", "-c", "shared_buffers=128MB", "-c", &fsync]);
        let root = is_root();
        let mut process = if root {
            let mut with = vec!["--reuid=postgres", "--regid=postgres", "--clear-groups"];
            with.extend(&args);
            Process::spawn(with[0], &with[1..], |command| {
                command.current_dir("/");
            })
        } else {
            Process::spawn(args[0], &args[1..], |command| {
                command.current_dir("/");
            })
        };
        // it may still look into what was left by a kill: then it refuses, and is asked again
        wait_for("Postgres", &mut process, || self.try_sql("postgres", "select 1").is_ok());
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(process);
    }

    /// Ends all of it without a checkpoint, as a crash would, and starts it again.
    pub fn kill_and_restart(&self) {
        if let Some(mut process) = self.process.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // SIGKILL would leave its children, which have groups of their own
            process.signal("QUIT");
            process.wait(START_LIMIT);
        }
        wait_until_closed(self.port);
        self.run();
    }

    /// Creates a database and returns its connection string.
    pub fn create_database(&self) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("t{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("create database {name}"));
        format!("postgres://timeline@127.0.0.1:{}/{name}", self.port)
    }

    /// Runs SQL and returns the rows, with tabs between columns.
    pub fn sql(&self, database: &str, text: &str) -> String {
        self.try_sql(database, text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn try_sql(&self, database: &str, text: &str) -> Result<String, String> {
        let database = database.rsplit('/').next().unwrap_or(database);
        let port = self.port.to_string();
        let mut psql = Command::new(self.programs.join("psql"));
        psql.args(["-X", "-q", "-A", "-t", "-F", "\t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", &port]);
        psql.args(["-U", "timeline", "-d", database, "-c", text]).current_dir("/");
        let output = psql.output().expect("psql runs");
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned());
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// memcached.
pub struct Memcached {
    process: Option<Process>,
    port: u16,
}

impl Memcached {
    pub fn start() -> Memcached {
        let mut memcached = Memcached { process: None, port: free_port() };
        memcached.run();
        memcached
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn kill(&mut self) {
        self.process = None;
    }

    #[allow(dead_code, reason = "not every test binary sends signals")]
    pub fn signal(&self, name: &str) {
        self.process.as_ref().expect("it runs").signal(name);
    }

    fn run(&mut self) {
        let port = self.port.to_string();
        let mut args = vec!["-l", "127.0.0.1", "-p", &port, "-U", "0", "-m", "32"];
        if is_root() {
            args.extend(["-u", "nobody"]);
        }
        let mut process = Process::spawn("memcached", &args, |_| {});
        let port = self.port;
        wait_for("memcached", &mut process, || accepts(port));
        self.process = Some(process);
    }
}

/// RabbitMQ, with its own port mapper.
pub struct Rabbit {
    process: Mutex<Option<Process>>,
    _mapper: Process,
    dir: TempDir,
    port: u16,
    distribution: u16,
    mapper_port: u16,
}

impl Rabbit {
    pub fn shared() -> Arc<Rabbit> {
        static SLOT: Mutex<Weak<Rabbit>> = Mutex::new(Weak::new());
        shared(&SLOT, Rabbit::start)
    }

    pub fn start() -> Rabbit {
        let dir = TempDir::new().expect("a temporary folder");
        let (port, distribution, mapper_port) = (free_port(), free_port(), free_port());
        let settings = format!("listeners.tcp.1 = 127.0.0.1:{port}\nloopback_users = none\n");
        fs::write(dir.path().join("rabbitmq.conf"), settings).expect("a temporary folder is writable");
        fs::write(dir.path().join("enabled_plugins"), "[].\n").expect("a temporary folder is writable");
        let number = mapper_port.to_string();
        let mapper = Process::spawn("epmd", &["-port", &number, "-address", "127.0.0.1"], |_| {});
        let rabbit = Rabbit { process: Mutex::new(None), _mapper: mapper, dir, port, distribution, mapper_port };
        rabbit.run();
        rabbit
    }

    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    /// The same server with another virtual host.
    pub fn url_of(&self, vhost: &str) -> String {
        self.url().replace("%2f", vhost)
    }

    /// Runs `rabbitmqctl` and returns what it prints.
    #[allow(dead_code, reason = "not every test binary does")]
    pub fn control(&self, args: &[&str]) -> String {
        let mut command = Command::new("/usr/lib/rabbitmq/bin/rabbitmqctl");
        command.args(["-q", "-n", "timeline@localhost"]).args(args);
        command.env("HOME", self.dir.path()).env("ERL_EPMD_PORT", self.mapper_port.to_string());
        let output = command.output().expect("rabbitmqctl runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "rabbitmqctl {args:?}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn kill(&self) {
        drop(self.process.lock().unwrap_or_else(PoisonError::into_inner).take());
        wait_until_closed(self.port);
        wait_until_closed(self.distribution);
    }

    pub fn run(&self) {
        let path = |name: &str| self.dir.path().join(name);
        let mut process = Process::spawn("/usr/lib/rabbitmq/bin/rabbitmq-server", &[], |command| {
            command.env("HOME", self.dir.path()).env("ERL_EPMD_PORT", self.mapper_port.to_string());
            command.env("RABBITMQ_NODENAME", "timeline@localhost").env("RABBITMQ_LOGS", "-");
            command.env("RABBITMQ_DIST_PORT", self.distribution.to_string());
            command.env("RABBITMQ_CONFIG_FILE", path("rabbitmq"));
            command.env("RABBITMQ_ENABLED_PLUGINS_FILE", path("enabled_plugins"));
            command.env("RABBITMQ_MNESIA_BASE", path("mnesia")).env("RABBITMQ_LOG_BASE", path("log"));
            command.env("RABBITMQ_PID_FILE", path("pid"));
        });
        let port = self.port;
        wait_for("RabbitMQ", &mut process, || accepts(port));
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(process);
    }
}

/// Publishes a shard map as dunlin does: written aside, then renamed.
pub fn publish_map(dir: &Path, epoch: u64, primaries: &[String]) {
    let count = u32::try_from(primaries.len()).expect("few shards");
    let mut text = format!("cluster = \"timeline\"\nepoch = {epoch}\nshard = [\n");
    for (id, primary) in (0..count).zip(primaries) {
        let (first, end) = (16384 * id / count, 16384 * (id + 1) / count);
        let slots = format!("{first}-{}", end - 1);
        text += &format!("  {{ id = {id}, slots = \"{slots}\", primary = \"{primary}\", user = \"s{id:03}\" }},\n");
    }
    fs::write(dir.join("next"), text + "]\n").expect("the folder is writable");
    fs::rename(dir.join("next"), dir.join("shards.toml")).expect("a rename in one folder");
}
