//! A host dies: its shards are served elsewhere, and when it comes back it does no harm.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use crate::cluster::{InstanceRole, NOTHING_TO_REPAIR, SHARD_COUNT, TestCluster};
use crate::hosts::{HOST_NAMES, lock_fleet};
use crate::timing::{KillMoment, RunningCommand};
use crate::writers::FleetWriters;

/// How long something that is bound to come may take.
const FAILOVER_TIMEOUT: Duration = Duration::from_secs(60);
/// What the plan says may be lost: what was acknowledged in the last seconds before the host died, with what the tests'
/// own clocks are off.
const MAX_LOSS_WINDOW: Duration = Duration::from_secs(7);
/// How long dunlin tries to reach a host.
const DOWN_AFTER: &str = "4s";
const FAILOVER_ARGS: [&str; 3] = ["shards", "failover", "redis-01"];
/// The next step that is shown for a host that cannot be reached.
const FAILOVER_HINT: &str = "if redis-01 is dead: dunlin shards failover redis-01 --dry-run";

/// Shards with replicas in two zones, on three hosts; a primary needs its replica.
fn with_min_replicas(mut cluster: TestCluster<'_>) -> TestCluster<'_> {
    // Each run gives up what is off before it does anything else.
    let defaults = cluster.project.hosts["defaults"].as_table_mut().unwrap();
    defaults.insert("connect_timeout".to_owned(), DOWN_AFTER.into());
    cluster.add_third_host();
    wait_until(|| cluster.project.run_dunlin(&["shards", "repair", "--yes"]).status == Some(0));
    wait_until(|| cluster.all_writable().iter().all(|hosts| hosts.len() == 1));
    cluster
}

fn wait_until(mut is: impl FnMut() -> bool) {
    let end = Instant::now() + FAILOVER_TIMEOUT;
    while !is() {
        assert!(Instant::now() < end, "not within {FAILOVER_TIMEOUT:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// When what was acknowledged may be lost.
fn loss_window(died: Instant) -> (Instant, Instant) {
    (died.checked_sub(MAX_LOSS_WINDOW).unwrap(), died + Duration::from_secs(1))
}

fn run_failover(cluster: &TestCluster<'_>, more: &[&str]) -> crate::output::CommandOutput {
    cluster.project.run_dunlin(&[&FAILOVER_ARGS[..], more].concat())
}

#[test]
fn dead_hosts_are_failed_over_repaired_and_readmitted() {
    let Some(fleet) = lock_fleet() else { return };
    let cluster = with_min_replicas(TestCluster::with_replicas(&fleet));
    let writers = FleetWriters::start_writers(&cluster.published_map_path());
    // What lives is not failed over.
    let refused = run_failover(&cluster, &["--accept-data-loss=redis-01"]).assert_status(3);
    refused.assert_snapshot("fleet-failover-of-a-live-host");

    // Nor what only this machine cannot reach.
    fleet.run_as_root("redis-01", "systemctl stop --no-block ssh.service");
    let address = cluster.project.hosts["hosts"]["redis-01"]["address"].as_str().unwrap().to_owned();
    wait_until(|| TcpStream::connect((address.as_str(), 22)).is_err());
    let refused = run_failover(&cluster, &["--dry-run"]).assert_status(3);
    refused.assert_snapshot("fleet-failover-of-a-host-that-others-reach");

    let other = cluster.project.clone_project();
    let died = Instant::now();
    let off = fleet.power_off("redis-01");
    let status = cluster.project.run_dunlin(&["shards", "status", "--json"]).assert_status(4);
    assert_eq!(status.events("error")[0]["next"], json!([FAILOVER_HINT]), "{}", status.stdout);
    let plan = run_failover(&cluster, &["--dry-run", "--detailed-exitcode"]).assert_status(2);
    plan.assert_snapshot("fleet-failover-plan");
    run_failover(&cluster, &["--yes"]).assert_status(3).assert_snapshot("fleet-failover-not-confirmed");
    let begin = Instant::now();
    let done = run_failover(&cluster, &["--accept-data-loss=redis-01"]).assert_status(0);
    eprintln!("8 shards failed over and repaired in {:.1} s", begin.elapsed().as_secs_f64());
    done.with_sorted_lines().assert_snapshot("fleet-failover-done");

    let map = cluster.read_map();
    assert!(map.shards.iter().all(|entry| entry.host == "redis-02" && entry.replicas == ["redis-03"]), "{map:?}");
    cluster.assert_matches_map();
    writers.wait_for_writes(500);
    let after = writers.assert_lost_only_within(&[loss_window(died)]);
    eprintln!("lost of what was acknowledged in the last {MAX_LOSS_WINDOW:?}: {after}");
    run_failover(&cluster, &["--dry-run", "--detailed-exitcode"]).assert_status(0);

    // It comes back as it was: four closed primaries, four replicas of redis-02's.
    drop(off);
    wait_until(|| {
        cluster.instance_role("redis-01", 0) == Some(InstanceRole::Master)
            && cluster.instance_role("redis-01", SHARD_COUNT - 1).is_some()
    });
    assert!(cluster.all_writable().iter().all(|hosts| *hosts == ["redis-02"]), "no old primary accepts writes");
    let status = cluster.project.run_dunlin(&["shards", "status", "--json"]).assert_status(0);
    let orphans = status.events("orphan_instance");
    let orphan = orphans.iter().find(|orphan| orphan["shard"] == 0).unwrap();
    assert_eq!(
        (&orphan["host"], &orphan["follows"], &orphan["accepts_writes"]),
        (&json!("redis-01"), &json!(null), &json!(false))
    );
    // An operator with an older map: the journals have the new replicas, but not everything before them.
    let older = other.run_dunlin(&["shards", "resume", "--yes"]).assert_status(3);
    older.assert_snapshot("fleet-resume-with-an-older-map");
    assert_eq!(cluster.read_map(), map, "nothing was published over it");
    let tidied = cluster.project.run_dunlin(&["shards", "repair", "--yes"]).assert_status(0);
    tidied.with_sorted_lines().assert_snapshot("fleet-old-instances-archived");
    cluster.assert_matches_map();
    assert!(fleet.run_as_root("redis-01", "ls /var/lib/redis/shard-0.replaced-*").contains("REPLACED-BY"));
    cluster.project.run_dunlin(&["provision", "--dry-run", "--detailed-exitcode"]).assert_status(0);
    cluster.project.run_dunlin(&NOTHING_TO_REPAIR).assert_status(0);
    writers.wait_for_writes(100);
    writers.assert_lost_only_within(&[loss_window(died)]);
}

#[test]
fn single_failed_instances_are_failed_over() {
    let Some(fleet) = lock_fleet() else { return };
    let cluster = with_min_replicas(TestCluster::with_replicas(&fleet));
    let writers = FleetWriters::start_writers(&cluster.published_map_path());
    let begun = Instant::now();
    fleet.run_as_root(
        "redis-01",
        "echo 'no such directive' >>/etc/redis/shard-2/redis.conf; systemctl kill -s KILL redis-shard@2",
    );
    wait_until(|| cluster.instance_role("redis-01", 2).is_none());
    let refused = run_failover(&cluster, &["--accept-data-loss=redis-01"]).assert_status(3);
    refused.assert_snapshot("fleet-failover-of-a-host-with-one-dead-instance");
    let only = ["shards", "failover", "2", "--accept-data-loss=2", "--json"];
    let done = cluster.project.run_dunlin(&only).assert_status(0);
    let lines: Vec<Json> = done.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let event = |name: &str| lines.iter().find(|line| line["event"] == name).unwrap().clone();
    // Its own host has stopped it: there is nothing to wait for, and its files are put away.
    assert_eq!(event("failed_over")["shard"], 2);
    assert!(event("failed_over")["waited_ms"].as_u64().unwrap() < 1000, "{}", done.stdout);
    assert!(event("instance_archived")["archive"].as_str().unwrap().contains("shard-2.replaced-"));
    assert_eq!(event("repaired")["host"], "redis-03");
    cluster.assert_matches_map();
    assert_eq!(cluster.read_map().shards[2].host, "redis-02");
    writers.wait_for_writes(300);
    writers.assert_lost_only_within(&[(begun, Instant::now())]);
    cluster.project.run_dunlin(&["provision", "--dry-run", "--detailed-exitcode"]).assert_status(0);
}

/// How a failover is ended that was cut short.
#[derive(Clone, Copy, Debug)]
enum Interruption {
    /// `shards resume`, and what it was asked for once more.
    Resume,
    /// Only once more.
    Again,
    /// `shards resume` by somebody who has nothing of what the first one's dunlin kept, and once more.
    Elsewhere,
}

/// Primaries of redis-02 and the other zone's hosts in turn: which host dies, when dunlin is killed, how it is ended.
const INTERRUPTIONS: [(&str, KillMoment, Interruption); 4] = [
    ("redis-01", KillMoment::Noted("prepare_standby", "intent"), Interruption::Resume),
    // The host of all replicas: nothing is promoted, and new ones are made.
    ("redis-03", KillMoment::Noted("start_replica", "done"), Interruption::Again),
    // The agents go on alone for as long as the old primaries are waited for: only the map is left to be published.
    ("redis-02", KillMoment::Noted("demote_source", "intent"), Interruption::Elsewhere),
    ("redis-01", KillMoment::Noted("finalize", "done"), Interruption::Again),
];

#[test]
fn interrupted_failovers_can_be_finished_by_any_operator() {
    let Some(fleet) = lock_fleet() else { return };
    let mut cluster = with_min_replicas(TestCluster::small_with_replicas(&fleet));
    let writers = FleetWriters::start_writers(&cluster.published_map_path());
    let mut deaths = Vec::new();
    for (host, moment, way) in INTERRUPTIONS {
        let died = Instant::now();
        deaths.push(loss_window(died));
        let off = fleet.power_off(host);
        let confirm = format!("--accept-data-loss={host}");
        let again = ["shards", "failover", host, &confirm];
        RunningCommand::start_and_wait(&cluster, moment, &[&again[..], &["--json"]].concat()).kill_run();
        let living: Vec<&str> = HOST_NAMES.into_iter().filter(|name| *name != host).collect();
        cluster.wait_for_agents_to_exit_on(&living);
        assert!(cluster.all_writable().iter().all(|hosts| hosts.len() <= 1), "two primaries after {moment:?}");
        match way {
            Interruption::Resume => drop(cluster.project.run_dunlin(&["shards", "resume", "--yes"]).assert_status(0)),
            Interruption::Again => {}
            Interruption::Elsewhere => {
                let other = cluster.project.clone_project();
                other.run_dunlin(&["shards", "resume", "--yes"]).assert_status(0);
                // There is no host for their replicas while redis-02 is off.
                let repair = other.run_dunlin(&["shards", "repair", "--yes", "--json"]).assert_status(4);
                assert_ne!(repair.events("replica_unplaceable"), [] as [Json; 0], "{}", repair.stdout);
                cluster.project = other;
            }
        }
        cluster.project.run_dunlin(&again).assert_status(0);
        let there = |name: &str| {
            cluster.read_map().shards.iter().any(|e| e.host == name || e.replicas.contains(&name.to_owned()))
        };
        assert!(!there(host), "{:?}", cluster.read_map());
        writers.wait_for_writes(200);
        drop(off);
        wait_until(|| !fleet.run_as_root(host, "systemctl is-system-running || true").contains("starting"));
        assert!(cluster.all_writable().iter().all(|hosts| hosts.len() == 1), "two primaries once {host} is back");
        // What found no place for a replica finds one now: redis-02 is the only host of its zone.
        cluster.project.run_dunlin(&["shards", "resume", "--yes"]).assert_status(0);
        cluster.project.run_dunlin(&["shards", "repair", "--yes"]).assert_status(0);
        cluster.assert_matches_map();
        let map = cluster.read_map();
        assert!(map.replicas == Some(1) && map.underreplicated_shards().next().is_none(), "{map:?}");
        eprintln!("{host}, {moment:?}, {way:?}: {:.1} s", died.elapsed().as_secs_f64());
    }
    writers.wait_for_writes(200);
    let lost = writers.assert_lost_only_within(&deaths);
    eprintln!("{lost} of what was acknowledged was lost in {} deaths", INTERRUPTIONS.len());
    cluster.assert_matches_map();
    cluster.project.run_dunlin(&["provision", "--dry-run", "--detailed-exitcode"]).assert_status(0);
}
