//! Path types on a real folder: what apply leaves is what a second plan calls done.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use dunlin::plan::Action;
use dunlin::resources::{ApplyContext, DynResource};
use serde_json::{Value, json};

use crate::messages;
use crate::owner::current_owner;
use crate::support::{ResourceBlobs, StepPlan, apply_step, plan_steps};

/// Fills owner and group in, so that the tests run as anybody.
fn with_owner(mut table: Value) -> Value {
    let (user, group) = current_owner();
    table["owner"] = json!(user);
    table["group"] = json!(group);
    table
}

/// Applies, and holds that a second plan is empty.
fn apply_and_check_idempotent(kind: &str, table: Value) -> StepPlan {
    let mut store = ResourceBlobs::default();
    let steps = [store.parse_step(kind, table).unwrap()];
    let mut site = ApplyContext::new(&store);
    let row = apply_step(&*steps[0], &mut site, &store).unwrap();
    let again = plan_steps(&steps, &store).remove(0).unwrap();
    assert_eq!((again.action, &again.changes), (Action::None, &Vec::new()), "{}", again.resource);
    row
}

fn plan_error(kind: &str, table: Value) -> String {
    let mut store = ResourceBlobs::default();
    let steps: [Box<dyn DynResource>; 1] = [store.parse_step(kind, table).unwrap()];
    plan_steps(&steps, &store).remove(0).unwrap_err()
}

#[test]
fn files_are_created_changed_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let dest = folder.path().join("file");
    let file = |content: &str, mode: &str| with_owner(json!({ "dest": dest, "content": content, "mode": mode }));
    assert_eq!(apply_and_check_idempotent("file", file("a\n", "0640")).action, Action::Add);
    assert_eq!(fs::metadata(&dest).unwrap().permissions().mode() & 0o7777, 0o640);
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    let before = inode(&dest);
    assert_eq!(apply_and_check_idempotent("file", file("a\n", "0600")).changes.len(), 1);
    assert_eq!(inode(&dest), before, "the bytes are not written again for a mode");
    assert_eq!(apply_and_check_idempotent("file", file("b\n", "0600")).action, Action::Change);
    assert_eq!(fs::read_to_string(&dest).unwrap(), "b\n");
    let gone = json!({ "dest": dest, "state": "absent" });
    assert_eq!(apply_and_check_idempotent("file", gone).action, Action::Remove);
    assert!(!dest.exists());
}

#[test]
fn content_that_its_check_refuses_replaces_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let dest = folder.path().join("app.cfg");
    let file = |content: &str| {
        with_owner(json!({ "dest": dest, "content": content, "validate": ["grep", "-q", "^listen ", "%s"] }))
    };
    assert_eq!(apply_and_check_idempotent("file", file("listen 1\n")).action, Action::Add);
    let mut store = ResourceBlobs::default();
    let wrong = store.parse_step("file", file("lisen 2\n")).unwrap();
    let error = apply_step(&*wrong, &mut ApplyContext::new(&store), &store).unwrap_err();
    messages::check("file-that-its-check-refuses", [("apply", format!("{error:#}"))]);
    assert_eq!(fs::read_to_string(&dest).unwrap(), "listen 1\n");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no copy stays");
}

#[test]
fn files_replace_links_and_keep_the_target() {
    let folder = tempfile::tempdir().unwrap();
    let (dest, other) = (folder.path().join("file"), folder.path().join("other"));
    fs::write(&other, "theirs").unwrap();
    symlink(&other, &dest).unwrap();
    let row = apply_and_check_idempotent("template", with_owner(json!({ "dest": dest, "src": "ours" })));
    assert_eq!((row.resource.as_str(), row.action), (format!("template {}", dest.display()).as_str(), Action::Change));
    assert!(fs::symlink_metadata(&dest).unwrap().is_file());
    assert_eq!(fs::read_to_string(&other).unwrap(), "theirs");
}

#[test]
fn directories_are_created_changed_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app");
    assert_eq!(
        apply_and_check_idempotent("directory", with_owner(json!({ "path": path, "mode": "0700" }))).action,
        Action::Add
    );
    assert_eq!(apply_and_check_idempotent("directory", with_owner(json!({ "path": path }))).changes.len(), 1);
    fs::write(path.join("data"), "x").unwrap();
    let full = plan_error("directory", json!({ "path": path, "state": "absent" }));
    messages::check("directory-not-empty", [("one file in it", full)]);
    let row = apply_and_check_idempotent("directory", json!({ "path": path, "state": "absent", "recurse": true }));
    assert_eq!((row.action, row.changes.len()), (Action::Remove, 1));
}

#[test]
fn links_are_created_and_changed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("current");
    assert_eq!(apply_and_check_idempotent("link", json!({ "path": path, "target": "releases/1" })).action, Action::Add);
    assert_eq!(
        apply_and_check_idempotent("link", json!({ "path": path, "target": "releases/2" })).action,
        Action::Change
    );
    assert_eq!(fs::read_link(&path).unwrap(), Path::new("releases/2"));
    assert_eq!(apply_and_check_idempotent("link", json!({ "path": path, "state": "absent" })).action, Action::Remove);
}

#[test]
fn line_edits_keep_the_rest_and_the_mode() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.ini");
    let line = |table: Value| {
        let mut table = with_owner(table);
        table["path"] = json!(path);
        table
    };
    messages::check("line-without-file", [("no such file", plan_error("line", line(json!({ "line": "a" }))))]);
    assert_eq!(
        apply_and_check_idempotent("line", line(json!({ "line": "port = 1", "create": true }))).action,
        Action::Add
    );
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(apply_and_check_idempotent("line", line(json!({ "line": "host = x" }))).action, Action::Change);
    assert_eq!(
        apply_and_check_idempotent("line", line(json!({ "line": "port = 2", "match": "^port" }))).action,
        Action::Change
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), "port = 2\nhost = x\n");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(
        apply_and_check_idempotent("line", line(json!({ "match": "^port", "state": "absent" }))).action,
        Action::Change
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), "host = x\n");
}

#[test]
fn lines_of_one_file_build_on_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.ini");
    let mut store = ResourceBlobs::default();
    let mut step = |line: &str| {
        store.parse_step("line", with_owner(json!({ "path": path, "line": line, "create": true }))).unwrap()
    };
    let steps = [step("a"), step("b"), step("a")];
    let rows: Vec<StepPlan> = plan_steps(&steps, &store).into_iter().map(Result::unwrap).collect();
    assert_eq!(rows.iter().map(|row| row.action).collect::<Vec<_>>(), [Action::Add, Action::Change, Action::None]);
    assert_eq!(rows[1].changes[0].diff.as_deref(), Some("@@ -1 +1,2 @@\n a\n+b\n"));
}

#[test]
fn lines_in_files_of_other_steps_are_unknown_until_apply() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.ini");
    let mut store = ResourceBlobs::default();
    let steps = [
        store.parse_step("file", with_owner(json!({ "dest": path, "content": "a\n" }))).unwrap(),
        store.parse_step("line", with_owner(json!({ "path": path, "line": "b" }))).unwrap(),
    ];
    let rows = plan_steps(&steps, &store);
    assert_eq!(rows[1].as_ref().unwrap().reason.as_deref(), Some("an earlier step writes the whole file"));
}

#[test]
fn missing_prerequisites_are_planning_errors() {
    let folder = tempfile::tempdir().unwrap();
    let none = folder.path().join("none");
    let dest = none.join("file");
    let parents = [
        ("file", plan_error("file", with_owner(json!({ "dest": dest, "content": "x" })))),
        ("link", plan_error("link", json!({ "path": dest, "target": "x" }))),
        ("directory", plan_error("directory", with_owner(json!({ "path": dest })))),
    ];
    messages::check("parent-missing", parents);
    let dest = folder.path().join("file");
    let stranger = json!({ "dest": dest, "content": "x", "owner": "no-such-user" });
    messages::check("owner-unknown", [("no-such-user", plan_error("file", stranger))]);
    let mut store = ResourceBlobs::default();
    let steps = [
        store
            .parse_step(
                "package",
                json!({ "names": ["dunlin-no-such"], "update_cache": true, "provides": [format!("path {}", none.display())] }),
            )
            .unwrap(),
        store.parse_step("file", with_owner(json!({ "dest": none.join("file"), "content": "x" }))).unwrap(),
        store.parse_step("directory", with_owner(json!({ "path": none }))).unwrap(),
    ];
    let rows: Vec<StepPlan> = plan_steps(&steps, &store).into_iter().map(Result::unwrap).collect();
    assert_eq!(rows[1].action, Action::Add, "its folder may come with the package");
    assert_eq!(rows[2].reason.as_deref(), Some("the folder comes with package dunlin-no-such"));
}
