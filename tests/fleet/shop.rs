//! A small service on three real hosts behind HAProxy, whose releases tests deploy.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::hosts::TestFleet;
use crate::output::CommandOutput;
use crate::project::FleetProject;

pub const SHOP_HOSTS: [&str; 3] = ["redis-01", "redis-02", "redis-03"];
pub const BALANCER: &str = "app-01";
/// The binary's name is the digest of its content, with a number behind it in the run that pushed it.
pub const AGENT: &str = "[/]var/lib/dunlin/agent/[0-9a-f.]* agent";
pub const LIMIT: Duration = Duration::from_secs(60);

pub const RECIPE: &str = r#"
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
expect   = "ok {{ release.version }}"
timeout  = "5s"
interval = "50ms"
steady   = "1s"
"#;
/// The balancer asks every 100 ms; it has seen the file after the sleep.
pub const ROTATION_HOOKS: &str = r#"
[hooks]
before_switch = ["touch /run/dunlin-shop-drained; sleep 0.5"]
after_switch  = ["test ! -e /run/dunlin-shop-stuck && rm -f /run/dunlin-shop-drained"]
"#;
pub const SLOW_ROTATION_HOOKS: &str = r#"
[hooks]
before_switch = ["touch /run/dunlin-shop-drained; sleep 0.5"]
after_switch  = ["sleep 3; rm -f /run/dunlin-shop-drained"]
"#;
pub const MIGRATION: &str = r#"
[[task]]
name    = "migrate"
command = ["/bin/sh", "-c", "echo start >>/run/dunlin-shop-migrations; sleep 3; echo end >>/run/dunlin-shop-migrations"]
"#;
pub const UNIT: &str = "[Service]
ExecStart=/srv/dunlin-shop/current/bin/run.sh
[Install]
WantedBy=multi-user.target
";
pub const NGINX_CONF: &str = r#"
pid /run/dunlin-shop.pid;
error_log stderr;
events {}
http {
  access_log off;
  server {
    listen 8088;
    location /healthz { if (-f /run/dunlin-shop-sick-VERSION) { return 503; } return 200 "ok VERSION"; }
    location /ready   { if (-f /run/dunlin-shop-drained) { return 503; } return 200 "ok"; }
    location /        { return 200 "VERSION\n"; }
  }
}
"#;
pub const HAPROXY_CONF: &str = "
defaults
  mode http
  timeout connect 2s
  timeout client 10s
  timeout server 10s
  # Without it, a check that takes longer than its interval takes a host out that only has much to do.
  timeout check 5s
  option redispatch
  retries 3
  retry-on all-retryable-errors
frontend shop
  bind :8099
  default_backend hosts
backend hosts
  option httpchk GET /ready
  default-server check inter 100ms fall 1 rise 1
";

/// The service, its hosts and its balancer.
pub struct Shop<'f> {
    pub fleet: &'f TestFleet,
    pub project: FleetProject,
}

impl<'f> Shop<'f> {
    /// Makes a project whose hosts have nothing of the service but its web server.
    pub fn new(fleet: &'f TestFleet) -> Self {
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
    pub fn start_balancer(&self) {
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
    pub fn package(&self, version: &str, prelude: &str, keys: &str) {
        self.package_with_config(version, prelude, keys, &NGINX_CONF.replace("VERSION", version));
    }

    /// Packages a version whose web server has this configuration.
    pub fn package_with_config(&self, version: &str, prelude: &str, keys: &str, config: &str) {
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
            ("shop/nginx.conf", config),
            ("templates/shop.service", UNIT),
            ("playbooks/deploy-shop.toml", &recipe),
        ] {
            std::fs::write(self.project.file_path(path), text).unwrap();
        }
        self.project.run_dunlin(&["package", "shop", "--version", version]).assert_status(0);
    }

    pub fn deploy(&self, arguments: &[&str]) -> CommandOutput {
        self.project.run_dunlin(&[&["deploy", "shop", "--yes"], arguments].concat())
    }

    pub fn start_deploy(&self, project: &FleetProject) -> Child {
        let mut command = project.dunlin_command(&["deploy", "shop", "--yes"]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Returns the version that each host answers with.
    pub fn versions(&self) -> Vec<String> {
        let answers = self.fleet.root_on(&SHOP_HOSTS, "curl -sf --max-time 5 http://127.0.0.1:8088/ || echo none");
        answers.iter().map(|answer| answer.trim().to_owned()).collect()
    }

    /// Returns the hosts that the hooks took out of rotation.
    pub fn drained_hosts(&self) -> Vec<&'static str> {
        let marks = self.fleet.root_on(&SHOP_HOSTS, "ls /run/dunlin-shop-drained 2>/dev/null || true");
        SHOP_HOSTS.into_iter().zip(marks).filter(|(_, mark)| !mark.is_empty()).map(|(host, _)| host).collect()
    }

    /// Returns what the migrations of all hosts noted.
    pub fn migrations(&self) -> Vec<String> {
        let logs = self.fleet.root_on(&SHOP_HOSTS, "cat /run/dunlin-shop-migrations 2>/dev/null || true");
        logs.iter().flat_map(|log| log.lines()).map(str::to_owned).collect()
    }

    pub fn wait_until(&self, problem: &str, mut is_done: impl FnMut() -> bool) {
        let end = Instant::now() + LIMIT;
        while !is_done() {
            assert!(Instant::now() < end, "{problem}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn host_has(&self, host: &str, test: &str) -> bool {
        self.fleet.run_as_root(host, &format!("if {test}; then echo yes; fi")).trim() == "yes"
    }
}

/// Requests through the balancer, one after another, until it is stopped.
pub struct RequestLoop<'f> {
    fleet: &'f TestFleet,
    child: Child,
}

impl<'f> RequestLoop<'f> {
    pub fn start(fleet: &'f TestFleet) -> Self {
        let script = "rm -f /run/dunlin-requests; touch /run/dunlin-load
            while [ -e /run/dunlin-load ]; do
              curl -s -o /dev/null --max-time 5 -w '%{http_code}\\n' http://127.0.0.1:8099/ >>/run/dunlin-requests
              sleep 0.01
            done";
        let child = fleet.ssh_command(BALANCER, script).stdout(Stdio::null()).spawn().unwrap();
        Self { fleet, child }
    }

    /// Stops it, and asserts that requests were sent and none of them failed.
    pub fn assert_none_failed(mut self) {
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
