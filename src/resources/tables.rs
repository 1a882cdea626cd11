//! Tables of the small types: what is wanted × what is there → the plan in one line, every no-op in it; and apply, read
//! again, nothing left.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::{Blobs, Meta, PathState, Read, Site, Step, World, kind, place};
use crate::plan::{Change, Digest};

/// No contents at all.
struct NoBlobs;

impl Blobs for NoBlobs {
    fn get(&self, digest: &Digest) -> Result<Vec<u8>> {
        bail!("there is no content {digest:?}")
    }
}

fn parse(name: &str, table: Value) -> Result<Box<dyn Step>, String> {
    let step = (kind(name).unwrap().parse)(table).map_err(|error| error.to_string())?;
    step.validate()?;
    Ok(step)
}

/// A step whose path is `name` in the room.
fn step(room: &Path, kind: &str, name: &str, more: &Value) -> Box<dyn Step> {
    let mut table = json!({ "path": room.join(name) });
    table.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    parse(kind, table).unwrap()
}

/// The plan in one line: `change mode:0755>0700`, `unknown …`, `error …`.
fn shown(step: &dyn Step, world: &mut World) -> String {
    let diff = match step.read(world) {
        Ok(Read::Known(observed)) => step.diff(&observed, &NoBlobs),
        Ok(Read::Unknown(reason)) => return format!("unknown {reason}"),
        Err(error) => Err(error),
    };
    let side = |text: &Option<String>| text.clone().unwrap_or_default();
    let change = |change: &Change| match &change.diff {
        Some(diff) => {
            diff.lines().filter(|line| !line.starts_with(['@', ' '])).map(|line| format!(" {line}")).collect()
        }
        None => format!(" {}:{}>{}", change.what, side(&change.from), side(&change.to)),
    };
    match diff {
        Ok(diff) => format!("{}{}", diff.action, diff.changes.iter().map(change).collect::<String>()),
        Err(error) => format!("error {}", error.root_cause()),
    }
}

fn try_apply(step: &dyn Step) -> Result<()> {
    let Read::Known(observed) = step.read(&mut World::now())? else { bail!("unknown") };
    match step.diff(&observed, &NoBlobs)?.action.is_pending() {
        true => step.apply(&observed, &mut Site::new(&NoBlobs)),
        false => Ok(()),
    }
}

/// Applies; the plan must have foreseen the state, and a second run must find nothing to do.
fn apply(step: &dyn Step) {
    let mut foreseen = World::now();
    step.expect(&mut foreseen);
    assert_eq!(shown(step, &mut foreseen), "none", "{} as foreseen", step.resource());
    try_apply(step).unwrap();
    assert_eq!(shown(step, &mut World::now()), "none", "{} a second time", step.resource());
}

fn of_root(mode: u32) -> Meta {
    Meta { mode, owner: "root".to_owned(), group: "root".to_owned() }
}

/// A room with one thing of each sort in it.
fn room() -> tempfile::TempDir {
    let room = tempfile::tempdir().unwrap();
    for folder in ["folder", "full/inner"] {
        fs::create_dir_all(room.path().join(folder)).unwrap();
    }
    place::own(&room.path().join("folder"), &of_root(0o755)).unwrap();
    place::write(&room.path().join("file"), b"", &of_root(0o644)).unwrap();
    symlink("folder", room.path().join("link")).unwrap();
    room
}

/// Each row: name in the room, the step's other keys, how its plan begins.
fn check(kind: &str, rows: &[(&str, Value, &str)]) {
    let room = room();
    for (name, more, wanted) in rows {
        let line = shown(&*step(room.path(), kind, name, more), &mut World::now());
        let fits = if *wanted == "none" { line == *wanted } else { line.starts_with(wanted) };
        assert!(fits, "{kind} {name} {more}: {line}, not {wanted}");
    }
}

#[test]
fn directories() {
    let (gone, all_gone) = (json!({ "state": "absent" }), json!({ "state": "absent", "recurse": "true" }));
    check(
        "directory",
        &[
            ("folder", json!({}), "none"),
            ("folder", json!({ "mode": "0700" }), "change mode:0755>0700"),
            ("folder", json!({ "owner": "daemon" }), "change owner:root>daemon group:root>daemon"),
            ("new", json!({ "group": "adm" }), "add mode:>0755 owner:>root group:>adm"),
            ("a/b", json!({ "parents": "true" }), "add mode:>0755 owner:>root group:>root parent:>"),
            ("a/b", json!({}), "error the folder"),
            ("file/b", json!({ "parents": true }), "error "),
            ("file", json!({}), "error a file stands there"),
            ("link", json!({}), "error a link to folder stands there"),
            ("new", gone.clone(), "none"),
            ("folder", gone.clone(), "remove"),
            ("full", gone.clone(), "error it is not empty"),
            ("full", all_gone.clone(), "remove"),
            ("file", all_gone, "error a file stands there"),
            ("link", gone, "error a link to folder stands there"),
        ],
    );
}

#[test]
fn directories_are_made_and_removed_as_foreseen() {
    let room = room();
    let path = room.path();
    assert!(try_apply(&*step(path, "directory", "a/b/c", &json!({}))).is_err());
    apply(&*step(path, "directory", "a/b/c", &json!({ "parents": true, "mode": "2770", "group": "daemon" })));
    apply(&*step(path, "directory", "a/b/c", &json!({ "mode": "0700" })));
    fs::write(path.join("a/b/c/file"), "").unwrap();
    assert!(try_apply(&*step(path, "directory", "a", &json!({ "state": "absent" }))).is_err());
    assert!(path.join("a/b/c/file").exists());
    apply(&*step(path, "directory", "a", &json!({ "state": "absent", "recurse": true })));
}

#[test]
fn later_steps_see_a_directory_as_it_will_be() {
    let room = room();
    let path = room.path();
    let mut world = World::now();
    step(path, "directory", "a/b", &json!({ "parents": true })).expect(&mut world);
    assert_eq!(shown(&*step(path, "directory", "a", &json!({})), &mut world), "none");
    let full = step(path, "directory", "full", &json!({ "state": "absent" }));
    assert!(shown(&*full, &mut world).starts_with("error it is not empty"));
    step(path, "directory", "full/inner", &json!({ "state": "absent" })).expect(&mut world);
    assert_eq!(shown(&*full, &mut world), "remove");
    step(path, "link", "full/link", &json!({ "target": "x" })).expect(&mut world);
    assert!(shown(&*full, &mut world).starts_with("error it is not empty"));
    step(path, "directory", "full", &json!({ "state": "absent", "recurse": true })).expect(&mut world);
    assert_eq!(world.path(&path.join("full/link")).unwrap(), PathState::Absent);
}

#[test]
fn links() {
    let gone = json!({ "state": "absent" });
    check(
        "link",
        &[
            ("link", json!({ "target": "folder" }), "none"),
            ("link", json!({ "target": "folder/" }), "change target:folder>folder/"),
            ("link", json!({ "target": "/etc" }), "change target:folder>/etc"),
            ("new", json!({ "target": "nowhere" }), "add target:>nowhere"),
            ("missing/new", json!({ "target": "nowhere" }), "error the folder"),
            ("file", json!({ "target": "x" }), "error a file stands there"),
            ("folder", json!({ "target": "x" }), "error a folder stands there"),
            ("link", gone.clone(), "remove target:folder>"),
            ("new", gone.clone(), "none"),
            ("file", gone.clone(), "error a file stands there"),
            ("folder", gone, "error a folder stands there"),
        ],
    );
    let room = room();
    for (name, more) in [
        ("new", json!({ "target": "a" })),
        ("link", json!({ "target": "file" })),
        ("link", json!({ "state": "absent" })),
    ] {
        apply(&*step(room.path(), "link", name, &more));
    }
    assert!(room.path().join("folder").is_dir(), "what a link pointed to stays");
}

#[test]
fn lines() {
    let port = |more: Value| {
        let mut table = json!({ "line": "Port 22" });
        table.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        table
    };
    let matched = || port(json!({ "match": "^#?Port " }));
    for (before, more, after) in [
        ("Port 22\n", port(json!({})), "Port 22\n"),
        ("a\nPort 22", port(json!({})), "a\nPort 22"),
        ("", port(json!({})), "Port 22\n"),
        ("a", port(json!({})), "a\nPort 22\n"),
        ("a\nb\n", port(json!({ "after": "^a$" })), "a\nPort 22\nb\n"),
        ("a\nb\n", port(json!({ "after": "^c" })), "a\nb\nPort 22\n"),
        ("a\r\nb\r\n", port(json!({ "after": "^a$" })), "a\r\nPort 22\r\nb\r\n"),
        ("a\r\nPort 22\r\n", port(json!({})), "a\r\nPort 22\r\n"),
        ("#Port 1\nx\n", matched(), "Port 22\nx\n"),
        ("Port 1\nPort 2\nx\n", matched(), "Port 1\nPort 22\nx\n"),
        ("x\nPort 22\n", matched(), "x\nPort 22\n"),
        ("x\n", matched(), "x\nPort 22\n"),
        ("x\nPort 22\ny", json!({ "line": "Port 22", "state": "absent" }), "x\ny\n"),
        ("Port 1\nPort 2\nx\n", json!({ "match": "^Port", "state": "absent" }), "x\n"),
        ("Port 1\n", json!({ "match": "^Port", "state": "absent" }), ""),
        ("x", json!({ "match": "^Port", "state": "absent" }), "x"),
    ] {
        let room = room();
        let file = room.path().join("file");
        place::write(&file, before.as_bytes(), &of_root(0o640)).unwrap();
        let step = step(room.path(), "line", "file", &more);
        let plan = shown(&*step, &mut World::now());
        assert_eq!(plan == "none", before == after, "{before:?} {more}: {plan}");
        apply(&*step);
        assert_eq!(fs::read_to_string(&file).unwrap(), after, "{before:?} {more}");
        let PathState::File { meta, .. } = World::now().path(&file).unwrap() else { panic!("a file") };
        assert_eq!(meta, of_root(0o640), "{before:?} {more}");
    }
}

#[test]
fn a_line_keeps_an_owner_without_a_name() {
    let room = room();
    std::os::unix::fs::chown(room.path().join("file"), Some(40_404), Some(40_405)).unwrap();
    apply(&*step(room.path(), "line", "file", &json!({ "line": "a" })));
    let PathState::File { meta, .. } = World::now().path(&room.path().join("file")).unwrap() else { panic!("a file") };
    assert_eq!((meta.owner.as_str(), meta.group.as_str()), ("40404", "40405"));
}

#[test]
fn lines_of_files_that_are_none() {
    check(
        "line",
        &[
            ("new", json!({ "line": "a" }), "error there is no such file"),
            ("new", json!({ "line": "a", "create": "true", "mode": "0600" }), "add +a mode:>0600"),
            ("new", json!({ "line": "a", "state": "absent" }), "none"),
            ("folder", json!({ "line": "a" }), "error "),
            ("link", json!({ "line": "a" }), "error a link to folder"),
        ],
    );
    let room = room();
    apply(&*step(room.path(), "line", "new", &json!({ "line": "a", "create": true, "mode": "0600" })));
    let mut world = World::now();
    world.expect_arrival("p", &[format!("path {}", room.path().join("other").display())]);
    let line = shown(&*step(room.path(), "line", "other", &json!({ "line": "a", "create": true })), &mut world);
    assert_eq!(line, "unknown the file comes with package p");
}

#[test]
fn several_lines_of_one_file_are_planned_on_each_other() {
    let room = room();
    let (mut world, wanted) = (World::now(), [("a", "add +a"), ("b", "change +b"), ("a", "none"), ("b", "none")]);
    for (text, plan) in wanted {
        let step = step(room.path(), "line", "new", &json!({ "line": text, "create": true }));
        let line = shown(&*step, &mut world);
        assert!(line.starts_with(plan), "{text}: {line}, not {plan}");
        step.expect(&mut world);
    }
    assert_eq!(world.content(&room.path().join("new")).unwrap().unwrap(), b"a\nb\n");
}

#[test]
fn accounts() {
    let mut world = World::now();
    for (kind, table, wanted) in [
        ("group", json!({ "name": "root", "gid": "0" }), "none"),
        ("group", json!({ "name": "root" }), "none"),
        ("group", json!({ "name": "daemon", "gid": 4001 }), "change gid:1>4001"),
        ("group", json!({ "name": "dunlin-g", "gid": 4001 }), "add gid:>4001"),
        ("group", json!({ "name": "dunlin-g", "gid": 4001 }), "none"),
        ("user", json!({ "name": "root", "uid": "0", "home": "/root", "system": "true" }), "none"),
        ("user", json!({ "name": "dunlin-u", "groups": ["dunlin-none"] }), "error there is no group"),
        (
            "user",
            json!({ "name": "dunlin-u", "groups": ["dunlin-g"], "system": true }),
            "add group:>dunlin-u groups:>dunlin-g",
        ),
        ("user", json!({ "name": "dunlin-u", "groups": ["dunlin-g"] }), "none"),
        ("group", json!({ "name": "dunlin-u" }), "none"),
        ("group", json!({ "name": "dunlin-u", "state": "absent" }), "error it is the primary group"),
        ("user", json!({ "name": "dunlin-u", "groups": ["adm"] }), "change groups:dunlin-g>adm,dunlin-g"),
        (
            "user",
            json!({ "name": "dunlin-u", "groups": ["adm"], "exact_groups": true }),
            "change groups:adm,dunlin-g>adm",
        ),
        ("user", json!({ "name": "dunlin-u", "state": "absent" }), "remove"),
        ("user", json!({ "name": "dunlin-u", "state": "absent" }), "none"),
        ("group", json!({ "name": "dunlin-u", "state": "absent" }), "none"),
        ("group", json!({ "name": "dunlin-g", "state": "absent" }), "remove gid:4001>"),
        ("group", json!({ "name": "dunlin-g", "state": "absent" }), "none"),
    ] {
        let step = parse(kind, table.clone()).unwrap();
        let line = shown(&*step, &mut world);
        let fits = if wanted == "none" { line == wanted } else { line.starts_with(wanted) };
        assert!(fits, "{kind} {table}: {line}, not {wanted}");
        if !line.starts_with("error") {
            step.expect(&mut world);
        }
    }
}

#[test]
fn what_cannot_be_is_refused() {
    for (kind, table) in [
        ("directory", json!({ "path": "srv" })),
        ("directory", json!({ "path": "/", "state": "absent", "recurse": true })),
        ("directory", json!({ "path": "/srv/../etc" })),
        ("directory", json!({ "path": "/srv", "recurse": true })),
        ("directory", json!({ "path": "/srv", "parents": "yes" })),
        ("directory", json!({ "path": "/srv/" })),
        ("link", json!({ "path": "/srv/a" })),
        ("link", json!({ "path": "/srv//a", "target": "b" })),
        ("line", json!({ "path": "/srv/a" })),
        ("line", json!({ "path": "/srv/a", "line": "a\nb" })),
        ("line", json!({ "path": "/srv/a", "line": "a", "match": "(" })),
        ("user", json!({ "name": "-r" })),
        ("user", json!({ "name": "a", "comment": "a:b" })),
        ("group", json!({ "name": "1000" })),
    ] {
        assert!(parse(kind, table.clone()).is_err(), "{kind} {table}");
    }
}

#[test]
fn a_package_brings_a_user_and_its_group() {
    let mut world = World::now();
    world.expect_arrival("p", &["user dunlin-u".to_owned()]);
    for kind in ["user", "group"] {
        let step = parse(kind, json!({ "name": "dunlin-u" })).unwrap();
        assert_eq!(shown(&*step, &mut world), format!("unknown the {kind} comes with package p"));
    }
}
