//! Attacks of hostile users, files and networks against real hosts; the other ones are in `contracts`, `ended_agents`
//! and `tests/attacks`.

use std::os::unix::fs::PermissionsExt;

use dunlin::plan::Digest;

use crate::hosts::lock_fleet;
use crate::project::FleetProject;
use crate::terminal::TerminalRun;

const HOST: &str = "app-01";
const PLAY: &str = "[[play.step]]\nfile = { dest = \"/srv/dunlin-attack\", content = \"new\\n\" }\n";

#[test]
fn a_user_can_neither_hold_the_lock_of_a_host_nor_read_its_state() {
    let Some(fleet) = lock_fleet() else { return };
    let project = FleetProject::with_fleet(&fleet);
    // Folders of an earlier version.
    let open = "mkdir -p /var/lib/dunlin/locks; chmod 755 /var/lib/dunlin /var/lib/dunlin/locks; \
                touch /var/lib/dunlin/locks/host; chmod 644 /var/lib/dunlin/locks/host";
    fleet.run_as_root(HOST, open);
    fleet.remove_paths("/srv/dunlin-attack");
    project.write_play(HOST, PLAY);
    project.run_provision(&["--yes"]).assert_status(0);
    let as_user = "setpriv --reuid nobody --regid nogroup --clear-groups --";
    for attack in [
        "flock --nonblock /var/lib/dunlin/locks/host true",
        "flock --nonblock /var/lib/dunlin/locks true",
        "flock --nonblock /var/lib/dunlin true",
        "ls /var/lib/dunlin",
        "cat /var/lib/dunlin/audit.jsonl",
    ] {
        let tried = fleet.run_as_root(HOST, &format!("{as_user} {attack} 2>&1 && echo succeeded || true"));
        assert!(tried.contains("Permission denied") && !tried.contains("succeeded"), "{attack}: {tried}");
    }
    assert_eq!(fleet.run_as_root(HOST, "stat -c %a /var/lib/dunlin"), "700\n");
}

#[test]
fn what_commands_create_does_not_depend_on_the_umask_of_the_login() {
    let Some(fleet) = lock_fleet() else { return };
    let project = FleetProject::with_fleet(&fleet);
    fleet.run_as_root(HOST, "sed -i '1i umask 077' /home/deploy/.bashrc; rm -rf /var/lib/dunlin/agent");
    // The first run pushes the agent, the second one finds it.
    let shown = [(); 2].map(|()| project.run_dunlin(&["exec", HOST, "--", "sh", "-c", "umask"]));
    fleet.run_as_root(HOST, "sed -i '/^umask 077$/d' /home/deploy/.bashrc");
    for output in shown {
        assert_eq!(output.assert_status(0).stdout, "app-01: 0022\n");
    }
}

#[test]
fn a_range_with_very_wide_bounds_is_an_error() {
    let Some(fleet) = lock_fleet() else { return };
    let mut project = FleetProject::with_fleet(&fleet);
    let zeros = "0".repeat(70_000);
    let group: toml::Table = format!("hosts = [\"r[{zeros}1:{zeros}3]\"]").parse().unwrap();
    project.hosts["groups"].as_table_mut().unwrap().insert("wide".to_owned(), group.into());
    project.write_files();
    let refused = project.run_dunlin(&["hosts"]).assert_status(1);
    assert!(refused.stderr.contains("20 digits at most") && !refused.stderr.contains("panicked"), "{refused:?}");
}

#[test]
fn the_key_of_a_new_host_is_not_pinned_unseen() {
    let Some(fleet) = lock_fleet() else { return };
    let mut project = FleetProject::with_fleet(&fleet);
    // The host answers, but nothing says that it is the right one.
    let address = project.host_table(HOST)["address"].as_str().unwrap().to_owned();
    let hosts = project.hosts["hosts"].as_table_mut().unwrap();
    hosts.remove(HOST).unwrap();
    for group in project.hosts["groups"].as_table_mut().unwrap().iter_mut() {
        if let Some(names) = group.1.get_mut("hosts").and_then(toml::Value::as_array_mut) {
            names.retain(|name| name.as_str() != Some(HOST));
        }
    }
    project.write_files();
    let before = std::fs::read_to_string(project.file_path("inventory/hosts.toml")).unwrap();
    let new = ["provision-new-host", HOST, "--address", &address, "--groups", "app", "--yes"];
    let refused = project.run_dunlin(&new).assert_status(3);
    assert!(refused.stderr.contains("--fingerprint"), "{}", refused.stderr);
    let wrong = ["--fingerprint", "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"];
    let refused = project.run_dunlin(&[&new[..], &wrong].concat());
    assert!(refused.status.is_some_and(|status| status != 0), "{refused:?}");
    assert_eq!(std::fs::read_to_string(project.file_path("inventory/hosts.toml")).unwrap(), before);
    let pinned = std::fs::read_to_string(project.file_path("inventory/known_hosts")).unwrap_or_default();
    assert!(!pinned.contains(&address), "{pinned}");
}

#[test]
fn an_inventory_in_ini_form_is_not_run() {
    let Some(fleet) = lock_fleet() else { return };
    let project = FleetProject::with_fleet(&fleet);
    let file = project.file_path("inventory/hosts");
    let planted = project.file_path("inventory/ansible_host=192.0.2.1");
    std::fs::write(&file, "[web]\ntouch ansible_host=192.0.2.1\n").unwrap();
    for mode in [0o644, 0o755] {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let refused = project.run_dunlin(&["hosts"]).assert_status(1);
        assert!(!refused.stderr.contains("chmod +x"), "{}", refused.stderr);
        assert!(refused.stderr.contains("INI"), "{}", refused.stderr);
        assert!(!planted.exists() && !project.file_path("ansible_host=192.0.2.1").exists(), "the inventory was run");
    }
}

#[test]
fn keys_before_the_question_and_cancelled_questions_change_nothing() {
    let Some(fleet) = lock_fleet() else { return };
    let project = FleetProject::with_fleet(&fleet);
    fleet.remove_paths("/srv/dunlin-attack");
    project.write_play(HOST, PLAY);
    let start = || TerminalRun::start(project.dunlin_command(&["provision", "--playbook", "play.toml"]));
    for (typed_ahead, keys, code) in [("yyyy", "n", 3), ("", "\u{3}", 130), ("", "\u{4}", 3), ("", "\r", 3)] {
        let mut run = start();
        // Nothing is on the screen yet.
        run.press(typed_ahead);
        run.wait_for("Apply this plan?");
        assert_eq!(run.answer(keys), code, "{keys:?}");
        assert_eq!(fleet.read_file(HOST, "/srv/dunlin-attack"), None, "{keys:?}");
    }
    let mut run = start();
    run.wait_for("Apply this plan?");
    assert_eq!(run.answer("y"), 0, "an answer to the question counts");
    assert_eq!(fleet.read_file(HOST, "/srv/dunlin-attack").as_deref(), Some("new\n"));
}

#[test]
fn tags_and_limits_that_match_nothing_are_no_success() {
    let Some(fleet) = lock_fleet() else { return };
    let project = FleetProject::with_fleet(&fleet);
    project.write_play(HOST, PLAY);
    for arguments in [&["--tags", "wep"][..], &["--limit", "redis-01"], &["--limit", "no-such-host"]] {
        let arguments = [&["--dry-run", "--detailed-exitcode"], arguments].concat();
        let refused = project.run_provision(&arguments).assert_status(64);
        assert!(!format!("{}{}", refused.stdout, refused.stderr).contains("nothing to do"), "{refused:?}");
    }
}

#[test]
fn the_digest_of_a_secret_confirms_no_guess() {
    let Some(fleet) = lock_fleet() else { return };
    let secret = "hunter2-the-guess";
    let outputs = [(); 2].map(|()| {
        let project = FleetProject::with_fleet(&fleet);
        let secrets = project.file_path("inventory/secrets.toml");
        std::fs::write(&secrets, format!("token = \"{secret}\"\n")).unwrap();
        std::fs::set_permissions(&secrets, std::fs::Permissions::from_mode(0o600)).unwrap();
        fleet.remove_paths("/srv/dunlin-attack");
        let step = "[[play.step]]\nfile = { dest = \"/srv/dunlin-attack\", content = \"{{ secrets.token }}\" }\n";
        project.write_play(HOST, step);
        let text = project.run_provision(&["--dry-run", "--out", "plan.json"]).assert_status(0).stdout;
        let json = project.run_provision(&["--dry-run", "--json"]).assert_status(0).stdout;
        let plan = std::fs::read_to_string(project.file_path("plan.json")).unwrap();
        (text, json, plan)
    });
    // What a reader of the log would compute: six digits are enough to confirm a guess.
    let guess = Digest::of_bytes(secret.as_bytes()).as_str()[..6].to_owned();
    for (text, json, plan) in &outputs {
        for shown in [text, json, plan] {
            assert!(!shown.contains(&guess) && !shown.contains(secret), "{shown}");
        }
    }
    let length = format!("{} bytes", secret.len());
    let shown = |text: &str| text.lines().find(|line| line.contains(&length)).map(str::to_owned);
    let [first, second] = outputs.map(|(text, ..)| shown(&text).expect("the plan shows the secret's length"));
    assert_ne!(first, second, "equal secrets of two inventories can be told");
}
