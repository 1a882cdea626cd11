//! `shard-rebalance` from observation files: no host is in reach, and none is asked.

use serde_json::{Value, json};

use crate::program::{Output, Project};

const GIB: u64 = 1 << 30;

/// Twelve shards of 1 GiB on two of three hosts.
fn observation() -> Value {
    let host = |n: u64| json!({"name": format!("redis-0{n}"), "zone": "a", "capacity_bytes": 16 * GIB});
    let shard = |id: u64| {
        let slots = format!("{}-{}", id * 100, id * 100 + 99);
        json!({"id": id, "slots": slots, "host": format!("redis-0{}", id % 2 + 1), "bytes": GIB, "ops_per_s": 333.3})
    };
    json!({
        "format_version": 1, "cluster": "timeline", "epoch": 7, "port_base": 7000,
        "hosts": [host(1), host(2), host(3)], "shards": (0..12).map(shard).collect::<Vec<_>>(),
    })
}

fn project(observation: &Value) -> Project {
    Project::new(&[("observed.json", &observation.to_string())])
}

/// A dry run from the observation, with these flags more.
fn dry(project: &Project, flags: &[&str]) -> Output {
    let output = project.dunlin(&[&["shard-rebalance", "--dry-run", "--observed", "observed.json"], flags].concat());
    assert!(!project.connected(), "a host was asked");
    output
}

/// The plan's line of a JSON run.
fn plan(output: &Output) -> Value {
    let lines = output.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.into_iter().find(|line| line["event"] == "plan").unwrap_or_else(|| panic!("no plan in {}", output.stdout))
}

#[test]
fn a_saved_plan_is_shown_again_as_it_was() {
    let project = project(&observation());
    let first = dry(&project, &["--json", "--out", "plan.json", "--detailed-exitcode"]).ends(2);
    assert_eq!(plan(&first)["moves"].as_array().unwrap().len(), 4);
    let again = dry(&project, &["--json", "--plan", "plan.json", "--detailed-exitcode"]).ends(2);
    assert_eq!(plan(&again), plan(&first));
}

#[test]
fn a_stale_plan_is_refused_and_says_what_changed() {
    let project = project(&observation());
    dry(&project, &["--out", "plan.json"]).ends(0);
    type Change = dyn Fn(&mut Value);
    let changes: [(&Change, &str); 6] = [
        (&|now| now["epoch"] = json!(8), "map: the epoch was 7, now 8"),
        (&|now| now["shards"][2]["host"] = json!("redis-03"), "map: the host of shard 2 was redis-01, now redis-03"),
        (
            &|now| now["hosts"][2]["capacity_bytes"] = json!(8 * GIB),
            "hosts: the memory for shards of redis-03 was 16GiB, now 8GiB",
        ),
        (&|now| now["hosts"][0]["drain"] = json!(true), "hosts: redis-01 was not to be drained, now to be drained"),
        (
            &|now| now["shards"].as_array_mut().unwrap().iter_mut().for_each(|s| s["bytes"] = json!(4 * GIB)),
            "capacity: redis-01 would end with 16.0GiB, above 14.4GiB",
        ),
        (
            &|now| now["shards"].as_array_mut().unwrap().iter_mut().for_each(|s| s["bytes"] = json!(3 * GIB / 2)),
            "has grown from 1.0GiB to 1.5GiB, by more than 25 %",
        ),
    ];
    for (change, told) in changes {
        let mut now = observation();
        change(&mut now);
        project.write("observed.json", &now.to_string());
        let refused = dry(&project, &["--plan", "plan.json"]).ends(3).tells(&[
            told,
            "nothing was changed",
            "next: make a new plan",
        ]);
        assert!(refused.stdout.is_empty(), "{}", refused.stdout);
    }
    let mut now = observation();
    now["shards"][5]["bytes"] = json!(GIB + GIB / 10);
    project.write("observed.json", &now.to_string());
    dry(&project, &["--plan", "plan.json"]).ends(0).tells(&["moves 4 shards"]);
}

#[test]
fn a_saved_plan_brings_its_own_wishes() {
    let project = project(&observation());
    dry(&project, &["--out", "plan.json"]).ends(0);
    for flags in
        [&["--drain", "redis-01"][..], &["--tolerance", "5%"], &["--simulate", "growth=2x"], &["--move-replicas"]]
    {
        dry(&project, &[&["--plan", "plan.json"], flags].concat()).ends(64).tells(&["cannot be used with"]);
    }
    project.write("plan.json", "{\"moves\": []}");
    dry(&project, &["--plan", "plan.json"]).ends(1).tells(&["plan.json is not a saved plan", "--out FILE saves one"]);
    dry(&project, &["--plan", "none.json"]).ends(1).tells(&["none.json"]);
}

#[test]
fn a_plan_for_a_supposed_fleet_cannot_be_applied() {
    let project = project(&observation());
    dry(&project, &["--simulate", "growth=110%", "--out", "plan.json"]).ends(0);
    dry(&project, &["--plan", "plan.json"]).ends(3).tells(&["a fleet that was only supposed (--simulate growth=110%)"]);
}

#[test]
fn wishes_are_read_and_those_that_mean_nothing_are_not() {
    let project = project(&observation());
    let full = dry(&project, &["--headroom", "24%"])
        .ends(3)
        .tells(&["capacity", "redis-01: 16.0GiB for shards, 6.0GiB in use"]);
    assert!(!full.stderr.contains("bytes"), "sizes are for people: {}", full.stderr);
    dry(&project, &["--headroom", "25%"]).ends(0).tells(&["moves 4 shards"]);
    let waves =
        |n: &str| plan(&dry(&project, &["--json", "--moves-per-host", n]).ends(0))["waves"].as_array().unwrap().len();
    assert_eq!([waves("1"), waves("2"), waves("4")], [4, 2, 1]);
    for wrong in [["--headroom", "120%"], ["--tolerance", "x"], ["--moves-per-host", "0"], ["--balance", "cpu"]] {
        dry(&project, &wrong).ends(64);
    }
    dry(&project, &["--headroom", "0%"]).ends(3).tells(&["wishes"]);
}

#[test]
fn move_replicas_is_what_the_plan_recommends() {
    let mut observed = observation();
    let zones = ["a", "b", "b"];
    for (host, zone) in observed["hosts"].as_array_mut().unwrap().iter_mut().zip(zones) {
        host["zone"] = json!(zone);
    }
    for shard in observed["shards"].as_array_mut().unwrap() {
        shard["host"] = json!("redis-01");
        shard["replicas"] = json!(["redis-02"]);
    }
    let project = project(&observed);
    let held = dry(&project, &["--tolerance", "34%"]).ends(0).tells(&["with --move-replicas a plan can come nearer"]);
    let free = dry(&project, &["--tolerance", "51%", "--move-replicas"]).ends(0).tells(&["(replica)"]);
    assert!(!held.stdout.contains("(replica)") && !free.stdout.contains("come nearer"), "{}", free.stdout);
}

/// One shard of two is to move.
const OBSERVED: &str = r#"{"format_version":1,"cluster":"t","epoch":7,
 "hosts":[{"name":"a","zone":"a","capacity_bytes":17179869184,"weight":1.0,"drain":false},
          {"name":"b","zone":"b","capacity_bytes":17179869184,"weight":1.0,"drain":false}],
 "shards":[{"id":0,"host":"a","replicas":[],"bytes":1200000000,"ops_per_s":850.0},
           {"id":1,"host":"a","replicas":[],"bytes":1200000000,"ops_per_s":850.0}]}"#;

#[test]
fn a_plan_under_a_cap_takes_as_long_as_the_cap_makes_it() {
    let project = Project::new(&[("observed.json", OBSERVED)]);
    let estimated = |flags: &[&str]| {
        let asked = ["shard-rebalance", "--dry-run", "--observed", "observed.json", "--json"];
        let output = project.dunlin(&[&asked, flags].concat()).ends(0);
        let lines = output.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let plan = lines.into_iter().find(|line| line["event"] == "plan").unwrap();
        (plan["bytes_moved"].as_u64().unwrap(), plan["estimated_seconds"].as_f64().unwrap())
    };
    let (bytes, usual) = estimated(&[]);
    assert_eq!(bytes, 1_200_000_000);
    // Its bytes are sent, and sent once more to be compared.
    let (_, capped) = estimated(&["--bandwidth", "20MB"]);
    assert!(usual < 60.0 && (120.0..125.0).contains(&capped), "{usual} s, and {capped} s at 20 MB/s");
    assert_eq!(estimated(&["--bandwidth", "100GB"]).1, usual, "a cap that nobody reaches");
    project.dunlin(&["shard-rebalance", "--dry-run", "--bandwidth", "1KiB"]).ends(64).tells(&["at least 64KiB"]);
    assert!(!project.connected());
}
