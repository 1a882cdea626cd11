//! The reference pages: every key that dunlin accepts has a row in its page, and every documented key is accepted.
//!
//! The accepted keys come from the program itself: it is given files with an unknown key in each table, and lists the
//! known keys in its errors.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test stops at what is missing, and prints what it measured"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

/// A key that no table has.
const UNKNOWN: &str = "zzqqzz9";

/// The types of resource are keys of a step, and documented in a page of their own.
const RESOURCE_PAGE: &str = "resources.md";

/// A table of a file that dunlin reads, and the section that documents it.
struct Table {
    /// Text up to the table's unknown key.
    toml: String,
    /// Page below `docs/reference`.
    page: &'static str,
    /// Headings whose rows together document the table.
    sections: Vec<String>,
}

fn table(toml: &str, page: &'static str, sections: &[&str]) -> Table {
    Table { toml: toml.to_owned(), page, sections: sections.iter().map(ToString::to_string).collect() }
}

/// Runs the demo's summary on a folder with its result files.
fn summarize_demo(load: &str, verify: &str) -> (bool, String) {
    let dir = tempfile::TempDir::new().unwrap();
    let finished = r#"{"event":"rebalance_finished","bytes":2079700,"moves":15,"planned_bytes":1,"seconds":38.4217}"#;
    let rebalance = format!("{{\"event\":\"moved\",\"bytes\":7,\"seconds\":2.5}}\n{finished}\n");
    for (name, text) in [("load.json", load), ("verify.json", verify), ("rebalance.jsonl", &rebalance)] {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let script = "set -euo pipefail; . script/demo.d/load.sh; demo_summary \"$1\"";
    let mut command = Command::new("bash");
    let output = command.args(["-c", script, "bash"]).arg(dir.path()).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let output = output.unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn the_readme_shows_the_last_line_of_the_demo() {
    let load = r#"{"acked":13818,"errors":0,"unacknowledged":0,"longest_gap_ms":33.467,"p50_ms":4.203,"p99_ms":20.2}"#;
    let verify = r#"{"acked":13818,"lost":0,"deliveries":275146,"missing":0,"from_cache":275146,"from_database":0}"#;
    let (is_good, line) = summarize_demo(load, verify);
    let expected = "demo: 13818 acknowledged posts, 0 lost, 0 deliveries missing, 0 failed requests, \
                    longest gap 33.467 ms, 15 shards (2079700 bytes) moved in 38.42 s\n";
    assert_eq!((is_good, line.as_str()), (true, expected));
    let shown = "demo: N acknowledged posts, L lost, D deliveries missing, F failed requests, \
                 longest gap G ms, M shards (B bytes) moved in S s";
    let mut general = expected.trim_end().to_owned();
    for (number, letter) in [
        ("13818 a", "N a"),
        ("0 lost", "L lost"),
        ("0 deliveries", "D deliveries"),
        ("0 failed", "F failed"),
        ("33.467", "G"),
        ("15 shards", "M shards"),
        ("2079700", "B"),
        ("38.42", "S"),
    ] {
        general = general.replace(number, letter);
    }
    assert_eq!(general, shown);
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    assert!(readme.contains(&format!("`{shown}`")));
}

#[test]
fn a_demo_that_loses_something_fails() {
    let load = r#"{"acked":9,"errors":0,"unacknowledged":0,"longest_gap_ms":50,"p50_ms":4.2,"p99_ms":20.2}"#;
    let verify = r#"{"acked":9,"lost":0,"deliveries":20,"missing":0,"from_cache":20,"from_database":0}"#;
    assert!(summarize_demo(load, verify).0);
    for (name, bad) in [("errors", "\"errors\":1"), ("unacknowledged", "\"unacknowledged\":2")] {
        let (is_good, line) = summarize_demo(&load.replace(&format!("\"{name}\":0"), bad), verify);
        assert!(!is_good && line.contains(&format!("{} failed requests", &bad[bad.len() - 1..])), "{line}");
    }
    for (name, text) in [("lost", "3 lost"), ("missing", "3 deliveries missing")] {
        let (is_good, line) = summarize_demo(load, &verify.replace(&format!("\"{name}\":0"), &format!("\"{name}\":3")));
        assert!(!is_good && line.contains(text), "{line}");
    }
    assert!(!summarize_demo(load, &verify.replace("\"acked\":9", "\"acked\":0")).0);
    assert!(!summarize_demo(load, "").0);
}

#[test]
fn hosts_toml_is_documented() {
    let page = "hosts-toml.md";
    let tables = [
        table("", page, &["Top level"]),
        table("[defaults]\n", page, &["Connection settings"]),
        table("[groups.g]\n", page, &["Connection settings", "[groups.NAME]"]),
        table("[hosts.h]\n", page, &["Connection settings", "[hosts.NAME]"]),
    ];
    compare(&tables, |text| check(&[("inventory/hosts.toml", text)]));
}

#[test]
fn shards_toml_is_documented() {
    let map = "cluster = \"c\"\nepoch = 1\nport_base = 7000\n";
    let shard = "[[shard]]\nid = 0\nslots = \"0-16383\"\nhost = \"h\"\n";
    let tables = [
        table(map, "shards-toml.md", &["Top level"]),
        table(&format!("{map}{shard}"), "shards-toml.md", &["[[shard]]"]),
    ];
    compare(&tables, |text| check(&[("inventory/shards.toml", text), ("inventory/hosts.toml", "[hosts.h]\n")]));
}

#[test]
fn dunlin_toml_is_documented() {
    let tables = [table("", "dunlin-toml.md", &["dunlin.toml"])];
    compare(&tables, |text| check(&[("dunlin.toml", text)]));
}

#[test]
fn playbooks_are_documented() {
    let play = "[[play]]\nname = \"p\"\nhosts = \"all\"\n";
    let step = "[[play.step]] and [[play.handler]]";
    let tables = [
        table("", "playbook.md", &["Top level"]),
        table(play, "playbook.md", &["[[play]]"]),
        table(&format!("{play}[[play.step]]\n"), "playbook.md", &[step]),
        table(&format!("{play}[[play.handler]]\nname = \"h\"\n"), "playbook.md", &[step]),
    ];
    let resources = headings(RESOURCE_PAGE);
    compare(&tables, |text| {
        let known = check(&[("playbooks/site.toml", text)]);
        let is_step = text.contains("[[play.step]]") || text.contains("[[play.handler]]");
        if !is_step {
            return known;
        }
        let missing: Vec<&String> = resources.difference(&known).collect();
        assert!(missing.is_empty(), "{RESOURCE_PAGE} documents types of resource that do not exist: {missing:?}");
        known.difference(&resources).cloned().collect()
    });
}

#[test]
fn resource_types_are_documented() {
    let play = "[[play]]\nname = \"p\"\nhosts = \"all\"\n[[play.step]]\n";
    let types = headings(RESOURCE_PAGE);
    assert!(types.len() > 10, "{types:?}");
    let tables: Vec<Table> =
        types.iter().map(|name| table(&format!("{play}[play.step.{name}]\n"), RESOURCE_PAGE, &[name])).collect();
    compare(&tables, |text| check(&[("playbooks/site.toml", text)]));
}

#[test]
fn fields_of_templates_are_documented() {
    let step = |condition: &str| {
        let play = "[[play]]\nname = \"p\"\nhosts = \"all\"\n[[play.step]]\n";
        let loops = if condition.starts_with("item.") { "for_each = \"shards_here\"\n" } else { "" };
        format!("{play}{loops}when = \"{condition} == 1\"\nfile = {{ dest = \"/a\", content = \"\" }}\n")
    };
    let map = "cluster = \"c\"\nepoch = 1\nport_base = 7000\n[[shard]]\nid = 0\nslots = \"0-16383\"\nhost = \"h\"\n";
    let host = "[hosts.h]\naddress = \"192.0.2.1\"\nvars = { shard_maxmemory = \"1GiB\" }\n";
    let files = [("inventory/shards.toml", map), ("inventory/hosts.toml", host)];
    let known = |condition: &str| {
        let step = step(condition);
        check(&[files[0], files[1], ("playbooks/site.toml", &step)])
    };
    let of_facts = known(&format!("facts.{UNKNOWN}")).into_iter().filter(|name| name != "os");
    let of_os = known(&format!("facts.os.{UNKNOWN}")).into_iter().map(|name| format!("os.{name}"));
    let facts: BTreeSet<String> = of_facts.chain(of_os).map(|name| format!("facts.{name}")).collect();
    let documented = |section: &str| documented("templates.md", &[section.to_owned()]);
    assert_eq!(documented("facts"), facts);
    assert_eq!(documented("host"), known(&format!("host.{UNKNOWN}")));
    assert_eq!(documented("shards and shards_here"), known(&format!("item.{UNKNOWN}")));
}

#[test]
fn filters_are_documented() {
    let sources = sources();
    let calls = sources.iter().flat_map(|text| text.split("register_filter(\"").skip(1));
    let registered: BTreeSet<String> = calls.map(|call| call.split('"').next().unwrap().to_owned()).collect();
    assert_eq!(documented("templates.md", &["Filters".to_owned()]), registered);
}

#[test]
fn json_events_are_documented() {
    let sources = sources();
    let calls = sources.iter().flat_map(|text| ["print_json(", ".line("].map(|call| text.split(call).skip(1)));
    let names = calls.flatten().filter_map(|call| call.trim_start().strip_prefix('"')?.split('"').next());
    let printed: BTreeSet<String> = names.filter(|name| name.len() > 1).map(str::to_owned).collect();
    assert!(printed.len() > 25, "the calls that print events were not found: {printed:?}");

    let page = "json-events.md";
    let sections: Vec<String> = headings(page).into_iter().collect();
    let documented = documented(page, &sections);
    let missing: Vec<&String> = printed.difference(&documented).collect();
    assert!(missing.is_empty(), "{page} lacks the events {missing:?}");

    // Events of hosts are variants of an enum, whose names serde writes in snake case.
    let is_known = |name: &&String| {
        let variant: String =
            name.split('_').map(|word| format!("{}{}", word[..1].to_uppercase(), &word[1..])).collect();
        sources.iter().any(|text| text.contains(&format!("\"{name}\"")) || text.contains(&format!("Event::{variant}")))
    };
    let unknown: Vec<&String> = documented.iter().filter(|name| !is_known(name)).collect();
    assert!(unknown.is_empty(), "{page} documents events that no command prints: {unknown:?}");
}

#[test]
fn recipes_are_documented() {
    let top = "service = \"s\"\nhosts = \"all\"\nroot = \"/srv/s\"\n";
    let sections = ["[[file]]", "[[unit]]", "[[config]]", "[health]", "[[task]]", "[hooks]", "[notify]", "[[freeze]]"];
    let mut tables = vec![table(top, "recipe.md", &["Top level"])];
    tables.extend(sections.map(|section| table(&format!("{top}{section}\n"), "recipe.md", &[section])));
    compare(&tables, |text| {
        let project = project(&[("playbooks/deploy-s.toml", text)]);
        known_keys(project.path(), &["package", "s"])
    });
}

/// Compares each table's accepted keys with the documented ones. Reports all differences at once.
fn compare(tables: &[Table], accepted: impl Fn(&str) -> BTreeSet<String>) {
    let mut differences = Vec::new();
    for table in tables {
        let accepted = accepted(&format!("{}{UNKNOWN} = 1\n", table.toml));
        let documented = documented(table.page, &table.sections);
        let place = format!("docs/reference/{}, {}", table.page, table.sections.join(" and "));
        let missing: Vec<&String> = accepted.difference(&documented).collect();
        let superfluous: Vec<&String> = documented.difference(&accepted).collect();
        if !missing.is_empty() {
            differences.push(format!("{place}: not documented: {missing:?}"));
        }
        if !superfluous.is_empty() {
            differences.push(format!("{place}: documented, but not accepted: {superfluous:?}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// Returns the known keys that `dunlin check` lists for the one unknown key in the files.
fn check(files: &[(&str, &str)]) -> BTreeSet<String> {
    let project = project(files);
    known_keys(project.path(), &["check"])
}

/// Creates a project with these files, and an inventory and a playbook without mistakes.
fn project(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut all = BTreeMap::from([
        ("dunlin.toml", "inventory = \"inventory\"\n"),
        ("inventory/hosts.toml", "[hosts.h]\naddress = \"192.0.2.1\"\n"),
        ("playbooks/site.toml", "[[play]]\nname = \"p\"\nhosts = \"all\"\n"),
    ]);
    all.extend(files.iter().copied());
    for (path, text) in all {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

/// Runs dunlin and reads the known keys from its error for the unknown one: either a help line with a list behind a
/// colon, or names in backticks in the message itself.
fn known_keys(project: &Path, args: &[&str]) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_dunlin"))
        .args(["--color", "never"])
        .args(args)
        .current_dir(project)
        .env_remove("DUNLIN_INVENTORY")
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    let mut lines = text.lines().skip_while(|line| !(line.contains("error:") && line.contains(UNKNOWN)));
    let message = lines.next().unwrap_or_else(|| panic!("no error names the unknown key:\n{text}"));
    let help = lines.take_while(|line| !line.contains("error:")).find_map(|line| line.split_once("help: "));
    let keys: BTreeSet<String> = match help {
        Some((_, help)) => {
            let (_, list) = help.rsplit_once(": ").unwrap_or_else(|| panic!("no list of keys:\n{text}"));
            list.split(", ").map(|key| key.trim_matches('`').to_owned()).collect()
        }
        None => quoted(message).into_iter().filter(|key| key != UNKNOWN).collect(),
    };
    assert!(!keys.is_empty(), "no known keys in:\n{text}");
    keys
}

/// Returns the keys in the first column of the tables in these sections of a page.
fn documented(page: &str, sections: &[String]) -> BTreeSet<String> {
    let text = read_page(page);
    let mut keys = BTreeSet::new();
    for section in sections {
        let rows = section_lines(&text, section)
            .unwrap_or_else(|| panic!("docs/reference/{page} has no section \"{section}\""))
            .into_iter()
            .filter(|line| line.starts_with("| `"));
        keys.extend(rows.flat_map(|row| quoted(row.split('|').nth(1).unwrap_or_default())));
    }
    keys
}

/// Returns the lines of the section with this heading, up to the next heading.
fn section_lines<'t>(text: &'t str, heading: &str) -> Option<Vec<&'t str>> {
    let mut lines = text.lines().skip_while(|line| line.trim_start_matches('#') != format!(" {heading}"));
    lines.next()?;
    Some(lines.take_while(|line| !line.starts_with('#')).collect())
}

/// Returns the text of every source file of dunlin.
fn sources() -> Vec<String> {
    let mut texts = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                texts.push(fs::read_to_string(&path).unwrap());
            }
        }
    }
    texts
}

/// Returns the second-level headings of a page.
fn headings(page: &str) -> BTreeSet<String> {
    read_page(page).lines().filter_map(|line| line.strip_prefix("## ")).map(str::to_owned).collect()
}

fn read_page(page: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference").join(page);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns the texts in backticks.
fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_json_event_and_its_fields_are_documented() {
    let page = read_page("json-events.md");
    let event = regex::Regex::new(r#"print_json\(\s*"(\w+)",\s*(?:json!\(\{([^}]*)\}\))?"#).unwrap();
    let key = regex::Regex::new(r#""(\w+)":"#).unwrap();
    let sources = sources();
    let (mut events, mut fields, mut missing) = (0, 0, Vec::new());
    for found in sources.iter().flat_map(|source| event.captures_iter(source)) {
        let name = &found[1];
        let rows: Vec<&str> = page.lines().filter(|line| line.starts_with(&format!("| `{name}` |"))).collect();
        events += 1;
        if rows.is_empty() {
            missing.push(name.to_owned());
        }
        for field in found.get(2).into_iter().flat_map(|object| key.captures_iter(object.as_str())) {
            fields += 1;
            // Long lists of fields are in the text.
            let field = format!("`{}`", &field[1]);
            let is_documented = rows.iter().any(|row| row.contains(&field))
                || (rows.iter().any(|row| row.contains("see below")) && page.contains(&field));
            if !is_documented {
                missing.push(format!("{name}.{field}"));
            }
        }
    }
    assert!(events > 30 && fields > 80, "{events} events with {fields} fields: the test does not see them");
    assert_eq!(missing, Vec::<String>::new(), "not in docs/reference/json-events.md");
}
