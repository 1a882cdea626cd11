//! Plans and their application on real hosts.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::hosts::{HOSTS, fleet};
use crate::project::Project;

/// A step that keeps one small file.
fn file(path: &str, content: &str) -> String {
    format!("[[play.step]]\nfile = {{ dest = \"{path}\", content = \"{content}\" }}\n")
}

#[test]
fn a_plan_is_shown_applied_and_then_empty() {
    let Some(fleet) = fleet() else { return };
    let path = "/srv/dunlin-converges";
    fleet.clear(path);
    let project = Project::new(&fleet);
    project.play("redis", &file(path, "old\\n"));
    project.provision(&["--yes"]).ends(0).says(&["Plan: 3 to add", "Done: 3 applied", "0 failed"]);
    assert_eq!(fleet.file("app-01", path), None, "a host that the play does not name was changed");

    project.play("redis", &file(path, "new\\n"));
    let dry = ["--dry-run", "--detailed-exitcode"];
    project.provision(&dry).ends(2).says(&["file /srv/dunlin-converges", "-old\n", "+new\n", "3 to change"]);
    assert_eq!(fleet.file("redis-01", path).as_deref(), Some("old\n"), "a dry run changed the host");
    project.provision(&["--yes"]).ends(0);
    for host in ["redis-01", "redis-02", "redis-03"] {
        assert_eq!(fleet.file(host, path).as_deref(), Some("new\n"), "{host}");
    }
    project.provision(&dry).ends(0).says(&["Plan: nothing to do on 3 hosts"]);

    // Drift is seen, and only there.
    fleet.root("redis-02", &format!("echo drift >> {path}"));
    project.provision(&dry).ends(2).says(&["1 to change", "on 1 host (redis-02)"]);
    project.provision(&["--yes"]).ends(0);
    project.provision(&dry).ends(0);
}

#[test]
fn without_a_terminal_it_asks_for_yes_and_changes_nothing() {
    let Some(fleet) = fleet() else { return };
    let path = "/srv/dunlin-asks";
    fleet.clear(path);
    let project = Project::new(&fleet);
    project.play("app", &file(path, "text"));
    project.provision(&[]).ends(3).complains(&["--yes", "--dry-run"]);
    assert_eq!(fleet.file("app-01", path), None);
}

#[test]
fn a_saved_plan_is_refused_where_the_world_has_moved() {
    let Some(fleet) = fleet() else { return };
    let path = "/srv/dunlin-stale";
    fleet.clear(path);
    let project = Project::new(&fleet);
    project.play("redis-0[1:2]", &file(path, "wanted"));
    project.provision(&["--dry-run", "--out", "plan.json"]).ends(0);
    fleet.root("redis-02", &format!("echo other > {path}"));
    let refused = project.provision(&["--plan", "plan.json", "--yes"]).ends(3);
    let refused = refused.complains(&["redis-02", "file /srv/dunlin-stale", "nothing was changed", "next:"]);
    assert!(!refused.stderr.contains("redis-01"), "a row that is as it was is named:\n{}", refused.stderr);
    assert_eq!(fleet.file("redis-01", path), None);
    assert_eq!(fleet.file("redis-02", path).as_deref(), Some("other\n"));

    fleet.root("redis-02", &format!("rm {path}"));
    project.provision(&["--plan", "plan.json", "--yes"]).ends(0).says(&["Done: 2 applied"]);
    assert_eq!(fleet.file("redis-02", path).as_deref(), Some("wanted"));
}

#[test]
fn exec_leads_each_line_by_its_host_and_tells_of_failures() {
    let Some(fleet) = fleet() else { return };
    let project = Project::new(&fleet);
    let output = project.dunlin(&["exec", "all", "--", "uname", "-n"]).ends(0);
    let mut lines: Vec<&str> = output.stdout.lines().collect();
    lines.sort_unstable();
    let mut wanted = HOSTS.map(|host| format!("{host}: {host}"));
    wanted.sort_unstable();
    assert_eq!(lines, wanted);
    // Arguments arrive as they are: no shell is in between.
    project.dunlin(&["exec", "app", "--", "printf", "%s\n", "$HOME; a  b"]).ends(0).says(&["app-01: $HOME; a  b\n"]);
    project.dunlin(&["exec", "app", "--", "false"]).ends(4).complains(&["app-01", "status 1"]);
}

#[test]
fn a_run_that_is_killed_in_the_middle_is_ended_by_the_next() {
    let Some(fleet) = fleet() else { return };
    let folder = "/srv/dunlin-killed-*";
    fleet.clear(folder);
    let project = Project::new(&fleet);
    let steps: String =
        (0..400).map(|step| file(&format!("/srv/dunlin-killed-{step:03}"), &format!("{step}"))).collect();
    project.play("app", &steps);
    let mut command = project.command(&["--json", "provision", "--playbook", "play.toml", "--yes"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let first = lines.find(|line| line.contains(r#""event":"step_done""#));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(first.is_some(), "no step was done");
    assert!(!lines.any(|line| line.contains(r#""event":"summary""#)), "the run was over before it was killed");

    project.provision(&["--yes"]).ends(0);
    project.provision(&["--dry-run", "--detailed-exitcode"]).ends(0).says(&["nothing to do"]);
    // All of them whole, and nothing half written beside them.
    let sum = fleet.root("app-01", "ls -A /srv | grep -c dunlin-killed; cat /srv/dunlin-killed-* | wc -c");
    assert_eq!(sum.split_whitespace().collect::<Vec<_>>(), ["400", "1090"]);
    assert_eq!(fleet.file("app-01", "/srv/dunlin-killed-399").as_deref(), Some("399"));
    fleet.clear(folder);
}
