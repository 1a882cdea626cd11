//! Mistakes in files: all at once, each with its place, and before any connection is opened.

use crate::example::{self, HOSTS};
use crate::program::{Project, snapshot};

const PLAY: &str = "[[play]]\nname = \"web\"\nhosts = \"web\"\n\n[[play.step]]\n";
const FILE_STEP: &str = "file = { dest = \"/srv/a\", content = \"a\" }\n";

/// Five mistakes of five kinds.
const BROKEN: &str = r#"[defaults]
becom = true

[groups.web]
hosts = ["web-1", "web-1"]

[groups.all-of-it]
children = ["webb"]

[hosts.web-1]
address = "192.0.2.300"
port    = "22"
host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPHioFyK2+ckjCSAwbhLix5/AwNtfk4OgTOaryCzfNXt"
"#;

#[test]
fn every_mistake_in_an_inventory_is_printed_and_no_host_is_asked() {
    let play = format!("{PLAY}{FILE_STEP}");
    let project = Project::new(&[("inventory/hosts.toml", BROKEN), ("playbooks/site.toml", &play)]);
    project.dunlin(&["check"]).ends(1);
    project.snapshot("check-errors", &[&["check"]]);
    let json = project.dunlin(&["check", "--json"]).ends(1);
    let places: Vec<_> = json
        .events()
        .iter()
        .filter(|event| !event["line"].is_null())
        .map(|event| (event["line"].clone(), event["col"].clone()))
        .collect();
    assert_eq!(
        places,
        [(2, 1), (5, 19), (8, 13), (11, 11), (12, 11)].map(|(line, column)| (line.into(), column.into()))
    );
    snapshot("check-errors-json", &[json]);
    let outputs = [&["provision", "--yes"][..], &["exec", "all", "--", "true"], &["hosts", "--facts"]]
        .map(|command| project.dunlin(command).ends(1));
    snapshot("inventory-errors", &outputs);
    assert!(!project.connected(), "ssh was started");
}

#[test]
fn a_sound_project_has_no_findings() {
    let project = example::project();
    snapshot(
        "check",
        &[&["check"][..], &["check", "--json"], &["check", "--quiet"]].map(|c| project.dunlin(c).ends(0)),
    );
    assert!(!project.connected());
}

#[test]
fn a_mistake_in_each_kind_of_file() {
    let checked = |name: &str, change: &dyn Fn(&str) -> String| {
        let project = example::project();
        let text = change(&project.read(name));
        project.write(name, &text);
        let output = project.dunlin(&["check"]).ends(1);
        assert!(!project.connected());
        output
    };
    let outputs = [
        checked("dunlin.toml", &|text| format!("{text}playbok = \"x\"\n")),
        checked("dunlin.toml", &|text| format!("{text}[")),
        checked("inventory/shards.toml", &|text| text.replace("\"0-8191\"", "\"0-8192\"")),
        checked("inventory/shards.toml", &|text| text.replace("\"redis-01\"", "\"redis-1\"")),
        checked("playbooks/site.toml", &|text| text.replace("dest =", "dst =")),
        checked("playbooks/site.toml", &|text| text.replace("hosts = \"web\"", "hosts = \"wep\"")),
        checked("playbooks/site.toml", &|text| text.replace("redis/shard.conf", "redis/shards.conf")),
        checked("inventory/secrets.toml", &|text| text.replace('=', ":")),
    ];
    snapshot("check-each-kind-of-file", &outputs);
}

#[test]
fn an_undefined_variable_is_found_at_its_place() {
    let play = format!("{PLAY}template = {{ src = \"a.conf\", dest = \"/srv/a\" }}\n");
    let text = "first line\nport {{ no_such_port }}\n";
    let project =
        Project::new(&[("inventory/hosts.toml", HOSTS), ("playbooks/site.toml", &play), ("templates/a.conf", text)]);
    let template = project.dunlin(&["check"]).ends(1);

    project.write("templates/a.conf", "plain\n");
    project.write(
        "playbooks/site.toml",
        &format!("{PLAY}file = {{ dest = \"/srv/{{{{ nowhere }}}}\", content = \"\" }}\n"),
    );
    snapshot("check-undefined-variables", &[template, project.dunlin(&["check"]).ends(1)]);
    assert!(!project.connected());
}
