//! Mistakes in files: all at once, each with its place, and before any connection is opened.

use crate::program::Project;

const HOSTS: &str = r#"[defaults]
user = "deploy"

[groups.web]
hosts = ["web-1"]

[hosts.web-1]
address  = "192.0.2.1"
host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPHioFyK2+ckjCSAwbhLix5/AwNtfk4OgTOaryCzfNXt"
"#;
const PLAY: &str = "[[play]]\nname = \"web\"\nhosts = \"web\"\n\n[[play.step]]\n";

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
fn a_broken_inventory_is_told_whole_and_no_host_is_asked() {
    let play = format!("{PLAY}file = {{ dest = \"/srv/a\", content = \"a\" }}\n");
    let project = Project::new(&[("inventory/hosts.toml", BROKEN), ("playbooks/site.toml", &play)]);
    for command in [&["check"][..], &["provision", "--yes"], &["exec", "all", "--", "true"], &["hosts", "--facts"]] {
        let output = project.dunlin(command).ends(1).tells(&[
            "unknown key `becom` in [defaults]",
            "hosts.toml:2:1",
            "`web-1` stands twice",
            "hosts.toml:5:19",
            "no group `webb`",
            "hosts.toml:8:13",
            "`192.0.2.300` is not an IPv4 address",
            "hosts.toml:11:11",
            "`port` must be a whole number",
            "hosts.toml:12:11",
            "5 errors",
        ]);
        let told = [&output.stdout, &output.stderr]
            .map(|text| text.matches("\n --> ").count() + text.matches("\n  --> ").count());
        assert_eq!(told.iter().sum::<usize>(), 5, "{command:?}\n{}{}", output.stdout, output.stderr);
    }
    assert!(!project.connected(), "ssh was started");
}

#[test]
fn the_fake_ssh_would_have_been_seen() {
    let project = Project::new(&[("inventory/hosts.toml", HOSTS)]);
    project.dunlin(&["exec", "all", "--", "true"]).ends(4).tells(&["web-1", "next:"]);
    assert!(project.connected(), "the program does not take ssh from PATH: the other tests here prove nothing");
}

#[test]
fn a_sound_project_has_no_findings() {
    let play = format!("{PLAY}file = {{ dest = \"/srv/a\", content = \"a\" }}\n");
    let project = Project::new(&[
        ("inventory/hosts.toml", HOSTS),
        ("playbooks/site.toml", &play),
        ("templates/a.conf", "plain\n"),
    ]);
    project.dunlin(&["check"]).ends(0).tells(&["nothing found"]);
    assert!(!project.connected());
}

#[test]
fn an_undefined_variable_is_found_where_it_stands() {
    let play = format!("{PLAY}template = {{ src = \"a.conf\", dest = \"/srv/a\" }}\n");
    let text = "first line\nport {{ no_such_port }}\n";
    let project =
        Project::new(&[("inventory/hosts.toml", HOSTS), ("playbooks/site.toml", &play), ("templates/a.conf", text)]);
    project.dunlin(&["check"]).ends(1).tells(&["no_such_port", "templates/a.conf:2:9"]);

    project.write("templates/a.conf", "plain\n");
    project.write(
        "playbooks/site.toml",
        &format!("{PLAY}file = {{ dest = \"/srv/{{{{ nowhere }}}}\", content = \"\" }}\n"),
    );
    project.dunlin(&["check"]).ends(1).tells(&["nowhere", "site.toml:6:"]);
    assert!(!project.connected());
}

#[test]
fn an_unknown_host_is_an_error_with_the_nearest_name() {
    let project = Project::new(&[("inventory/hosts.toml", HOSTS)]);
    project.dunlin(&["hosts", "wep"]).ends(64).tells(&["wep", "web"]);
    project.dunlin(&["hosts", "web"]).ends(0).tells(&["web-1", "deploy@192.0.2.1"]);
}
