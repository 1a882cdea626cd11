//! Plans of shard moves from an observation, with no host in reach.

use serde_json::Value;

use crate::program::Project;

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
