//! A canary in every field of a playbook: none may be found in what is shown or saved.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dunlin::inventory::{Diagnostics, Inventory, SourceFile};
use dunlin::plan::{Action, DigestKey, ResourceChange};
use dunlin::playbook::{CompiledHost, Compiler, CompilerInput, Playbook, StepSelection, Templates};
use dunlin::protocol::provision::{ApplyPlay, PlayResult};
use dunlin::protocol::{Event, HostFacts, ProgressSink};
use dunlin::provision::host::{apply_play, plan_catalog};
use dunlin::resources::BlobSource;
use serde_json::json;

use crate::messages;

/// The secrets, and what filters make of them.
const CANARIES: [&str; 12] = [
    "Canary-inline",
    "CANARY-FILTER",
    "Canary-filter",
    "Canary-vars",
    "CANARY-VARS",
    "Canary-pem-1",
    "q7w",
    "Canary-env",
    "Canary-script",
    "Canary-guard",
    "Canary-comment",
    "Canary-template",
];

const PLAYBOOK: &str = r#"
[[play]]
name = "canaries"
hosts = "host"
vars = { pw = "{{ secrets.vars }}" }
[[play.step]]
template = { src = "secret.conf", dest = "DIR/template" }
[[play.step]]
name = "with {{ secrets.inline }} and {{ secrets.filter | upper }} in its name"
file = { dest = "DIR/inline", content = "x {{ secrets.inline }}\n" }
[[play.step]]
file = { dest = "DIR/filter", content = "x {{ secrets.filter | upper }}\n", mode = "0640" }
[[play.step]]
file = { dest = "DIR/vars", content = "x {{ pw | upper }}\n" }
[[play.step]]
file = { dest = "DIR/pem", content = "key: |\n  {{ secrets.pem | indent }}\n" }
[[play.step]]
file = { dest = "DIR/short", content = "pin {{ secrets.short }}\n" }
[[play.step]]
for_each = "[secrets.inline, pw]"
line = { path = "DIR/env", line = "ITEM={{ item }}", create = true }
[[play.step]]
line = { path = "DIR/env", line = "PORT=80", create = true }
[[play.step]]
command = { argv = ["sh", "-c", "test -n \"$TOKEN\""], env = { TOKEN = "{{ secrets.env }}" }, creates = "DIR/no" }
[[play.step]]
command = { shell = "tr '\\0' ' ' < /proc/$$/cmdline > DIR/cmdline; : {{ secrets.script }}", unless = "test -e DIR/cmdline && : {{ secrets.guard }}" }
[[play.step]]
unit = { name = "dunlin-canary.service", content = "[Service]\nExecStart=/bin/true\nEnvironment=A={{ secrets.inline }}\n" }
[[play.step]]
link = { path = "DIR/link", target = "/x/{{ secrets.inline }}" }
"#;

struct Contents<'a>(&'a CompiledHost);

impl BlobSource for Contents<'_> {
    fn read_blob(&self, digest: &dunlin::plan::Digest) -> anyhow::Result<Vec<u8>> {
        Ok(self.0.contents.get(digest).map(|bytes| bytes.to_vec()).unwrap_or_default())
    }
}

/// Collects the messages of a run to its operator.
#[derive(Default)]
struct Messages(std::sync::Mutex<String>);

impl ProgressSink for Messages {
    fn emit(&self, event: Event) {
        self.0.lock().unwrap().push_str(&serde_json::to_string(&event).unwrap());
    }

    fn is_cancelled(&self) -> bool {
        false
    }
}

fn compile(playbook: &str, folder: &Path) -> Result<CompiledHost, String> {
    compile_selection(playbook, folder, StepSelection::default())
}

fn compile_selection(playbook: &str, folder: &Path, selection: StepSelection) -> Result<CompiledHost, String> {
    std::fs::create_dir_all(folder.join("templates")).unwrap();
    std::fs::write(folder.join("templates/secret.conf"), "token {{ secrets.template | lower | upper }}\n").unwrap();
    let mut found = Diagnostics::new();
    let templates = Templates::load_folder(&folder.join("templates"), &mut found);
    let text = playbook.replace("DIR", &folder.join("made").display().to_string());
    let playbook = Playbook::parse_text(&SourceFile::new("site.toml", text), &mut found);
    let hosts = "[hosts.host]\naddress = \"192.0.2.1\"\n";
    let inventory = Inventory::parse_hosts_toml(Path::new("hosts.toml"), hosts).inventory.unwrap();
    assert!(!found.has_errors(), "{}", found.render(false));
    let secrets = json!({
        "inline": "Canary-inline", "filter": "Canary-filter", "vars": "Canary-vars", "pem": "Canary-pem-1\nCanary-pem-2",
        "short": "q7w", "env": "Canary-env", "script": "Canary-script", "guard": "Canary-guard",
        "comment": "Canary-comment", "template": "Canary-template",
    });
    let compiler = Compiler::new(CompilerInput {
        inventory: &inventory,
        playbook: &playbook,
        templates: &templates,
        shard_map: None,
        file_folders: Vec::new(),
        secrets: Some(secrets),
        selection,
        digest_key: Some(DigestKey::from_random(b"test")),
    });
    let compiled = compiler.map_err(|found| found.render(false))?.compile_host("host", &HostFacts::default());
    compiled.map_err(|found| found.render(false))
}

fn assert_no_canary(what: &str, text: &str) {
    for canary in CANARIES {
        assert!(!text.contains(canary), "{what} shows {canary}:\n{text}");
    }
}

fn plan(compiled: &CompiledHost) -> Vec<ResourceChange> {
    plan_catalog(compiled.catalog.clone(), &Contents(compiled)).unwrap().rows().to_vec()
}

fn apply(compiled: &CompiledHost) -> (PlayResult, String) {
    let planned = plan_catalog(compiled.catalog.clone(), &Contents(compiled)).unwrap();
    let (messages, request) = (Messages::default(), ApplyPlay { play_index: 0, run: "test".to_owned() });
    let result = apply_play(&planned, &request, &Contents(compiled), &messages).unwrap();
    (result, messages.0.into_inner().unwrap())
}

#[test]
fn plans_show_no_secret_in_any_field() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("made")).unwrap();
    let compiled = compile(PLAYBOOK, folder.path()).unwrap();
    let first = plan(&compiled);
    assert_no_canary("the plan", &serde_json::to_string(&first).unwrap());
    assert!(first.iter().all(|row| row.action.is_pending()), "{first:#?}");

    // Everything but the account and the unit, which would be the machine's own.
    let without = PLAYBOOK.split("[[play.step]]\nunit").next().unwrap();
    let compiled = compile(without, folder.path()).unwrap();
    let (result, messages) = apply(&compiled);
    assert_eq!((result.failure, result.still_differing), (None, Vec::new()));
    assert_no_canary("the run", &messages);
    let mode = |name: &str| {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(folder.path().join("made").join(name)).unwrap().mode() & 0o777
    };
    assert_eq!([mode("inline"), mode("env"), mode("template"), mode("filter")], [0o600, 0o600, 0o600, 0o640]);
    let cmdline = std::fs::read_to_string(folder.path().join("made/cmdline")).unwrap();
    assert_no_canary("the shell's command line", &cmdline);
    // A change of the file by hand: the lines around it are secret, also in the diff of a step that has no secret.
    let env = folder.path().join("made/env");
    let text = std::fs::read_to_string(&env).unwrap();
    std::fs::write(&env, text.replace("PORT=80\n", "")).unwrap();
    let again = plan(&compiled);
    assert_eq!(again.iter().filter(|row| row.action == Action::Change).count(), 1);
    assert_no_canary("the diff of a step beside it", &serde_json::to_string(&again).unwrap());
}

#[test]
fn the_lines_of_steps_that_are_not_selected_are_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("made")).unwrap();
    let env = folder.path().join("made/env");
    let path = env.display();
    for other in [
        // Another tag, a condition that does not hold any more, a handler.
        r#"[[play.step]]
tags = ["password"]
line = { path = "PATH", line = "PASSWORD={{ secrets.inline }}" }"#,
        r#"[[play.step]]
when = "false"
tags = ["port"]
line = { path = "PATH", line = "PASSWORD={{ secrets.inline }}" }"#,
        r#"[[play.handler]]
name = "write the password"
line = { path = "PATH", line = "PASSWORD={{ secrets.inline }}" }"#,
    ] {
        std::fs::write(&env, "PASSWORD=Canary-inline\n").unwrap();
        let text = format!(
            "[[play]]\nname = \"p\"\nhosts = \"host\"\n{}\n[[play.step]]\ntags = [\"port\"]\nnotify = \"write the \
             password\"\nline = {{ path = \"{path}\", line = \"PORT=80\" }}\n",
            other.replace("PATH", &path.to_string())
        );
        let notify = "notify = \"write the password\"\n";
        let text = if other.contains("handler") { text } else { text.replace(notify, "") };
        let selection = StepSelection { tags: vec!["port".to_owned()], ..StepSelection::default() };
        let rows = plan(&compile_selection(&text, folder.path(), selection).unwrap());
        assert!(rows.iter().any(|row| row.action == Action::Change), "{rows:#?}");
        assert_no_canary("the diff of a step beside it", &serde_json::to_string(&rows).unwrap());
    }
}

#[test]
fn errors_about_a_value_do_not_show_it() {
    let folder = tempfile::tempdir().unwrap();
    let steps = [
        r#"line = { path = "/x", match = "^other", line = "password={{ secrets.inline }}" }"#,
        r#"line = { path = "/x", match = "({{ secrets.short }}", line = "x" }"#,
        r#"file = { dest = "/x", content = "{{ secrets.inline | bytes }}" }"#,
        r#"file = { dest = "/x", content = "{{ secrets.short | int }}" }"#,
        r#"file = { dest = "/x", content = "{{ secrets.inlin }}" }"#,
        "when = \"secrets.inline | bytes > 4\"\nfile = { dest = \"/x\", content = \"\" }",
        "name = \"{{ secrets.inline | bytes }}\"\nfile = { dest = \"/x\", content = \"\" }",
        "for_each = \"secrets.inline\"\nfile = { dest = \"/x\", content = \"\" }",
    ];
    let mut errors = Vec::new();
    for step in steps {
        let text = format!("[[play]]\nname = \"p\"\nhosts = \"host\"\n[[play.step]]\n{step}\n");
        let error = compile(&text, folder.path()).map(|compiled| format!("{:?}", compiled.catalog)).unwrap_err();
        assert_no_canary("the error", &error);
        // The origin of a decoy can be read from it.
        assert!(!error.contains("Dbobsz") && !error.contains("r8x"), "{error}");
        errors.push((step, error));
    }
    messages::check("errors-about-secrets", errors);
}

#[test]
fn failures_show_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("made")).unwrap();
    let steps = [
        r#"command = { shell = "true; : -------------------------------------------------------------- {{ secrets.script }}; exit 3" }"#,
        r#"command = { argv = ["sh", "-c", "echo bad token $TOKEN >&2; exit 4"], env = { TOKEN = "{{ secrets.env }}" } }"#,
        r#"command = { argv = ["true"], unless = "echo {{ secrets.guard }} >&2; kill -9 $$" }"#,
    ];
    let mut errors = Vec::new();
    for step in steps {
        let compiled =
            compile(&format!("[[play]]\nname = \"p\"\nhosts = \"host\"\n[[play.step]]\n{step}\n"), folder.path());
        let compiled = compiled.unwrap();
        let error = match plan_catalog(compiled.catalog.clone(), &Contents(&compiled)) {
            Err(error) => format!("{error:#}"),
            Ok(_) => {
                let (result, messages) = apply(&compiled);
                assert_no_canary("the run", &messages);
                result.failure.unwrap().error
            }
        };
        assert_no_canary("the error", &error);
        errors.push((step, error));
    }
    messages::check("failed-commands-with-secrets", errors);
}

/// Looks for canaries in the command lines and environments of all processes until `stop`; each finding is
/// `cmdline CANARY` or `environ CANARY`. `scans` is a file with the number of finished looks.
fn watch_processes(stop: &AtomicBool, scans: &Path) -> BTreeSet<String> {
    let (mut found, mut count) = (BTreeSet::new(), 0);
    while !stop.load(Ordering::Relaxed) {
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            for name in ["cmdline", "environ"] {
                // A process that has ended, or a file that is not a process.
                let Ok(bytes) = std::fs::read(process.path().join(name)) else { continue };
                let text = String::from_utf8_lossy(&bytes);
                // The short one may be a part of a random name of another program.
                let has_word =
                    |canary: &str| text.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == canary);
                let is_shown = |canary: &str| if canary.len() > 4 { text.contains(canary) } else { has_word(canary) };
                let shown = CANARIES.iter().filter(|canary| is_shown(canary));
                found.extend(shown.map(|canary| format!("{name} {canary}")));
            }
        }
        count += 1;
        std::fs::write(scans.with_extension("new"), format!("{count}")).unwrap();
        std::fs::rename(scans.with_extension("new"), scans).unwrap();
        std::thread::sleep(Duration::from_millis(10));
    }
    found
}

#[test]
fn no_process_of_a_run_shows_a_secret() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("made")).unwrap();
    let text = r#"
[[play]]
name = "processes"
hosts = "host"
[[play.step]]
file = { dest = "DIR/checked", content = "x {{ secrets.inline }}\n", validate = ["sh", "-c", "WAIT; test -s \"$1\"", "sh", "%s"] }
[[play.step]]
line = { path = "DIR/env", line = "ITEM={{ secrets.vars }}", create = true }
[[play.step]]
command = { shell = "WAIT; touch DIR/done; : {{ secrets.script }}", unless = "WAIT; : {{ secrets.guard }}; test -e DIR/done" }
[[play.step]]
command = { argv = ["sh", "-c", "WAIT; test -n \"$TOKEN\""], env = { TOKEN = "{{ secrets.env }}" }, creates = "DIR/no" }
"#;
    // Each program lives until the watch has looked at all processes once from the beginning.
    let wait = "n=$(cat DIR/scans); until [ $(cat DIR/scans) -ge $((n + 2)) ]; do sleep 0.05; done";
    let scans = folder.path().join("made/scans");
    std::fs::write(&scans, "0").unwrap();
    let compiled = compile(&text.replace("WAIT", wait), folder.path()).unwrap();
    let stop = AtomicBool::new(false);
    let (result, shown) = std::thread::scope(|scope| {
        let watch = scope.spawn(|| watch_processes(&stop, &scans));
        let (result, _) = apply(&compiled);
        stop.store(true, Ordering::Relaxed);
        (result, watch.join().unwrap())
    });
    assert_eq!((result.failure, result.still_differing), (None, Vec::new()));
    // A command's own environment, which only its user and root can read. It proves that the watch sees processes.
    assert_eq!(shown, BTreeSet::from(["environ Canary-env".to_owned()]));
}

#[test]
fn secrets_that_would_be_shown_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let steps = [
        r#"command = { argv = ["login", "--password", "{{ secrets.inline }}"] }"#,
        r#"command = { argv = ["true"], unless = ["test", "{{ secrets.short }}"] }"#,
        r#"file = { dest = "/{{ secrets.short }}", content = "" }"#,
        r#"group = { name = "{{ secrets.short }}" }"#,
        r#"package = { names = ["{{ secrets.short }}"] }"#,
        // An argument of useradd, and a field that every user of the host can read.
        r#"user = { name = "x", comment = "{{ secrets.comment }}" }"#,
        "for_each = \"secrets.short | split(pat='q')\"\nfile = { dest = \"/x\", content = \"\" }",
    ];
    let mut refusals = Vec::new();
    for step in steps {
        let refusal =
            compile(&format!("[[play]]\nname = \"p\"\nhosts = \"host\"\n[[play.step]]\n{step}\n"), folder.path());
        refusals.push((step, refusal.map(|compiled| format!("{:?}", compiled.catalog)).unwrap_err()));
    }
    messages::check("secrets-that-would-be-shown", refusals);
}

#[test]
fn a_plan_is_a_contract_about_what_is_wanted_too() {
    let folder = tempfile::tempdir().unwrap();
    let rows = |command: &str| {
        let text = format!("[[play]]\nname = \"p\"\nhosts = \"host\"\n[[play.step]]\ncommand = {{ {command} }}\n");
        plan(&compile(&text, folder.path()).unwrap())
    };
    let long = "-".repeat(80);
    let saved = rows(&format!("shell = \": {long} a\""));
    assert_eq!(rows(&format!("shell = \": {long} a\"")), saved);
    for other in ["b\"", "a\", user = \"nobody\"", "a\", env = { A = \"b\" }", "a\", cwd = \"/tmp\""] {
        assert_ne!(rows(&format!("shell = \": {long} {other}")), saved, "{other}");
    }
}

#[test]
fn a_row_does_not_overwrite_what_changed_since_the_plan() {
    let folder = tempfile::tempdir().unwrap();
    let made = folder.path().join("made");
    std::fs::create_dir(&made).unwrap();
    let steps = [
        // What was planned, what a colleague makes of it, what is there afterwards.
        (r#"file = { dest = "DIR/f", content = "new\n" }"#, "echo theirs > DIR/f", "theirs\n"),
        (r#"file = { dest = "DIR/f", content = "new {{ secrets.inline }}\n" }"#, "echo theirs > DIR/f", "theirs\n"),
        (r#"line = { path = "DIR/f", line = "x=1", match = "^x=" }"#, "echo x=9 > DIR/f", "x=9\n"),
        (r#"file = { dest = "DIR/f", state = "absent" }"#, "echo theirs > DIR/f", "theirs\n"),
    ];
    let removal = r#"directory = { path = "DIR/d", state = "absent", recurse = true }"#;
    let steps = steps
        .into_iter()
        .chain([(removal, "mv DIR/d/a DIR/d/b", "x=0\n"), (removal, "echo theirs > DIR/d/a", "x=0\n")]);
    let mut failures = Vec::new();
    for (step, edit, after) in steps {
        let file = made.join("f");
        std::fs::write(&file, "x=0\n").unwrap();
        std::fs::create_dir_all(made.join("d")).unwrap();
        std::fs::remove_file(made.join("d/b")).ok();
        std::fs::write(made.join("d/a"), "a").unwrap();
        let text = format!(
            "[[play]]\nname = \"p\"\nhosts = \"host\"\n[[play.step]]\ncommand = {{ shell = \"{edit}\" }}\n[[play.step]]\n{step}\n"
        );
        let (result, _) = apply(&compile(&text, folder.path()).unwrap());
        let failure = result.failure.unwrap_or_else(|| panic!("{step} was applied"));
        failures.push((format!("{step}, {edit}"), failure.error));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), after, "{step}");
        assert_eq!(std::fs::read_dir(made.join("d")).unwrap().count(), 1, "{step}");
    }
    messages::check("rows-changed-since-the-plan", failures);
}
