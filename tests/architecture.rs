//! Checks which module may import which: every path under `src/` must follow the table below.
//!
//! A layer is a folder of `src/`. Three of them have a `host` module, which runs on the hosts and does not import the
//! controller's modules. Test modules may import more. `shards` stands for the crate `dunlin_shards`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test stops at what is missing, and prints what it measured"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A layer and the layers that it may import. A layer may always import itself, and a `host` module its parent.
/// A name without `::host` allows both.
const ALLOWED_IMPORTS: &[(&str, &[&str])] = &[
    // The vocabulary and the edges: they import no other layer.
    ("plan", &[]),
    // `process`: dynamic inventories.
    ("inventory", &["process", "duration"]),
    // `lock`: the folder of a run is locked as long as the run lives.
    ("transport", &["lock"]),
    // Mechanisms that exist once.
    ("poll", &[]),
    ("duration", &[]),
    // Files with keys.
    ("private_file", &[]),
    ("atomic_file", &[]),
    // Paths of a host, opened and changed by handles.
    ("host_fs", &["atomic_file"]),
    ("http", &[]),
    // A rate of bytes: copies of shards, and transfers to hosts.
    ("token_bucket", &[]),
    ("process", &["poll"]),
    // The host's lock, held by the agent for all three jobs.
    ("lock", &["protocol", "poll"]),
    ("journal", &["lock", "atomic_file"]),
    // What is said between controller and agent is said in the vocabulary's words.
    // `shards`: the number of a shard.
    ("protocol", &["plan", "shards"]),
    // `shards`: the resource `shard_map` is the map's file on the hosts that route by it.
    ("resources", &["plan", "shards", "atomic_file", "host_fs", "poll", "process", "duration"]),
    // `plan`: a binary's digest is compared with that of the agent.
    ("fleet", &["transport", "protocol", "plan", "token_bucket"]),
    // Where the parts of a project are, and the mistakes in `dunlin.toml`. `plan`: the key that seals plans.
    ("project", &["inventory", "plan", "private_file"]),
    // Certificates of Redis instances, beside the secrets of the inventory.
    ("certificates", &["inventory", "atomic_file", "private_file"]),
    // `protocol`: a host's facts, and the catalog that comes out of it.
    ("playbook", &["inventory", "project", "plan", "resources", "protocol", "shards"]),
    // Plans and outcomes are values of `provision`, `deploy` and `rebalance`, with inventory sizes.
    ("report", &["plan", "protocol", "provision", "deploy", "rebalance", "inventory", "shards"]),
    // The modules that run on hosts.
    ("provision::host", AGENT_MODULES),
    ("deploy::host", AGENT_MODULES),
    ("rebalance::host", AGENT_MODULES),
    // The modules of the controller. `transport`: only the errors, see ERRORS_ONLY.
    ("provision", CONTROLLER_MODULES),
    // `resources`: modes. `process`: git, builds and the commands of `[notify]`.
    (
        "deploy",
        &[
            "plan",
            "playbook",
            "fleet",
            "inventory",
            "protocol",
            "transport",
            "resources",
            "project",
            "atomic_file",
            "http",
            "duration",
            "process",
        ],
    ),
    ("rebalance", CONTROLLER_MODULES),
    (
        "agent",
        &[
            "provision::host",
            "deploy::host",
            "rebalance::host",
            "atomic_file",
            "lock",
            "protocol",
            "resources",
            "plan",
            "process",
        ],
    ),
    (
        "cli",
        &[
            "agent",
            "atomic_file",
            "certificates",
            "deploy",
            "duration",
            "fleet",
            "inventory",
            "journal",
            "plan",
            "playbook",
            "private_file",
            "process",
            "project",
            "provision",
            "rebalance",
            "report",
            "resources",
            "transport",
            "protocol",
            "shards",
        ],
    ),
    ("main", &["cli"]),
];

const AGENT_MODULES: &[&str] = &[
    "resources",
    "plan",
    "journal",
    "protocol",
    "shards",
    "atomic_file",
    "host_fs",
    "lock",
    "poll",
    "http",
    "process",
    "token_bucket",
];
const CONTROLLER_MODULES: &[&str] = &[
    "plan",
    "playbook",
    "project",
    "fleet",
    "inventory",
    "journal",
    "protocol",
    "transport",
    "shards",
    "atomic_file",
    "poll",
    "process",
];

/// From these layers, `transport` may only be imported for its errors.
const ERROR_TYPE_MODULES: &[&str] = &["provision", "deploy", "rebalance"];
const ERROR_TYPES: &[&str] = &["ConnectError", "ConnectErrorKind"];

/// Layers with a `host` module.
const SPLIT_MODULES: &[&str] = &["provision", "deploy", "rebalance"];

#[test]
fn the_table_of_the_documentation_is_the_one_that_is_checked() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md")).unwrap();
    let documented: Vec<&str> = text.lines().filter(|line| line.starts_with("| `")).collect();
    let row = |(module, imports): &(&str, &[&str])| {
        let imports: Vec<String> = imports.iter().map(|import| format!("`{import}`")).collect();
        format!("| `{module}` | {} |", imports.join(", "))
    };
    assert_eq!(documented, ALLOWED_IMPORTS.iter().map(row).collect::<Vec<_>>());
}

#[test]
fn every_import_is_allowed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut broken = Vec::new();
    let mut seen = 0;
    for file in source_files(&root.join("src")) {
        let text = std::fs::read_to_string(&file).unwrap();
        let shown = file.strip_prefix(root).unwrap();
        let module = module_path(shown);
        if module.is_empty() {
            continue; // lib.rs only declares the modules
        }
        for import in find_imports(&text, &module) {
            seen += 1;
            if let Some(rule) = import_violation(&module, &import.path) {
                broken.push(format!("{}:{}: {rule}", shown.display(), import.line));
            }
        }
    }
    assert!(seen > 150, "only {seen} imports were found under src/; this test does not read them any more");
    assert!(broken.is_empty(), "imports that the table of layers does not allow:\n{}", broken.join("\n"));
}

/// Modules that run on hosts as root, where a path may lead through what a user controls.
const HOST_MODULES: &[&str] = &["resources", "provision/host", "deploy/host", "rebalance/host"];
/// Files of these modules that may change paths with `std::fs`, and why no user can come in between.
const TRUSTED_FOLDERS: &[(&str, &str)] = &[
    ("resources/apt.rs", "/usr/sbin belongs to root"),
    ("resources/content_check.rs", "the folder is new, and only its owner can write to it"),
    ("deploy/host/layout.rs", "the folders of a service were checked by ServiceLayout::create_dirs"),
    ("deploy/host/stage.rs", "the folders of a service were checked by ServiceLayout::create_dirs"),
    ("deploy/host/prune.rs", "the folders of a service were checked by ServiceLayout::create_dirs"),
    ("provision/host/pending_handlers.rs", "the state folder belongs to root"),
    ("rebalance/host/run_generation.rs", "the state folder belongs to root"),
];
/// Calls that change a path, or open it to do so, and follow links.
const UNSAFE_CALLS: &[&str] = &[
    "fs::write",
    "fs::create_dir",
    "fs::remove_",
    "fs::rename",
    "fs::copy",
    "fs::set_permissions",
    "fs::hard_link",
    "File::create",
    "OpenOptions",
    "DirBuilder",
    "fs::symlink(",
    "chown(",
];

#[test]
fn host_modules_change_paths_by_handles() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut broken = Vec::new();
    let mut trusted: BTreeSet<&str> = BTreeSet::new();
    for file in HOST_MODULES.iter().flat_map(|module| source_files(&src.join(module))) {
        let shown = file.strip_prefix(&src).unwrap().display().to_string();
        let text = std::fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap_or_default().replace("host_fs::", "");
        let mut lines = code.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
        let Some((index, line)) = lines.find(|(_, line)| UNSAFE_CALLS.iter().any(|call| line.contains(call))) else {
            continue;
        };
        match TRUSTED_FOLDERS.iter().find(|(name, _)| *name == shown) {
            Some((name, _)) => drop(trusted.insert(name)),
            None => broken.push(format!("src/{shown}:{}: {}", index + 1, line.trim())),
        }
    }
    assert!(
        broken.is_empty(),
        "use host_fs, or say in TRUSTED_FOLDERS why no user can plant a link:\n{}",
        broken.join("\n")
    );
    assert_eq!(trusted.len(), TRUSTED_FOLDERS.len(), "TRUSTED_FOLDERS names files that need no exception");
}

/// Lines that name a stream of this process and print nothing: whether it is a terminal, and the frames of an agent.
const UNPRINTED_STREAMS: &[&str] = &[".is_terminal()", "self.has_colors(&", "try_clone_to_owned()"];

#[test]
fn nothing_prints_past_the_reporter() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut broken = Vec::new();
    for file in source_files(&src).iter().filter(|file| !file.starts_with(src.join("report"))) {
        let code = strip_tests_and_comments(&std::fs::read_to_string(file).unwrap());
        for (index, line) in code.lines().enumerate() {
            // `print!` and its like are lints of clippy.
            let names_stream =
                ["io::stdout()", "io::stderr()", "Stdio::inherit()"].iter().any(|name| line.contains(name));
            if names_stream && !UNPRINTED_STREAMS.iter().any(|use_| line.contains(use_)) {
                broken.push(format!("{}:{}: {}", file.display(), index + 1, line.trim()));
            }
        }
    }
    assert!(broken.is_empty(), "print through the reporter:\n{}", broken.join("\n"));
}

#[test]
fn every_module_is_listed_without_cycles() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in std::fs::read_dir(&src).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let layer = name.trim_end_matches(".rs");
        assert!(
            layer == "lib" || allowed_imports(layer).is_some(),
            "src/{name} is not in the table of tests/architecture.rs"
        );
    }
    for (layer, _) in ALLOWED_IMPORTS {
        let mut reached: Vec<&str> = Vec::new();
        let mut next: Vec<&str> = allowed_imports(layer).unwrap().to_vec();
        while let Some(to) = next.pop() {
            assert_ne!(to, *layer, "the table lets {layer} import itself in a circle");
            if !reached.contains(&to) {
                reached.push(to);
                next.extend(allowed_imports(to).unwrap_or_default());
            }
        }
    }
}

#[test]
fn no_modules_import_each_other_in_a_circle() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for crate_root in ["src", "shards/src", "timeline/src"] {
        let folder = root.join(crate_root);
        let sources: Vec<(Vec<String>, String)> = source_files(&folder)
            .into_iter()
            .filter(|file| !file.starts_with(folder.join("bin")))
            .map(|file| {
                let inside = Path::new("src").join(file.strip_prefix(&folder).unwrap());
                (module_path(&inside), std::fs::read_to_string(file).unwrap())
            })
            .collect();
        assert!(sources.len() > 5, "only {} files were found in {crate_root}", sources.len());
        let circles = find_import_circles(&sources);
        assert!(circles.is_empty(), "modules of {crate_root} that import each other:\n{}", circles.join("\n"));
    }
}

#[test]
fn import_circles_are_detected() {
    let circles = |files: &[(&str, &str)]| {
        let sources: Vec<(Vec<String>, String)> = files
            .iter()
            .map(|(path, text)| (path.split("::").map(str::to_owned).collect(), (*text).to_owned()))
            .collect();
        find_import_circles(&sources)
    };
    let a = ("host::a", "use super::b::{self, Thing};");
    assert_eq!(circles(&[a, ("host::b", "use super::c;")]), [""; 0]);
    assert_eq!(circles(&[a, ("host::b", "fn x() { super::a::y() }")]), ["host::a, host::b"]);
    let parent = ("host", "pub use a::{First, Other};\npub use b::Thing;");
    assert_eq!(
        circles(&[parent, ("host::a", "use super::Thing;"), ("host::b", "use super::First;")]),
        ["host::a, host::b"]
    );
    assert_eq!(
        circles(&[a, ("host::b", "use crate::host::{c::D, e};"), ("host::c", "use super::a;")]),
        ["host::a, host::b, host::c"]
    );
    // A module and its parent are one unit; what tests import makes no circle.
    assert_eq!(circles(&[("host", "mod a;\nuse a::x;"), ("host::a", "use super::y;")]), [""; 0]);
    assert_eq!(circles(&[a, ("host::b", "#[cfg(test)]\nmod tests {\n    use super::super::a;\n}\n")]), [""; 0]);
}

/// Returns the circles of imports, each as the list of its modules. A module that is an ancestor of another makes none
/// with it.
fn find_import_circles(sources: &[(Vec<String>, String)]) -> Vec<String> {
    let modules: Vec<&Vec<String>> = sources.iter().map(|(module, _)| module).collect();
    let is_ancestor = |a: &[String], b: &[String]| b.starts_with(a);
    let reexports: Vec<BTreeMap<String, Vec<String>>> =
        sources.iter().map(|(module, text)| find_reexports(text, module)).collect();
    let find_module = |path: &[String]| {
        let named = modules.iter().enumerate().filter(|(_, other)| path.starts_with(other.as_slice()));
        named.max_by_key(|(_, other)| other.len()).map(|(index, _)| index)
    };
    // A name that a module re-exports belongs to the module below that declares it.
    let find_declaring_module = |path: &[String]| {
        let mut found = find_module(path)?;
        let mut name = path.get(modules[found].len());
        while let Some(declared) = name.and_then(|name| reexports[found].get(name)) {
            let inner = find_module(declared).filter(|inner| *inner != found);
            let Some(inner) = inner else { break };
            (found, name) = (inner, declared.get(modules[inner].len()));
        }
        Some(found)
    };
    let imports: Vec<Vec<usize>> = sources
        .iter()
        .map(|(module, text)| {
            let used = find_imports(text, module).into_iter().filter_map(|import| find_declaring_module(&import.path));
            used.filter(|other| !is_ancestor(module, modules[*other]) && !is_ancestor(modules[*other], module))
                .collect()
        })
        .collect();
    let reachable: Vec<BTreeSet<usize>> = (0..modules.len())
        .map(|start| {
            let (mut reached, mut next) = (BTreeSet::new(), imports[start].clone());
            while let Some(module) = next.pop() {
                if reached.insert(module) {
                    next.extend(&imports[module]);
                }
            }
            reached
        })
        .collect();
    let mut circles = BTreeSet::new();
    for module in (0..modules.len()).filter(|module| reachable[*module].contains(module)) {
        let circle =
            (0..modules.len()).filter(|other| reachable[module].contains(other) && reachable[*other].contains(&module));
        let names: Vec<String> = circle.map(|other| modules[other].join("::")).collect();
        circles.insert(names.join(", "));
    }
    circles.into_iter().collect()
}

#[test]
fn timeline_does_not_use_dunlin() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dependencies = |manifest: &str| {
        let text = std::fs::read_to_string(root.join(manifest)).unwrap();
        let table: toml::Table = text.parse().unwrap();
        let names = |key: &str| {
            table.get(key).and_then(toml::Value::as_table).map(|t| t.keys().cloned().collect()).unwrap_or_default()
        };
        let (mut all, dev): (Vec<String>, Vec<String>) = (names("dependencies"), names("dev-dependencies"));
        all.extend(dev);
        assert!(!all.is_empty(), "{manifest} has no dependencies?");
        all
    };
    let has = |manifest: &str, name: &str| dependencies(manifest).iter().any(|own| own == name);
    assert!(!has("Cargo.toml", "timeline"), "dunlin ships the service as an artifact and imports nothing of it");
    assert!(!has("timeline/Cargo.toml", "dunlin"), "the service imports dunlin-shards only");
    for outer in ["dunlin", "timeline", "clap"] {
        assert!(!has("shards/Cargo.toml", outer), "dunlin-shards is used by services and must not need {outer}");
    }
}

#[test]
fn forbidden_imports_are_detected() {
    let found = |module: &[&str], text: &str| -> Vec<String> {
        let module: Vec<String> = module.iter().map(ToString::to_string).collect();
        let lines = find_imports(text, &module).into_iter();
        lines
            .filter_map(|import| Some(format!("{}: {}", import.line, import_violation(&module, &import.path)?)))
            .collect()
    };
    let host = ["deploy", "host", "stage"];
    assert_eq!(
        found(&host, "use std::fs;\nuse crate::fleet::Fleet;"),
        [
            "2: deploy::host must not import fleet (it may import resources, plan, journal, protocol, shards, atomic_file, host_fs, lock, poll, http, process, token_bucket)"
        ]
    );
    assert_eq!(found(&host, "use crate::{\n    plan::Digest,\n    inventory::{Host, Name},\n};").len(), 2);
    assert_eq!(found(&host, "fn a() { crate::cli::main(); }").len(), 1);
    assert_eq!(found(&host, "fn a() { super::super::super::cli::main(); }").len(), 1);
    assert_eq!(found(&host, "use crate::deploy::plan::Row;\nuse super::super::values::Value;"), [""; 0]);
    assert_eq!(found(&host, "/// See [`crate::cli::Cli`].\nfn a() {}"), [""; 0]);
    assert_eq!(found(&host, "#[cfg(test)]\nmod tests {\n    use crate::cli::Cli;\n}\nuse crate::cli::Cli;").len(), 1);
    assert_eq!(found(&["agent"], "use crate::deploy;\nfn a(_: deploy::host::Host) {}"), [""; 0]);
    assert_eq!(found(&["agent"], "use crate::deploy;\nfn a(_: deploy::plan::Plan) {}").len(), 1);
    assert_eq!(found(&["deploy", "apply"], "use crate::transport::{ConnectError, ConnectErrorKind};"), [""; 0]);
    assert_eq!(found(&["deploy", "apply"], "use crate::transport::Ssh;").len(), 1);
    assert_eq!(found(&["plan"], "use dunlin_shards::ShardMap;").len(), 1);
}

/// Returns why this import is not allowed, or `None`.
fn import_violation(module: &[String], path: &[String]) -> Option<String> {
    let (from, to) = (module_layer(module), module_layer(path));
    let top = |layer: &str| layer.split("::").next().unwrap_or_default().to_owned();
    // A module sees its own layer; the controller's module does not see the host's, which is the agent's to call.
    if top(&from) == top(&to) {
        return None;
    }
    let rule = allowed_imports(&from)?;
    if !rule.iter().any(|name| *name == to || *name == top(&to)) {
        return Some(format!("{from} must not import {to} (it may import {})", rule.join(", ")));
    }
    let name = path.get(1).map_or("", String::as_str);
    let errors_only = to == "transport" && ERROR_TYPE_MODULES.contains(&from.as_str());
    (errors_only && !ERROR_TYPES.contains(&name))
        .then(|| format!("{from} may import of transport only {}, not {name}", ERROR_TYPES.join(", ")))
}

fn allowed_imports(layer: &str) -> Option<&'static [&'static str]> {
    ALLOWED_IMPORTS.iter().find(|(name, _)| *name == layer).map(|(_, rule)| *rule)
}

/// Returns the layer of a module's path: `deploy::host::stage` is in `deploy::host`, `deploy::plan` in `deploy`.
fn module_layer(path: &[String]) -> String {
    let top = path.first().map_or("", String::as_str);
    let half = SPLIT_MODULES.contains(&top) && path.get(1).is_some_and(|name| name == "host");
    if half { format!("{top}::host") } else { top.to_owned() }
}

/// `src/deploy/host/mod.rs` and `src/deploy/host.rs` are `deploy::host`; `src/lib.rs` is the empty path.
fn module_path(file: &Path) -> Vec<String> {
    let inside = file.strip_prefix("src").unwrap().with_extension("");
    let mut path: Vec<String> = inside.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    path.pop_if(|last| last == "mod" || last == "lib");
    path
}

/// All source files that are not tests.
fn source_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.file_stem().is_some_and(|stem| stem == "tests") {
            continue;
        }
        if path.is_dir() {
            files.extend(source_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// A path from the crate's root that a file names, and the line on which it begins.
struct ImportUse {
    line: usize,
    path: Vec<String>,
}

/// All paths that begin with `crate::`, with enough `super::` to leave the module, or with `dunlin_shards::`.
fn find_imports(text: &str, module: &[String]) -> Vec<ImportUse> {
    let code = strip_tests_and_comments(text);
    let mut found = Vec::new();
    for (start, _) in code.match_indices("::") {
        let head = code[..start].rsplit(|c: char| !is_word(c)).next().unwrap_or_default();
        let before = &code[..start - head.len()];
        if before.ends_with("::") {
            continue;
        }
        let root = match head {
            "crate" => Vec::new(),
            "super" => module.split_last().map(|(_, parent)| parent.to_vec()).unwrap_or_default(),
            "dunlin_shards" => vec!["shards".to_owned()],
            _ => continue,
        };
        let line = code[..start].matches('\n').count() + 1;
        let mut rest = &code[start + 2..];
        expand_import(&mut rest, &root, &mut |path| found.push(ImportUse { line, path }));
    }
    let bare: Vec<String> =
        found.iter().filter(|import| import.path.len() == 1).map(|import| import.path[0].clone()).collect();
    // `use crate::deploy;` does not show which module is used; its uses do.
    found.retain(|import| import.path.len() > 1 || !SPLIT_MODULES.contains(&import.path[0].as_str()));
    for layer in bare.iter().filter(|layer| SPLIT_MODULES.contains(&layer.as_str())) {
        for (start, _) in code.match_indices(&format!("{layer}::")) {
            let before = &code[..start];
            if !before.ends_with("::") && !before.ends_with(is_word) {
                let line = before.matches('\n').count() + 1;
                let mut rest = &code[start + layer.len() + 2..];
                expand_import(&mut rest, std::slice::from_ref(layer), &mut |path| found.push(ImportUse { line, path }));
            }
        }
    }
    found
}

/// Returns the names that a module re-exports from modules below it, with their paths.
fn find_reexports(text: &str, module: &[String]) -> BTreeMap<String, Vec<String>> {
    let code = strip_tests_and_comments(text);
    let mut found = BTreeMap::new();
    for (start, _) in code.match_indices("pub use ").chain(code.match_indices("pub(super) use ")) {
        let statement = &code[start..];
        let mut rest = &statement[statement.find(" use ").unwrap_or_default() + 5..];
        let first = rest.split(|c: char| !is_word(c)).next().unwrap_or_default();
        if !matches!(first, "crate" | "super" | "dunlin_shards") {
            expand_import(&mut rest, module, &mut |path| {
                found.extend(path.last().cloned().map(|name| (name, path.clone())));
            });
        }
    }
    found
}

/// Walks `a::{b, c::d}` and hands each path over.
fn expand_import(rest: &mut &str, path: &[String], found: &mut dyn FnMut(Vec<String>)) {
    *rest = rest.trim_start();
    if let Some(inner) = rest.strip_prefix('{') {
        *rest = inner;
        loop {
            *rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
            if let Some(after) = rest.strip_prefix('}') {
                *rest = after;
                return;
            }
            let length = rest.len();
            expand_import(rest, path, found);
            // `as name` belongs to what was just read.
            let skipped = rest.find([',', '}']).unwrap_or(rest.len());
            *rest = &rest[skipped..];
            if rest.len() == length {
                return;
            }
        }
    }
    let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
    let (word, after) = rest.split_at(end);
    *rest = after;
    let mut path = path.to_vec();
    match word {
        "super" => drop(path.pop()),
        "self" | "" => {}
        _ => path.push(word.to_owned()),
    }
    match rest.strip_prefix("::") {
        Some(inner) => {
            *rest = inner;
            expand_import(rest, &path, found);
        }
        None if path.is_empty() => {}
        None => found(path),
    }
}

/// Blanks comments and `#[cfg(test)]` modules; lines keep their numbers.
fn strip_tests_and_comments(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut test_module = false;
    let mut cfg_test = false;
    for line in text.lines() {
        let bare = line.split("//").next().unwrap_or_default();
        if test_module {
            // Formatted code: the module ends where a brace stands in the first column.
            test_module = line != "}";
        } else if cfg_test
            && bare
                .trim_start_matches("pub(crate) ")
                .trim_start_matches("pub(super) ")
                .trim_start_matches("pub ")
                .starts_with("mod ")
            && bare.trim_end().ends_with('{')
        {
            test_module = true;
        } else {
            code.push_str(bare);
        }
        cfg_test = line.starts_with("#[cfg(test)]");
        code.push('\n');
    }
    code
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}
