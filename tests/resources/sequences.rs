//! The promise of the dry run, for sequences of path steps: apply finds for each step exactly what the plan showed, and
//! where no two steps contradict each other a second plan is empty.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use dunlin::plan::Action;
use dunlin::resources::{ApplyContext, DynResource};
use proptest::prelude::{Just, Strategy, prop};
use proptest::{prop_oneof, proptest};
use serde_json::{Value, json};

use crate::owner::current_owner;
use crate::support::{ResourceBlobs, StepPlan, apply_step, plan_steps};

/// The places that steps and worlds are made over: few, so that they meet.
const TEST_PATHS: [&str; 8] = ["a", "b", "a/x", "a/y", "a/d", "a/d/z", "b/x", "l"];
const TEST_TEXTS: [&str; 3] = ["one\n", "one\ntwo\n", "three"];
const TEST_LINES: [&str; 3] = ["one", "two", "four"];
const TEST_MODES: [&str; 2] = ["0700", "0755"];
const LINK_TARGETS: [&str; 4] = ["a", "b", "a/d", "nowhere"];

/// A kind and its table without root folder and owner: `path`, `dest` and `target` are relative.
#[derive(Clone, Debug)]
struct GeneratedStep {
    kind: &'static str,
    place: &'static str,
    table: Value,
}

/// Something that stands there before.
#[derive(Clone, Debug)]
enum InitialEntry {
    File(&'static str),
    Directory,
    Link(&'static str),
}

fn any_of<T: Clone + std::fmt::Debug + 'static>(of: &'static [T]) -> impl Strategy<Value = T> {
    prop::sample::select(of)
}

fn any_step() -> impl Strategy<Value = GeneratedStep> {
    let directory = (any_of(&TEST_PATHS), any_of(&TEST_MODES), prop::bool::ANY).prop_map(|(place, mode, parents)| {
        GeneratedStep { kind: "directory", place, table: json!({ "mode": mode, "parents": parents }) }
    });
    let no_directory = (any_of(&TEST_PATHS), prop::bool::ANY).prop_map(|(place, recurse)| GeneratedStep {
        kind: "directory",
        place,
        table: json!({ "state": "absent", "recurse": recurse }),
    });
    let file = (any_of(&TEST_PATHS), any_of(&TEST_TEXTS), any_of(&TEST_MODES)).prop_map(|(place, text, mode)| {
        GeneratedStep { kind: "file", place, table: json!({ "content": text, "mode": mode }) }
    });
    let no_file = any_of(&TEST_PATHS).prop_map(|place| GeneratedStep {
        kind: "file",
        place,
        table: json!({ "state": "absent" }),
    });
    let link = (any_of(&TEST_PATHS), any_of(&LINK_TARGETS), prop::bool::ANY).prop_map(|(place, target, absolute)| {
        GeneratedStep { kind: "link", place, table: json!({ "target": target, "absolute": absolute }) }
    });
    let no_link = any_of(&TEST_PATHS).prop_map(|place| GeneratedStep {
        kind: "link",
        place,
        table: json!({ "state": "absent" }),
    });
    let line = (any_of(&TEST_PATHS), any_of(&TEST_LINES), prop::bool::ANY).prop_map(|(place, line, create)| {
        GeneratedStep { kind: "line", place, table: json!({ "line": line, "create": create }) }
    });
    let no_line = (any_of(&TEST_PATHS), any_of(&TEST_LINES)).prop_map(|(place, line)| GeneratedStep {
        kind: "line",
        place,
        table: json!({ "line": line, "state": "absent" }),
    });
    prop_oneof![4 => directory, 1 => no_directory, 4 => file, 1 => no_file, 3 => link, 1 => no_link, 4 => line, 1 => no_line]
}

fn any_initial_state() -> impl Strategy<Value = Vec<(&'static str, InitialEntry)>> {
    let thing = prop_oneof![
        any_of(&TEST_TEXTS).prop_map(InitialEntry::File),
        Just(InitialEntry::Directory),
        Just(InitialEntry::Directory),
        any_of(&LINK_TARGETS).prop_map(InitialEntry::Link),
    ];
    prop::collection::vec((any_of(&TEST_PATHS), thing), 0..6)
}

/// Makes the things that can be made; the others find no folder, or their place taken.
fn create_initial_state(root: &Path, things: &[(&str, InitialEntry)]) {
    for (place, thing) in things {
        let path = root.join(place);
        if fs::symlink_metadata(&path).is_ok() || !path.parent().is_some_and(Path::is_dir) {
            continue;
        }
        match thing {
            InitialEntry::File(text) => fs::write(&path, text).unwrap(),
            InitialEntry::Directory => {
                fs::create_dir(&path).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            }
            InitialEntry::Link(target) => symlink(target, &path).unwrap(),
        }
    }
}

fn parse_generated(wish: &GeneratedStep, root: &Path, store: &mut ResourceBlobs) -> Box<dyn DynResource> {
    let mut table = wish.table.clone();
    let key = if wish.kind == "file" { "dest" } else { "path" };
    table[key] = json!(root.join(wish.place));
    if wish.kind == "link" {
        let keys = table.as_object_mut().unwrap();
        if keys.remove("absolute") == Some(json!(true)) {
            let target = root.join(keys["target"].as_str().unwrap());
            keys.insert("target".to_owned(), json!(target));
        }
    } else {
        let (user, group) = current_owner();
        table["owner"] = json!(user);
        table["group"] = json!(group);
    }
    store.parse_step(wish.kind, table).unwrap()
}

/// Leaves out what `check` refuses: a file has one owner, or several steps each with a line of it. Links can lead to
/// one file by two paths, which never differ in their last name.
fn without_conflicts(wishes: Vec<GeneratedStep>) -> Vec<GeneratedStep> {
    let name = |wish: &GeneratedStep| wish.place.rsplit('/').next().unwrap_or_default().to_owned();
    let mut kept: Vec<GeneratedStep> = Vec::new();
    for wish in wishes {
        let is_second = |other: &GeneratedStep| {
            let kinds = (wish.kind, other.kind);
            name(other) == name(&wish) && matches!(kinds, ("file", "file") | ("file", "line") | ("line", "file"))
        };
        if !kept.iter().any(is_second) {
            kept.push(wish);
        }
    }
    kept
}

/// Returns whether no step reverts another one; then a second plan is empty.
fn can_coexist(wishes: &[&GeneratedStep], root: &Path) -> bool {
    let real = |wish: &GeneratedStep| -> Option<PathBuf> {
        let path = root.join(wish.place);
        let folder = fs::canonicalize(path.parent()?).ok()?;
        Some(folder.join(path.file_name()?))
    };
    let removes = |wish: &GeneratedStep| wish.table.get("state").is_some();
    wishes.iter().enumerate().all(|(at, one)| {
        wishes[..at].iter().all(|other| {
            let (Some(a), Some(b)) = (real(one), real(other)) else { return false };
            let both_lines = one.kind == "line" && other.kind == "line" && one.table["line"] != other.table["line"];
            let apart = if a == b { both_lines } else { true };
            let under = |upper: &GeneratedStep, p: &Path, q: &Path| {
                (removes(upper) || upper.kind != "directory") && q.starts_with(p) && p != q
            };
            // A link made later turns the path of an earlier step into another one.
            let redirected =
                one.kind == "link" && one.place != other.place && Path::new(other.place).starts_with(one.place);
            apart && !redirected && !under(one, &a, &b) && !under(other, &b, &a)
        })
    })
}

fn check_sequence(things: &[(&'static str, InitialEntry)], wishes: &[GeneratedStep]) {
    let folder = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(folder.path()).unwrap();
    create_initial_state(&root, things);
    let mut store = ResourceBlobs::default();
    let all: Vec<Box<dyn DynResource>> = wishes.iter().map(|wish| parse_generated(wish, &root, &mut store)).collect();
    let planned = plan_steps(&all, &store);
    // A step whose plan is an error ends a real plan; here it is left out, and the rest is a plan of its own.
    let (mut steps, mut rows, mut kept): (Vec<Box<dyn DynResource>>, Vec<StepPlan>, Vec<&GeneratedStep>) =
        Default::default();
    for ((step, row), wish) in all.into_iter().zip(planned).zip(wishes) {
        if let Ok(row) = row {
            steps.push(step);
            rows.push(row);
            kept.push(wish);
        }
    }
    let mut site = ApplyContext::new(&store);
    for (step, row) in steps.iter().zip(&rows) {
        let found = apply_step(&**step, &mut site, &store).unwrap_or_else(|error| panic!("{row:?}: {error:#}"));
        assert!(row.action == Action::Unknown || row.action == found.action, "planned {row:?}, found {found:?}");
        if row.action != Action::Unknown {
            assert_eq!(&found, row, "apply finds what the plan showed");
        }
        let after = plan_steps(std::slice::from_ref(step), &store).remove(0).unwrap();
        assert_eq!((after.action, &after.changes), (Action::None, &Vec::new()), "{} is settled", after.resource);
    }
    if can_coexist(&kept, &root) {
        for row in plan_steps(&steps, &store) {
            let row = row.unwrap();
            assert_eq!((row.action, &row.changes), (Action::None, &Vec::new()), "second plan: {}", row.resource);
        }
    }
}

proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn apply_does_what_the_plan_shows(things in any_initial_state(), wishes in prop::collection::vec(any_step(), 1..9)) {
        check_sequence(&things, &without_conflicts(wishes));
    }
}

#[test]
fn generated_sequences_include_idempotent_ones() {
    let wishes = [
        GeneratedStep { kind: "directory", place: "a/d", table: json!({ "mode": "0700", "parents": true }) },
        GeneratedStep { kind: "file", place: "a/x", table: json!({ "content": "one\n", "mode": "0755" }) },
        GeneratedStep { kind: "link", place: "l", table: json!({ "target": "a/d", "absolute": false }) },
        GeneratedStep { kind: "line", place: "a/d/z", table: json!({ "line": "one", "create": true }) },
        GeneratedStep { kind: "line", place: "a/d/z", table: json!({ "line": "two", "create": false }) },
    ];
    let folder = tempfile::tempdir().unwrap();
    assert!(!can_coexist(&wishes.iter().collect::<Vec<_>>(), folder.path()), "nothing is there yet");
    create_initial_state(folder.path(), &[("a", InitialEntry::Directory), ("a/d", InitialEntry::Directory)]);
    assert!(can_coexist(&wishes.iter().collect::<Vec<_>>(), folder.path()));
    check_sequence(&[], &wishes);
    check_sequence(&[("a", InitialEntry::Directory), ("l", InitialEntry::Link("b"))], &wishes);
}

#[test]
fn recreated_folders_are_empty() {
    let things =
        [("a", InitialEntry::Directory), ("a/d", InitialEntry::Directory), ("a/x", InitialEntry::File("one\n"))];
    let wishes = [
        GeneratedStep { kind: "directory", place: "a", table: json!({ "state": "absent", "recurse": true }) },
        GeneratedStep { kind: "directory", place: "a/d", table: json!({ "mode": "0755", "parents": true }) },
        GeneratedStep { kind: "file", place: "a/x", table: json!({ "content": "one\n", "mode": "0755" }) },
    ];
    check_sequence(&things, &wishes);
}

#[test]
fn removed_folders_may_have_files_of_earlier_steps() {
    let things = [("b", InitialEntry::Directory), ("b/x", InitialEntry::File("one\n"))];
    let wishes = [
        GeneratedStep { kind: "line", place: "b/x", table: json!({ "line": "two", "create": false }) },
        GeneratedStep { kind: "directory", place: "b", table: json!({ "state": "absent", "recurse": true }) },
    ];
    check_sequence(&things, &wishes);
}
