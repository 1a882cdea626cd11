//! A host dies: its shards go on elsewhere, and when it comes back it is in nobody's way.

use std::time::{Duration, Instant};

use serde_json::Value as Json;

use crate::cluster::{Cluster, Role, SHARDS};
use crate::hosts::{HOSTS, fleet};
use crate::moments::{Moment, Running};
use crate::writers::Writers;

/// How long something that is bound to come may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the plan says may be lost: what was acknowledged in the last seconds before the host died, with what the tests'
/// own clocks are off.
const MAY_BE_LOST: Duration = Duration::from_secs(7);
/// How long dunlin tries to reach a host.
const OFF_AFTER: &str = "4s";
const FAILOVER: [&str; 3] = ["shards", "failover", "redis-01"];

/// Shards with replicas in two zones, on three hosts; a primary needs its replica.
fn ready(mut cluster: Cluster<'_>) -> Cluster<'_> {
    // Each run gives up what is off before it does anything else.
    let defaults = cluster.project.hosts["defaults"].as_table_mut().unwrap();
    defaults.insert("connect_timeout".to_owned(), OFF_AFTER.into());
    cluster.grow();
    within(|| cluster.project.dunlin(&["shards", "resume", "--yes"]).status == Some(0));
    within(|| cluster.all_writable().iter().all(|hosts| hosts.len() == 1));
    cluster
}

fn within(mut is: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// When what was acknowledged may be lost.
fn before(died: Instant) -> (Instant, Instant) {
    (died.checked_sub(MAY_BE_LOST).unwrap(), died + Duration::from_secs(1))
}

fn run(cluster: &Cluster<'_>, more: &[&str]) -> crate::project::Output {
    cluster.project.dunlin(&[&FAILOVER[..], more].concat())
}

#[test]
fn a_dead_host_is_failed_over_repaired_and_taken_in_again() {
    let Some(fleet) = fleet() else { return };
    let cluster = ready(Cluster::with_replicas(&fleet));
    let writers = Writers::start(&cluster.published());
    // What lives is not failed over.
    let refused = run(&cluster, &["--confirm=redis-01"]).ends(3);
    refused.complains(&["shard 0: its primary on redis-01 answers", "shard-rebalance --drain redis-01"]);

    // Nor what only this machine cannot reach.
    fleet.root("redis-01", "systemctl stop --no-block ssh.service");
    within(|| run(&cluster, &["--dry-run"]).stderr.contains("as redis-02 sees it: it is not dead"));

    let other = cluster.project.copy();
    let died = Instant::now();
    let off = fleet.kill("redis-01");
    let status = cluster.project.dunlin(&["shards", "status"]);
    status.ends(1).complains(&["redis-01: cannot be reached", "dunlin shards failover redis-01 --dry-run"]);
    let plan = run(&cluster, &["--dry-run", "--detailed-exitcode"]).ends(2);
    plan.says(&[
        "redis-01: not to be reached, and taken to be off",
        "~ shard 0     redis-01 → redis-02",
        "may be lost: what was acknowledged in the 7 s after that",
        &format!("~ shard {}     redis-02 goes on without redis-01, and accepts writes alone", SHARDS - 1),
        "+ shard 0     a new replica on redis-03",
        "Plan: 4 to promote, 4 to go on without a replica, 8 to get a new replica",
    ]);
    run(&cluster, &["--yes"]).ends(3).complains(&["acknowledged writes may be lost", "--confirm=redis-01"]);
    let begin = Instant::now();
    let done = run(&cluster, &["--confirm=redis-01"]).ends(0);
    eprintln!("8 shards failed over and repaired in {:.1} s", begin.elapsed().as_secs_f64());
    done.says(&["shard 0 serves at redis-02", "Done: 4 promoted, 4 freed", "shard 7 has a new replica on redis-03"]);

    let map = cluster.map();
    assert!(map.shards.iter().all(|entry| entry.host == "redis-02" && entry.replicas == ["redis-03"]), "{map:?}");
    cluster.is_as_the_map_says();
    writers.write_on(500);
    let after = writers.lost_within(&[before(died)]);
    eprintln!("lost of what was acknowledged in the last {MAY_BE_LOST:?}: {after}");
    run(&cluster, &["--dry-run", "--detailed-exitcode"]).ends(0).says(&["nothing to do"]);

    // It comes back as it was: four closed primaries, four replicas of redis-02's.
    drop(off);
    within(|| cluster.role("redis-01", 0) == Some(Role::Master) && cluster.role("redis-01", SHARDS - 1).is_some());
    assert!(cluster.all_writable().iter().all(|hosts| *hosts == ["redis-02"]), "no old primary accepts writes");
    let told = cluster.project.dunlin(&["shards", "status"]).ends(0);
    told.says(&["shard 0: an instance on redis-01 that the map does not name came back as a primary", "no writes"]);
    // Somebody whose map is from before: the journals tell of the new replicas, and not of all that came before them.
    let older = other.dunlin(&["shards", "resume", "--yes"]).ends(3);
    older.complains(&["published are places of shards 0, 1, 2, 3 that neither the map", "take over the newer map"]);
    assert_eq!(cluster.map(), map, "nothing was published over it");
    let tidied = cluster.project.dunlin(&["shards", "resume", "--yes"]).ends(0);
    tidied.says(&["shard 0: the old instance on redis-01 is set aside in /var/lib/redis/shard-0.replaced-"]);
    cluster.is_as_the_map_says();
    assert!(fleet.root("redis-01", "ls /var/lib/redis/shard-0.replaced-*").contains("REPLACED-BY"));
    cluster.project.dunlin(&["provision", "--dry-run", "--detailed-exitcode"]).ends(0);
    cluster.project.dunlin(&["shards", "resume", "--yes"]).ends(0).says(&["nothing to resume"]);
    writers.write_on(100);
    writers.lost_within(&[before(died)]);
}

#[test]
fn an_instance_that_does_not_come_up_is_failed_over_alone() {
    let Some(fleet) = fleet() else { return };
    let cluster = ready(Cluster::with_replicas(&fleet));
    let writers = Writers::start(&cluster.published());
    let begun = Instant::now();
    fleet.root("redis-01", "echo 'no such directive' >>/etc/redis/shard-2.conf; systemctl kill -s KILL redis-shard@2");
    within(|| cluster.role("redis-01", 2).is_none());
    let refused = run(&cluster, &["--confirm=redis-01"]).ends(3);
    refused.complains(&["shard 0: its primary on redis-01 answers"]);
    let only = ["shards", "failover", "2", "--confirm=2", "--json"];
    let done = cluster.project.dunlin(&only).ends(0);
    let lines: Vec<Json> = done.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let event = |name: &str| lines.iter().find(|line| line["event"] == name).unwrap().clone();
    // Its own host has stopped it: there is nothing to wait for, and its files are put away.
    assert_eq!(event("failed_over")["shard"], 2);
    assert!(event("failed_over")["waited_ms"].as_u64().unwrap() < 1000, "{}", done.stdout);
    assert!(event("set_aside")["kept"].as_str().unwrap().contains("shard-2.replaced-"));
    assert_eq!(event("repaired")["host"], "redis-03");
    cluster.is_as_the_map_says();
    assert_eq!(cluster.map().shards[2].host, "redis-02");
    writers.write_on(300);
    writers.lost_within(&[(begun, Instant::now())]);
    cluster.project.dunlin(&["provision", "--dry-run", "--detailed-exitcode"]).ends(0);
}

/// How a failover is ended that was cut short.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// `shards resume`, and what it was asked for once more.
    Resume,
    /// Only once more.
    Again,
    /// `shards resume` by somebody who has nothing of what the first one's dunlin kept, and once more.
    Elsewhere,
}

/// Primaries of redis-02 and the other zone's hosts in turn: which host dies, when dunlin is killed, how it is ended.
const CUTS: [(&str, Moment, Way); 4] = [
    ("redis-01", Moment::Noted("stand_by", "intent"), Way::Resume),
    // The host of all replicas: nothing is promoted, and new ones are made.
    ("redis-03", Moment::Noted("birth", "done"), Way::Again),
    // The agents go on alone for as long as the old primaries are waited for: only the map is left to be published.
    ("redis-02", Moment::Noted("fence", "intent"), Way::Elsewhere),
    ("redis-01", Moment::Noted("settle", "done"), Way::Again),
];

#[test]
fn killed_on_the_way_it_is_ended_by_anybody() {
    let Some(fleet) = fleet() else { return };
    let mut cluster = ready(Cluster::few_with_replicas(&fleet));
    let writers = Writers::start(&cluster.published());
    let mut deaths = Vec::new();
    for (host, moment, way) in CUTS {
        let died = Instant::now();
        deaths.push(before(died));
        let off = fleet.kill(host);
        let confirm = format!("--confirm={host}");
        let again = ["shards", "failover", host, &confirm];
        Running::of(&cluster, moment, &[&again[..], &["--json"]].concat()).kill();
        let living: Vec<&str> = HOSTS.into_iter().filter(|name| *name != host).collect();
        cluster.without_agents_on(&living);
        assert!(cluster.all_writable().iter().all(|hosts| hosts.len() <= 1), "two primaries after {moment:?}");
        match way {
            Way::Resume => drop(cluster.project.dunlin(&["shards", "resume", "--yes"]).ends(0)),
            Way::Again => {}
            Way::Elsewhere => {
                let other = cluster.project.copy();
                // There is no host for their replicas while redis-02 is off.
                other.dunlin(&["shards", "resume", "--yes"]).ends(4).says(&["stays short of a replica"]);
                cluster.project = other;
            }
        }
        cluster.project.dunlin(&again).ends(0);
        let there =
            |name: &str| cluster.map().shards.iter().any(|e| e.host == name || e.replicas.contains(&name.to_owned()));
        assert!(!there(host), "{:?}", cluster.map());
        writers.write_on(200);
        drop(off);
        within(|| !fleet.root(host, "systemctl is-system-running || true").contains("starting"));
        assert!(cluster.all_writable().iter().all(|hosts| hosts.len() == 1), "two primaries once {host} is back");
        // What found no place for a replica finds one now: redis-02 is the only host of its zone.
        cluster.project.dunlin(&["shards", "resume", "--yes"]).ends(0);
        cluster.is_as_the_map_says();
        let map = cluster.map();
        assert!(map.replicas == Some(1) && map.lacking().next().is_none(), "{map:?}");
        eprintln!("{host}, {moment:?}, {way:?}: {:.1} s", died.elapsed().as_secs_f64());
    }
    writers.write_on(200);
    let lost = writers.lost_within(&deaths);
    eprintln!("{lost} of what was acknowledged was lost in {} deaths", CUTS.len());
    cluster.is_as_the_map_says();
    cluster.project.dunlin(&["provision", "--dry-run", "--detailed-exitcode"]).ends(0);
}
