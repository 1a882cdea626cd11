//! `shard-rebalance` from observation files: no host is in reach, and none is asked.

use serde_json::{Value, json};

use crate::program::{Output, Project, snapshot};

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
    let output =
        project.dunlin(&[&["shard-rebalance", "--dry-run", "--from-observation", "observed.json"], flags].concat());
    assert!(!project.connected(), "a host was asked");
    output
}

#[test]
fn a_saved_plan_is_shown_again_as_it_was() {
    let project = project(&observation());
    let first = dry(&project, &["--json", "--out", "plan.json", "--detailed-exitcode"]).ends(2);
    assert_eq!(first.event("plan")["moves"].as_array().unwrap().len(), 4);
    let again = dry(&project, &["--json", "--plan", "plan.json", "--detailed-exitcode"]).ends(2);
    assert_eq!(again.event("plan"), first.event("plan"));
}

#[test]
fn a_stale_plan_is_refused_and_says_what_changed() {
    let project = project(&observation());
    dry(&project, &["--out", "plan.json"]).ends(0);
    let changes: [&Change; 6] = [
        &|now| now["epoch"] = json!(8),
        &|now| now["shards"][2]["host"] = json!("redis-03"),
        &|now| now["hosts"][2]["capacity_bytes"] = json!(8 * GIB),
        &|now| now["hosts"][0]["drain"] = json!(true),
        &|now| now["shards"].as_array_mut().unwrap().iter_mut().for_each(|s| s["bytes"] = json!(4 * GIB)),
        &|now| now["shards"].as_array_mut().unwrap().iter_mut().for_each(|s| s["bytes"] = json!(3 * GIB / 2)),
    ];
    let refusals = changes.map(|change| {
        let mut now = observation();
        change(&mut now);
        project.write("observed.json", &now.to_string());
        let refused = dry(&project, &["--plan", "plan.json"]).ends(3);
        assert!(refused.stdout.is_empty(), "{}", refused.stdout);
        refused
    });
    snapshot("rebalance-stale-plan", &refusals);
    let mut now = observation();
    now["shards"][5]["bytes"] = json!(GIB + GIB / 10);
    project.write("observed.json", &now.to_string());
    let grown = dry(&project, &["--plan", "plan.json", "--json"]).ends(0);
    assert_eq!(grown.event("plan")["moves"].as_array().unwrap().len(), 4);
    snapshot("rebalance-sizes-changed", &[dry(&project, &["--plan", "plan.json"]).ends(0)]);
}

#[test]
fn a_saved_plan_brings_its_own_options() {
    let project = project(&observation());
    dry(&project, &["--out", "plan.json"]).ends(0);
    let mut outputs: Vec<Output> =
        [&["--drain", "redis-01"][..], &["--tolerance", "5%"], &["--what-if", "growth=2x"], &["--move-replicas"]]
            .into_iter()
            .map(|flags| dry(&project, &[&["--plan", "plan.json"], flags].concat()).ends(64))
            .collect();
    project.write("plan.json", "{\"moves\": []}");
    outputs.push(dry(&project, &["--plan", "plan.json"]).ends(1));
    outputs.push(dry(&project, &["--plan", "none.json"]).ends(1));
    snapshot("rebalance-saved-plan-errors", &outputs);
}

#[test]
fn a_plan_for_a_supposed_fleet_cannot_be_applied() {
    let project = project(&observation());
    dry(&project, &["--what-if", "growth=110%", "--out", "plan.json"]).ends(0);
    snapshot("rebalance-supposed-plan", &[dry(&project, &["--plan", "plan.json"]).ends(3)]);
}

#[test]
fn a_plan_that_was_changed_after_it_was_saved_is_refused() {
    let project = project(&observation());
    dry(&project, &["--what-if", "growth=110%", "--out", "plan.json"]).ends(0);
    let text = project.read("plan.json");
    let mut plan: Value = serde_json::from_str(&text).unwrap();
    // Even where each digest in the file is recomputed: the key is not in it.
    let changed = text.replace("\"scenario\"", "\"scenario_\"");
    assert_ne!(changed, text);
    project.write("plan.json", &changed);
    let refused = dry(&project, &["--plan", "plan.json"]).ends(3);
    refused.matches("rebalance-changed-plan");
    plan.as_object_mut().unwrap().remove("seal");
    project.write("plan.json", &plan.to_string());
    dry(&project, &["--plan", "plan.json"]).ends(3).matches("rebalance-plan-without-a-seal");
    project.write("plan.json", &text);
    project.write("inventory/digest.key", &"0".repeat(64));
    dry(&project, &["--plan", "plan.json"]).ends(3).matches("rebalance-plan-of-another-key");
}

#[test]
fn an_observation_that_cannot_be_read() {
    let project = project(&observation());
    project.write("broken.json", "{\"format_version\": 1}");
    let outputs = ["none.json", "broken.json"]
        .map(|file| project.dunlin(&["shard-rebalance", "--dry-run", "--from-observation", file]).ends(1));
    snapshot("rebalance-observation-errors", &outputs);
    project.dunlin(&["shard-rebalance", "--from-observation", "observed.json"]).ends(64);
}

#[test]
fn options_are_read_and_those_that_mean_nothing_are_not() {
    let project = project(&observation());
    let moves = |flags: &[&str]| {
        let flags = [&["--json"], flags].concat();
        dry(&project, &flags).ends(0).event("plan")
    };
    assert_eq!(moves(&["--max-utilization", "25%"])["moves"].as_array().unwrap().len(), 4);
    let waves = |n: &str| moves(&["--moves-per-host", n])["waves"].as_array().unwrap().len();
    assert_eq!([waves("1"), waves("2"), waves("4")], [4, 2, 1]);
    snapshot(
        "rebalance-infeasible",
        &["24%", "0%"].map(|headroom| dry(&project, &["--max-utilization", headroom]).ends(3)),
    );
    snapshot("rebalance-infeasible-json", &[dry(&project, &["--max-utilization", "24%", "--json"]).ends(3)]);
    let wrong = [
        ["--max-utilization", "120%"],
        ["--tolerance", "x"],
        ["--moves-per-host", "0"],
        ["--max-shards-per-host", "0"],
        ["--max-shards-per-host", "3"],
        ["--balance", "cpu"],
        ["--drain", "redis-77"],
        ["--bandwidth", "1KiB"],
    ];
    let wrong = wrong.map(|flags| dry(&project, &flags));
    assert!(wrong.iter().all(|output| output.status != 0));
    snapshot("rebalance-option-errors", &wrong);
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
    let roles = |flags: &[&str]| {
        let plan = dry(&project, &[flags, &["--json"]].concat()).ends(0).event("plan");
        plan["moves"].as_array().unwrap().iter().filter(|step| step["role"] == "replica").count()
    };
    let (held, free) = (["--tolerance", "34%"], ["--tolerance", "51%", "--move-replicas"]);
    assert!(roles(&held) == 0 && roles(&free) > 0);
    snapshot("rebalance-move-replicas", &[dry(&project, &held).ends(0), dry(&project, &free).ends(0)]);
}

#[test]
fn what_if_is_planned_in_all_its_parts_with_no_host_in_reach() {
    let project = project(&observation());
    let hosts = |output: &Output| -> Vec<String> {
        let hosts = output.event("plan")["hosts"].as_array().unwrap().clone();
        hosts.iter().map(|host| host["name"].as_str().unwrap().to_owned()).collect()
    };
    let simulate = |what: &str| dry(&project, &["--json", "--what-if", what]);
    assert_eq!(simulate("growth=2x").ends(0).event("plan")["bytes_total"], json!(24 * GIB));
    assert_eq!(simulate("growth=50%").ends(0).event("plan")["bytes_total"], json!(18 * GIB));
    let added = simulate("add=redis-09:32GiB:b").ends(0);
    assert_eq!(hosts(&added), ["redis-01", "redis-02", "redis-03", "redis-09"]);
    assert_eq!(added.event("plan")["hosts"][3]["capacity_bytes"], json!(32 * GIB));
    let lost = simulate("lose=redis-02").ends(0);
    assert_eq!((hosts(&lost).len(), &lost.event("plan")["bytes_total"]), (2, &json!(6 * GIB)));
    let all = simulate("lose=redis-02,growth=3x,add=redis-09:32GiB,add=redis-10:8GiB").ends(0);
    assert_eq!((hosts(&all).len(), &all.event("plan")["bytes_total"]), (4, &json!(18 * GIB)));
    let outputs = [
        (&["--what-if", "growth=2x", "--drain", "redis-01"][..], 0),
        (&["--what-if", "lose=redis-02"], 0),
        (&["--what-if", "add=redis-09:32GiB:b"], 0),
        (&["--what-if", "growth=9x"], 3),
    ]
    .map(|(flags, status)| dry(&project, flags).ends(status));
    snapshot("rebalance-simulate", &outputs);
}

#[test]
fn what_if_says_which_part_means_nothing() {
    let project = project(&observation());
    let outputs = [
        "growth=fast",
        "lose=redis-77",
        "add=redis-01:1GiB",
        "add=redis-09:32",
        "add=redis-09:0GiB",
        "add=redis-09",
        "lose=redis-01,lose=redis-01",
        "lose=redis-01,lose=redis-02,lose=redis-03",
        "shrink=2x",
        "",
    ]
    .map(|wrong| dry(&project, &["--what-if", wrong]).ends(64));
    snapshot("rebalance-simulate-errors", &outputs);
}

#[test]
fn the_plan_is_a_page_that_fits_a_terminal() {
    let project = project(&observation());
    let plan = dry(&project, &[]).ends(0);
    assert!(plan.stdout.lines().all(|line| line.chars().count() <= 100), "{}", plan.stdout);
    snapshot("rebalance-plan", &[plan]);
    let commands = dry(&project, &["-v"]).ends(0);
    assert!(!commands.stdout.contains("PORT"), "{}", commands.stdout);
    snapshot("rebalance-plan-verbose", &[commands]);
    snapshot("rebalance-plan-json", &[dry(&project, &["--json"]).ends(0)]);
    let two_hosts = dry(&project, &["--drain", "redis-02", "--tolerance", "100%"]).ends(0);
    snapshot("rebalance-drain", &[two_hosts]);
}

#[test]
fn selected_shards_are_planned_and_flags_for_balance_are_refused() {
    let project = project(&observation());
    snapshot(
        "rebalance-selected-shards",
        &[
            dry(&project, &["--shard", "0,3", "--targets", "redis-03"]).ends(0),
            dry(&project, &["--hot"]).ends(0),
            dry(&project, &["--shard", "99"]).ends(3),
            dry(&project, &["--hot", "2", "--shard", "1"]).ends(64),
            dry(&project, &["--shard", "1", "--drain", "redis-02"]).ends(64),
        ],
    );
    let short = dry(&project, &["--shard", "0", "--to", "redis-03", "--json"]).ends(0).event("plan");
    assert_eq!(short["moves"][0]["to"], "redis-03");
}

#[test]
fn each_balanced_resource_has_a_column() {
    let project = project(&observation());
    snapshot(
        "rebalance-columns",
        &["bytes", "ops", "bytes,ops"].map(|what| dry(&project, &["--balance", what]).ends(0)),
    );
}

#[test]
fn nothing_to_move() {
    let project = project(&observation());
    snapshot("rebalance-nothing", &[dry(&project, &["--tolerance", "100%", "--detailed-exitcode"]).ends(0)]);
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
        let asked = ["shard-rebalance", "--dry-run", "--from-observation", "observed.json", "--json"];
        let output = project.dunlin(&[&asked, flags].concat()).ends(0);
        let plan = output.event("plan");
        (plan["bytes_moved"].as_u64().unwrap(), plan["estimated_seconds"].as_f64().unwrap())
    };
    let (bytes, usual) = estimated(&[]);
    assert_eq!(bytes, 1_200_000_000);
    let (_, capped) = estimated(&["--bandwidth", "20MB"]);
    assert!(usual < 60.0 && (60.0..65.0).contains(&capped), "{usual} s, and {capped} s at 20 MB/s");
    assert_eq!(estimated(&["--bandwidth", "100GB"]).1, usual, "a cap that nobody reaches");
    project.dunlin(&["shard-rebalance", "--dry-run", "--bandwidth", "1KiB"]).ends(64);
    assert!(!project.connected());
}
