//! Commands that ask hosts, where no host can be reached.

use crate::example;
use crate::program::snapshot;

#[test]
fn hosts_of_the_inventory() {
    let project = example::project();
    project.snapshot("hosts", &[&["hosts"], &["hosts", "redis", "-v"], &["hosts", "redis:!redis-02"]]);
    project.snapshot("hosts-json", &[&["hosts", "--json"]]);
    project.snapshot("hosts-errors", &[&["hosts", "wep"], &["hosts", "redis:&"], &["hosts", "redis-99"]]);
    assert!(!project.connected());
}

#[test]
fn a_host_that_cannot_be_reached() {
    let project = example::project();
    let outputs = [
        &["hosts", "web", "--facts"][..],
        &["exec", "web", "--", "true"],
        &["exec", "web", "--json", "--", "true"],
        &["exec", "spare-1", "--", "true"],
        &["locks", "web"],
        &["locks", "web", "--json"],
        &["provision", "web", "--dry-run"],
        &["provision", "web", "--yes", "--json"],
    ]
    .map(|command| project.dunlin(command).ends(4));
    snapshot("unreachable", &outputs);
    assert!(project.connected(), "the program does not take ssh from PATH: the other tests prove nothing");
}

#[test]
fn a_new_host_that_cannot_be_added() {
    let project = example::project();
    let before = project.read("inventory/hosts.toml");
    let new = |name, address, more: &[&'static str]| {
        let command = ["provision-new-host", name, "--address", address, "--groups", "redis", "--yes"];
        [&command[..], more].concat()
    };
    let outputs = [
        (new("redis-03", "192.0.2.300", &["--fingerprint", "SHA256:other"]), 64),
        (new("redis-03", "-oProxyCommand=x", &["--fingerprint", "SHA256:other"]), 64),
        (new("redis-01", "192.0.2.11", &["--fingerprint", "SHA256:other"]), 3),
        (new("redis-01", "192.0.2.99", &[]), 1),
        // Nobody has seen its key.
        (new("redis-03", "192.0.2.13", &[]), 3),
    ]
    .map(|(command, status)| project.dunlin(&command).ends(status));
    snapshot("provision-new-host-errors", &outputs);
    assert_eq!(project.read("inventory/hosts.toml"), before);
}

#[test]
fn a_saved_plan_that_cannot_be_read() {
    let project = example::project();
    project.write("broken.json", "{\"hosts\": []}");
    project.write("other.json", "{\"format_version\": 1, \"kind\": \"rebalance\", \"tags\": [], \"hosts\": []}");
    project.snapshot(
        "provision-saved-plan-errors",
        &[
            &["provision", "--plan", "none.json"],
            &["provision", "--plan", "broken.json"],
            &["provision", "--plan", "other.json"],
            &["provision", "--limit", "wep"],
            &["provision", "--playbook", "none.toml"],
        ],
    );
    assert!(!project.connected());
}
