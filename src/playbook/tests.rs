//! The room as a whole: findings as data cases, and what a catalogue is made of.

use std::path::Path;

use serde_json::json;

use super::{Compiled, Compiler, Parts, Playbook, Selection, Templates};
use crate::inventory::{Diagnostics, Inventory, SourceFile};
use crate::wire::{Facts, Os};

const HOSTS: &str = r#"
[defaults]
vars = { colour = "grey", port = 80, tls = false, words = ["x", "y"] }

[groups.web]
hosts = ["web-1", "web-2"]
vars = { colour = "blue" }

[hosts.web-1]
address = "192.0.2.1"
zone = "a"
memory = "1GiB"
vars = { size = "2KiB" }

[hosts.web-2]
address = "192.0.2.2"
"#;

fn debian() -> Facts {
    let os = Os { family: "debian".to_owned(), id: "debian".to_owned(), ..Os::default() };
    Facts { hostname: "web-1".to_owned(), os, ..Facts::default() }
}

/// Compiles the plays' text for `web-1`; an error is the text of the findings, one a line.
fn compile(playbook: &str) -> Result<Compiled, String> {
    compile_with(playbook, &[], Selection::default())
}

fn compile_with(playbook: &str, templates: &[(&str, &str)], selection: Selection) -> Result<Compiled, String> {
    let said = |found: &Diagnostics| found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in templates {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let mut found = Diagnostics::new();
    let templates = Templates::load(folder.path(), &mut found);
    let playbook = Playbook::from_text(&SourceFile::new("site.toml", playbook), &mut found);
    let inventory = Inventory::from_text(Path::new("hosts.toml"), HOSTS).inventory.unwrap();
    if found.has_errors() {
        return Err(said(&found));
    }
    let parts = Parts {
        inventory: &inventory,
        playbook: &playbook,
        templates: &templates,
        shard_map: None,
        folders: Vec::new(),
        secrets: Some(json!({"redis": {"password": "correct horse"}})),
        selection,
    };
    let compiler = Compiler::new(parts).map_err(|found| said(&found))?;
    compiler.compile("web-1", &debian()).map_err(|found| said(&found))
}

/// A play with these steps.
fn play(rest: &str) -> String {
    format!("[[play]]\nname = \"p\"\nhosts = \"web\"\n{rest}")
}

/// The text of the only step's content.
fn content(compiled: &Compiled) -> String {
    assert_eq!(compiled.contents.len(), 1);
    String::from_utf8(compiled.contents.values().next().unwrap().to_vec()).unwrap()
}

fn file(content: &str) -> String {
    play(&format!("[[play.step]]\nfile = {{ dest = \"/x\", content = {content} }}\n"))
}

#[test]
fn placeholders_read_variables_with_their_precedence() {
    let text = r#"'{{ colour }} {{ port + 1 }} {{ host.name }} {{ host.memory }} {{ facts.os.family }} {{ groups.web | join(sep=",") }}'"#;
    let compiled = compile(&file(text)).unwrap();
    assert_eq!(content(&compiled), "blue 81 web-1 1073741824 debian web-1,web-2");
    let vars = play(
        "vars = { colour = \"red {{ port }}\" }\n[[play.step]]\nfor_each = [\"i\"]\nfile = { dest = \"/x\", content = '{{ colour }} {{ item }} {{ hosts[\"web-2\"].address }} {{ play.name }}' }\n",
    );
    assert_eq!(content(&compile(&vars).unwrap()), "red 80 i 192.0.2.2 p");
}
