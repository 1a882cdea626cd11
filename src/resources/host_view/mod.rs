//! The state of the host as a step sees it: the current state, overlaid with the predicted changes of earlier steps.
//!
//! In a plan, each step with a change records the state after it (`predict_…`), and later steps read that state in
//! place of the disk. In an apply, nothing is predicted, and every read goes to the disk.

mod accounts;
mod objects;
mod packages;
mod path_state;
mod paths;
mod units;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use accounts::Accounts;
use paths::PathOverlay;

pub use accounts::{GroupState, UserState};
pub use paths::{PathMeta, PathState};
pub use units::{UnitState, template_of};

/// Something that comes with a package that an earlier step will install.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvidedBy {
    /// The package.
    pub package: String,
}

/// Lookups that the steps need, collected so that the host is queried once.
#[derive(Debug, Default)]
pub struct Prefetch {
    /// Names of systemd units, with their suffix.
    pub units: BTreeSet<String>,
}

/// The host, overlaid with expectations.
#[derive(Debug, Default)]
pub struct HostView {
    paths: PathOverlay,
    predicted_users: BTreeMap<String, Option<UserState>>,
    predicted_groups: BTreeMap<String, Option<GroupState>>,
    predicted_packages: BTreeMap<String, Option<String>>,
    predicted_units: BTreeMap<String, UnitState>,
    provided: Vec<(String, String)>,
    pending_packages: Vec<String>,
    has_pending_step: bool,
    pending_command: Option<String>,
    known_units: BTreeMap<String, UnitState>,
    accounts: Option<Accounts>,
    dpkg_versions: Option<BTreeMap<String, String>>,
    predicted_objects: BTreeMap<String, Option<serde_json::Value>>,
    service_answers: BTreeMap<String, serde_json::Value>,
}

impl HostView {
    /// Returns the host as it is, without predictions.
    pub fn current() -> Self {
        Self::default()
    }

    /// Looks up at once what all steps announced.
    ///
    /// # Errors
    /// Returns an error if systemd does not answer.
    pub fn prefetch_units(&mut self, wants: &Prefetch) -> Result<()> {
        self.known_units.append(&mut units::read_units(&wants.units)?);
        Ok(())
    }

    /// Returns whether an earlier step makes a change. The result of a command's condition may then differ.
    pub fn has_pending_steps(&self) -> bool {
        self.has_pending_step
    }

    /// Notes that an earlier step has something to do.
    pub fn mark_pending(&mut self) {
        self.has_pending_step = true;
    }

    /// Records that an earlier step runs a command with unknown effects.
    pub fn predict_command(&mut self, shown: &str) {
        self.pending_command.get_or_insert_with(|| shown.to_owned());
    }

    /// Returns the earlier step that may create things that no step announced: a package to install or a command to
    /// run.
    pub fn unknown_until_apply(&self) -> Option<String> {
        if !self.pending_packages.is_empty() {
            return Some(format!("package {}", self.pending_packages.join(", ")));
        }
        self.pending_command.as_ref().map(|shown| format!("the command `{shown}`"))
    }

    /// Returns the first object in a text that an earlier step changes. A condition that names one cannot be evaluated
    /// yet.
    pub fn pending_change_in(&self, text: &str) -> Option<String> {
        if let Some(path) = self.paths.find_mentioned(text) {
            return Some(format!("path {}", path.display()));
        }
        let words: BTreeSet<&str> = text.split(|c: char| !(c.is_alphanumeric() || "-_.@+".contains(c))).collect();
        let named = |kind: &str, name: &str| words.contains(name).then(|| format!("{kind} {name}"));
        let users = self.predicted_users.keys().find_map(|name| named("user", name));
        let groups = || self.predicted_groups.keys().find_map(|name| named("group", name));
        let packages = || self.predicted_packages.keys().find_map(|name| named("package", name));
        let is_unit =
            |name: &str| words.contains(name) || name.strip_suffix(".service").is_some_and(|name| words.contains(name));
        let units = || self.predicted_units.keys().find(|name| is_unit(name)).map(|name| format!("unit {name}"));
        users.or_else(groups).or_else(packages).or_else(units)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::plan::Digest;

    #[test]
    fn predictions_override_the_disk() {
        let mut view = HostView::current();
        let path = Path::new("/etc/passwd");
        assert!(matches!(view.path_state(path).unwrap(), PathState::File { .. }));
        view.predict_path(path, PathState::Absent);
        assert_eq!(view.path_state(path).unwrap(), PathState::Absent);
        assert_eq!(view.read_content(path).unwrap(), None);
    }

    #[test]
    fn contents_of_removed_folders_stay_removed() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        let (mut view, top) = (HostView::current(), folder.path().join("a"));
        let made = view.path_state(&top).unwrap();
        view.predict_path(&top, PathState::Absent);
        assert_eq!(view.path_state(&inner).unwrap(), PathState::Absent);
        assert_eq!(view.missing_folders(&inner).unwrap(), vec![top.clone()]);
        view.predict_path(&top, made);
        assert_eq!(view.path_state(&inner).unwrap(), PathState::Absent);
        assert_eq!(view.count_entries(&top).unwrap(), 0);
    }

    #[test]
    fn edited_content_lasts_until_the_path_changes() {
        let mut view = HostView::current();
        let path = Path::new("/etc/passwd");
        let PathState::File { meta, .. } = view.path_state(path).unwrap() else { panic!("a file") };
        view.predict_path(path, PathState::File { digest: Digest::of_bytes(b"a"), meta: meta.clone() });
        assert_eq!(view.read_content(path).unwrap(), None, "bytes that come later");
        view.predict_content(path, b"a".to_vec());
        assert_eq!(view.read_content(path).unwrap(), Some(b"a".to_vec()));
        view.predict_path(path, PathState::File { digest: Digest::of_bytes(b"b"), meta });
        assert_eq!(view.read_content(path).unwrap(), None, "other bytes that come later");
    }

    #[test]
    fn predicted_links_are_followed() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("real")).unwrap();
        fs::write(folder.path().join("real/file"), "x").unwrap();
        let mut view = HostView::current();
        view.predict_path(&folder.path().join("link"), PathState::Link { target: "real".into() });
        assert_eq!(view.read_content(&folder.path().join("link/file")).unwrap(), Some(b"x".to_vec()));
        view.predict_path(&folder.path().join("link/file"), PathState::Absent);
        assert_eq!(view.path_state(&folder.path().join("real/file")).unwrap(), PathState::Absent);
    }

    #[test]
    fn conditions_naming_pending_changes_are_detected() {
        let mut view = HostView::current();
        view.predict_path(Path::new("/etc/app.conf"), PathState::Absent);
        view.predict_unit("app.service", UnitState::new_disabled());
        assert_eq!(view.pending_change_in("test -e /etc/app.conf").as_deref(), Some("path /etc/app.conf"));
        assert_eq!(view.pending_change_in("ls '/etc'").as_deref(), Some("path /etc/app.conf"));
        assert_eq!(view.pending_change_in("ls / /usr"), None);
        assert_eq!(view.pending_change_in("systemctl is-active app").as_deref(), Some("unit app.service"));
        assert_eq!(view.pending_change_in("systemctl is-active application"), None);
    }
}
