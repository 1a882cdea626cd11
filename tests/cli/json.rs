//! `--json`: every line of every command is an event with its time and run, between `start` and `summary`.

use serde_json::Value;

use crate::program::{Output, Project};

const HOSTS: &str = "[hosts.a-host]\naddress = \"192.0.2.1\"\n\
    host_key = \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPHioFyK2+ckjCSAwbhLix5/AwNtfk4OgTOaryCzfNXt\"\n";
const MAP: &str =
    "cluster = \"x\"\nepoch = 1\nport_base = 7000\n[[shard]]\nid = 0\nslots = \"0-16383\"\nhost = \"a-host\"\n";
const PLAY: &str =
    "[[play]]\nname = \"a\"\nhosts = \"all\"\n[[play.step]]\nfile = { dest = \"/srv/a\", content = \"a\" }\n";

/// Commands that have events, with the names that `start` gives them.
const COMMANDS: &[(&str, &[&str])] = &[
    ("check", &["check"]),
    ("hosts", &["hosts"]),
    ("hosts", &["hosts", "--facts"]),
    ("hosts", &["hosts", "no-such-host"]),
    ("provision", &["provision", "--dry-run"]),
    ("provision", &["provision", "--plan", "absent.json"]),
    ("provision-new-host", &["provision-new-host", "b", "--address", "-", "--groups", "g"]),
    ("package", &["package", "app"]),
    ("deploy", &["deploy", "app", "--dry-run"]),
    ("rollback", &["rollback", "app", "--dry-run"]),
    ("maintenance", &["maintenance", "app", "on", "--dry-run"]),
    ("undeploy", &["undeploy", "app", "--dry-run"]),
    ("releases", &["releases", "app"]),
    ("history", &["history", "app"]),
    ("deploy", &["deploy", "app", "--health"]),
    ("exec", &["exec", "all", "--", "true"]),
    ("shard-rebalance", &["shard-rebalance", "--dry-run"]),
    ("shards status", &["shards", "status"]),
    ("shards resume", &["shards", "resume", "--yes"]),
    ("shards abort", &["shards", "abort", "--yes"]),
    ("shards move-back", &["shards", "move-back", "--yes", "0"]),
    ("shards failover", &["shards", "failover", "a-host", "--dry-run"]),
    ("shards verify", &["shards", "verify"]),
    ("shards history", &["shards", "history"]),
    ("shards capacity", &["shards", "capacity"]),
    ("shards certificates", &["shards", "certificates", "--dry-run"]),
    ("locks", &["locks"]),
];

fn events(output: &Output) -> Vec<Value> {
    let parse =
        |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: `{line}`\n{}", output.stderr));
    output.stdout.lines().map(parse).collect()
}

/// Checks the lines of a command; returns its run.
fn check_events(name: &str, output: &Output) -> String {
    let events = events(output);
    let (first, last) = (&events[0], &events[events.len() - 1]);
    assert_eq!(
        (&first["event"], &first["format_version"], &first["command"]),
        (&"start".into(), &1.into(), &name.into())
    );
    assert_eq!((&last["event"], &last["exit"]), (&"summary".into(), &output.status.into()), "{name}: {last}");
    for event in &events {
        assert!(event["event"].as_str().is_some_and(|event| !event.is_empty()), "{name}: {event}");
        let at = event["at"].as_str().unwrap_or_default();
        assert!(at.ends_with('Z') && at.parse::<jiff::Timestamp>().is_ok(), "{name}: {event}");
        assert_eq!(event["run"], first["run"], "{name}: {event}");
    }
    let count = |name: &str| events.iter().filter(|event| event["event"] == name).count();
    assert_eq!((count("start"), count("summary")), (1, 1), "{name}\n{}", output.stdout);
    first["run"].as_str().expect("a run is a string").to_owned()
}

#[test]
fn every_line_of_every_command_has_its_event_time_and_run() {
    let project = Project::new(&[
        ("inventory/hosts.toml", HOSTS),
        ("inventory/shards.toml", MAP),
        ("inventory/secrets.toml", "[redis]\nadmin = \"x\"\n"),
        ("playbooks/site.toml", PLAY),
    ]);
    let mut runs = Vec::new();
    for (name, command) in COMMANDS {
        let output = project.dunlin(&[&["--json"][..], command].concat());
        runs.push(check_events(name, &output));
    }
    runs.sort();
    runs.dedup();
    assert_eq!(runs.len(), COMMANDS.len(), "each run has an id of its own");
}

#[test]
fn a_command_that_fails_at_once_ends_with_an_error_and_a_summary() {
    let project = Project::new(&[]);
    project.write("dunlin.toml", "inventry = \"inventory\"\n");
    for (name, command) in COMMANDS.iter().filter(|(name, _)| *name != "check") {
        let output = project.dunlin(&[&["--json"][..], command].concat()).ends(1);
        check_events(name, &output);
        let events = events(&output);
        let errors: Vec<&Value> = events.iter().filter(|event| event["event"] == "error").collect();
        assert_eq!(errors.len(), 1, "{name}\n{}", output.stdout);
        assert!(errors[0]["error"].as_str().unwrap().contains("inventry"), "{}", errors[0]);
    }
    let output = project.dunlin(&["check", "--json"]).ends(1);
    check_events("check", &output);
    let events = events(&output);
    let finding = events.iter().find(|event| event["event"] == "finding").expect("the mistake is a finding");
    assert_eq!((&finding["line"], &finding["col"]), (&1.into(), &1.into()), "{finding}");
}

#[test]
fn documents_are_the_same_with_json() {
    let project = Project::new(&[]);
    for command in [&["man"][..], &["completions", "bash"]] {
        let text = project.dunlin(command).ends(0).stdout;
        assert_eq!(project.dunlin(&[&["--json"][..], command].concat()).ends(0).stdout, text);
    }
}

#[test]
fn colors_follow_the_flag_and_the_environment() {
    let project = Project::new(&[("inventory/hosts.toml", "[hosts.a]\nadress = \"192.0.2.1\"\n")]);
    let has_colors = |arguments: &[&str], environment: &[(&str, &str)]| {
        let output = project.dunlin_with(arguments, environment).ends(1);
        format!("{}{}", output.stdout, output.stderr).contains('\u{1b}')
    };
    for command in ["check", "hosts"] {
        assert!(!has_colors(&[command], &[]), "{command}: a pipe gets colors");
        assert!(has_colors(&[command, "--color", "always"], &[("NO_COLOR", "1")]), "{command}: the flag decides");
        assert!(has_colors(&[command], &[("CLICOLOR_FORCE", "1")]), "{command}: CLICOLOR_FORCE");
        assert!(!has_colors(&[command], &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]), "{command}: NO_COLOR");
        assert!(!has_colors(&[command, "--color", "never"], &[("CLICOLOR_FORCE", "1")]), "{command}: never");
    }
}
