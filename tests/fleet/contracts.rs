//! Plans are contracts on real hosts, and what was done is in the hosts' logs: without secrets.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value as Json, json};

use crate::hosts::lock_fleet;
use crate::messages;
use crate::output::assert_snapshot;
use crate::project::FleetProject;

const HOST: &str = "app-01";

#[test]
fn rows_are_compared_again_just_before_they_act() {
    let Some(fleet) = lock_fleet() else { return };
    let folder = "/srv/dunlin-contract";
    fleet.run_as_root(HOST, &format!("rm -rf {folder}; mkdir {folder}; echo old > {folder}/f; echo x=0 > {folder}/l"));
    let project = FleetProject::with_fleet(&fleet);
    let play = |second: &str| {
        // While the first step runs, a colleague edits what the second one is about to change.
        let edit = format!("echo theirs > {folder}/f; printf 'y=1\\\\nx=9\\\\n' > {folder}/l");
        format!("[[play.step]]\ncommand = {{ shell = \"sleep 1; {edit}\" }}\n[[play.step]]\n{second}\n")
    };
    let steps = [
        (format!("file = {{ dest = \"{folder}/f\", content = \"new\\n\" }}"), "f", "theirs\n"),
        (format!("line = {{ path = \"{folder}/l\", line = \"x=1\", match = \"^x=\" }}"), "l", "y=1\nx=9\n"),
    ];
    let mut outputs = Vec::new();
    for (step, file, theirs) in steps {
        for arguments in [&["--yes"][..], &["--yes", "--plan", "plan.json"]] {
            fleet.run_as_root(HOST, &format!("echo old > {folder}/f; echo x=0 > {folder}/l"));
            project.write_play(HOST, &play(&step));
            project.run_provision(&["--dry-run", "--out", "plan.json"]).assert_status(0);
            outputs.push(project.run_provision(arguments).assert_status(4));
            assert_eq!(fleet.read_file(HOST, &format!("{folder}/{file}")).as_deref(), Some(theirs), "{arguments:?}");
        }
    }
    assert_snapshot("fleet-row-changed-since-the-plan", &outputs.iter().collect::<Vec<_>>());
}

#[test]
fn a_saved_plan_is_not_for_another_command() {
    let Some(fleet) = lock_fleet() else { return };
    let project = FleetProject::with_fleet(&fleet);
    fleet.run_as_root(HOST, "rm -f /srv/dunlin-other");
    let long = ":".repeat(80);
    let step = |rest: &str| format!("[[play.step]]\ncommand = {{ shell = \": {long}; {rest} }}\n");
    project.write_play(HOST, &step("true\""));
    project.run_provision(&["--dry-run", "--out", "plan.json"]).assert_status(0);
    for other in ["touch /srv/dunlin-other\"", "true\", user = \"nobody\"", "true\", env = { A = \"b\" }"] {
        project.write_play(HOST, &step(other));
        project.run_provision(&["--yes", "--plan", "plan.json"]).assert_status(3);
    }
    assert_eq!(fleet.read_file(HOST, "/srv/dunlin-other"), None);
    project.write_play(HOST, &step("true\""));
    project.run_provision(&["--yes", "--plan", "plan.json"]).assert_status(0);
}

#[test]
fn folders_with_a_mount_in_them_are_not_removed() {
    let Some(fleet) = lock_fleet() else { return };
    let (folder, data) = ("/srv/dunlin-mounted", "/srv/dunlin-data");
    let umount = format!("umount {folder}/a/m 2>/dev/null || true");
    fleet.run_as_root(HOST, &format!("{umount}; rm -rf {folder} {data}; mkdir -p {folder}/a/m {data}"));
    fleet.run_as_root(HOST, &format!("echo keep > {data}/f; echo x > {folder}/x; mount --bind {data} {folder}/a/m"));
    let project = FleetProject::with_fleet(&fleet);
    let step = format!("[[play.step]]\ndirectory = {{ path = \"{folder}\", state = \"absent\", recurse = true }}\n");
    project.write_play(HOST, &step);
    let refused = project.run_provision(&["--yes"]).assert_status(4);
    let left = fleet.run_as_root(HOST, &format!("cat {data}/f {folder}/x; {umount}"));
    assert_eq!(left, "keep\nx\n");
    refused.assert_snapshot("fleet-folder-with-a-mount");
    project.run_provision(&["--yes"]).assert_status(0);
    assert_eq!(fleet.run_as_root(HOST, &format!("cat {data}/f; ls -d {folder} 2>/dev/null || true")), "keep\n");
}

#[test]
fn runs_are_logged_on_hosts_and_no_log_has_a_secret() {
    let Some(fleet) = lock_fleet() else { return };
    let canary = "Canary7f3a";
    let project = FleetProject::with_fleet(&fleet);
    let secrets = project.file_path("inventory/secrets.toml");
    std::fs::write(&secrets, format!("token = \"{canary}\"\n")).unwrap();
    std::fs::set_permissions(&secrets, std::fs::Permissions::from_mode(0o600)).unwrap();
    fleet.run_as_root(HOST, "rm -rf /srv/dunlin-canary; mkdir /srv/dunlin-canary");
    project.write_play(
        HOST,
        r#"[[play.step]]
file = { dest = "/srv/dunlin-canary/file", content = "{{ secrets.token }}" }
[[play.step]]
command = { shell = "cat /proc/[0-9]*/cmdline > /srv/dunlin-canary/cmdlines; : {{ secrets.token }}", unless = "test {{ secrets.token }} = x" }
[[play.step]]
command = { argv = ["sh", "-c", "echo $TOKEN >&2; exit 3"], env = { TOKEN = "{{ secrets.token }}" } }
"#,
    );
    let output = project.run_provision(&["--yes", "-v"]).assert_status(4);
    assert!(!format!("{}{}", output.stdout, output.stderr).contains(canary), "{output:?}");
    assert_eq!(fleet.read_file(HOST, "/srv/dunlin-canary/file").as_deref(), Some(canary));

    let listed = project.run_dunlin(&["runs"]).assert_status(0).stdout;
    let run = listed.split_whitespace().next().unwrap().to_owned();
    project.run_dunlin(&["runs", "show", &run]).assert_status(0).assert_snapshot("fleet-run-in-the-log");
    let entries = fleet.run_as_root(
        HOST,
        &format!("stat -c %a /var/lib/dunlin/audit.jsonl; grep -F {run} /var/lib/dunlin/audit.jsonl"),
    );
    let (mode, entries) = entries.split_once('\n').unwrap();
    assert_eq!(mode, "600");
    let entries: Vec<Json> = entries.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let entry = |name: &str| entries.iter().find(|entry| entry["event"] == name).unwrap();
    assert_eq!((&entries[0]["event"], &entry("run_ended")["outcome"]), (&json!("run_started"), &json!("failed")));
    assert_eq!(entry("change")["resource"], "file /srv/dunlin-canary/file");
    assert!(entry("login")["key"].as_str().unwrap().starts_with("SHA256:"), "{entries:#?}");
    let system = fleet.run_as_root(HOST, &format!("journalctl --no-pager -q -o cat -t dunlin | grep -F 'run {run}:'"));
    assert_eq!(system.lines().count(), 1, "{system}");
    messages::check("fleet-run-in-the-log-of-the-host", [("journal", output.stable(&system))]);

    // Logs, state and the processes of the host while the commands ran; the file itself is the only place.
    let found = fleet.run_as_root(
        HOST,
        &format!(
            "{{ journalctl --no-pager -q -o export | grep -aF {canary}; grep -raF {canary} /var/log /var/lib/dunlin \
             /run/dunlin* /srv/dunlin-canary/cmdlines 2>/dev/null; }} | grep -av 'grep -' | head -3 || true"
        ),
    );
    assert_eq!(found, "");
    let kept =
        std::process::Command::new("grep").args(["-rlF", canary]).arg(project.file_path(".dunlin")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&kept.stdout), "");
    fleet.run_as_root(HOST, "rm -rf /srv/dunlin-canary");
}
