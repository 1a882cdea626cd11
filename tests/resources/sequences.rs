//! The promise of the dry run, for sequences of path steps: apply finds for each step exactly what the plan showed, and
//! where no two steps contradict each other a second plan is empty.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use dunlin::plan::Action;
use dunlin::resources::{Site, Step};
use proptest::prelude::{Just, Strategy, prop};
use proptest::{prop_oneof, proptest};
use serde_json::{Value, json};

use crate::support::{Planned, Store, apply_step, owner, plan};

/// The places that steps and worlds are made over: few, so that they meet.
const PLACES: [&str; 8] = ["a", "b", "a/x", "a/y", "a/d", "a/d/z", "b/x", "l"];
const TEXTS: [&str; 3] = ["one\n", "one\ntwo\n", "three"];
const LINES: [&str; 3] = ["one", "two", "four"];
const MODES: [&str; 2] = ["0700", "0755"];
const TARGETS: [&str; 4] = ["a", "b", "a/d", "nowhere"];

/// A kind and its table without root folder and owner: `path`, `dest` and `target` are relative.
#[derive(Clone, Debug)]
struct Wish {
    kind: &'static str,
    place: &'static str,
    table: Value,
}

/// Something that stands there before.
#[derive(Clone, Debug)]
enum Thing {
    File(&'static str),
    Directory,
    Link(&'static str),
}

fn pick<T: Clone + std::fmt::Debug + 'static>(of: &'static [T]) -> impl Strategy<Value = T> {
    prop::sample::select(of)
}

fn wish() -> impl Strategy<Value = Wish> {
    let directory = (pick(&PLACES), pick(&MODES), prop::bool::ANY).prop_map(|(place, mode, parents)| Wish {
        kind: "directory",
        place,
        table: json!({ "mode": mode, "parents": parents }),
    });
    let no_directory = (pick(&PLACES), prop::bool::ANY).prop_map(|(place, recurse)| Wish {
        kind: "directory",
        place,
        table: json!({ "state": "absent", "recurse": recurse }),
    });
    let file = (pick(&PLACES), pick(&TEXTS), pick(&MODES)).prop_map(|(place, text, mode)| Wish {
        kind: "file",
        place,
        table: json!({ "content": text, "mode": mode }),
    });
    let no_file = pick(&PLACES).prop_map(|place| Wish { kind: "file", place, table: json!({ "state": "absent" }) });
    let link = (pick(&PLACES), pick(&TARGETS), prop::bool::ANY).prop_map(|(place, target, absolute)| Wish {
        kind: "link",
        place,
        table: json!({ "target": target, "absolute": absolute }),
    });
    let no_link = pick(&PLACES).prop_map(|place| Wish { kind: "link", place, table: json!({ "state": "absent" }) });
    let line = (pick(&PLACES), pick(&LINES), prop::bool::ANY).prop_map(|(place, line, create)| Wish {
        kind: "line",
        place,
        table: json!({ "line": line, "create": create }),
    });
    let no_line = (pick(&PLACES), pick(&LINES)).prop_map(|(place, line)| Wish {
        kind: "line",
        place,
        table: json!({ "line": line, "state": "absent" }),
    });
    prop_oneof![4 => directory, 1 => no_directory, 4 => file, 1 => no_file, 3 => link, 1 => no_link, 4 => line, 1 => no_line]
}

fn world() -> impl Strategy<Value = Vec<(&'static str, Thing)>> {
    let thing = prop_oneof![
        pick(&TEXTS).prop_map(Thing::File),
        Just(Thing::Directory),
        Just(Thing::Directory),
        pick(&TARGETS).prop_map(Thing::Link),
    ];
    prop::collection::vec((pick(&PLACES), thing), 0..6)
}

/// Makes the things that can be made; the others find no folder, or their place taken.
fn build(root: &Path, things: &[(&str, Thing)]) {
    for (place, thing) in things {
        let path = root.join(place);
        if fs::symlink_metadata(&path).is_ok() || !path.parent().is_some_and(Path::is_dir) {
            continue;
        }
        match thing {
            Thing::File(text) => fs::write(&path, text).unwrap(),
            Thing::Directory => {
                fs::create_dir(&path).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            }
            Thing::Link(target) => symlink(target, &path).unwrap(),
        }
    }
}

fn step(wish: &Wish, root: &Path, store: &mut Store) -> Box<dyn Step> {
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
        let (user, group) = owner();
        table["owner"] = json!(user);
        table["group"] = json!(group);
    }
    store.step(wish.kind, table).unwrap()
}

/// Leaves out what `check` refuses: a file has one owner, or several steps each with a line of it. Links can lead to
/// one file by two paths, which never differ in their last name.
fn with_one_owner(wishes: Vec<Wish>) -> Vec<Wish> {
    let name = |wish: &Wish| wish.place.rsplit('/').next().unwrap_or_default().to_owned();
    let mut kept: Vec<Wish> = Vec::new();
    for wish in wishes {
        let is_second = |other: &Wish| {
            let kinds = (wish.kind, other.kind);
            name(other) == name(&wish) && matches!(kinds, ("file", "file") | ("file", "line") | ("line", "file"))
        };
        if !kept.iter().any(is_second) {
            kept.push(wish);
        }
    }
    kept
}

/// Does no step take back what another made? Then a second plan has nothing to do.
fn agree(wishes: &[&Wish], root: &Path) -> bool {
    let real = |wish: &Wish| -> Option<PathBuf> {
        let path = root.join(wish.place);
        let folder = fs::canonicalize(path.parent()?).ok()?;
        Some(folder.join(path.file_name()?))
    };
    let removes = |wish: &Wish| wish.table.get("state").is_some();
    wishes.iter().enumerate().all(|(at, one)| {
        wishes[..at].iter().all(|other| {
            let (Some(a), Some(b)) = (real(one), real(other)) else { return false };
            let both_lines = one.kind == "line" && other.kind == "line" && one.table["line"] != other.table["line"];
            let apart = if a == b { both_lines } else { true };
            let under = |upper: &Wish, p: &Path, q: &Path| {
                (removes(upper) || upper.kind != "directory") && q.starts_with(p) && p != q
            };
            apart && !under(one, &a, &b) && !under(other, &b, &a)
        })
    })
}

fn check(things: &[(&'static str, Thing)], wishes: &[Wish]) {
    let folder = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(folder.path()).unwrap();
    build(&root, things);
    let mut store = Store::default();
    let all: Vec<Box<dyn Step>> = wishes.iter().map(|wish| step(wish, &root, &mut store)).collect();
    let planned = plan(&all, &store);
    // A step whose plan is an error ends a real plan; here it is left out, and the rest is a plan of its own.
    let (mut steps, mut rows, mut kept): (Vec<Box<dyn Step>>, Vec<Planned>, Vec<&Wish>) = Default::default();
    for ((step, row), wish) in all.into_iter().zip(planned).zip(wishes) {
        if let Ok(row) = row {
            steps.push(step);
            rows.push(row);
            kept.push(wish);
        }
    }
    let mut site = Site::new(&store);
    for (step, row) in steps.iter().zip(&rows) {
        let found = apply_step(&**step, &mut site, &store).unwrap_or_else(|error| panic!("{row:?}: {error:#}"));
        assert!(row.action == Action::Unknown || row.action == found.action, "planned {row:?}, found {found:?}");
        if row.action != Action::Unknown {
            assert_eq!(&found, row, "apply finds what the plan showed");
        }
        let after = plan(std::slice::from_ref(step), &store).remove(0).unwrap();
        assert_eq!((after.action, &after.changes), (Action::None, &Vec::new()), "{} is settled", after.resource);
    }
    if agree(&kept, &root) {
        for row in plan(&steps, &store) {
            let row = row.unwrap();
            assert_eq!((row.action, &row.changes), (Action::None, &Vec::new()), "second plan: {}", row.resource);
        }
    }
}

proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn apply_does_what_the_plan_shows(things in world(), wishes in prop::collection::vec(wish(), 1..9)) {
        check(&things, &with_one_owner(wishes));
    }
}

#[test]
fn the_generator_reaches_settled_sequences() {
    let wishes = [
        Wish { kind: "directory", place: "a/d", table: json!({ "mode": "0700", "parents": true }) },
        Wish { kind: "file", place: "a/x", table: json!({ "content": "one\n", "mode": "0755" }) },
        Wish { kind: "link", place: "l", table: json!({ "target": "a/d", "absolute": false }) },
        Wish { kind: "line", place: "a/d/z", table: json!({ "line": "one", "create": true }) },
        Wish { kind: "line", place: "a/d/z", table: json!({ "line": "two", "create": false }) },
    ];
    let folder = tempfile::tempdir().unwrap();
    assert!(!agree(&wishes.iter().collect::<Vec<_>>(), folder.path()), "nothing is there yet");
    build(folder.path(), &[("a", Thing::Directory), ("a/d", Thing::Directory)]);
    assert!(agree(&wishes.iter().collect::<Vec<_>>(), folder.path()));
    check(&[], &wishes);
    check(&[("a", Thing::Directory), ("l", Thing::Link("b"))], &wishes);
}

#[test]
fn a_folder_that_is_removed_and_made_again_is_empty() {
    let things = [("a", Thing::Directory), ("a/d", Thing::Directory), ("a/x", Thing::File("one\n"))];
    let wishes = [
        Wish { kind: "directory", place: "a", table: json!({ "state": "absent", "recurse": true }) },
        Wish { kind: "directory", place: "a/d", table: json!({ "mode": "0755", "parents": true }) },
        Wish { kind: "file", place: "a/x", table: json!({ "content": "one\n", "mode": "0755" }) },
    ];
    check(&things, &wishes);
}
