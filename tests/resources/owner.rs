//! The account that runs the tests.

use dunlin::resources::{HostView, PathMeta, PathState};

/// The names of the user and group that run the tests: what they make belongs to these.
pub fn current_owner() -> (String, String) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    match HostView::current().path_state(folder.path()).expect("it can be looked at") {
        PathState::Directory { meta: PathMeta { owner, group, .. } } => (owner, group),
        other => panic!("a folder, not {other:?}"),
    }
}
