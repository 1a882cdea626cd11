//! `dunlin.toml` and the other files of a project: a file that exists but cannot be used is an error in every command.

use std::os::unix::fs::{PermissionsExt, symlink};

use crate::program::{Output, Project, snapshot};

const HOSTS: &str = "[hosts.a-host]\naddress = \"192.0.2.1\"\n\
    host_key = \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPHioFyK2+ckjCSAwbhLix5/AwNtfk4OgTOaryCzfNXt\"\n";

/// Commands that read `dunlin.toml`; none of them may go on with the default paths.
const COMMANDS: &[&[&str]] = &[
    &["check"],
    &["hosts"],
    &["provision", "--dry-run"],
    &["provision-new-host", "b", "--address", "192.0.2.2", "--groups", "g"],
    &["package", "app"],
    &["deploy", "app", "--dry-run"],
    &["rollback", "app", "--dry-run"],
    &["maintenance", "app", "on", "--dry-run"],
    &["undeploy", "app", "--dry-run"],
    &["releases", "app"],
    &["history", "app"],
    &["deploy", "app", "--health"],
    &["exec", "all", "--", "true"],
    &["shard-rebalance", "--dry-run"],
    &["shards", "status"],
    &["shards", "resume", "--yes"],
    &["locks"],
];

/// A project whose default inventory exists, so that a command that ignores `dunlin.toml` finds hosts.
fn project() -> Project {
    let project = Project::new(&[("inventories/example/hosts.toml", HOSTS), ("inventory/hosts.toml", HOSTS)]);
    std::fs::remove_file(project.path("dunlin.toml")).unwrap();
    project
}

#[track_caller]
fn is_refused(project: &Project, parts: &[&str]) {
    for command in COMMANDS {
        let output = project.dunlin(command).ends(1).mentions(parts);
        assert!(!output.stdout.contains("a-host"), "{command:?} used an inventory:\n{}", output.stdout);
    }
    assert!(!project.connected(), "ssh was started");
}

#[test]
fn a_project_file_with_a_mistake_stops_every_command() {
    let project = project();
    let mut messages = Vec::new();
    for (text, place) in [
        (&b"inventory = \"inventory\"  # f\xfcr\n"[..], "dunlin.toml:1:29"),
        (b"\xff\xfei\0n\0", "dunlin.toml:1:1"),
        (b"inventory = \"inventory\"\nplaybok = \"a\"\n", "dunlin.toml:2:1"),
        (b"\ninventory = 5\n", "dunlin.toml:2:13"),
        (b"inventory = [\"inventory\"]\n", "dunlin.toml:1:13"),
        (b"inventory = \"\"\n", "dunlin.toml:1:13"),
        (b"inventory = \"inventory\n", "dunlin.toml:1:"),
        (b"inventory = \"a\"\ninventory = \"b\"\n", "dunlin.toml:2:1"),
        (b"[project]\ninventory = \"inventory\"\n", "dunlin.toml:1:2"),
    ] {
        std::fs::write(project.path("dunlin.toml"), text).unwrap();
        is_refused(&project, &[place]);
        messages.push(project.dunlin(&["hosts"]));
    }
    snapshot("project-file-mistakes", &messages);
}

#[test]
fn a_project_file_that_cannot_be_read_stops_every_command() {
    let project = project();
    let path = project.path("dunlin.toml");
    std::fs::create_dir(&path).unwrap();
    is_refused(&project, &["dunlin.toml"]);
    let folder = project.dunlin(&["hosts"]);
    std::fs::remove_dir(&path).unwrap();
    symlink("missing.toml", &path).unwrap();
    is_refused(&project, &["dunlin.toml"]);
    snapshot("project-file-unreadable", &[folder, project.dunlin(&["hosts"])]);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "inventory = \"inventory\"\n").unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o000)).unwrap();
    // Root may read it all the same; then there is nothing to refuse.
    if std::fs::read(&path).is_err() {
        is_refused(&project, &["dunlin.toml"]);
    }
}

#[test]
fn without_a_project_file_the_default_paths_are_used() {
    let project = project();
    project.dunlin(&["hosts"]).ends(0).mentions(&["a-host"]);
    std::fs::remove_dir_all(project.path("inventories")).unwrap();
    project.dunlin(&["hosts"]).ends(1).matches("hosts-without-an-inventory");
}

#[test]
fn a_byte_order_mark_and_dos_line_ends_are_read() {
    let project = project();
    std::fs::remove_dir_all(project.path("inventories")).unwrap();
    for text in ["\u{feff}inventory = \"inventory\"\n", "# a comment\r\ninventory = \"inventory\"\r\n"] {
        project.write("dunlin.toml", text);
        project.dunlin(&["hosts"]).ends(0).mentions(&["a-host"]);
    }
}

#[test]
fn an_inventory_that_does_not_exist_is_named() {
    let project = project();
    project.write("dunlin.toml", "inventory = \"inventories/prod\"\n");
    is_refused_by_hosts(&project, &["inventories/prod"]);
    let missing = project.dunlin(&["hosts"]);
    project.write("inventories/prod", "a file\n");
    is_refused_by_hosts(&project, &["inventories/prod/hosts.toml"]);
    snapshot("inventory-that-does-not-exist", &[missing, project.dunlin(&["hosts"])]);
}

#[track_caller]
fn is_refused_by_hosts(project: &Project, parts: &[&str]) {
    for command in [&["hosts"][..], &["check"], &["exec", "all", "--", "true"], &["locks"]] {
        project.dunlin(command).ends(1).mentions(parts);
    }
    assert!(!project.connected(), "ssh was started");
}

#[test]
fn files_of_a_project_that_are_not_utf8_have_their_position() {
    let play =
        "[[play]]\nname = \"a\"\nhosts = \"all\"\n[[play.step]]\nfile = { dest = \"/srv/a\", content = \"a\" }\n";
    let files = [
        "inventory/hosts.toml",
        "inventory/shards.toml",
        "inventory/secrets.toml",
        "inventory/secrets.toml.example",
        "playbooks/site.toml",
        "templates/a.conf",
    ];
    for broken in files {
        let project = Project::new(&[("inventory/hosts.toml", HOSTS), ("playbooks/site.toml", play)]);
        let path = project.write(broken, "");
        std::fs::write(path, b"# one\n# \xe9\n").unwrap();
        project.dunlin(&["check"]).ends(1).mentions(&[&format!("{broken}:2:3")]);
    }
}

#[test]
fn folders_and_files_that_cannot_be_read_are_findings() {
    let play =
        "[[play]]\nname = \"a\"\nhosts = \"all\"\n[[play.step]]\nfile = { dest = \"/srv/a\", content = \"a\" }\n";
    let project = Project::new(&[("inventory/hosts.toml", HOSTS), ("playbooks/site.toml", play)]);
    project.dunlin(&["check"]).ends(0);
    project.write("templates", "a file\n");
    project.dunlin(&["check"]).ends(1).matches("check-templates-unreadable");
    std::fs::remove_file(project.path("templates")).unwrap();
    std::fs::create_dir(project.path("inventory/secrets.toml")).unwrap();
    snapshot("secrets-unreadable", &[project.dunlin(&["check"]).ends(1), project.dunlin(&["hosts"]).ends(1)]);
}

#[test]
fn check_and_provision_search_files_in_the_same_folders() {
    let play = "[[play]]\nname = \"a\"\nhosts = \"all\"\n[[play.step]]\nfile = { dest = \"/srv/a\", src = \"motd\" }\n";
    for folder in ["playbooks/files", "files", "playbooks"] {
        let project = Project::new(&[("inventory/hosts.toml", HOSTS), ("playbooks/site.toml", play)]);
        // Before the file exists both commands name the same folders.
        project.dunlin(&["check"]).ends(1).matches("check-file-missing");
        project.write(&format!("{folder}/motd"), "hello\n");
        project.dunlin(&["check"]).ends(0);
        // The file is found: what fails is the connection, which the test's ssh refuses.
        project.dunlin(&["provision", "--dry-run"]).ends(4).mentions(&["a-host"]);
        assert!(project.connected());
    }
}

#[test]
fn check_reads_every_playbook_and_inventory_that_is_named() {
    let play =
        "[[play]]\nname = \"a\"\nhosts = \"all\"\n[[play.step]]\nfile = { dest = \"/srv/a\", content = \"a\" }\n";
    let project = Project::new(&[
        ("inventory/hosts.toml", HOSTS),
        ("other/hosts.toml", "[hosts.b]\nadress = \"192.0.2.1\"\n"),
        ("playbooks/site.toml", play),
        ("playbooks/second.toml", "[[plai]]\n"),
    ]);
    project.dunlin(&["check"]).ends(0);
    project
        .dunlin(&["check", "playbooks/site.toml", "playbooks/second.toml"])
        .ends(1)
        .mentions(&["second.toml:1:", "plai"]);
    project.dunlin(&["check", "inventory", "other"]).ends(1).mentions(&["other/hosts.toml:2:1", "adress"]);
}

/// A project with one shard; the commands that read state files refuse before they connect.
fn project_with_a_shard() -> Project {
    let map =
        "cluster = \"x\"\nepoch = 1\nport_base = 7000\n[[shard]]\nid = 0\nslots = \"0-16383\"\nhost = \"a-host\"\n";
    let play =
        "[[play]]\nname = \"a\"\nhosts = \"all\"\n[[play.step]]\nfile = { dest = \"/srv/a\", content = \"a\" }\n";
    let project = Project::new(&[
        ("inventory/hosts.toml", HOSTS),
        ("inventory/shards.toml", map),
        ("inventory/secrets.toml", "[redis]\nadmin = \"x\"\n"),
        ("playbooks/site.toml", play),
    ]);
    std::fs::set_permissions(project.path("inventory/secrets.toml"), PermissionsExt::from_mode(0o600)).unwrap();
    project
}

#[test]
fn state_files_that_cannot_be_used_are_not_taken_for_absent() {
    let commands: &[&[&str]] = &[
        &["shard-rebalance", "--dry-run"],
        &["shard-rebalance", "--yes"],
        &["shards", "status"],
        &["shards", "resume", "--yes"],
    ];
    let pending = ".dunlin/rebalance-inventory.json";
    let mut messages = Vec::new();
    for text in [&b""[..], b"[{\"shard\": 1", b"{}", b"5", b"\xff\xfe"] {
        let project = project_with_a_shard();
        std::fs::write(project.write(pending, ""), text).unwrap();
        for command in commands {
            project.dunlin(command).ends(1).mentions(&[pending]);
        }
        assert!(!project.connected(), "{text:?}: ssh was started");
        messages.push(project.dunlin(commands[0]));
    }
    let project = project_with_a_shard();
    project.write(".dunlin/rebalance-inventory.limits.json", "[1, 2");
    messages.push(project.dunlin(&["shards", "resume", "--yes"]).ends(1));
    std::fs::remove_dir_all(project.path(".dunlin")).unwrap();
    project.write(".dunlin", "a file\n");
    for command in commands {
        project.dunlin(command).ends(1).mentions(&["rebalance-inventory"]);
    }
    messages.push(project.dunlin(commands[0]));
    snapshot("state-files-that-cannot-be-used", &messages);
    assert!(!project.connected(), "ssh was started");
    std::fs::remove_file(project.path(".dunlin")).unwrap();
    // Without state files nothing is pending, and the command goes on to the hosts.
    project.dunlin(&["shard-rebalance", "--dry-run"]).mentions(&["a-host"]);
    assert!(project.connected());
}

#[test]
fn saved_plans_that_cannot_be_used_are_errors() {
    let project = project_with_a_shard();
    let plan = |name: &str| project.dunlin(&["provision", "--plan", name]).ends(1);
    let mut messages: Vec<Output> = Vec::new();
    for text in ["", "{", "[]"] {
        project.write("plan.json", text);
        messages.push(plan("plan.json"));
    }
    messages.extend([plan("absent.json"), plan("inventory")]);
    snapshot("saved-plans-that-cannot-be-used", &messages);
    assert!(!project.connected(), "ssh was started");
}

#[test]
fn the_shipped_project_has_no_findings() {
    let checked = std::process::Command::new(env!("CARGO_BIN_EXE_dunlin"))
        .arg("check")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert_eq!(
        (checked.status.code(), text.as_str()),
        (Some(0), "check: no problems found\n"),
        "{}",
        String::from_utf8_lossy(&checked.stdout)
    );
}
