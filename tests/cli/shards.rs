//! The commands of shards where no host can be reached.

use crate::example;
use crate::program::{Project, snapshot};

const COMMANDS: [&[&str]; 13] = [
    &["shard-rebalance", "--dry-run"],
    &["shards", "status"],
    &["shards", "resume", "--yes"],
    &["shards", "repair", "--dry-run"],
    &["shards", "abort", "--yes"],
    &["shards", "move-back", "0", "--yes"],
    &["shards", "resume", "--dry-run"],
    &["shards", "abort", "--dry-run"],
    &["shards", "move-back", "0", "--dry-run"],
    &["shards", "verify"],
    &["shards", "history"],
    &["shards", "capacity"],
    &["shards", "failover", "redis-02", "--dry-run"],
];

fn run_all(project: &Project, name: &str) {
    let outputs: Vec<_> = COMMANDS.iter().map(|command| project.dunlin(command)).collect();
    snapshot(name, &outputs);
}

#[test]
fn shard_hosts_that_cannot_be_reached() {
    let project = example::project();
    run_all(&project, "shards-unreachable");
    project.snapshot(
        "shards-unreachable-json",
        &[&["shards", "status", "--json"], &["shard-rebalance", "--dry-run", "--json"]],
    );
}

#[test]
fn no_shard_map() {
    let project = example::project();
    std::fs::remove_file(project.path("inventory/shards.toml")).unwrap();
    run_all(&project, "shards-no-map");
    assert!(!project.connected());
}

#[test]
fn no_secrets() {
    let project = example::project();
    std::fs::remove_file(project.path("inventory/secrets.toml")).unwrap();
    run_all(&project, "shards-no-secrets");
    assert!(!project.connected());
}

#[test]
fn moves_of_an_earlier_run_are_kept() {
    let project = example::project();
    let kept = r#"[{"shard": 0, "from": "redis-01", "to": "redis-02", "wave": 0, "bytes": 1}]"#;
    project.write(".dunlin/rebalance-inventory.json", kept);
    project.snapshot("shards-moves-kept", &[&["shard-rebalance", "--yes"]]);
    assert!(!project.connected());
}

#[test]
fn a_shard_that_the_map_does_not_name_is_a_usage_error() {
    let project = example::project();
    project.dunlin(&["shards", "verify", "0", "999"]).ends(64).matches("shards-verify-unknown-shard");
    assert!(!project.connected());
}

#[test]
fn a_choice_names_a_host_and_a_shard_of_the_map() {
    let project = example::project();
    let choices: [&[&str]; 3] = [&["--keep", "redis-01"], &["--shard", "3"], &["--shard", "999", "--keep", "redis-01"]];
    let refused = choices.map(|choice| project.dunlin(&[&["shards", "resume"], choice].concat()).ends(64));
    snapshot("shards-choice-incomplete", &refused);
    assert!(!project.connected());
}
