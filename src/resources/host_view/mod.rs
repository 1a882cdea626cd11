//! The state of the host as a step sees it: the current state, overlaid with the predicted changes of earlier steps.
//!
//! In a plan, each step with a change records the state after it (`predict_…`), and later steps read that state in
//! place of the disk. In an apply, nothing is predicted, and every read goes to the disk.

mod accounts;
mod objects;
mod packages;
mod paths;
mod units;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::host_fs::{self, MAX_TEXT_BYTES, PathError};
use crate::plan::{Digest, digest_json};
use accounts::Accounts;
use paths::{PathLookup, PathOverlay};

pub use accounts::{GroupState, UserState};
pub use paths::{PathMeta, PathState};
pub use units::{UnitState, template_of};

/// The largest file, in bytes, that is read although its length differs from what is wanted.
const MAX_UNEXPECTED_BYTES: u64 = 64 << 20;

/// The largest file, in bytes, that is read because a folder above it will be removed.
const MAX_REMOVED_BYTES: u64 = 256 << 10;

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
    /// The host as it is, nothing expected.
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

    // ---- paths ----

    /// Returns the state of a path. Links in its folder are followed, the last component is not.
    ///
    /// # Errors
    /// Returns an error if the path is unsafe or cannot be read for another reason than its absence.
    pub fn path_state(&mut self, path: &Path) -> Result<PathState> {
        self.path_state_of_length(path, None)
    }

    /// Returns the real path behind a path whose folder is reached through a link; `None` where there is no link.
    pub fn path_behind_links(&self, path: &Path) -> Option<PathBuf> {
        self.paths.resolve_path(path).ok().flatten().filter(|real| real != path)
    }

    /// Returns the state of a path at which a content of `length` bytes is wanted. The content of a large file is read
    /// only if the file has that length: otherwise its digest is one of its size and times.
    ///
    /// # Errors
    /// Returns an error if the path is unsafe or cannot be read for another reason than its absence.
    pub fn path_state_of_length(&mut self, path: &Path, length: Option<u64>) -> Result<PathState> {
        self.path_state_reading(path, |found| found <= MAX_UNEXPECTED_BYTES || length == Some(found))
    }

    /// Returns the state of a path; a file whose length is not to be read counts by its size and times.
    fn path_state_reading(&mut self, path: &Path, is_read: impl Fn(u64) -> bool) -> Result<PathState> {
        let Some(real) = self.paths.resolve_path(path)? else { return Ok(PathState::Absent) };
        let stat = match self.paths.look_up(&real)? {
            PathLookup::Absent => return Ok(PathState::Absent),
            PathLookup::Predicted(state) => return Ok(state),
            PathLookup::OnDisk(stat) => stat,
        };
        if stat.is_symlink() {
            let target = fs::read_link(&real).with_context(|| format!("reading the link {}", path.display()))?;
            return Ok(PathState::Link { target });
        }
        if stat.is_dir() {
            return Ok(PathState::Directory { meta: self.read_meta(&stat)? });
        }
        if !stat.is_file() {
            return Ok(PathState::Other);
        }
        // A user can swap the path meanwhile: what is read is what was opened.
        let Some(file) = host_fs::open_file(&real)? else { return Ok(PathState::Absent) };
        let stat = file.metadata().with_context(|| format!("looking at {}", path.display()))?;
        let digest = if is_read(stat.len()) {
            // A file that grows meanwhile is not read for ever.
            Digest::of_reader(file.take(stat.len())).with_context(|| format!("reading {}", path.display()))?
        } else {
            let times = (stat.mtime(), stat.mtime_nsec(), stat.ctime(), stat.ctime_nsec());
            Digest::of_bytes(format!("large file {} {} {times:?}", stat.len(), stat.ino()).as_bytes())
        };
        Ok(PathState::File { digest, meta: self.read_meta(&stat)? })
    }

    /// Returns the bytes of a file, with the predicted changes of earlier steps; `None` where there is no file, and
    /// where an earlier step writes it with bytes that are not here yet.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read.
    pub fn read_content(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        match self.paths.resolve_path(path)? {
            Some(real) => self.paths.read_content(&real, MAX_TEXT_BYTES),
            None => Ok(None),
        }
    }

    /// Returns the text of a file, as [`HostView::read_content`] does, if it is UTF-8 of at most `limit` bytes.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read.
    pub fn read_text_up_to(&self, path: &Path, limit: u64) -> Result<Option<String>> {
        let Some(real) = self.paths.resolve_path(path)? else { return Ok(None) };
        match self.paths.read_content(&real, limit) {
            Ok(bytes) => Ok(bytes.and_then(|bytes| String::from_utf8(bytes).ok())),
            Err(error) if matches!(error.downcast_ref(), Some(PathError::TooLarge { .. })) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Counts the entries below a directory, at any depth, for its removal.
    ///
    /// # Errors
    /// Returns an error if a folder cannot be listed, or something is mounted there or below.
    pub fn count_entries(&self, path: &Path) -> Result<usize> {
        match self.paths.resolve_path(path)? {
            Some(real) => {
                self.paths.ensure_no_mounts_below(&real)?;
                Ok(self.paths.list_below(&real)?.len())
            }
            None => Ok(0),
        }
    }

    /// Returns a digest of the paths below a directory, at any depth, and of the state of each. Files over
    /// 256 KiB count by their size and times.
    ///
    /// # Errors
    /// Returns an error if a folder cannot be listed or a file cannot be read.
    pub fn digest_entries(&mut self, path: &Path) -> Result<Digest> {
        let Some(real) = self.paths.resolve_path(path)? else { return Ok(Digest::of_bytes(b"")) };
        let mut entries: Vec<(Vec<u8>, PathState)> = Vec::new();
        for entry in self.paths.list_below(&real)? {
            let state = self.path_state_reading(&entry, |length| length <= MAX_REMOVED_BYTES)?;
            entries.push((entry.into_os_string().into_encoded_bytes(), state));
        }
        Ok(digest_json(&entries))
    }

    /// The folders above a path that are missing, topmost first; something else in the way counts as missing.
    ///
    /// # Errors
    /// Returns an error if a folder cannot be read.
    pub fn missing_folders(&self, path: &Path) -> Result<Vec<PathBuf>> {
        let mut missing = Vec::new();
        for folder in path.ancestors().skip(1) {
            if self.paths.resolve_folder(folder)?.is_some() {
                break;
            }
            missing.push(folder.to_owned());
        }
        missing.reverse();
        Ok(missing)
    }

    /// Returns whether a path is a folder, with links followed.
    ///
    /// # Errors
    /// Returns an error if the path cannot be read.
    pub fn has_folder(&self, path: &Path) -> Result<bool> {
        Ok(self.paths.resolve_folder(path)?.is_some())
    }

    /// Holds that something can be put at a path: its folder is there or may still come.
    ///
    /// # Errors
    /// Returns an error if the folder is missing and no earlier step creates it.
    pub fn require_folder(&self, path: &Path) -> Result<()> {
        let Some(folder) = path.parent() else { return Ok(()) };
        if self.paths.resolve_folder(folder)?.is_some() || self.unknown_until_apply().is_some() {
            return Ok(());
        }
        bail!("the folder {} does not exist; a `directory` step before this one can create it", folder.display())
    }

    /// Holds that something can be given to this owner and group: both are there or may still come.
    ///
    /// # Errors
    /// Returns an error if the account is missing and no earlier step creates it.
    pub fn require_accounts(&mut self, meta: &PathMeta) -> Result<()> {
        if meta.owner == "root" && meta.group == "root" || self.unknown_until_apply().is_some() {
            return Ok(());
        }
        let is_number = |name: &str| name.parse::<u32>().is_ok();
        if !is_number(&meta.owner) && self.user_state(&meta.owner)?.is_none() {
            bail!("there is no user {}; a `user` step before this one can create it", meta.owner);
        }
        if !is_number(&meta.group) && self.group_state(&meta.group)?.is_none() {
            bail!("there is no group {}; a `group` step before this one can create it", meta.group);
        }
        Ok(())
    }

    /// Records the predicted state of a path.
    pub fn predict_path(&mut self, path: &Path, state: PathState) {
        let real = self.real_path(path);
        self.paths.predict_path(&real, state);
    }

    /// Tells what a file will contain, for steps that edit it further; after its `expect_path`.
    pub fn predict_content(&mut self, path: &Path, bytes: Vec<u8>) {
        let real = self.real_path(path);
        self.paths.predict_content(&real, bytes);
    }

    /// Returns the real path, or the path itself if its folder comes from a step with unknown effects.
    fn real_path(&self, path: &Path) -> PathBuf {
        self.paths.resolve_path(path).ok().flatten().unwrap_or_else(|| path.to_owned())
    }

    fn read_meta(&mut self, stat: &fs::Metadata) -> Result<PathMeta> {
        let accounts = self.load_accounts()?;
        let name = |names: &BTreeMap<u32, String>, id: u32| names.get(&id).cloned().unwrap_or_else(|| id.to_string());
        Ok(PathMeta {
            mode: stat.permissions().mode() & 0o7777,
            owner: name(&accounts.user_names, stat.uid()),
            group: name(&accounts.group_names, stat.gid()),
        })
    }

    // ---- accounts ----

    /// A user account.
    ///
    /// # Errors
    /// Returns an error if `/etc/passwd` or `/etc/group` cannot be read.
    pub fn user_state(&mut self, name: &str) -> Result<Option<UserState>> {
        if let Some(expected) = self.predicted_users.get(name) {
            return Ok(expected.clone());
        }
        Ok(self.load_accounts()?.users.get(name).cloned())
    }

    /// A group.
    ///
    /// # Errors
    /// The same as for users.
    pub fn group_state(&mut self, name: &str) -> Result<Option<GroupState>> {
        if let Some(expected) = self.predicted_groups.get(name) {
            return Ok(expected.clone());
        }
        Ok(self.load_accounts()?.groups.get(name).cloned())
    }

    /// The users whose primary group this is, and those that are in it besides.
    ///
    /// # Errors
    /// The same as for users.
    pub fn group_users(&mut self, group: &str) -> Result<(Vec<String>, Vec<String>)> {
        self.load_accounts()?;
        let real = self.accounts.iter().flat_map(|accounts| &accounts.users);
        let real = real.filter(|(name, _)| !self.predicted_users.contains_key(*name));
        let expected = self.predicted_users.iter().filter_map(|(name, state)| Some((name, state.as_ref()?)));
        let (mut primary, mut members) = (Vec::new(), Vec::new());
        for (name, user) in real.chain(expected) {
            if user.group == group {
                primary.push(name.clone());
            }
            if user.groups.contains(group) {
                members.push(name.clone());
            }
        }
        Ok((primary, members))
    }

    /// Returns whether an earlier step creates or changes the account.
    pub fn is_user_predicted(&self, name: &str) -> bool {
        self.predicted_users.contains_key(name)
    }

    /// Records a predicted account, or its removal (`None`).
    pub fn predict_user(&mut self, name: &str, state: Option<UserState>) {
        self.predicted_users.insert(name.to_owned(), state);
    }

    /// Records a predicted group, or its removal (`None`).
    pub fn predict_group(&mut self, name: &str, state: Option<GroupState>) {
        self.predicted_groups.insert(name.to_owned(), state);
    }

    fn load_accounts(&mut self) -> Result<&Accounts> {
        if self.accounts.is_none() {
            self.accounts = Some(Accounts::read()?);
        }
        Ok(self.accounts.as_ref().expect("read just now"))
    }

    // ---- packages ----

    /// The version of an installed package, empty where an earlier step installs whatever version there is; `None`
    /// where it is not installed.
    ///
    /// # Errors
    /// Returns an error if dpkg's status file cannot be read.
    pub fn package_version(&mut self, name: &str) -> Result<Option<String>> {
        if let Some(expected) = self.predicted_packages.get(name) {
            return Ok(expected.clone());
        }
        if self.dpkg_versions.is_none() {
            self.dpkg_versions = Some(packages::read_dpkg()?);
        }
        Ok(self.dpkg_versions.as_ref().and_then(|dpkg| dpkg.get(name).cloned()))
    }

    /// Records a package that will be installed (empty: in any version) or removed (`None`).
    pub fn predict_package(&mut self, name: &str, version: Option<String>) {
        self.predicted_packages.insert(name.to_owned(), version);
    }

    /// Tells that a package is going to be installed, and what of interest comes with it: `path /etc/redis`,
    /// `user redis`, `unit redis-server.service`.
    pub fn predict_install(&mut self, package: &str, provides: &[String]) {
        self.pending_packages.push(package.to_owned());
        for what in provides {
            self.provided.push((what.clone(), package.to_owned()));
        }
    }

    /// Returns the package of an earlier step that provides an object (`path …`, `user …`, `unit …`).
    pub fn provided_by(&self, what: &str) -> Option<ProvidedBy> {
        let found = self.provided.iter().find(|(thing, _)| thing == what);
        found.map(|(_, package)| ProvidedBy { package: package.clone() })
    }

    /// The packages that earlier steps are going to install.
    pub fn announced_packages(&self) -> &[String] {
        &self.pending_packages
    }

    // ---- units ----

    /// A systemd unit. An instance of a template that an earlier step brings counts as there.
    ///
    /// # Errors
    /// Returns an error if systemd does not answer.
    pub fn unit_state(&mut self, name: &str) -> Result<UnitState> {
        if let Some(expected) = self.predicted_units.get(name) {
            return Ok(expected.clone());
        }
        if !self.known_units.contains_key(name) {
            let mut read = units::read_units(&BTreeSet::from([name.to_owned()]))?;
            self.known_units.append(&mut read);
        }
        let mut state = self.known_units.get(name).cloned().unwrap_or_else(UnitState::absent);
        let template = template_of(name).and_then(|template| self.predicted_units.get(&template));
        match template {
            Some(template) if template.found && !state.found => state = UnitState::new_disabled(),
            Some(template) if !template.found => state.found = false,
            _ => {}
        }
        Ok(state)
    }

    /// Tells what a unit will be like.
    pub fn predict_unit(&mut self, name: &str, state: UnitState) {
        self.predicted_units.insert(name.to_owned(), state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
