//! Shards with TLS on real hosts: certificates of `dunlin shards certificates`, moves, and a renewal.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::{REDIS_HOSTS, TOLERANCE, TestCluster};
use crate::hosts::lock_fleet;
use crate::messages;
use crate::writers::FleetWriters;

/// Returns `run_id` of each primary, by shard: another one after a restart.
fn run_ids(cluster: &TestCluster<'_>) -> BTreeMap<u16, String> {
    let read_id = |entry: &dunlin_shards::Shard| {
        let mut admin = cluster.connect_admin(&entry.host, entry.id.0);
        let info: String = redis::cmd("INFO").arg("server").query(&mut admin).unwrap();
        let run_id = info.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap();
        (entry.id.0, run_id.to_owned())
    };
    cluster.read_map().shards.iter().map(read_id).collect()
}

/// Returns the certificate that an instance serves, in PEM, as app-01 gets it.
fn served_certificate(cluster: &TestCluster<'_>, host: &str, shard: u16) -> String {
    let address = cluster.address(host, shard);
    let (host, port) = address.rsplit_once(':').unwrap();
    let read = format!("python3 -c 'import ssl; print(ssl.get_server_certificate((\"{host}\", {port})))'");
    cluster.fleet.run_as_root("app-01", &read)
}

#[test]
fn shards_move_over_tls_and_certificates_are_renewed_without_a_restart() {
    let Some(fleet) = lock_fleet() else { return };
    let mut cluster = TestCluster::with_tls(&fleet);
    let dry_run = ["provision", "--dry-run", "--detailed-exitcode"];
    cluster.project.run_dunlin(&dry_run).assert_status(0);
    let writers = FleetWriters::start_with_ca(&cluster.published_map_path(), cluster.tls_ca.clone());
    cluster.add_third_host();
    cluster.project.run_dunlin(&["shard-rebalance", "--tolerance", TOLERANCE, "--yes"]).assert_status(0);
    let moved = cluster.read_map();
    assert!(moved.shards.iter().any(|entry| entry.host == "redis-03"), "{moved:?}");

    let (before, first) = (run_ids(&cluster), &moved.shards[0]);
    let old = served_certificate(&cluster, &first.host, first.id.0);
    assert!(old.starts_with("-----BEGIN CERTIFICATE"), "{old}");
    let hosts = REDIS_HOSTS.join(",");
    cluster.project.run_dunlin(&["shards", "certificates", "--renew", "--host", &hosts]).assert_status(0);
    let shown = cluster.project.run_dunlin(&[&dry_run[..], &["--json"]].concat()).assert_status(2);
    let rows: Vec<_> = shown.events("plan").into_iter().filter(|row| row["action"] != "none").collect();
    // No handler runs, and no instance needs a restart.
    assert!(rows.iter().all(|row| row["action"] == "change"), "{rows:#?}");
    let instances = rows.iter().filter(|row| row["resource"].as_str().unwrap().starts_with("redis_shard "));
    let changes: Vec<String> = instances.map(|row| row["changes"].to_string()).collect();
    assert_eq!(changes.len(), usize::from(cluster.shards));
    messages::check(
        "fleet-provision-renewed-certificates",
        BTreeSet::from_iter(&changes).iter().map(|text| ("changes", text)),
    );
    cluster.project.run_dunlin(&["provision", "--yes", "--quiet"]).assert_status(0);
    assert_eq!(run_ids(&cluster), before, "nothing restarts");
    assert_ne!(served_certificate(&cluster, &first.host, first.id.0), old);
    cluster.project.run_dunlin(&dry_run).assert_status(0);

    // Another CA: trusted first, then it signs.
    cluster.project.run_dunlin(&["shards", "certificates", "--new-ca"]).assert_status(0);
    cluster.project.run_dunlin(&["provision", "--yes", "--quiet"]).assert_status(0);
    cluster.project.run_dunlin(&dry_run).assert_status(0);
    cluster.project.run_dunlin(&["shard-rebalance", "--drain", "redis-03", "--yes"]).assert_status(0);
    cluster.assert_matches_map();
    writers.wait_for_writes(100);
    writers.assert_nothing_lost();
}
