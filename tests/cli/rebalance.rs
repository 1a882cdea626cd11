//! `shard-rebalance` from observation files: no host is in reach, and none is asked.

use serde_json::{Value, json};

use crate::program::{Output, Project};

const GIB: u64 = 1 << 30;

/// Something that happens to the fleet.
type Change = dyn Fn(&mut Value);

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

/// The plan's line of a JSON run, without what differs between two runs.
fn plan(output: &Output) -> Value {
    let lines = output.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let plan = lines.into_iter().find(|line| line["event"] == "plan");
    let mut plan = plan.unwrap_or_else(|| panic!("no plan in {}", output.stdout));
    for key in ["at", "run"] {
        assert!(plan.as_object_mut().unwrap().remove(key).is_some(), "the plan has no `{key}`");
    }
    plan
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
    let held = dry(&project, &["--tolerance", "34%"]).ends(0).tells(&["with --move-replicas a plan"]);
    let free = dry(&project, &["--tolerance", "51%", "--move-replicas"]).ends(0).tells(&["replica: "]);
    assert!(!held.stdout.contains("replica: ") && !free.stdout.contains("--move-replicas"), "{}", free.stdout);
}

#[test]
fn what_if_is_planned_in_all_its_parts_with_no_host_in_reach() {
    let project = project(&observation());
    let hosts = |output: &Output| -> Vec<String> {
        let hosts = plan(output)["hosts"].as_array().unwrap().clone();
        hosts.iter().map(|host| host["name"].as_str().unwrap().to_owned()).collect()
    };
    let simulate = |what: &str| dry(&project, &["--json", "--simulate", what]);
    assert_eq!(plan(&simulate("growth=2x").ends(0))["bytes_total"], json!(24 * GIB));
    assert_eq!(plan(&simulate("growth=50%").ends(0))["bytes_total"], json!(18 * GIB));
    let added = simulate("add=redis-09:32GiB:b").ends(0);
    assert_eq!(hosts(&added), ["redis-01", "redis-02", "redis-03", "redis-09"]);
    assert_eq!(plan(&added)["hosts"][3]["capacity_bytes"], json!(32 * GIB));
    let lost = simulate("lose=redis-02").ends(0);
    assert_eq!((hosts(&lost).len(), &plan(&lost)["bytes_total"]), (2, &json!(6 * GIB)));
    assert!(
        lost.stdout.contains("shards 1, 3, 5, 7, 9, 11 are lost: they have no replica elsewhere"),
        "{}",
        lost.stdout
    );
    let all = simulate("lose=redis-02,growth=3x,add=redis-09:32GiB,add=redis-10:8GiB").ends(0);
    assert_eq!((hosts(&all).len(), &plan(&all)["bytes_total"]), (4, &json!(18 * GIB)));
    let told = ["this is what would be: growth=2x"];
    dry(&project, &["--simulate", "growth=2x", "--drain", "redis-01"]).ends(0).tells(&told);
    let told = ["capacity", "108.0GiB", "this is what would be: growth=9x"];
    dry(&project, &["--simulate", "growth=9x"]).ends(3).tells(&told);
}

#[test]
fn what_if_says_which_part_means_nothing() {
    let project = project(&observation());
    for (wrong, told) in [
        ("growth=fast", "`fast` is not a growth"),
        ("lose=redis-77", "redis-77 is not a host"),
        ("add=redis-01:1GiB", "redis-01 is there already"),
        ("add=redis-09:32", "the memory of redis-09: `32` has no unit"),
        ("add=redis-09:0GiB", "the memory of redis-09"),
        ("add=redis-09", "add=HOST:32GiB"),
        ("lose=redis-01,lose=redis-01", "redis-01 is not a host"),
        ("lose=redis-01,lose=redis-02,lose=redis-03", "no host is left"),
        ("shrink=2x", "`shrink=2x` is none of"),
        ("", "is none of"),
    ] {
        dry(&project, &["--simulate", wrong]).ends(64).tells(&["--simulate", told]);
    }
}

#[test]
fn the_plan_is_a_page_that_fits_a_terminal() {
    let project = project(&observation());
    let shown = dry(&project, &[]).ends(0);
    let told = "timeline: epoch 7 → 11, one more with each move
  wave 1 of 2: 2 moves at the same time, 2.0GiB, about 24 s
  ~ shard 0  redis-01 → redis-03  1.0GiB  24 s  redis-01 has too many bytes
  ~ shard 1  redis-02 → redis-03  1.0GiB  24 s  redis-02 has too many bytes
  wave 2 of 2: 2 moves at the same time, 2.0GiB, about 24 s
  ~ shard 2  redis-01 → redis-03  1.0GiB  24 s  redis-01 has too many bytes
  ~ shard 3  redis-02 → redis-03  1.0GiB  24 s  redis-02 has too many bytes
  host      now                     then                  at most
  redis-01  ████████ 6.0GiB in 6  → █████░░░ 4.0GiB in 4  6.0GiB of 16.0GiB
  redis-02  ████████ 6.0GiB in 6  → █████░░░ 4.0GiB in 4  6.0GiB of 16.0GiB
  redis-03  ░░░░░░░░     0B in 0  → █████░░░ 4.0GiB in 4  4.1GiB of 16.0GiB
Plan: moves 4 shards, 33.33 % of bytes; no plan can move less than 33.33 %
      4.0GiB of 12.0GiB in 2 waves, about 47 s
      at its switch, a shard's writes are held for about 7 ms
";
    assert_eq!(shown.stdout, told);
    let commands = dry(&project, &["-v"]).ends(0).tells(&[
        "redis-03:7003  start the instance with `replicaof redis-02 7003`",
        "redis-02:7003  MULTI; ROLE; REPLICAOF redis-03 7003; CLIENT UNPAUSE; EXEC",
    ]);
    assert!(!commands.stdout.contains("PORT"), "{}", commands.stdout);
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
    let (_, capped) = estimated(&["--bandwidth", "20MB"]);
    assert!(usual < 60.0 && (60.0..65.0).contains(&capped), "{usual} s, and {capped} s at 20 MB/s");
    assert_eq!(estimated(&["--bandwidth", "100GB"]).1, usual, "a cap that nobody reaches");
    project.dunlin(&["shard-rebalance", "--dry-run", "--bandwidth", "1KiB"]).ends(64).tells(&["at least 64KiB"]);
    assert!(!project.connected());
}
