//! Plans and their application on real hosts.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::hosts::{HOST_NAMES, lock_fleet};
use crate::messages;
use crate::project::FleetProject;

/// A step that keeps one small file.
fn file_step(path: &str, content: &str) -> String {
    format!("[[play.step]]\nfile = {{ dest = \"{path}\", content = \"{content}\" }}\n")
}

#[test]
fn plans_are_shown_applied_and_then_empty() {
    let Some(fleet) = lock_fleet() else { return };
    let path = "/srv/dunlin-converges";
    fleet.remove_paths(path);
    let project = FleetProject::with_fleet(&fleet);
    project.write_play("redis", &file_step(path, "old\\n"));
    project.run_provision(&["--yes"]).assert_status(0).assert_snapshot("fleet-provision");
    assert_eq!(fleet.read_file("app-01", path), None, "a host that the play does not name was changed");

    project.write_play("redis", &file_step(path, "new\\n"));
    let dry = ["--dry-run", "--detailed-exitcode"];
    project.run_provision(&dry).assert_status(2).assert_snapshot("fleet-provision-plan");
    assert_eq!(fleet.read_file("redis-01", path).as_deref(), Some("old\n"), "a dry run changed the host");
    project.run_provision(&["--yes"]).assert_status(0);
    for host in ["redis-01", "redis-02", "redis-03"] {
        assert_eq!(fleet.read_file(host, path).as_deref(), Some("new\n"), "{host}");
    }
    project.run_provision(&dry).assert_status(0).assert_snapshot("fleet-provision-nothing");

    // Drift is seen, and only there.
    fleet.run_as_root("redis-02", &format!("echo drift >> {path}"));
    project.run_provision(&dry).assert_status(2).assert_snapshot("fleet-provision-drift");
    project.run_provision(&["--yes"]).assert_status(0);
    project.run_provision(&dry).assert_status(0);
}

#[test]
fn runs_without_a_terminal_require_yes() {
    let Some(fleet) = lock_fleet() else { return };
    let path = "/srv/dunlin-asks";
    fleet.remove_paths(path);
    let project = FleetProject::with_fleet(&fleet);
    project.write_play("app", &file_step(path, "text"));
    project.run_provision(&[]).assert_status(3).assert_snapshot("fleet-provision-without-a-terminal");
    assert_eq!(fleet.read_file("app-01", path), None);
}

#[test]
fn saved_plans_are_rejected_when_hosts_have_changed() {
    let Some(fleet) = lock_fleet() else { return };
    let path = "/srv/dunlin-stale";
    fleet.remove_paths(path);
    let project = FleetProject::with_fleet(&fleet);
    project.write_play("redis-0[1:2]", &file_step(path, "wanted"));
    project.run_provision(&["--dry-run", "--out", "plan.json"]).assert_status(0);
    fleet.run_as_root("redis-02", &format!("echo other > {path}"));
    let refused = project.run_provision(&["--plan", "plan.json", "--yes"]).assert_status(3);
    // A row that is as it was is not named.
    refused.assert_snapshot("fleet-saved-plan-out-of-date");
    assert_eq!(fleet.read_file("redis-01", path), None);
    assert_eq!(fleet.read_file("redis-02", path).as_deref(), Some("other\n"));

    fleet.run_as_root("redis-02", &format!("rm {path}"));
    project.run_provision(&["--plan", "plan.json", "--yes"]).assert_status(0).assert_snapshot("fleet-saved-plan");
    assert_eq!(fleet.read_file("redis-02", path).as_deref(), Some("wanted"));
}

#[test]
fn a_package_manager_that_hangs_is_ended_at_its_time_limit() {
    let Some(fleet) = lock_fleet() else { return };
    let project = FleetProject::with_fleet(&fleet);
    // Another package manager is at work, for longer than apt-get waits for it.
    let lock = "import fcntl, time; f = open('/var/lib/dpkg/lock-frontend', 'w'); fcntl.lockf(f, fcntl.LOCK_EX); \
                open('/run/dunlin-dpkg-lock', 'w'); time.sleep(3600)";
    let unit = "dunlin-dpkg-lock.service";
    fleet.run_as_root("app-01", &format!("rm -f /run/dunlin-dpkg-lock; systemctl stop {unit} 2>/dev/null || true"));
    fleet.run_as_root("app-01", &format!("systemd-run --quiet --unit={unit} python3 -c \"{lock}\""));
    fleet.run_as_root("app-01", "until [ -e /run/dunlin-dpkg-lock ]; do sleep 0.1; done");
    let package =
        fleet.run_as_root("app-01", "dpkg-query -W -f '${Package}\\n' | grep -x -m1 -e less -e nano -e tzdata");
    let step = |timeout: &str| {
        let names = format!("names = [\"{}\"]", package.trim());
        format!("[[play.step]]\npackage = {{ {names}, state = \"absent\", timeout = \"{timeout}\" }}\n")
    };
    project.write_play("app-01", &step("2s"));
    let failed = project.run_provision(&["--yes"]).assert_status(4);
    fleet.run_as_root("app-01", &format!("systemctl stop {unit}"));
    // What follows are the words of apt-get, which are not the same on Debian 12 and 13.
    let end = "completes its work)";
    let ours = failed.stderr.split_inclusive(end).next().unwrap_or_default().replace(package.trim(), "[PACKAGE]");
    messages::check("fleet-apt-get-out-of-time", [("remove", ours)]);
}

#[test]
fn exec_prefixes_lines_and_reports_failures() {
    let Some(fleet) = lock_fleet() else { return };
    let project = FleetProject::with_fleet(&fleet);
    let output = project.run_dunlin(&["exec", "all", "--", "uname", "-n"]).assert_status(0);
    let mut lines: Vec<&str> = output.stdout.lines().collect();
    lines.sort_unstable();
    let mut wanted = HOST_NAMES.map(|host| format!("{host}: {host}"));
    wanted.sort_unstable();
    assert_eq!(lines, wanted);
    // Arguments arrive as they are: no shell is in between.
    let printed = project.run_dunlin(&["exec", "app", "--", "printf", "%s\n", "$HOME; a  b"]).assert_status(0);
    assert_eq!(printed.stdout, "app-01: $HOME; a  b\n");
    project.run_dunlin(&["exec", "app", "--", "false"]).assert_status(4).assert_snapshot("fleet-exec-failed");
}

#[test]
fn interrupted_runs_are_finished_by_the_next() {
    let Some(fleet) = lock_fleet() else { return };
    let folder = "/srv/dunlin-killed-*";
    fleet.remove_paths(folder);
    let project = FleetProject::with_fleet(&fleet);
    let steps: String =
        (0..400).map(|step| file_step(&format!("/srv/dunlin-killed-{step:03}"), &format!("{step}"))).collect();
    project.write_play("app", &steps);
    let mut command = project.dunlin_command(&["--json", "provision", "--playbook", "play.toml", "--yes"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let first = lines.find(|line| line.contains(r#""event":"step_done""#));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(first.is_some(), "no step was done");
    assert!(!lines.any(|line| line.contains(r#""event":"summary""#)), "the run was over before it was killed");

    project.run_provision(&["--yes"]).assert_status(0);
    project.run_provision(&["--dry-run", "--detailed-exitcode"]).assert_status(0);
    // All of them whole, and nothing half written beside them.
    let sum = fleet.run_as_root("app-01", "ls -A /srv | grep -c dunlin-killed; cat /srv/dunlin-killed-* | wc -c");
    assert_eq!(sum.split_whitespace().collect::<Vec<_>>(), ["400", "1090"]);
    assert_eq!(fleet.read_file("app-01", "/srv/dunlin-killed-399").as_deref(), Some("399"));
    fleet.remove_paths(folder);
}
