//! Hosts that cannot be reached: the cause is named with the next step, nothing is changed there, others go on.

use std::time::{Duration, Instant};

use crate::hosts::fleet;
use crate::project::Project;

const STEP: &str = "[[play.step]]\nfile = { dest = \"/srv/dunlin-fault\", content = \"text\" }\n";
const PATH: &str = "/srv/dunlin-fault";

#[test]
fn another_host_key_is_refused() {
    let Some(fleet) = fleet() else { return };
    fleet.clear(PATH);
    let mut project = Project::new(&fleet);
    let other = project.host("redis-03")["host_key"].clone();
    project.host("redis-02").insert("host_key".to_owned(), other);
    project.write();
    project.play("redis", STEP);
    let hint = "replace host_key under [hosts.redis-02]";
    let refused = project.provision(&["--yes"]).ends(4);
    refused.complains(&["redis-02: its host key is not the pinned one", "next:", hint]);
    assert_eq!(fleet.file("redis-02", PATH), None, "a host that shows another key was changed");
    assert_eq!(fleet.file("redis-01", PATH).as_deref(), Some("text"), "the others did not go on");
    project.dunlin(&["exec", "redis-02", "--", "true"]).ends(4).complains(&["not the pinned one", hint]);
}

#[test]
fn a_host_key_that_is_not_pinned_is_refused() {
    let Some(fleet) = fleet() else { return };
    fleet.clear(PATH);
    let mut project = Project::new(&fleet);
    project.host("app-01").remove("host_key");
    project.write();
    project.play("app", STEP);
    let refused = project.provision(&["--yes"]).ends(4);
    refused.complains(&["app-01: its host key is not pinned", "set host_key under [hosts.app-01]"]);
    assert_eq!(fleet.file("app-01", PATH), None);
}

#[test]
fn a_host_that_is_cut_off_fails_in_time_and_the_others_go_on() {
    let Some(fleet) = fleet() else { return };
    fleet.clear(PATH);
    let project = Project::new(&fleet);
    project.play("redis", STEP);
    let cut = fleet.cut("redis-03");
    let begin = Instant::now();
    let output = project.provision(&["--yes"]).ends(4);
    let took = begin.elapsed();
    output.complains(&["redis-03: cannot be reached", "next:"]).says(&["Done: 2 applied"]);
    assert!(took < Duration::from_secs(25), "it took {took:?} to give up");
    for host in ["redis-01", "redis-02"] {
        assert_eq!(fleet.file(host, PATH).as_deref(), Some("text"), "{host} did not go on");
    }
    drop(cut);
    assert_eq!(fleet.file("redis-03", PATH), None);
    project.provision(&["--yes"]).ends(0).says(&["1 to add"]);
    assert_eq!(fleet.file("redis-03", PATH).as_deref(), Some("text"));
}

#[test]
fn a_user_without_sudo_is_told_so() {
    let Some(fleet) = fleet() else { return };
    fleet.clear(PATH);
    fleet.root(
        "redis-01",
        "id plain >/dev/null 2>&1 || useradd --create-home --shell /bin/bash plain
         install -d -m 700 -o plain -g plain ~plain/.ssh
         install -m 600 -o plain -g plain ~deploy/.ssh/authorized_keys ~plain/.ssh/authorized_keys",
    );
    let mut project = Project::new(&fleet);
    project.host("redis-01").insert("user".to_owned(), "plain".into());
    project.write();
    project.play("redis-01", STEP);
    let hint = "give the login user password-less sudo on redis-01";
    let refused = project.provision(&["--yes"]).ends(4);
    refused.complains(&["redis-01: does not allow sudo without a password", hint]);
    assert_eq!(fleet.file("redis-01", PATH), None);

    // Without sudo asked for, the same user gets as far as its own rights.
    project.host("redis-01").insert("become".to_owned(), false.into());
    project.write();
    project.dunlin(&["exec", "redis-01", "--", "id", "-un"]).ends(0).says(&["redis-01: plain\n"]);
    project.provision(&["--yes"]).ends(4).complains(&["redis-01", "Permission denied"]);
    assert_eq!(fleet.file("redis-01", PATH), None);
    fleet.root("redis-01", "userdel --remove plain 2>/dev/null");
}

#[test]
fn a_user_that_is_not_let_in_is_told_so() {
    let Some(fleet) = fleet() else { return };
    let mut project = Project::new(&fleet);
    project.host("app-01").insert("user".to_owned(), "nobody".into());
    project.write();
    let output = project.dunlin(&["exec", "all", "--", "uname", "-n"]).ends(4);
    output.complains(&["app-01: does not let us in", "authorized_keys"]).says(&["redis-01: redis-01\n"]);
}
