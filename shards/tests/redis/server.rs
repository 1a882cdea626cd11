//! A redis-server of its own on a free loopback port, gone when the value is dropped.

use std::{
    collections::BTreeSet,
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// A running server.
pub struct TestServer {
    child: Option<Child>,
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    args: Vec<String>,
    dir: TempDir,
}

impl TestServer {
    /// Starts a server with further arguments (`--name value …`) and waits until it answers.
    pub fn start_server(args: &[&str]) -> TestServer {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let mut server = TestServer { child: None, port: 0, args, dir: TempDir::new().expect("a temporary folder") };
        // another process can take the port between the look and the start: then take another one
        for _ in 0..20 {
            server.port = free_port();
            if server.try_start() {
                return server;
            }
        }
        panic!("redis-server did not start");
    }

    /// Kills the server as a power cut would.
    pub fn kill_server(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("a running server can be killed");
            child.wait().expect("the killed server is reaped");
        }
    }

    /// Starts a killed server again, on its port and with its arguments.
    #[allow(dead_code, reason = "not every test binary starts a server twice")]
    pub fn restart_server(&mut self) {
        assert!(self.try_start(), "redis-server did not start again");
    }

    /// `127.0.0.1:port`.
    #[allow(dead_code, reason = "not every test binary makes maps")]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A client for the administrator, without a password.
    pub fn connect_admin(&self) -> redis::Connection {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}/", self.port)).expect("an address");
        client.get_connection().expect("the server accepts connections")
    }

    /// Runs an administrator's command.
    #[allow(dead_code, reason = "not every test binary needs it")]
    pub fn run_admin(&self, words: &[&str]) -> redis::Value {
        let mut cmd = redis::cmd(words[0]);
        cmd.arg(&words[1..]).query(&mut self.connect_admin()).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    fn try_start(&mut self) -> bool {
        let child = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--daemonize", "no"])
            .args(["--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0"])
            .args(&self.args)
            .current_dir(self.dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        let child = self.child.insert(child);
        let client = redis::Client::open(format!("redis://127.0.0.1:{}/", self.port)).expect("an address");
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end {
            if child.try_wait().expect("a child's state can be read").is_some() {
                return false;
            }
            let info = client
                .get_connection()
                .and_then(|mut connection| redis::cmd("INFO").arg("server").query::<String>(&mut connection));
            // another server may have the port, and this one is about to find out
            let own = format!("process_id:{}", child.id());
            if info.is_ok_and(|info| info.lines().any(|line| line == own)) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.kill_server();
    }
}

/// A port that nobody listens on right now, and no other test of this process was given. It lies below the range of
/// outgoing connections, one of which could take it while a server is down.
pub fn free_port() -> u16 {
    static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("loopback has free ports");
        let port = 10_000 + listener.local_addr().expect("a bound listener has an address").port() % 20_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && taken.insert(port) {
            return port;
        }
    }
}
