//! Releases on real hosts: a small service under systemd, released, kept where it is sound, taken back where it is not.

use std::path::Path;

use crate::hosts::{TestFleet, lock_fleet};
use crate::output::assert_snapshot;
use crate::project::FleetProject;

const ECHO_RECIPE: &str = r#"
service = "echo"
hosts   = "redis"
root    = "/srv/dunlin-echo"
keep_releases = 2
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
steady   = "1s"
"#;
/// A start first removes what the release before said: the health check would take it for the new one's.
const ECHO_UNIT: &str = "[Service]
ExecStartPre=/bin/rm -f /run/dunlin-echo
ExecStart=/srv/dunlin-echo/current/bin/echo.sh
[Install]
WantedBy=multi-user.target
";
const REDIS_HOSTS: [&str; 3] = ["redis-01", "redis-02", "redis-03"];

/// A project with the service's recipe; whatever an earlier test left of the service is gone.
fn echo_project(fleet: &TestFleet) -> FleetProject {
    let gone = "systemctl disable --quiet --now dunlin-echo 2>/dev/null
        rm -rf /srv/dunlin-echo /run/dunlin-echo /etc/systemd/system/dunlin-echo.service /var/lib/dunlin/deploy
        systemctl daemon-reload";
    fleet.root_on(&REDIS_HOSTS, gone);
    let project = FleetProject::with_fleet(fleet);
    std::fs::write(project.file_path("templates/echo.service"), ECHO_UNIT).unwrap();
    project
}

/// Packages a version whose program says `says` when it is started; it is healthy if that is the version.
fn package_release(project: &FleetProject, version: &str, says: &str) {
    let program = format!("#!/bin/sh\necho {says} >/run/dunlin-echo\nexec sleep infinity\n");
    std::fs::write(project.file_path("echo.sh"), program).unwrap();
    let recipe = ECHO_RECIPE.replace("{VERSION}", "healthy-.*");
    std::fs::write(project.file_path("playbooks/deploy-echo.toml"), recipe).unwrap();
    project.run_dunlin(&["package", "echo", "--version", version]).assert_status(0);
    assert!(Path::new(&project.file_path(&format!("dist/echo-{version}.tar.zst"))).is_file());
}

/// What each host's service says.
fn serving_versions(fleet: &TestFleet) -> Vec<String> {
    fleet.root_on(&REDIS_HOSTS, "cat /run/dunlin-echo").iter().map(|said| said.trim().to_owned()).collect()
}

#[test]
fn releases_deploy_roll_back_and_recover_from_failed_checks() {
    let Some(fleet) = lock_fleet() else { return };
    let project = echo_project(&fleet);
    package_release(&project, "1", "healthy-1");
    let dry = ["deploy", "echo", "--dry-run", "--detailed-exitcode"];
    project.run_dunlin(&dry).assert_status(2).assert_snapshot("fleet-deploy-plan");
    assert_eq!(
        fleet.run_as_root("redis-01", "ls -d /srv/dunlin-echo 2>/dev/null || true"),
        "",
        "a dry run made something"
    );
    project.run_dunlin(&["deploy", "echo", "--yes"]).assert_status(0);
    assert_eq!(serving_versions(&fleet), ["healthy-1"; 3]);
    project.run_dunlin(&dry).assert_status(0);

    package_release(&project, "2", "healthy-2");
    project.run_dunlin(&["deploy", "echo", "--yes"]).assert_status(0);
    assert_eq!(serving_versions(&fleet), ["healthy-2"; 3]);
    assert_eq!(fleet.run_as_root("redis-03", "readlink /srv/dunlin-echo/current").trim(), "releases/2");

    // The first host finds out; it returns to what it served, and the others never see the release.
    package_release(&project, "3", "sick");
    project.run_dunlin(&["deploy", "echo", "--yes"]).assert_status(4).assert_snapshot("fleet-deploy-failed-first-host");
    assert_eq!(serving_versions(&fleet), ["healthy-2"; 3]);

    project.run_dunlin(&["rollback", "echo", "--yes"]).assert_status(0);
    assert_eq!(serving_versions(&fleet), ["healthy-1"; 3]);
    project.run_dunlin(&["releases", "echo"]).assert_status(0).assert_snapshot("fleet-releases");
}

#[test]
fn render_errors_are_reported_before_any_change() {
    let Some(fleet) = lock_fleet() else { return };
    let project = echo_project(&fleet);
    package_release(&project, "1", "healthy-1");
    std::fs::write(project.file_path("templates/echo.service"), format!("{ECHO_UNIT}# {{{{ no_such_thing }}}}\n"))
        .unwrap();
    let undefined = project.run_dunlin(&["deploy", "echo", "--yes"]);
    let unknown = project.run_dunlin(&["deploy", "echo", "--yes", "--release", "9"]);
    assert_snapshot("fleet-deploy-errors-before-any-change", &[&undefined, &unknown]);
    for host in REDIS_HOSTS {
        assert_eq!(fleet.run_as_root(host, "ls -d /srv/dunlin-echo 2>/dev/null || true"), "", "{host} was changed");
    }
}
