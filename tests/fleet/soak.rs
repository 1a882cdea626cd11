//! Old instances that stay for a while: because a consumer still routes by the old map, or because that is wished for.

use std::process::{Child, Stdio};

use crate::cluster::{Cluster, REDIS, Role, TOLERANCE};
use crate::hosts::{Fleet, fleet};
use crate::writers::Writers;

/// A service on app-01 that tells which epoch it has, as the one that is deployed there does.
struct Service(Child);

/// Serves `/version`: the epoch in `/run/epoch` where there is one, otherwise that of the published map.
const SERVICE: &str = r#"exec python3 -c '
import http.server, json, os, re
class Version(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        held = "/run/epoch"
        text = open(held if os.path.exists(held) else "/etc/timeline/shards.toml").read()
        epoch = int(re.search(r"epoch\s*=\s*(\d+)", text).group(1))
        body = json.dumps({"map_epoch": epoch}).encode()
        self.send_response(200); self.end_headers(); self.wfile.write(body)
    def log_message(self, *words): pass
http.server.HTTPServer(("127.0.0.1", 8080), Version).serve_forever()'"#;

impl Service {
    fn start(fleet: &Fleet) -> Self {
        fleet.root("app-01", "pkill -f [m]ap_epoch || true");
        let service = fleet.ssh("app-01", SERVICE).stdin(Stdio::null()).spawn().unwrap();
        let up = "for n in $(seq 100); do python3 -c 'import urllib.request as u; u.urlopen(\"http://127.0.0.1:8080/\")' \
                  2>/dev/null && exit 0; sleep 0.1; done; exit 1";
        fleet.root("app-01", up);
        Self(service)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Shards whose instance on a host follows another host's.
fn followers(cluster: &Cluster<'_>) -> Vec<(u16, &'static str)> {
    let roles = cluster.roles().into_iter();
    roles.filter(|(_, role)| matches!(role, Role::Replica(_))).map(|(place, _)| place).collect()
}

#[test]
fn an_old_instance_is_retired_once_the_consumers_have_left_it() {
    let Some(fleet) = fleet() else { return };
    let mut cluster = Cluster::new(&fleet);
    cluster.grow();
    let service = Service::start(&fleet);
    let writers = Writers::start(&cluster.published());

    // A consumer that does not notice: the shards have moved, the old instances stay and follow.
    fleet.root("app-01", "echo 'epoch = 1' >/run/epoch");
    let kept = cluster.project.dunlin(&["shard-rebalance", "--tolerance", TOLERANCE, "--yes"]).ends(4);
    kept.complains(&["app-01 routes by epoch 1", "dunlin shards resume retires it"]);
    let moved = followers(&cluster);
    assert!(!moved.is_empty() && cluster.map().epoch.0 == 1 + moved.len() as u64, "{moved:?}");
    cluster.project.dunlin(&["shards", "resume", "--yes"]).ends(4).complains(&["app-01 routes by epoch 1"]);
    assert_eq!(followers(&cluster), moved, "the old instances are live replicas");

    // It notices: they go.
    fleet.root("app-01", "rm /run/epoch");
    cluster.project.dunlin(&["shards", "resume", "--yes"]).ends(0);
    cluster.is_settled();

    // One that is down routes by no map; its next start reads the new one.
    drop(service);
    fleet.root("app-01", "pkill -f [m]ap_epoch || true");
    cluster.project.dunlin(&["shard-rebalance", "--drain", "redis-03", "--yes"]).ends(0);
    cluster.is_as_the_map_says();
    writers.write_on(100);
    writers.lost_nothing();
}

#[test]
fn soaking_shards_are_compared_gone_back_on_and_retired() {
    let Some(fleet) = fleet() else { return };
    let mut cluster = Cluster::new(&fleet);
    cluster.grow();
    fleet.root("app-01", "pkill -f [m]ap_epoch || true");
    let writers = Writers::start(&cluster.published());
    let before = cluster.map();
    cluster.project.dunlin(&["shard-rebalance", "--soak", "--yes"]).ends(0);
    let moved = followers(&cluster);
    assert!(moved.len() >= 2, "{moved:?}");

    // Both copies are equal, while they are written to.
    let verified = cluster.project.dunlin(&["shards", "verify"]).ends(0);
    assert_eq!(verified.stdout.matches("keys are equal").count(), moved.len(), "{}", verified.stdout);
    cluster.project.dunlin(&["shard-rebalance", "--drain", "redis-03", "--yes"]).ends(3).complains(&["shards reverse"]);

    // One goes back without a copy: the instance there is the same process all the time.
    let (shard, host) = moved[0];
    let process = || fleet.root(host, &format!("systemctl show --value --property MainPID redis-shard@{shard}"));
    let same = process();
    cluster.project.dunlin(&["shards", "reverse", &shard.to_string(), "--yes"]).ends(0);
    assert_eq!(process(), same);
    assert_eq!(cluster.map().shards[usize::from(shard)].host, before.shards[usize::from(shard)].host);
    assert_eq!(cluster.writable(shard), [host]);
    let again = cluster.project.dunlin(&["shards", "reverse", &shard.to_string(), "--yes"]).ends(3);
    again.complains(&["has no old instance"]);

    // The others are retired; the log knows all of it.
    cluster.project.dunlin(&["shards", "resume", "--yes"]).ends(0);
    cluster.is_as_the_map_says();
    let log = cluster.project.dunlin(&["shards", "log"]).ends(0);
    assert_eq!(log.stdout.lines().filter(|line| line.contains("  moved ")).count(), moved.len() + 1, "{}", log.stdout);
    let capacity = cluster.project.dunlin(&["shards", "capacity", "--growth", "1MiB"]).ends(0);
    capacity.says(&["redis-03", "as listpack", "grows by 1.0MiB a day: full on 20", "another host"]);
    writers.write_on(100);
    writers.lost_nothing();
    assert!(REDIS.iter().all(|host| cluster.journals(host).values().all(|records| !records.is_empty())));
}
