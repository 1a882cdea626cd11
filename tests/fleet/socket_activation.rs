//! Restarts of a service behind a socket unit, under a load of constant rate: no connection is refused.

use crate::hosts::{TestFleet, lock_fleet};
use crate::open_loop::OpenLoop;
use crate::project::FleetProject;

const HOST: &str = "redis-01";
const PORT: u16 = 8095;
/// New connections per second.
const RATE: u32 = 60;
const RECIPE: &str = r#"
service = "queue"
hosts   = "redis-01"
root    = "/srv/dunlin-queue"

[[file]]
source = "serve.py"
dest   = "serve.py"

[[unit]]
name = "dunlin-queue.socket"
src  = "queue.socket"

[[unit]]
name = "dunlin-queue.service"
src  = "queue.service"

[health]
http     = "http://127.0.0.1:8095/"
timeout  = "5s"
interval = "50ms"
steady   = "1s"
"#;
/// systemd gives up a socket whose service starts too often. The limit would refuse what waits for the old release.
const SOCKET: &str = "[Socket]
ListenStream=0.0.0.0:8095
TriggerLimitIntervalSec=0
[Install]
WantedBy=sockets.target
";
const SERVICE: &str = "[Unit]
StartLimitIntervalSec=0
[Service]
ExecStart=/usr/bin/python3 /srv/dunlin-queue/current/serve.py
[Install]
WantedBy=multi-user.target
";
/// Answers one request after another. After SIGTERM it takes no further connection: those wait for its successor.
const PROGRAM: &str = r#"
import select, signal, socket, sys, time
PRELUDE
stopping = False
def stop(*_):
    global stopping
    stopping = True
signal.signal(signal.SIGTERM, stop)
listener = socket.socket(fileno=3)
while not stopping:
    if not select.select([listener], [], [], 0.05)[0]:
        continue
    connection, _ = listener.accept()
    connection.settimeout(5)
    connection.recv(65536)
    connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: LENGTH\r\n\r\nVERSION")
    connection.close()
"#;

/// A project whose host has nothing of the service.
fn create_project(fleet: &TestFleet) -> FleetProject {
    let clear = "systemctl disable --quiet --now dunlin-queue.socket dunlin-queue.service 2>/dev/null
        rm -rf /srv/dunlin-queue /etc/systemd/system/dunlin-queue.*
        systemctl daemon-reload; systemctl reset-failed
        command -v curl >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get install -y -qq curl >/dev/null";
    fleet.run_as_root(HOST, clear);
    let project = FleetProject::with_fleet(fleet);
    for (path, text) in [
        ("playbooks/deploy-queue.toml", RECIPE),
        ("templates/queue.socket", SOCKET),
        ("templates/queue.service", SERVICE),
    ] {
        std::fs::write(project.file_path(path), text).unwrap();
    }
    project
}

/// Packages and deploys a version; `prelude` is what its program does first. Returns the exit code.
fn deploy(project: &FleetProject, version: &str, prelude: &str) -> Option<i32> {
    let program = PROGRAM.replace("PRELUDE", prelude).replace("LENGTH", &version.len().to_string());
    std::fs::write(project.file_path("serve.py"), program.replace("VERSION", version)).unwrap();
    project.run_dunlin(&["package", "queue", "--version", version]).assert_status(0);
    project.run_dunlin(&["deploy", "queue", "--yes"]).status
}

#[test]
fn restarts_behind_a_socket_refuse_no_connection() {
    let Some(fleet) = lock_fleet() else { return };
    let good: u32 = std::env::var("DUNLIN_LOAD_GOOD").map_or(3, |number| number.parse().unwrap());
    let project = create_project(&fleet);
    let serving = || fleet.run_as_root(HOST, &format!("curl -s --max-time 10 http://127.0.0.1:{PORT}/"));
    assert_eq!(deploy(&project, "first", ""), Some(0));
    let load = OpenLoop::start(project.hosts["hosts"][HOST]["address"].as_str().unwrap(), PORT, RATE);
    let mut problems = Vec::new();
    let mut expect = |version: &str, serves: &str, status: i32, exit: Option<i32>| {
        let answer = serving();
        if exit != Some(status) || answer != serves {
            problems.push(format!("{version}: exit {exit:?} instead of {status}, {answer:?} serves"));
        }
    };
    for number in 1..=good {
        let version = format!("good-{number}");
        let exit = deploy(&project, &version, "time.sleep(0.5)");
        expect(&version, &version, 0, exit);
    }
    // Neither answers a connection: all of them wait for the release before.
    for (fault, prelude) in [("crashes", "sys.exit(1)"), ("hangs", "time.sleep(60)")] {
        let exit = deploy(&project, fault, prelude);
        expect(fault, &format!("good-{good}"), 4, exit);
    }
    let report = load.stop();
    println!("deploy-sockets: {report} good={good} broken=2 problems={}", problems.len());
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(report.succeeded > u64::from(RATE), "{report}");
    assert_eq!(report.failed(), 0, "{report}");
}
