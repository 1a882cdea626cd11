//! Hosts that cannot be reached: the cause is named with the next step, nothing is changed there, others go on.

use std::time::{Duration, Instant};

use crate::hosts::lock_fleet;
use crate::output::assert_snapshot;
use crate::project::FleetProject;

const FILE_STEP: &str = "[[play.step]]\nfile = { dest = \"/srv/dunlin-fault\", content = \"text\" }\n";
const FILE_PATH: &str = "/srv/dunlin-fault";

#[test]
fn changed_host_keys_are_rejected() {
    let Some(fleet) = lock_fleet() else { return };
    fleet.remove_paths(FILE_PATH);
    let mut project = FleetProject::with_fleet(&fleet);
    let other = project.host_table("redis-03")["host_key"].clone();
    project.host_table("redis-02").insert("host_key".to_owned(), other);
    project.write_files();
    project.write_play("redis", FILE_STEP);
    let refused = project.run_provision(&["--yes"]).assert_status(4);
    assert_eq!(fleet.read_file("redis-02", FILE_PATH), None, "a host that shows another key was changed");
    assert_eq!(fleet.read_file("redis-01", FILE_PATH).as_deref(), Some("text"), "the others did not go on");
    let exec = project.run_dunlin(&["exec", "redis-02", "--", "true"]).assert_status(4);
    assert_snapshot("fleet-host-key-changed", &[&refused, &exec]);
}

#[test]
fn unpinned_host_keys_are_rejected() {
    let Some(fleet) = lock_fleet() else { return };
    fleet.remove_paths(FILE_PATH);
    let mut project = FleetProject::with_fleet(&fleet);
    project.host_table("app-01").remove("host_key");
    project.write_files();
    project.write_play("app", FILE_STEP);
    let refused = project.run_provision(&["--yes"]).assert_status(4);
    refused.assert_snapshot("fleet-host-key-unknown");
    assert_eq!(fleet.read_file("app-01", FILE_PATH), None);
}

#[test]
fn partitioned_hosts_time_out_and_others_continue() {
    let Some(fleet) = lock_fleet() else { return };
    fleet.remove_paths(FILE_PATH);
    let project = FleetProject::with_fleet(&fleet);
    project.write_play("redis", FILE_STEP);
    let cut = fleet.partition_host("redis-03");
    let begin = Instant::now();
    let output = project.run_provision(&["--yes"]).assert_status(4);
    let took = begin.elapsed();
    output.assert_snapshot("fleet-host-unreachable");
    assert!(took < Duration::from_secs(25), "it took {took:?} to give up");
    for host in ["redis-01", "redis-02"] {
        assert_eq!(fleet.read_file(host, FILE_PATH).as_deref(), Some("text"), "{host} did not go on");
    }
    drop(cut);
    assert_eq!(fleet.read_file("redis-03", FILE_PATH), None);
    project.run_provision(&["--yes"]).assert_status(0).assert_snapshot("fleet-host-reachable-again");
    assert_eq!(fleet.read_file("redis-03", FILE_PATH).as_deref(), Some("text"));
}

#[test]
fn missing_sudo_is_reported() {
    let Some(fleet) = lock_fleet() else { return };
    fleet.remove_paths(FILE_PATH);
    fleet.run_as_root(
        "redis-01",
        "id plain >/dev/null 2>&1 || useradd --create-home --shell /bin/bash plain
         install -d -m 700 -o plain -g plain ~plain/.ssh
         install -m 600 -o plain -g plain ~deploy/.ssh/authorized_keys ~plain/.ssh/authorized_keys",
    );
    let mut project = FleetProject::with_fleet(&fleet);
    project.host_table("redis-01").insert("user".to_owned(), "plain".into());
    project.write_files();
    project.write_play("redis-01", FILE_STEP);
    let refused = project.run_provision(&["--yes"]).assert_status(4);
    refused.assert_snapshot("fleet-host-without-sudo");
    assert_eq!(fleet.read_file("redis-01", FILE_PATH), None);

    // Without sudo asked for, the same user gets as far as its own rights.
    project.host_table("redis-01").insert("become".to_owned(), false.into());
    project.write_files();
    let exec = project.run_dunlin(&["exec", "redis-01", "--", "id", "-un"]).assert_status(0);
    assert_eq!(exec.stdout, "redis-01: plain\n");
    project.run_provision(&["--yes"]).assert_status(4).assert_snapshot("fleet-file-without-permission");
    assert_eq!(fleet.read_file("redis-01", FILE_PATH), None);

    // What it may change, it changes, with the handlers that are pending in a file of its own.
    project.write_play(
        "redis-01",
        "[[play.step]]
file = { dest = \"/home/plain/own\", content = \"own\", owner = \"plain\", group = \"plain\" }
notify = \"note\"

[[play.handler]]
name = \"note\"
command = { argv = [\"/usr/bin/touch\", \"/home/plain/noted\"] }
",
    );
    project.run_provision(&["--yes"]).assert_status(0);
    assert!(fleet.read_file("redis-01", "/home/plain/noted").is_some());
    fleet.run_as_root("redis-01", "userdel --remove plain 2>/dev/null");
}

#[test]
fn denied_logins_are_reported() {
    let Some(fleet) = lock_fleet() else { return };
    let mut project = FleetProject::with_fleet(&fleet);
    project.host_table("app-01").insert("user".to_owned(), "nobody".into());
    project.write_files();
    let output = project.run_dunlin(&["exec", "all", "--", "uname", "-n"]).assert_status(4);
    output.with_sorted_lines().assert_snapshot("fleet-login-denied");
}
