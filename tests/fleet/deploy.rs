//! Releases on real hosts: a small service under systemd, released, kept where it is sound, taken back where it is not.

use std::path::Path;

use crate::hosts::{Fleet, fleet};
use crate::project::Project;

const RECIPE: &str = r#"
service = "echo"
hosts   = "redis"
root    = "/srv/dunlin-echo"
keep    = 2
batches = ["1", "100%"]

[[file]]
source = "echo.sh"
dest   = "bin/echo.sh"
mode   = "0755"

[[unit]]
name = "dunlin-echo.service"
src  = "echo.service"

[health]
command  = ["grep", "-qx", "{VERSION}", "/run/dunlin-echo"]
timeout  = "5s"
interval = "50ms"
"#;
const UNIT: &str = "[Service]\nExecStart=/srv/dunlin-echo/current/bin/echo.sh\n[Install]\nWantedBy=multi-user.target\n";
const REDIS: [&str; 3] = ["redis-01", "redis-02", "redis-03"];

/// A project with the service's recipe; whatever an earlier test left of the service is gone.
fn project(fleet: &Fleet) -> Project {
    let gone = "systemctl disable --quiet --now dunlin-echo 2>/dev/null
        rm -rf /srv/dunlin-echo /run/dunlin-echo /etc/systemd/system/dunlin-echo.service /var/lib/dunlin/deploy
        systemctl daemon-reload";
    fleet.root_on(&REDIS, gone);
    let project = Project::new(fleet);
    std::fs::write(project.path("templates/echo.service"), UNIT).unwrap();
    project
}

/// Packages a version whose program says `says` when it is started; it is healthy if that is the version.
fn package(project: &Project, version: &str, says: &str) {
    let program = format!("#!/bin/sh\necho {says} >/run/dunlin-echo\nexec sleep infinity\n");
    std::fs::write(project.path("echo.sh"), program).unwrap();
    let recipe = RECIPE.replace("{VERSION}", "healthy-.*");
    std::fs::write(project.path("playbooks/deploy-echo.toml"), recipe).unwrap();
    project.dunlin(&["package", "echo", "--version", version]).ends(0);
    assert!(Path::new(&project.path(&format!("dist/echo-{version}.tar.zst"))).is_file());
}

/// What each host's service says.
fn serving(fleet: &Fleet) -> Vec<String> {
    fleet.root_on(&REDIS, "cat /run/dunlin-echo").iter().map(|said| said.trim().to_owned()).collect()
}

#[test]
fn a_release_is_rolled_out_and_back_and_a_sick_one_returns_by_itself() {
    let Some(fleet) = fleet() else { return };
    let project = project(&fleet);
    package(&project, "1", "healthy-1");
    let dry = ["deploy", "echo", "--dry-run", "--detailed-exitcode"];
    project.dunlin(&dry).ends(2).says(&["Plan:"]);
    assert_eq!(fleet.root("redis-01", "ls -d /srv/dunlin-echo 2>/dev/null || true"), "", "a dry run made something");
    project.dunlin(&["deploy", "echo", "--yes"]).ends(0);
    assert_eq!(serving(&fleet), ["healthy-1"; 3]);
    project.dunlin(&dry).ends(0);

    package(&project, "2", "healthy-2");
    project.dunlin(&["deploy", "echo", "--yes"]).ends(0);
    assert_eq!(serving(&fleet), ["healthy-2"; 3]);
    assert_eq!(fleet.root("redis-03", "readlink /srv/dunlin-echo/current").trim(), "releases/2");

    // The first host finds out; it returns to what it served, and the others never see the release.
    package(&project, "3", "sick");
    project.dunlin(&["deploy", "echo", "--yes"]).ends(4).complains(&["redis-01"]);
    assert_eq!(serving(&fleet), ["healthy-2"; 3]);

    project.dunlin(&["rollback", "echo", "--yes"]).ends(0);
    assert_eq!(serving(&fleet), ["healthy-1"; 3]);
    project.dunlin(&["releases", "echo"]).ends(0).says(&["redis-01", "redis-03"]);
}

#[test]
fn what_a_rollout_cannot_render_or_find_is_told_before_any_host_is_changed() {
    let Some(fleet) = fleet() else { return };
    let project = project(&fleet);
    package(&project, "1", "healthy-1");
    std::fs::write(project.path("templates/echo.service"), format!("{UNIT}# {{{{ no_such_thing }}}}\n")).unwrap();
    let refused = project.dunlin(&["deploy", "echo", "--yes"]);
    assert!(matches!(refused.status, Some(1 | 4)), "{refused:?}");
    refused.complains(&["no_such_thing", "echo.service:5"]);
    project.dunlin(&["deploy", "echo", "--yes", "--release", "9"]).ends(1).complains(&["no release 9", "package echo"]);
    for host in REDIS {
        assert_eq!(fleet.root(host, "ls -d /srv/dunlin-echo 2>/dev/null || true"), "", "{host} was changed");
    }
}
