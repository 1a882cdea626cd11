//! Old instances that stay for a time: a consumer still routes by the old map, or `--keep-source` was given.

use std::process::{Child, Stdio};

use serde_json::json;

use crate::cluster::{InstanceRole, REDIS_HOSTS, TOLERANCE, TestCluster};
use crate::hosts::{TestFleet, lock_fleet};
use crate::messages;
use crate::writers::FleetWriters;

/// A service on app-01 that reports its epoch, as the deployed one does.
struct ConsumerProcess(Child);

/// Serves `/version`: the epoch in `/run/epoch` where there is one, otherwise that of the published map.
const CONSUMER_SCRIPT: &str = r#"exec python3 -c '
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

impl ConsumerProcess {
    fn start_consumer(fleet: &TestFleet) -> Self {
        fleet.run_as_root("app-01", "pkill -f [m]ap_epoch || true");
        let service = fleet.ssh_command("app-01", CONSUMER_SCRIPT).stdin(Stdio::null()).spawn().unwrap();
        let up = "for n in $(seq 100); do python3 -c 'import urllib.request as u; u.urlopen(\"http://127.0.0.1:8080/\")' \
                  2>/dev/null && exit 0; sleep 0.1; done; exit 1";
        fleet.run_as_root("app-01", up);
        Self(service)
    }
}

impl Drop for ConsumerProcess {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Shards whose instance on a host follows another host's.
fn source_replicas(cluster: &TestCluster<'_>) -> Vec<(u16, &'static str)> {
    let roles = cluster.all_roles().into_iter();
    roles.filter(|(_, role)| matches!(role, InstanceRole::Replica(_))).map(|(place, _)| place).collect()
}

#[test]
fn sources_are_retired_after_the_consumers_left() {
    let Some(fleet) = lock_fleet() else { return };
    let mut cluster = TestCluster::without_replicas(&fleet);
    cluster.add_third_host();
    let service = ConsumerProcess::start_consumer(&fleet);
    let writers = FleetWriters::start_writers(&cluster.published_map_path());

    // A consumer that does not notice: the shards have moved, the old instances stay and follow.
    fleet.run_as_root("app-01", "echo 'epoch = 1' >/run/epoch");
    let run = ["shard-rebalance", "--tolerance", TOLERANCE, "--yes", "--json"];
    let kept = cluster.project.run_dunlin(&run).assert_status(4).events("moved");
    let moved = source_replicas(&cluster);
    assert!(!moved.is_empty() && cluster.read_map().epoch.0 == 1 + moved.len() as u64, "{moved:?}");
    assert!(kept.len() == moved.len() && kept.iter().all(|moved| moved["not_retired"].is_string()), "{kept:?}");
    let resume = cluster.project.run_dunlin(&["shards", "resume", "--yes", "--json"]).assert_status(4);
    let failed = resume.events("failed");
    assert_eq!(failed.len(), moved.len(), "{}", resume.stdout);
    let error = resume.stable(failed[0]["error"].as_str().unwrap());
    messages::check("fleet-resume-with-an-outdated-consumer", [("error", error)]);
    assert_eq!(source_replicas(&cluster), moved, "the old instances are live replicas");

    // It notices: they go.
    fleet.run_as_root("app-01", "rm /run/epoch");
    cluster.project.run_dunlin(&["shards", "resume", "--yes"]).assert_status(0);
    cluster.assert_converged();

    // One that is down routes by no map; its next start reads the new one.
    drop(service);
    fleet.run_as_root("app-01", "pkill -f [m]ap_epoch || true");
    cluster.project.run_dunlin(&["shard-rebalance", "--drain", "redis-03", "--yes"]).assert_status(0);
    cluster.assert_matches_map();
    writers.wait_for_writes(100);
    writers.assert_nothing_lost();
}

#[test]
fn kept_sources_are_verified_moved_back_and_retired() {
    let Some(fleet) = lock_fleet() else { return };
    let mut cluster = TestCluster::without_replicas(&fleet);
    cluster.add_third_host();
    fleet.run_as_root("app-01", "pkill -f [m]ap_epoch || true");
    let writers = FleetWriters::start_writers(&cluster.published_map_path());
    let before = cluster.read_map();
    cluster.project.run_dunlin(&["shard-rebalance", "--keep-source", "--yes"]).assert_status(0);
    let moved = source_replicas(&cluster);
    assert!(moved.len() >= 2, "{moved:?}");

    // Both copies are equal, while they are written to.
    let verified = cluster.project.run_dunlin(&["shards", "verify"]).assert_status(0);
    assert_eq!(verified.stdout.matches(" are equal: ").count(), moved.len(), "{}", verified.stdout);
    let drain = ["shard-rebalance", "--drain", "redis-03", "--yes", "--json"];
    let refused = cluster.project.run_dunlin(&drain).assert_status(3);
    let next = "dunlin shards resume retires it, dunlin shards move-back returns to it";
    assert_eq!(refused.events("error")[0]["next"], json!([next]));

    // One goes back without a copy: the instance there is the same process all the time.
    let (shard, host) = moved[0];
    let process = || fleet.run_as_root(host, &format!("systemctl show --value --property MainPID redis-shard@{shard}"));
    let same = process();
    cluster.project.run_dunlin(&["shards", "move-back", &shard.to_string(), "--yes"]).assert_status(0);
    assert_eq!(process(), same);
    assert_eq!(cluster.read_map().shards[usize::from(shard)].host, before.shards[usize::from(shard)].host);
    assert_eq!(cluster.writable_hosts(shard), [host]);
    let again = cluster.project.run_dunlin(&["shards", "move-back", &shard.to_string(), "--yes"]).assert_status(3);
    let again = again.with_placeholder(&format!("shard {shard}"), "shard [N]");
    let again = again.with_placeholder(&format!("move-back {shard}"), "move-back [N]");
    again.assert_snapshot("fleet-move-back-again");

    // The others are retired; the log knows all of it.
    cluster.project.run_dunlin(&["shards", "resume", "--yes"]).assert_status(0);
    cluster.assert_matches_map();
    let history = cluster.project.run_dunlin(&["shards", "history", "--json"]).assert_status(0);
    let entries = history.events("history_entry");
    let count = entries.iter().filter(|entry| entry["outcome"] == "moved").count();
    assert_eq!(count, moved.len() + 1, "{}", history.stdout);
    let capacity = cluster.project.run_dunlin(&["shards", "capacity", "--growth", "1MiB", "--json"]).assert_status(0);
    let forecast = &capacity.events("capacity")[0]["forecast"];
    assert_eq!(
        (forecast["hosts"].as_array().unwrap().len(), forecast["growth_per_day"].as_f64()),
        (3, Some(1_048_576.0))
    );
    let days = |key: &str| forecast[key].as_f64().unwrap();
    assert!(0.0 < days("full_in_days") && days("full_in_days") < days("full_in_days_with_added_host"), "{forecast}");
    writers.wait_for_writes(100);
    writers.assert_nothing_lost();
    assert!(REDIS_HOSTS.iter().all(|host| cluster.read_journals(host).values().all(|records| !records.is_empty())));
}
