//! Rollouts that fail on three real hosts behind HAProxy: no request fails, and each host runs and serves what it should.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::hosts::{TestFleet, lock_fleet};
use crate::project::FleetProject;

const SHOP_HOSTS: [&str; 3] = ["redis-01", "redis-02", "redis-03"];
const BALANCER: &str = "app-01";
/// The binary's name is the digest of its content, with a number behind it in the run that pushed it.
const AGENT: &str = "[/]var/lib/dunlin/agent/[0-9a-f.]* agent";
const LIMIT: Duration = Duration::from_secs(60);

const RECIPE: &str = r#"
service = "shop"
hosts   = "redis"
root    = "/srv/dunlin-shop"

[[file]]
source = "shop/run.sh"
dest   = "bin/run.sh"
mode   = "0755"

[[file]]
source = "shop/nginx.conf"
dest   = "nginx.conf"

[[unit]]
name = "dunlin-shop.service"
src  = "shop.service"

[health]
http     = "http://127.0.0.1:8088/healthz"
timeout  = "5s"
interval = "50ms"
steady   = "1s"
"#;
/// The balancer asks every 100 ms; it has seen the file after the sleep.
const ROTATION_HOOKS: &str = r#"
[hooks]
before_switch = ["touch /run/dunlin-shop-drained; sleep 0.5"]
after_switch  = ["test ! -e /run/dunlin-shop-stuck && rm -f /run/dunlin-shop-drained"]
"#;
const SLOW_ROTATION_HOOKS: &str = r#"
[hooks]
before_switch = ["touch /run/dunlin-shop-drained; sleep 0.5"]
after_switch  = ["sleep 3; rm -f /run/dunlin-shop-drained"]
"#;
const MIGRATION: &str = r#"
[[task]]
name    = "migrate"
command = ["/bin/sh", "-c", "echo start >>/run/dunlin-shop-migrations; sleep 3; echo end >>/run/dunlin-shop-migrations"]
"#;
const UNIT: &str = "[Service]
ExecStart=/srv/dunlin-shop/current/bin/run.sh
[Install]
WantedBy=multi-user.target
";
const NGINX_CONF: &str = r#"
pid /run/dunlin-shop.pid;
error_log stderr;
events {}
http {
  access_log off;
  server {
    listen 8088;
    location /healthz { if (-f /run/dunlin-shop-sick-VERSION) { return 503; } return 200 "ok"; }
    location /ready   { if (-f /run/dunlin-shop-drained) { return 503; } return 200 "ok"; }
    location /        { return 200 "VERSION\n"; }
  }
}
"#;
const HAPROXY_CONF: &str = "
defaults
  mode http
  timeout connect 2s
  timeout client 10s
  timeout server 10s
  option redispatch
  retries 3
  retry-on all-retryable-errors
frontend shop
  bind 127.0.0.1:8099
  default_backend hosts
backend hosts
  option httpchk GET /ready
  default-server check inter 100ms fall 1 rise 1
";

/// The service, its hosts and its balancer.
struct Shop<'f> {
    fleet: &'f TestFleet,
    project: FleetProject,
}

impl<'f> Shop<'f> {
    /// Makes a project whose hosts have nothing of the service but its web server.
    fn new(fleet: &'f TestFleet) -> Self {
        let clear = "systemctl disable --quiet --now dunlin-shop 2>/dev/null
            rm -rf /srv/dunlin-shop /run/dunlin-shop* /etc/systemd/system/dunlin-shop.service
            systemctl daemon-reload
            { test -x /usr/sbin/nginx && command -v curl; } >/dev/null ||
                DEBIAN_FRONTEND=noninteractive apt-get install -y -qq nginx-light curl >/dev/null
            systemctl disable --quiet --now nginx 2>/dev/null || true";
        fleet.root_on(&SHOP_HOSTS, clear);
        Self { fleet, project: FleetProject::with_fleet(fleet) }
    }

    /// Starts HAProxy before the hosts of the service.
    fn start_balancer(&self) {
        let servers: String = SHOP_HOSTS
            .iter()
            .map(|host| {
                let address = self.project.hosts["hosts"][*host]["address"].as_str().unwrap();
                format!("  server {host} {address}:8088\n")
            })
            .collect();
        let start = format!(
            "{{ test -x /usr/sbin/haproxy && command -v curl; }} >/dev/null ||
                DEBIAN_FRONTEND=noninteractive apt-get install -y -qq haproxy curl >/dev/null
            cat >/etc/haproxy/haproxy.cfg <<'END'\n{HAPROXY_CONF}{servers}END\nsystemctl restart haproxy"
        );
        self.fleet.run_as_root(BALANCER, &start);
    }

    /// Packages a version. `prelude` is what its program does before it serves; `keys` are added to the recipe.
    fn package(&self, version: &str, prelude: &str, keys: &str) {
        std::fs::create_dir_all(self.project.file_path("shop")).unwrap();
        let program = format!(
            "#!/bin/sh\n{prelude}\nexec /usr/sbin/nginx -c /srv/dunlin-shop/current/nginx.conf -g 'daemon off;'\n"
        );
        let recipe = match keys.strip_prefix("batches") {
            // Keys of the top level stand before the tables.
            Some(_) => {
                RECIPE.replacen("\n\n", &format!("\n{}\n\n", keys.lines().next().unwrap()), 1)
                    + keys.split_once('\n').map_or("", |(_, rest)| rest)
            }
            None => format!("{RECIPE}{keys}"),
        };
        for (path, text) in [
            ("shop/run.sh", program.as_str()),
            ("shop/nginx.conf", &NGINX_CONF.replace("VERSION", version)),
            ("templates/shop.service", UNIT),
            ("playbooks/deploy-shop.toml", &recipe),
        ] {
            std::fs::write(self.project.file_path(path), text).unwrap();
        }
        self.project.run_dunlin(&["package", "shop", "--version", version]).assert_status(0);
    }

    fn deploy(&self, arguments: &[&str]) -> crate::project::CommandOutput {
        self.project.run_dunlin(&[&["deploy", "shop", "--yes"], arguments].concat())
    }

    fn start_deploy(&self, project: &FleetProject) -> Child {
        let mut command = project.dunlin_command(&["deploy", "shop", "--yes"]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Returns the version that each host answers with.
    fn versions(&self) -> Vec<String> {
        let answers = self.fleet.root_on(&SHOP_HOSTS, "curl -sf --max-time 5 http://127.0.0.1:8088/ || echo none");
        answers.iter().map(|answer| answer.trim().to_owned()).collect()
    }

    /// Returns the hosts that the hooks took out of rotation.
    fn drained_hosts(&self) -> Vec<&'static str> {
        let marks = self.fleet.root_on(&SHOP_HOSTS, "ls /run/dunlin-shop-drained 2>/dev/null || true");
        SHOP_HOSTS.into_iter().zip(marks).filter(|(_, mark)| !mark.is_empty()).map(|(host, _)| host).collect()
    }

    /// Returns what the migrations of all hosts noted.
    fn migrations(&self) -> Vec<String> {
        let logs = self.fleet.root_on(&SHOP_HOSTS, "cat /run/dunlin-shop-migrations 2>/dev/null || true");
        logs.iter().flat_map(|log| log.lines()).map(str::to_owned).collect()
    }

    fn wait_until(&self, problem: &str, mut is_done: impl FnMut() -> bool) {
        let end = Instant::now() + LIMIT;
        while !is_done() {
            assert!(Instant::now() < end, "{problem}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn host_has(&self, host: &str, test: &str) -> bool {
        self.fleet.run_as_root(host, &format!("if {test}; then echo yes; fi")).trim() == "yes"
    }
}

/// Requests through the balancer, one after another, until it is stopped.
struct RequestLoop<'f> {
    fleet: &'f TestFleet,
    child: Child,
}

impl<'f> RequestLoop<'f> {
    fn start(fleet: &'f TestFleet) -> Self {
        let script = "rm -f /run/dunlin-requests; touch /run/dunlin-load
            while [ -e /run/dunlin-load ]; do
              curl -s -o /dev/null --max-time 5 -w '%{http_code}\\n' http://127.0.0.1:8099/ >>/run/dunlin-requests
              sleep 0.01
            done";
        let child = fleet.ssh_command(BALANCER, script).stdout(Stdio::null()).spawn().unwrap();
        Self { fleet, child }
    }

    /// Stops it, and asserts that requests were sent and none of them failed.
    fn assert_none_failed(mut self) {
        self.fleet.run_as_root(BALANCER, "rm -f /run/dunlin-load");
        self.child.wait().unwrap();
        let codes = self.fleet.run_as_root(BALANCER, "sort /run/dunlin-requests | uniq -c");
        let count: usize = codes.split_whitespace().next().map_or(0, |count| count.parse().unwrap());
        assert!(codes.trim().ends_with(" 200") && codes.lines().count() == 1, "responses by status:\n{codes}");
        assert!(count > 50, "only {count} requests");
    }
}

impl Drop for RequestLoop<'_> {
    fn drop(&mut self) {
        self.child.kill().ok();
    }
}

#[test]
fn a_host_that_does_not_return_into_rotation_stops_the_rollout() {
    let Some(fleet) = lock_fleet() else { return };
    let shop = Shop::new(&fleet);
    shop.start_balancer();
    let keys = format!("batches = [\"1\", \"1\", \"1\"]\n{ROTATION_HOOKS}");
    shop.package("1", "", &keys);
    shop.deploy(&[]).assert_status(0);
    let load = RequestLoop::start(&fleet);
    fleet.run_as_root("redis-02", "touch /run/dunlin-shop-stuck");
    shop.package("2", "", &keys);
    shop.deploy(&[]).assert_status(4).assert_stderr_contains(&["redis-02", "not back in rotation", "redis-03"]);
    assert_eq!(shop.versions(), ["2", "2", "1"]);
    assert_eq!(shop.drained_hosts(), ["redis-02"]);
    shop.project.run_dunlin(&["releases", "shop"]).assert_stderr_contains(&["redis-02: out of rotation"]);
    fleet.run_as_root("redis-02", "rm /run/dunlin-shop-stuck");
    shop.deploy(&[]).assert_status(0);
    assert_eq!(shop.versions(), ["2"; 3]);
    assert_eq!(shop.drained_hosts(), Vec::<&str>::new());
    load.assert_none_failed();
}

#[test]
fn a_run_killed_before_the_return_into_rotation_is_finished_by_the_next() {
    let Some(fleet) = lock_fleet() else { return };
    let shop = Shop::new(&fleet);
    shop.package("1", "", SLOW_ROTATION_HOOKS);
    shop.deploy(&[]).assert_status(0);
    shop.package("2", "", SLOW_ROTATION_HOOKS);
    let mut run = shop.start_deploy(&shop.project);
    // The release is confirmed, and the hook after the switch sleeps.
    let is_waiting = "grep -q '\"pending_switch\":null,\"out_of_rotation\":true' /srv/dunlin-shop/.dunlin/state.json";
    shop.wait_until("the first host was not switched", || shop.host_has("redis-01", is_waiting));
    kill_process(Pid::from_child(&run), Signal::KILL).unwrap();
    fleet.root_on(&SHOP_HOSTS, &format!("pkill -9 -f '{AGENT}' || true"));
    run.wait().unwrap();
    assert_eq!(shop.drained_hosts(), ["redis-01"]);
    shop.deploy(&[]).assert_status(0);
    assert_eq!(shop.versions(), ["2"; 3]);
    assert_eq!(shop.drained_hosts(), Vec::<&str>::new());
}

#[test]
fn a_migration_runs_once_for_two_operators_and_a_killed_agent() {
    let Some(fleet) = lock_fleet() else { return };
    let shop = Shop::new(&fleet);
    shop.package("1", "", MIGRATION);
    let other = shop.project.clone_project();
    let mut runs = [shop.start_deploy(&shop.project), shop.start_deploy(&other)];
    let mut codes: Vec<Option<i32>> = runs.iter_mut().map(|run| run.wait().unwrap().code()).collect();
    codes.sort_unstable();
    assert_eq!(codes[0], Some(0), "{codes:?}");
    assert_eq!(codes[1], Some(5), "the second operator is told of the lock: {codes:?}");
    assert_eq!(shop.migrations(), ["start", "end"]);

    shop.package("2", "", MIGRATION);
    let mut run = shop.start_deploy(&shop.project);
    shop.wait_until("the migration did not start", || shop.migrations().len() == 3);
    fleet.root_on(&SHOP_HOSTS, &format!("pkill -9 -f '{AGENT}' || true"));
    assert_ne!(run.wait().unwrap().code(), Some(0));
    shop.wait_until("the migration was not finished", || shop.migrations().len() == 4);
    assert_eq!(shop.versions(), ["1"; 3]);
    shop.deploy(&[]).assert_status(3).assert_stderr_contains(&["migrate", "--task-done"]);
    assert_eq!(shop.versions(), ["1"; 3]);
    shop.deploy(&["--task-done", "migrate"]).assert_status(0);
    assert_eq!(shop.migrations(), ["start", "end", "start", "end"]);
    assert_eq!(shop.versions(), ["2"; 3]);
}

#[test]
fn a_migration_runs_once_while_a_host_is_gone() {
    let Some(fleet) = lock_fleet() else { return };
    let shop = Shop::new(&fleet);
    shop.package("1", "", MIGRATION);
    shop.deploy(&["--limit", "redis-01"]).assert_status(0);
    assert_eq!(shop.migrations(), ["start", "end"]);
    let rest = ["--limit", "redis-02:redis-03"];
    {
        let _cut = fleet.partition_host("redis-01");
        shop.deploy(&rest).assert_status(0);
        // Of a new release nobody knows whether the host that is gone ran its migration.
        shop.package("2", "", MIGRATION);
        shop.deploy(&rest).assert_status(3).assert_stderr_contains(&["redis-01 may have run it", "--task-again"]);
    }
    assert_eq!(shop.migrations(), ["start", "end"]);
    assert_eq!(shop.versions(), ["1"; 3]);
    shop.deploy(&[]).assert_status(0);
    assert_eq!(shop.migrations(), ["start", "end", "start", "end"]);
    assert_eq!(shop.versions(), ["2"; 3]);
}

#[test]
fn a_release_that_crashes_after_its_batch_returns_the_whole_fleet() {
    let Some(fleet) = lock_fleet() else { return };
    let shop = Shop::new(&fleet);
    shop.start_balancer();
    shop.package("1", "", ROTATION_HOOKS);
    shop.deploy(&[]).assert_status(0);
    let load = RequestLoop::start(&fleet);
    // By default one host at a time is switched, which takes 1.5 s or more; the first crashes while the others follow.
    shop.package("2", "(sleep 3; kill -9 $$) &", ROTATION_HOOKS);
    shop.deploy(&[]).assert_status(4).assert_stderr_contains(&["returned to the previous release"]);
    assert_eq!(shop.versions(), ["1"; 3]);
    assert_eq!(shop.drained_hosts(), Vec::<&str>::new());
    load.assert_none_failed();
}

#[test]
fn a_release_that_fails_on_half_the_fleet_returns_the_whole_fleet() {
    let Some(fleet) = lock_fleet() else { return };
    let shop = Shop::new(&fleet);
    shop.start_balancer();
    let keys = format!("batches = [\"1\", \"100%\"]\n{ROTATION_HOOKS}");
    shop.package("1", "", &keys);
    shop.deploy(&[]).assert_status(0);
    let load = RequestLoop::start(&fleet);
    fleet.run_as_root("redis-03", "touch /run/dunlin-shop-sick-2");
    shop.package("2", "", &keys);
    shop.deploy(&[]).assert_status(4).assert_stderr_contains(&["redis-03", "returned to the previous release"]);
    assert_eq!(shop.versions(), ["1"; 3]);
    assert_eq!(shop.drained_hosts(), Vec::<&str>::new());
    let releases = shop.project.run_dunlin(&["releases", "shop"]).assert_status(0);
    assert_eq!(releases.stdout.matches(": healthy").count(), 3, "{}", releases.stdout);
    load.assert_none_failed();
}

#[test]
fn a_service_of_another_tool_is_refused_and_with_adopt_restored() {
    let Some(fleet) = lock_fleet() else { return };
    let shop = Shop::new(&fleet);
    let by_hand = format!(
        "mkdir -p /srv/dunlin-shop/releases/20260101/bin && cd /srv/dunlin-shop/releases/20260101 &&
        printf '#!/bin/sh\\nexec /usr/sbin/nginx -c /srv/dunlin-shop/current/nginx.conf -g \"daemon off;\"\\n' >bin/run.sh &&
        chmod 755 bin/run.sh && cat >nginx.conf <<'END'\n{}END\nln -s releases/20260101 /srv/dunlin-shop/current &&
        cat >/etc/systemd/system/dunlin-shop.service <<'END'\n# by hand\n{UNIT}END\n
        systemctl daemon-reload && systemctl enable --quiet --now dunlin-shop",
        NGINX_CONF.replace("VERSION", "by-hand")
    );
    fleet.root_on(&SHOP_HOSTS, &by_hand);
    fleet.root_on(&SHOP_HOSTS, "touch /run/dunlin-shop-sick-1");
    shop.package("1", "", "batches = [\"100%\"]\n");
    shop.deploy(&[]).assert_status(3).assert_stderr_contains(&["--adopt", "dunlin-shop.service"]);
    assert_eq!(shop.versions(), ["by-hand"; 3]);
    shop.deploy(&["--adopt"]).assert_status(4).assert_stderr_contains(&["release before-dunlin serves again"]);
    assert_eq!(shop.versions(), ["by-hand"; 3]);
    for host in SHOP_HOSTS {
        assert_eq!(fleet.run_as_root(host, "readlink /srv/dunlin-shop/current").trim(), "releases/20260101");
        assert!(shop.host_has(host, "grep -q '# by hand' /etc/systemd/system/dunlin-shop.service"));
    }
    fleet.root_on(&SHOP_HOSTS, "rm /run/dunlin-shop-sick-1");
    shop.deploy(&[]).assert_status(0);
    assert_eq!(shop.versions(), ["1"; 3]);
    shop.project.run_dunlin(&["rollback", "shop", "--yes"]).assert_status(0);
    assert_eq!(shop.versions(), ["by-hand"; 3]);
}

#[test]
fn faults_of_a_unit_and_a_taken_port_are_found_before_any_change() {
    let Some(fleet) = lock_fleet() else { return };
    let shop = Shop::new(&fleet);
    shop.package("1", "", "");
    std::fs::write(shop.project.file_path("templates/shop.service"), UNIT.replace("/srv/dunlin-shop/current/", ""))
        .unwrap();
    shop.deploy(&[]).assert_status(3).assert_stderr_contains(&["dunlin-shop.service", "bin/run.sh"]);
    std::fs::write(shop.project.file_path("templates/shop.service"), UNIT).unwrap();
    let listen = "systemd-run --quiet --unit=dunlin-stranger --property=Type=forking \
        /usr/sbin/nginx -g 'pid /run/dunlin-shop-stranger.pid; error_log stderr;' -c /run/dunlin-shop-stranger.conf";
    let config = "events {} http { access_log off; server { listen 8088; return 200 \"stranger\"; } }";
    fleet.run_as_root("redis-03", &format!("echo '{config}' >/run/dunlin-shop-stranger.conf; {listen}"));
    shop.deploy(&[])
        .assert_status(3)
        .assert_stderr_contains(&["redis-03", "port 8088 is in use by dunlin-stranger.service"]);
    for host in SHOP_HOSTS {
        assert!(!shop.host_has(host, "[ -e /srv/dunlin-shop/current ]"), "{host} was changed");
    }
    fleet.run_as_root("redis-03", "systemctl stop dunlin-stranger");
    shop.deploy(&[]).assert_status(0);
    assert_eq!(shop.versions(), ["1"; 3]);
}
