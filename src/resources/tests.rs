//! Tables of the small types: what is wanted × what is there → the plan in one line, every no-op in it; and apply, read
//! again, nothing left.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::{
    ApplyContext, BlobSource, DynResource, HostView, PathMeta, PathState, ReadOutcome, atomic_file, find_kind,
};
use crate::plan::{AttributeChange, Digest};

/// No contents at all.
struct NoBlobs;

impl BlobSource for NoBlobs {
    fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        bail!("there is no content {digest:?}")
    }
}

fn parse_step(name: &str, table: Value) -> Result<Box<dyn DynResource>, String> {
    let step = (find_kind(name).unwrap().parse)(table).map_err(|error| error.to_string())?;
    step.validate()?;
    Ok(step)
}

/// Builds a step whose path is `name` in the test folder.
fn step_at(dir: &Path, kind: &str, name: &str, more: &Value) -> Box<dyn DynResource> {
    let mut table = json!({ "path": dir.join(name) });
    table.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    parse_step(kind, table).unwrap()
}

/// The plan in one line: `change mode:0755>0700`, `unknown …`, `error …`.
fn plan_line(step: &dyn DynResource, view: &mut HostView) -> String {
    let diff = match step.read(view) {
        Ok(ReadOutcome::Known(observed)) => step.diff(&observed, &NoBlobs),
        Ok(ReadOutcome::UnknownUntilApply(reason)) => return format!("unknown {reason}"),
        Err(error) => Err(error),
    };
    let side = |text: &Option<String>| text.clone().unwrap_or_default();
    let change = |change: &AttributeChange| match &change.diff {
        Some(diff) => {
            diff.lines().filter(|line| !line.starts_with(['@', ' '])).map(|line| format!(" {line}")).collect()
        }
        None => format!(" {}:{}>{}", change.attribute, side(&change.from), side(&change.to)),
    };
    match diff {
        Ok(diff) => format!("{}{}", diff.action, diff.changes.iter().map(change).collect::<String>()),
        Err(error) => format!("error {}", error.root_cause()),
    }
}

fn apply_pending(step: &dyn DynResource) -> Result<()> {
    let ReadOutcome::Known(observed) = step.read(&mut HostView::current())? else { bail!("unknown") };
    match step.diff(&observed, &NoBlobs)?.action.is_pending() {
        true => step.apply(&observed, &mut ApplyContext::new(&NoBlobs)),
        false => Ok(()),
    }
}

/// Applies; the plan must have foreseen the state, and a second run must find nothing to do.
fn apply_and_verify(step: &dyn DynResource) {
    let mut predicted = HostView::current();
    step.predict_state(&mut predicted);
    assert_eq!(plan_line(step, &mut predicted), "none", "{} as foreseen", step.resource_name());
    apply_pending(step).unwrap();
    assert_eq!(plan_line(step, &mut HostView::current()), "none", "{} a second time", step.resource_name());
}

fn root_meta(mode: u32) -> PathMeta {
    PathMeta { mode, owner: "root".to_owned(), group: "root".to_owned() }
}

/// Creates a test folder with one entry of each kind.
fn fixture_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for folder in ["folder", "full/inner"] {
        fs::create_dir_all(dir.path().join(folder)).unwrap();
    }
    atomic_file::set_ownership(&dir.path().join("folder"), &root_meta(0o755)).unwrap();
    atomic_file::write_file(&dir.path().join("file"), b"", &root_meta(0o644)).unwrap();
    symlink("folder", dir.path().join("link")).unwrap();
    dir
}

/// Each row: name in the test folder, the step's other keys, prefix of its plan.
fn check_rows(kind: &str, rows: &[(&str, Value, &str)]) {
    let dir = fixture_dir();
    for (name, more, wanted) in rows {
        let line = plan_line(&*step_at(dir.path(), kind, name, more), &mut HostView::current());
        let is_match = if *wanted == "none" { line == *wanted } else { line.starts_with(wanted) };
        assert!(is_match, "{kind} {name} {more}: {line}, not {wanted}");
    }
}

#[test]
fn directory_plans_match() {
    let (gone, all_gone) = (json!({ "state": "absent" }), json!({ "state": "absent", "recurse": "true" }));
    check_rows(
        "directory",
        &[
            ("folder", json!({}), "none"),
            ("folder", json!({ "mode": "0700" }), "change mode:0755>0700"),
            ("folder", json!({ "owner": "daemon" }), "change owner:root>daemon group:root>daemon"),
            ("new", json!({ "group": "adm" }), "add mode:>0755 owner:>root group:>adm"),
            ("a/b", json!({ "parents": "true" }), "add mode:>0755 owner:>root group:>root parent:>"),
            ("a/b", json!({}), "error the folder"),
            ("file/b", json!({ "parents": true }), "error "),
            ("file", json!({}), "error a file is at this path"),
            ("link", json!({}), "error a link to folder is at this path"),
            ("new", gone.clone(), "none"),
            ("folder", gone.clone(), "remove"),
            ("full", gone.clone(), "error the folder is not empty"),
            ("full", all_gone.clone(), "remove"),
            ("file", all_gone, "error a file is at this path"),
            ("link", gone, "error a link to folder is at this path"),
        ],
    );
}

#[test]
fn directories_are_created_and_removed_as_planned() {
    let dir = fixture_dir();
    let path = dir.path();
    assert!(apply_pending(&*step_at(path, "directory", "a/b/c", &json!({}))).is_err());
    apply_and_verify(&*step_at(
        path,
        "directory",
        "a/b/c",
        &json!({ "parents": true, "mode": "2770", "group": "daemon" }),
    ));
    apply_and_verify(&*step_at(path, "directory", "a/b/c", &json!({ "mode": "0700" })));
    fs::write(path.join("a/b/c/file"), "").unwrap();
    assert!(apply_pending(&*step_at(path, "directory", "a", &json!({ "state": "absent" }))).is_err());
    assert!(path.join("a/b/c/file").exists());
    apply_and_verify(&*step_at(path, "directory", "a", &json!({ "state": "absent", "recurse": true })));
}

#[test]
fn later_steps_see_planned_directories() {
    let dir = fixture_dir();
    let path = dir.path();
    let mut view = HostView::current();
    step_at(path, "directory", "a/b", &json!({ "parents": true })).predict_state(&mut view);
    assert_eq!(plan_line(&*step_at(path, "directory", "a", &json!({})), &mut view), "none");
    let full = step_at(path, "directory", "full", &json!({ "state": "absent" }));
    assert!(plan_line(&*full, &mut view).starts_with("error the folder is not empty"));
    step_at(path, "directory", "full/inner", &json!({ "state": "absent" })).predict_state(&mut view);
    assert_eq!(plan_line(&*full, &mut view), "remove");
    step_at(path, "link", "full/link", &json!({ "target": "x" })).predict_state(&mut view);
    assert!(plan_line(&*full, &mut view).starts_with("error the folder is not empty"));
    step_at(path, "directory", "full", &json!({ "state": "absent", "recurse": true })).predict_state(&mut view);
    assert_eq!(view.path_state(&path.join("full/link")).unwrap(), PathState::Absent);
}

#[test]
fn link_plans_match() {
    let gone = json!({ "state": "absent" });
    check_rows(
        "link",
        &[
            ("link", json!({ "target": "folder" }), "none"),
            ("link", json!({ "target": "folder/" }), "change target:folder>folder/"),
            ("link", json!({ "target": "/etc" }), "change target:folder>/etc"),
            ("new", json!({ "target": "nowhere" }), "add target:>nowhere"),
            ("missing/new", json!({ "target": "nowhere" }), "error the folder"),
            ("file", json!({ "target": "x" }), "error a file is at this path"),
            ("folder", json!({ "target": "x" }), "error a folder is at this path"),
            ("link", gone.clone(), "remove target:folder>"),
            ("new", gone.clone(), "none"),
            ("file", gone.clone(), "error a file is at this path"),
            ("folder", gone, "error a folder is at this path"),
        ],
    );
    let dir = fixture_dir();
    for (name, more) in [
        ("new", json!({ "target": "a" })),
        ("link", json!({ "target": "file" })),
        ("link", json!({ "state": "absent" })),
    ] {
        apply_and_verify(&*step_at(dir.path(), "link", name, &more));
    }
    assert!(dir.path().join("folder").is_dir(), "what a link pointed to stays");
}

#[test]
fn line_edits_match() {
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
        ("a\nb\n", port(json!({ "insert_after": "^a$" })), "a\nPort 22\nb\n"),
        ("a\nb\n", port(json!({ "insert_after": "^c" })), "a\nb\nPort 22\n"),
        ("a\r\nb\r\n", port(json!({ "insert_after": "^a$" })), "a\r\nPort 22\r\nb\r\n"),
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
        let dir = fixture_dir();
        let file = dir.path().join("file");
        atomic_file::write_file(&file, before.as_bytes(), &root_meta(0o640)).unwrap();
        let step = step_at(dir.path(), "line", "file", &more);
        let plan = plan_line(&*step, &mut HostView::current());
        assert_eq!(plan == "none", before == after, "{before:?} {more}: {plan}");
        apply_and_verify(&*step);
        assert_eq!(fs::read_to_string(&file).unwrap(), after, "{before:?} {more}");
        let PathState::File { meta, .. } = HostView::current().path_state(&file).unwrap() else { panic!("a file") };
        assert_eq!(meta, root_meta(0o640), "{before:?} {more}");
    }
}

#[test]
fn line_edits_keep_numeric_owners() {
    let dir = fixture_dir();
    std::os::unix::fs::chown(dir.path().join("file"), Some(40_404), Some(40_405)).unwrap();
    apply_and_verify(&*step_at(dir.path(), "line", "file", &json!({ "line": "a" })));
    let PathState::File { meta, .. } = HostView::current().path_state(&dir.path().join("file")).unwrap() else {
        panic!("a file")
    };
    assert_eq!((meta.owner.as_str(), meta.group.as_str()), ("40404", "40405"));
}

#[test]
fn lines_of_missing_files_match() {
    check_rows(
        "line",
        &[
            ("new", json!({ "line": "a" }), "error the file does not exist"),
            ("new", json!({ "line": "a", "create": "true", "mode": "0600" }), "add +a mode:>0600"),
            ("new", json!({ "line": "a", "state": "absent" }), "none"),
            ("folder", json!({ "line": "a" }), "error "),
            ("link", json!({ "line": "a" }), "error the path is a link to folder"),
        ],
    );
    let dir = fixture_dir();
    apply_and_verify(&*step_at(dir.path(), "line", "new", &json!({ "line": "a", "create": true, "mode": "0600" })));
    let mut view = HostView::current();
    view.predict_install("p", &[format!("path {}", dir.path().join("other").display())]);
    let line = plan_line(&*step_at(dir.path(), "line", "other", &json!({ "line": "a", "create": true })), &mut view);
    assert_eq!(line, "unknown the file comes with package p");
}

#[test]
fn lines_of_one_file_build_on_each_other() {
    let dir = fixture_dir();
    let (mut view, wanted) = (HostView::current(), [("a", "add +a"), ("b", "change +b"), ("a", "none"), ("b", "none")]);
    for (text, plan) in wanted {
        let step = step_at(dir.path(), "line", "new", &json!({ "line": text, "create": true }));
        let line = plan_line(&*step, &mut view);
        assert!(line.starts_with(plan), "{text}: {line}, not {plan}");
        step.predict_state(&mut view);
    }
    assert_eq!(view.read_content(&dir.path().join("new")).unwrap().unwrap(), b"a\nb\n");
}

#[test]
fn account_plans_match() {
    let mut view = HostView::current();
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
            json!({ "name": "dunlin-u", "groups": ["adm"], "exclusive_groups": true }),
            "change groups:adm,dunlin-g>adm",
        ),
        ("user", json!({ "name": "dunlin-u", "state": "absent" }), "remove"),
        ("user", json!({ "name": "dunlin-u", "state": "absent" }), "none"),
        ("group", json!({ "name": "dunlin-u", "state": "absent" }), "none"),
        ("group", json!({ "name": "dunlin-g", "state": "absent" }), "remove gid:4001>"),
        ("group", json!({ "name": "dunlin-g", "state": "absent" }), "none"),
    ] {
        let step = parse_step(kind, table.clone()).unwrap();
        let line = plan_line(&*step, &mut view);
        let fits = if wanted == "none" { line == wanted } else { line.starts_with(wanted) };
        assert!(fits, "{kind} {table}: {line}, not {wanted}");
        if !line.starts_with("error") {
            step.predict_state(&mut view);
        }
    }
}

#[test]
fn invalid_steps_are_rejected() {
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
        assert!(parse_step(kind, table.clone()).is_err(), "{kind} {table}");
    }
}

#[test]
fn packages_provide_users_with_their_groups() {
    let mut view = HostView::current();
    view.predict_install("p", &["user dunlin-u".to_owned()]);
    for kind in ["user", "group"] {
        let step = parse_step(kind, json!({ "name": "dunlin-u" })).unwrap();
        assert_eq!(plan_line(&*step, &mut view), format!("unknown the {kind} comes with package p"));
    }
}
