//! Tests of the module: diagnostics as data cases, and compiled catalogs.

use std::collections::BTreeSet;
use std::path::Path;

use dunlin_shards::Routing;
use serde_json::json;

use super::{
    CompiledHost, Compiler, CompilerInput, Playbook, ProjectSources, StepSelection, Templates, check_project,
    debian_facts,
};
use crate::inventory::{Diagnostics, Inventory, SourceFile};
use crate::messages;
use crate::plan::Digest;
use crate::project::Project;
use crate::protocol::{HostFacts, OsFacts};

const HOSTS_TOML: &str = r#"
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

fn web_1_facts() -> HostFacts {
    let os = OsFacts { family: "debian".to_owned(), id: "debian".to_owned(), ..OsFacts::default() };
    HostFacts { hostname: "web-1".to_owned(), os, ..HostFacts::default() }
}

/// Compiles the plays' text for `web-1`; an error is the text of the findings, one a line.
fn compile_playbook(playbook: &str) -> Result<CompiledHost, String> {
    compile_with_templates(playbook, &[], StepSelection::default())
}

fn compile_with_templates(
    playbook: &str,
    templates: &[(&str, &str)],
    selection: StepSelection,
) -> Result<CompiledHost, String> {
    let said = |found: &Diagnostics| found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in templates {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let mut found = Diagnostics::new();
    let templates = Templates::load_folder(folder.path(), &mut found);
    let playbook = Playbook::parse_text(&SourceFile::new("site.toml", playbook), &mut found);
    let inventory = Inventory::parse_hosts_toml(Path::new("hosts.toml"), HOSTS_TOML).inventory.unwrap();
    if found.has_errors() {
        return Err(said(&found));
    }
    let parts = CompilerInput {
        inventory: &inventory,
        playbook: &playbook,
        templates: &templates,
        shard_map: None,
        file_folders: Vec::new(),
        secrets: Some(json!({"redis": {"password": "correct horse"}})),
        selection,
        digest_key: None,
    };
    let compiler = Compiler::new(parts).map_err(|found| said(&found))?;
    compiler.compile_host("web-1", &web_1_facts()).map_err(|found| said(&found))
}

/// A play with these steps.
fn play_text(rest: &str) -> String {
    format!("[[play]]\nname = \"p\"\nhosts = \"web\"\n{rest}")
}

/// The text of the only step's content.
fn only_content(compiled: &CompiledHost) -> String {
    assert_eq!(compiled.contents.len(), 1);
    String::from_utf8(compiled.contents.values().next().unwrap().to_vec()).unwrap()
}

fn file_step(content: &str) -> String {
    play_text(&format!("[[play.step]]\nfile = {{ dest = \"/x\", content = {content} }}\n"))
}

#[test]
fn placeholders_read_variables_with_their_precedence() {
    let text = r#"'{{ colour }} {{ port + 1 }} {{ host.name }} {{ host.memory }} {{ facts.os.family }} {{ groups.web | join(sep=",") }}'"#;
    let compiled = compile_playbook(&file_step(text)).unwrap();
    assert_eq!(only_content(&compiled), "blue 81 web-1 1073741824 debian web-1,web-2");
    let vars = play_text(
        "vars = { colour = \"red {{ port }}\" }\n[[play.step]]\nfor_each = [\"i\"]\nfile = { dest = \"/x\", content = '{{ colour }} {{ item }} {{ hosts[\"web-2\"].address }} {{ play.name }}' }\n",
    );
    assert_eq!(only_content(&compile_playbook(&vars).unwrap()), "red 80 i 192.0.2.2 p");
}

#[test]
fn cases_give_exactly_their_diagnostics() {
    let mut folders: Vec<_> =
        std::fs::read_dir("tests/cases/playbook").unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert!(folders.len() >= 8, "cases are missing");
    for folder in folders {
        let defaults = Project::with_defaults(&folder);
        let project = Project { inventory: folder.clone(), playbook: folder.join("site.toml"), ..defaults };
        let shown = check_project(&project).render(false);
        let expected = folder.join("diagnostics.txt");
        let wanted = std::fs::read_to_string(&expected).unwrap_or_default();
        assert_eq!(shown, wanted, "{} differs from what is shown:\n{shown}", expected.display());
    }
}

/// The desired states of the first play's steps.
fn desired_states(compiled: &CompiledHost) -> Vec<serde_json::Value> {
    compiled.catalog.plays[0].steps.iter().map(|step| step.desired.clone()).collect()
}

#[test]
fn a_single_placeholder_keeps_its_type_and_text_is_text() {
    let step = |id: &str| {
        let files = r#"conf = "c", acl = "a", data_dir = "/d""#;
        play_text(&format!("[[play.step]]\nredis_shard = {{ id = {id}, port = \"{{{{ port + 1 }}}}\", {files} }}\n"))
    };
    // The type wants text for both: digits of a number that came out of a placeholder are text.
    let compiled =
        compile_with_templates(&step("\"{{ 7 }}\""), &[("c", "x"), ("a", "user a off\n")], StepSelection::default())
            .unwrap();
    assert_eq!(
        (&desired_states(&compiled)[0]["id"], &desired_states(&compiled)[0]["port"]),
        (&json!("7"), &json!("81"))
    );
    // A number that the author wrote is a mistake.
    let error =
        compile_with_templates(&step("7"), &[("c", "x"), ("a", "user a off\n")], StepSelection::default()).unwrap_err();
    assert_eq!(error, "site.toml:5:22: error: `id` must be a string");
    let boolean = play_text("[[play.step]]\nfile = { dest = \"/x\", content = \"\", sensitive = \"{{ not tls }}\" }\n");
    assert_eq!(desired_states(&compile_playbook(&boolean).unwrap())[0]["sensitive"], json!(true));
}

#[test]
fn conditions_and_loops_are_resolved() {
    let text = play_text(
        r#"
[[play.step]]
name = "{{ item.n }}"
for_each = [{ n = "a", on = true }, { n = "b", on = false }, { n = "c", on = true }]
when = "item.on and facts.os.family == 'debian'"
file = { dest = "/{{ item.n }}", content = "" }
notify = ["say {{ item.n }}"]

[[play.step]]
for_each = "words"
file = { dest = "/word-{{ item }}", content = "" }

[[play.step]]
when = "facts.os.family != 'debian'"
file = { dest = "/{{ this_is_never_looked_at }}", content = "" }

[[play.handler]]
name = "say {{ item }}"
for_each = ["a", "b", "c"]
when = "item != 'c'"
file = { dest = "/say-{{ item }}", content = "" }
"#,
    );
    let compiled = compile_playbook(&text).unwrap();
    let made = &compiled.catalog.plays[0];
    let steps: Vec<(&str, Vec<&str>)> = made
        .steps
        .iter()
        .map(|step| (step.desired["dest"].as_str().unwrap(), step.notify.iter().map(String::as_str).collect()))
        .collect();
    // The handler of c does not run here, so no step notifies it.
    assert_eq!(steps, [("/a", vec!["say a"]), ("/c", vec![]), ("/word-x", vec![]), ("/word-y", vec![])]);
    let handlers: Vec<&str> = made.handlers.iter().filter_map(|handler| handler.name.as_deref()).collect();
    assert_eq!(handlers, ["say a", "say b"]);
    let lines: Vec<usize> = compiled.origins.values().map(|origin| origin.line_col().unwrap().0).collect();
    assert_eq!(lines, [9, 9, 14, 14, 24, 24]);
}

#[test]
fn plays_apply_to_their_hosts_alone() {
    let step = "[[play.step]]\nfile = { dest = \"/x\", content = \"\" }\n";
    let one = |name: &str, rest: &str| format!("[[play]]\nname = \"{name}\"\n{rest}\n{step}");
    let text = [
        one("others", "hosts = \"web-2\""),
        one("not now", "hosts = \"all\"\nwhen = \"tls\""),
        one("here", "hosts = \"web:&zone_a\""),
    ];
    let compiled = compile_playbook(&text.concat()).unwrap();
    assert_eq!(compiled.catalog.plays.len(), 1);
    assert_eq!((compiled.catalog.plays[0].name.as_str(), &compiled.play_indices), ("here", &vec![2]));
}

#[test]
fn contents_with_secrets_are_sensitive() {
    for (content, sensitive) in [
        ("\"pass {{ secrets.redis.password }}\"", true),
        ("\"{{ secrets.redis.password | sha256 }}\"", true),
        ("\"{{ colour }}\"", false),
    ] {
        let compiled = compile_playbook(&file_step(content)).unwrap();
        assert_eq!(desired_states(&compiled)[0].get("sensitive").is_some(), sensitive, "{content}");
        let shown = serde_json::to_string(&compiled.catalog).unwrap();
        assert!(!shown.contains("correct horse"), "{shown}");
    }
    let named = play_text(
        "[[play.step]]\nname = \"set {{ secrets.redis.password }}\"\nfile = { dest = \"/x\", content = \"\" }\n",
    );
    assert_eq!(
        compile_playbook(&named).unwrap().catalog.plays[0].steps[0].name.as_deref(),
        Some("set {{ secrets.redis.password }}")
    );
    let shown = play_text("[[play.step]]\nfile = { dest = \"/{{ secrets.redis.password }}\", content = \"\" }\n");
    messages::check("secret-in-a-plan", [("a path", compile_playbook(&shown).unwrap_err())]);
    let error = compile_playbook(&file_step("\"{{ secrets.redis.pasword }}\"")).unwrap_err();
    assert_eq!(error, "site.toml:5:51: error: field `pasword` is not defined");
}

#[test]
fn selections_skip_steps_and_handlers() {
    let text = play_text(
        r#"
[[play.step]]
tags = ["a"]
file = { dest = "/a", content = "a" }
notify = "h"

[[play.step]]
redis_shard = { id = "1", port = "7001", data_dir = "/d", conf = "c", acl = "a" }

[[play.handler]]
name = "h"
file = { dest = "/h", content = "h" }
"#,
    );
    let select = |tags: &[&str], kinds: &[&str]| {
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect();
        let selection = StepSelection { tags: words(tags), kinds: words(kinds) };
        let compiled = compile_with_templates(&text, &[("c", "conf"), ("a", "user a off\n")], selection).unwrap();
        let made = compiled.catalog.plays[0].clone();
        (made.steps.iter().map(|step| step.kind.clone()).collect::<Vec<_>>().join(" "), made.handlers.len())
    };
    assert_eq!(select(&[], &[]), ("file redis_shard".to_owned(), 1));
    assert_eq!(select(&["a"], &[]), ("file".to_owned(), 1));
    assert_eq!(select(&[], &["redis_shard"]), ("redis_shard".to_owned(), 0));
}

#[test]
fn templates_can_include_and_extend_each_other() {
    let templates = [("c", "{% include \"part\" %} {{ colour }} <&>\n"), ("part", "port {{ port }}")];
    let text = play_text("[[play.step]]\ntemplate = { dest = \"/d\", src = \"c\" }\n");
    assert_eq!(
        only_content(&compile_with_templates(&text, &templates, StepSelection::default()).unwrap()),
        "port 80 blue <&>\n"
    );
}

#[test]
fn an_acl_that_loses_transactions_at_a_restart_is_refused_with_its_place() {
    let text = play_text(
        "[[play.step]]\nredis_shard = { id = \"1\", port = \"7001\", data_dir = \"/d\", conf = \"c\", acl = \"a\" }\n",
    );
    let error = |conf: &str, acl: &str| {
        compile_with_templates(&text, &[("c", conf), ("a", acl)], StepSelection::default()).err().unwrap_or_default()
    };
    let old = error("appendonly yes\n", "\nuser default off resetchannels -@all\n");
    assert!(old.starts_with("site.toml:5:77: error: the rendered ACL file, line 2: the user default lacks"), "{old}");
    assert!(old.contains("write `user default off resetpass ~* &* +@all`"), "{old}");
    assert_eq!(error("appendonly no\n", "user default off\n"), "");
    assert_eq!(error("appendonly yes\n", "user default off resetpass ~* &* +@all\n"), "");
    assert_eq!(error("appendonly yes\n", "user a on nopass ~* +@all\n"), "");
    let broken = error("", "user a on\nuser b onn\n");
    assert_eq!(broken, "site.toml:5:77: error: the rendered ACL file, line 2: rule 1 is not an ACL rule");
}

#[test]
fn shipped_project_has_no_errors() {
    let mut found = Diagnostics::new();
    let project = Project::find(Path::new("."), &mut found).unwrap();
    found.extend(check_project(&project));
    assert!(found.is_empty(), "{}", found.render(false));
}

#[test]
fn the_shipped_site_puts_64_shards_on_two_hosts() {
    let mut found = Diagnostics::new();
    let project = Project::find(Path::new("."), &mut found).unwrap();
    let sources = ProjectSources::load_project(&project, &mut found);
    let secrets = json!({
        "redis": { "admin": "aaaa-admin", "replica": "bbbb-replica", "app": "cccc-app" },
        "postgres": { "timeline": "dddd-database" },
        "rabbitmq": { "timeline": "eeee-queue" },
        "timeline": { "token_key": "ffff-key" },
    });
    let compiler = Compiler::new(sources.compiler_input(StepSelection::default(), Some(secrets)).unwrap()).unwrap();
    let mut ports = BTreeSet::new();
    for host in ["redis-01", "redis-02"] {
        let compiled = compiler.compile_host(host, &debian_facts(host)).unwrap();
        let redis = &compiled.catalog.plays[1];
        let shards: Vec<_> = redis.steps.iter().filter(|step| step.kind == "redis_shard").collect();
        assert_eq!((shards.len(), redis.name.as_str()), (32, "Redis shard hosts"));
        for shard in shards {
            assert_eq!(shard.notify.len(), 1, "a changed shard is restarted");
            assert!(redis.handlers.iter().any(|handler| handler.name.as_deref() == Some(shard.notify[0].as_str())));
            ports.insert(shard.desired["port"].as_str().map(str::to_owned));
        }
        let texts = compiled.contents.values().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        assert!(texts.into_iter().all(|text| !text.contains("cccc-app")), "shards know the password's digest only");
    }
    assert_eq!(ports.len(), 64);
    let app = compiler.compile_host("app-01", &debian_facts("app-01")).unwrap();
    let steps = &app.catalog.plays[1].steps;
    let map = steps.iter().find(|step| step.kind == "shard_map").expect("the map is published to application hosts");
    let digest: Digest = serde_json::from_value(map.desired["content"]["digest"].clone()).unwrap();
    let routing = Routing::parse(std::str::from_utf8(&app.contents[&digest]).unwrap()).unwrap();
    assert_eq!((routing.shards.len(), routing.shards[63].primary.as_str()), (64, "192.0.2.12:7063"));
    let passwords: Vec<_> = steps.iter().filter(|step| !step.secret_fields.is_empty()).collect();
    assert!(passwords.len() >= 2, "the passwords' files");
    assert!(passwords.iter().all(|step| step.desired["sensitive"] == json!(true)), "{passwords:?}");
}

#[test]
fn missing_secrets_name_their_file() {
    let mut found = Diagnostics::new();
    let file = SourceFile::new("site.toml", file_step("\"{{ secrets.redis.app }}\""));
    let playbook = Playbook::parse_text(&file, &mut found);
    let templates = Templates::load_folder(Path::new("no-such-folder"), &mut found);
    let inventory = Inventory::parse_hosts_toml(Path::new("hosts.toml"), HOSTS_TOML).inventory.unwrap();
    let (secrets, selection) = (None, StepSelection::default());
    let parts = CompilerInput {
        inventory: &inventory,
        playbook: &playbook,
        templates: &templates,
        shard_map: None,
        file_folders: Vec::new(),
        secrets,
        selection,
        digest_key: None,
    };
    let wrong = Compiler::new(parts).unwrap().compile_host("web-1", &web_1_facts()).unwrap_err();
    let finding = wrong.iter().next().unwrap();
    assert_eq!(finding.to_string(), "site.toml:5:37: error: variable `secrets` is not defined");
    messages::check("secrets-missing", [("help", finding.help.as_deref().unwrap())]);
}
