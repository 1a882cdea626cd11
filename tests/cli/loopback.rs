//! Hosts that answer: this test listens where ssh's master would, and starts the agent as a child on this machine, as
//! the user who runs the test. Nothing is changed: plans, facts, commands.

use std::path::Path;

use crate::example;
use crate::program::{Output, Project, snapshot};
use crate::ssh_master::{listen, shell};

/// Serves every host of the project.
fn serve_hosts(project: &Project) {
    let home = project.path("");
    listen(&project.path("loopback.sock"), move |command| shell(command, &home));
}

/// The example project with hosts that answer and that are used without becoming root; files go into its own folder.
pub fn project() -> Project {
    let project = example::project();
    let hosts = example::HOSTS.replace("become = true", "become = false");
    project.write("inventory/hosts.toml", &hosts);
    let srv = project.path("srv");
    let steps = r#"[[play]]
name  = "web"
hosts = "web"

[[play.step]]
name = "greeting"
file = { dest = "SRV/greeting", content = "{{ greeting }}\n", mode = "0644" }

[[play.step]]
name = "old greeting"
tags = ["old"]
file = { dest = "SRV/old", state = "absent" }

[[play.step]]
line = { path = "SRV/settings", line = "color = blue", match = "^color" }

[[play.step]]
link = { path = "SRV/current", target = "SRV/next" }

[[play.step]]
name    = "restart"
command = { argv = ["true"], creates = "SRV/greeting" }
"#;
    project.write("playbooks/site.toml", &steps.replace("SRV", srv.to_str().unwrap()));
    project.write("srv/greeting", "good evening\n");
    project.write("srv/old", "old\n");
    project.write("srv/settings", "size = 1\ncolor = red\n");
    let recipe = example::RECIPE.replace("/srv/shop", srv.join("shop").to_str().unwrap());
    let recipe = recipe.replace("user    = \"shop\"\n", "");
    project.write("playbooks/deploy-shop.toml", &recipe);
    serve_hosts(&project);
    project
}

/// The example project with hosts that run a script in place of an agent.
pub fn hostile_project(script: &str) -> Project {
    let project = example::project();
    project.write("inventory/hosts.toml", &example::HOSTS.replace("become = true", "become = false"));
    let (home, script) = (project.path(""), script.to_owned());
    listen(&project.path("loopback.sock"), move |_| shell(&script, &home));
    project
}

#[test]
fn a_command_on_a_host() {
    let project = project();
    snapshot(
        "exec",
        &[
            project.dunlin(&["exec", "web", "--", "echo", "hello"]).ends(0),
            project.dunlin(&["exec", "web", "--json", "--", "sh", "-c", "echo hello; exit 3"]).ends(4),
            project.dunlin(&["exec", "web", "--", "no-such-program"]).ends(4),
        ],
    );
    let facts = project.dunlin(&["hosts", "web", "--facts", "--json"]).ends(0).event("facts");
    assert!(facts["facts"]["cpus"].as_u64().unwrap() > 0 && facts["facts"]["os"]["id"].is_string(), "{facts}");
}

#[test]
fn a_plan_of_provision() {
    let project = project();
    let outputs = [
        (&["provision", "--dry-run"][..], 0),
        (&["provision", "--dry-run", "--verbose", "--detailed-exitcode"], 2),
        (&["provision", "--dry-run", "--quiet"], 0),
        (&["provision", "--dry-run", "--tags", "old"], 0),
        (&["provision", "--dry-run", "--tags", "none"], 64),
        (&["provision", "web", "--dry-run", "--limit", "redis"], 64),
        (&["provision", "redis", "--dry-run"], 64),
        (&["provision"], 3),
    ]
    .map(|(command, status)| project.dunlin(command).ends(status));
    snapshot("provision-plan", &outputs);
    snapshot("provision-plan-json", &[project.dunlin(&["provision", "--dry-run", "--json"]).ends(0)]);
    assert_eq!(project.read("srv/greeting"), "good evening\n");
}

#[test]
fn a_saved_plan_that_is_stale() {
    let project = project();
    project.dunlin(&["provision", "--dry-run", "--out", "plan.json"]).ends(0);
    project.write("srv/settings", "size = 1\n");
    snapshot("provision-stale-plan", &[project.dunlin(&["provision", "--plan", "plan.json", "--yes"]).ends(3)]);
    assert_eq!(project.read("srv/settings"), "size = 1\n");
    // A project without secrets: the plan is sealed all the same.
    let changed = project.read("plan.json").replacen("\"hosts\"", "\"host_s\"", 1).replacen('{', "{\"hosts\": [],", 1);
    project.write("plan.json", &changed);
    let refused = project.dunlin(&["provision", "--plan", "plan.json", "--yes"]).ends(3);
    refused.matches("provision-changed-plan");
}

#[test]
fn a_plan_of_deploy() {
    let project = project();
    project.dunlin(&["package", "shop", "--version", "1.2.0"]).ends(0);
    let outputs = [
        (&["deploy", "shop", "--dry-run"][..], 0),
        (&["deploy", "shop", "--dry-run", "--json", "--detailed-exitcode"], 2),
        (&["deploy", "shop"], 3),
        (&["rollback", "shop", "--dry-run"], 3),
        (&["rollback", "shop", "--to", "1.1.0", "--dry-run"], 3),
        (&["releases", "shop"], 0),
        (&["history", "shop"], 0),
        (&["history", "shop", "--json"], 0),
        (&["deploy", "shop", "--health"], 4),
        (&["deploy", "shop", "--health", "--json"], 4),
    ]
    .map(|(command, status)| project.dunlin(command).ends(status));
    snapshot("deploy-plan", &outputs);
    assert!(!project.path("srv/shop/releases").exists());
}

#[test]
fn changes_of_a_service_that_was_never_deployed() {
    let project = project();
    let outputs = [
        (&["maintenance", "shop", "on", "--dry-run"][..], 3),
        (&["maintenance", "shop", "on", "--yes"], 3),
        (&["maintenance", "shop", "off", "--yes"], 0),
        (&["undeploy", "shop", "--dry-run", "--detailed-exitcode"], 0),
        (&["undeploy", "shop", "--delete-shared", "--yes", "--json"], 0),
    ]
    .map(|(command, status)| project.dunlin(command).ends(status));
    snapshot("service-changes", &outputs);
    assert!(!project.path("srv/shop").exists());
}

#[test]
fn runs_are_recorded() {
    use std::os::unix::fs::PermissionsExt;
    let project = project();
    project.dunlin(&["hosts", "web", "--facts"]).ends(0);
    let none = project.dunlin(&["runs"]).ends(0);
    project.dunlin(&["exec", "web", "--", "sh", "-c", "echo output; exit 3"]).ends(4);
    let folder = project.path(".dunlin/runs");
    let file = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&folder), mode(&file)), (0o700, 0o600));
    assert!(!std::fs::read_to_string(&file).unwrap().contains("output"), "data of hosts is recorded");
    let id = file.file_stem().unwrap().to_str().unwrap().to_owned();
    let stable = |mut output: Output| {
        output.command = output.command.replace(&id, "[RUN]");
        output.stdout = output.stdout.replace(machine().trim(), "[MACHINE]");
        output
    };
    let outputs = [
        none,
        project.dunlin(&["runs"]).ends(0),
        project.dunlin(&["runs", "show", &id]).ends(0),
        project.dunlin(&["runs", "show", &id, "--json"]).ends(0),
        project.dunlin(&["runs", "show", "../../dunlin"]).ends(64),
    ];
    snapshot("runs", &outputs.map(stable));
}

#[test]
fn a_text_of_a_host_is_one_line_of_its_run() {
    let project = project();
    let forged = "no space\\n20261101T111500-8  provision by root@trusted on web-1: done\\u001b[2K";
    let at = "\"at\":\"2026-11-01T10:15:00Z\"";
    let events = format!(
        "{{{at},\"event\":\"start\",\"command\":\"deploy\",\"limit\":\"web-1\"}}\n\
         {{{at},\"event\":\"run_started\",\"operator\":\"a@b\",\"hosts\":[\"web-1\"]}}\n\
         {{{at},\"event\":\"failed\",\"host\":\"web-1\",\"error\":\"{forged}\"}}\n\
         {{{at},\"event\":\"step_failed\",\"host\":\"web-1\",\"error\":\"{forged}\"}}\n"
    );
    project.write(".dunlin/runs/20261101T101500-7.jsonl", &events);
    let outputs =
        [&["runs"][..], &["runs", "show", "20261101T101500-7"]].map(|command| project.dunlin(command).ends(0));
    assert_eq!(outputs[1].stdout.lines().count(), 3, "{}", outputs[1].stdout);
    snapshot("runs-hostile-text", &outputs);
}

fn machine() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap()
}

#[test]
fn no_output_and_no_file_shows_a_secret() {
    use std::os::unix::fs::PermissionsExt;
    let project = project();
    let secrets = project.write(
        "inventory/secrets.toml",
        "pin = \"q7w\"\npassword = \"Canary-one\"\nold = \"Canary-old\"\nkey = \"\"\"\nCanary-line-1\nCanary-line-2\n\"\"\"\n",
    );
    std::fs::set_permissions(&secrets, std::fs::Permissions::from_mode(0o600)).unwrap();
    let srv = project.path("srv");
    project.write("srv/settings", "first\npassword = Canary-old\nCanary-line-2\n");
    project.write(
        "playbooks/site.toml",
        &r#"[[play]]
name = "secrets"
hosts = "web"
vars = { pin = "{{ secrets.pin }}" }
[[play.step]]
name = "pin {{ secrets.pin | upper }}"
file = { dest = "SRV/pin", content = "{{ pin | upper }} {{ secrets.key | indent }}" }
[[play.step]]
file = { dest = "SRV/settings", content = "first\n" }
[[play.step]]
command = { shell = "echo {{ secrets.password }}", unless = "test {{ secrets.password }} = x" }
[[play.step]]
link = { path = "SRV/link", target = "/x/{{ secrets.password | lower }}" }
"#
        .replace("SRV", srv.to_str().unwrap()),
    );
    let commands: [&[&str]; 4] = [
        &["check"],
        &["provision", "--dry-run", "--out", "plan.json"],
        &["provision", "--dry-run", "--verbose"],
        &["provision", "--dry-run", "--json"],
    ];
    let mut texts: Vec<String> = commands
        .iter()
        .map(|command| {
            let output = project.dunlin(command).ends(0);
            format!("{command:?}\n{}{}", output.stdout, output.stderr)
        })
        .collect();
    texts.push(project.read("plan.json"));
    assert_eq!(std::fs::metadata(project.path("plan.json")).unwrap().permissions().mode() & 0o777, 0o600);
    for text in &texts {
        for canary in ["q7w", "Q7W", "Canary-", "canary-", "CANARY-"] {
            assert!(!text.contains(canary), "{canary} is shown:\n{text}");
        }
    }
    assert!(texts[1].contains("-password = ***"), "{}", texts[1]);
}
