//! The host as a step sees it: what is there now, overlaid with what the earlier steps will have made.
//!
//! While planning, each step that has something to do tells the world what it will have made true (`expect_…`); the
//! next step's reads see that instead of the disk. While applying nothing is expected, and the reads see the disk.

mod accounts;
mod packages;
mod paths;
mod units;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::plan::Digest;
use accounts::Accounts;
use paths::{Paths, Seen};

pub use accounts::{GroupState, UserState};
pub use paths::{Meta, PathState};
pub use units::{UnitState, template_of};

/// Something that comes with a package that an earlier step will install.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The package.
    pub package: String,
}

/// What all steps together are going to look up; the host is asked once for it.
#[derive(Debug, Default)]
pub struct Wants {
    /// Names of systemd units, with their suffix.
    pub units: BTreeSet<String>,
}

/// The host, overlaid with expectations.
#[derive(Debug, Default)]
pub struct World {
    paths: Paths,
    users: BTreeMap<String, Option<UserState>>,
    groups: BTreeMap<String, Option<GroupState>>,
    packages: BTreeMap<String, Option<String>>,
    expected_units: BTreeMap<String, UnitState>,
    arriving: Vec<(String, String)>,
    installing: Vec<String>,
    pending: bool,
    command: Option<String>,
    units: BTreeMap<String, UnitState>,
    accounts: Option<Accounts>,
    dpkg: Option<BTreeMap<String, String>>,
}

impl World {
    /// The host as it is, nothing expected.
    pub fn now() -> Self {
        Self::default()
    }

    /// Looks up at once what all steps announced.
    ///
    /// # Errors
    /// systemd did not answer.
    pub fn fetch(&mut self, wants: &Wants) -> Result<()> {
        self.units.append(&mut units::read_units(&wants.units)?);
        Ok(())
    }

    /// Has any earlier step something to do? Commands with guards ask, since their guard may then answer otherwise.
    pub fn is_pending(&self) -> bool {
        self.pending
    }

    /// Notes that an earlier step has something to do.
    pub fn expect_pending(&mut self) {
        self.pending = true;
    }

    /// Notes that an earlier step runs a command: nobody can tell what it makes.
    pub fn expect_command(&mut self, shown: &str) {
        self.command.get_or_insert_with(|| shown.to_owned());
    }

    /// What may still bring things that no step announced: a package on its way, a command that will run.
    pub fn surprise(&self) -> Option<String> {
        if !self.installing.is_empty() {
            return Some(format!("package {}", self.installing.join(", ")));
        }
        self.command.as_ref().map(|shown| format!("the command `{shown}`"))
    }

    /// What earlier steps will have changed of the things that a text names: a guard that names one cannot be
    /// asked yet.
    pub fn touched(&self, text: &str) -> Option<String> {
        if let Some(path) = self.paths.mentioned(text) {
            return Some(format!("path {}", path.display()));
        }
        let words: BTreeSet<&str> = text.split(|c: char| !(c.is_alphanumeric() || "-_.@+".contains(c))).collect();
        let named = |kind: &str, name: &str| words.contains(name).then(|| format!("{kind} {name}"));
        let users = self.users.keys().find_map(|name| named("user", name));
        let groups = || self.groups.keys().find_map(|name| named("group", name));
        let packages = || self.packages.keys().find_map(|name| named("package", name));
        let is_unit =
            |name: &str| words.contains(name) || name.strip_suffix(".service").is_some_and(|name| words.contains(name));
        let units = || self.expected_units.keys().find(|name| is_unit(name)).map(|name| format!("unit {name}"));
        users.or_else(groups).or_else(packages).or_else(units)
    }

    // ---- paths ----

    /// What stands at a path (the links in its folder are followed, the last one is not).
    ///
    /// # Errors
    /// The path could not be looked at, for another reason than its absence.
    pub fn path(&mut self, path: &Path) -> Result<PathState> {
        let Some(real) = self.paths.resolve(path)? else { return Ok(PathState::Absent) };
        let stat = match self.paths.look(&real)? {
            Seen::Nothing => return Ok(PathState::Absent),
            Seen::Expected(state) => return Ok(state),
            Seen::OnDisk(stat) => stat,
        };
        if stat.is_symlink() {
            let target = fs::read_link(&real).with_context(|| format!("reading the link {}", path.display()))?;
            return Ok(PathState::Link { target });
        }
        let meta = self.meta(&stat)?;
        if stat.is_dir() {
            Ok(PathState::Directory { meta })
        } else if stat.is_file() {
            let bytes = fs::read(&real).with_context(|| format!("reading {}", path.display()))?;
            Ok(PathState::File { digest: Digest::of(&bytes), meta })
        } else {
            Ok(PathState::Other)
        }
    }

    /// The bytes of a file, or of what an earlier step will have made of it; `None` where there is no file, and
    /// where an earlier step writes it with bytes that are not here yet.
    ///
    /// # Errors
    /// The file could not be read.
    pub fn content(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        match self.paths.resolve(path)? {
            Some(real) => self.paths.content(&real),
            None => Ok(None),
        }
    }

    /// How many entries there are below a directory, at any depth.
    ///
    /// # Errors
    /// A folder could not be listed.
    pub fn entries(&self, path: &Path) -> Result<usize> {
        match self.paths.resolve(path)? {
            Some(real) => Ok(self.paths.below(&real)?.len()),
            None => Ok(0),
        }
    }

    /// The folders above a path that are missing, topmost first; something else in the way counts as missing.
    ///
    /// # Errors
    /// A folder could not be looked at.
    pub fn missing_folders(&self, path: &Path) -> Result<Vec<PathBuf>> {
        let mut missing = Vec::new();
        for folder in path.ancestors().skip(1) {
            if self.paths.folder(folder)?.is_some() {
                break;
            }
            missing.push(folder.to_owned());
        }
        missing.reverse();
        Ok(missing)
    }

    /// Is there a folder at a path, links followed?
    ///
    /// # Errors
    /// It could not be looked at.
    pub fn has_folder(&self, path: &Path) -> Result<bool> {
        Ok(self.paths.folder(path)?.is_some())
    }

    /// Holds that something can be put at a path: its folder is there or may still come.
    ///
    /// # Errors
    /// The folder is missing, and no earlier step makes it.
    pub fn needs_folder(&self, path: &Path) -> Result<()> {
        let Some(folder) = path.parent() else { return Ok(()) };
        if self.paths.folder(folder)?.is_some() || self.surprise().is_some() {
            return Ok(());
        }
        bail!("the folder {} is not there; a `directory` step before this one can make it", folder.display())
    }

    /// Holds that something can be given to this owner and group: both are there or may still come.
    ///
    /// # Errors
    /// The account is missing, and no earlier step makes it.
    pub fn needs_accounts(&mut self, meta: &Meta) -> Result<()> {
        if meta.owner == "root" && meta.group == "root" || self.surprise().is_some() {
            return Ok(());
        }
        let is_number = |name: &str| name.parse::<u32>().is_ok();
        if !is_number(&meta.owner) && self.user(&meta.owner)?.is_none() {
            bail!("there is no user {}; a `user` step before this one can make it", meta.owner);
        }
        if !is_number(&meta.group) && self.group(&meta.group)?.is_none() {
            bail!("there is no group {}; a `group` step before this one can make it", meta.group);
        }
        Ok(())
    }

    /// Tells what will stand at a path.
    pub fn expect_path(&mut self, path: &Path, state: PathState) {
        let real = self.real(path);
        self.paths.expect(&real, state);
    }

    /// Tells what a file will contain, for steps that edit it further; after its `expect_path`.
    pub fn expect_content(&mut self, path: &Path, bytes: Vec<u8>) {
        let real = self.real(path);
        self.paths.expect_content(&real, bytes);
    }

    /// The real path, or the path itself where its folder comes with something that nobody announced.
    fn real(&self, path: &Path) -> PathBuf {
        self.paths.resolve(path).ok().flatten().unwrap_or_else(|| path.to_owned())
    }

    fn meta(&mut self, stat: &fs::Metadata) -> Result<Meta> {
        let accounts = self.accounts()?;
        let name = |names: &BTreeMap<u32, String>, id: u32| names.get(&id).cloned().unwrap_or_else(|| id.to_string());
        Ok(Meta {
            mode: stat.permissions().mode() & 0o7777,
            owner: name(&accounts.user_names, stat.uid()),
            group: name(&accounts.group_names, stat.gid()),
        })
    }

    // ---- accounts ----

    /// A user account.
    ///
    /// # Errors
    /// `/etc/passwd` or `/etc/group` could not be read.
    pub fn user(&mut self, name: &str) -> Result<Option<UserState>> {
        if let Some(expected) = self.users.get(name) {
            return Ok(expected.clone());
        }
        Ok(self.accounts()?.users.get(name).cloned())
    }

    /// A group.
    ///
    /// # Errors
    /// As for users.
    pub fn group(&mut self, name: &str) -> Result<Option<GroupState>> {
        if let Some(expected) = self.groups.get(name) {
            return Ok(expected.clone());
        }
        Ok(self.accounts()?.groups.get(name).cloned())
    }

    /// The users whose primary group this is, and those that are in it besides.
    ///
    /// # Errors
    /// As for users.
    pub fn group_users(&mut self, group: &str) -> Result<(Vec<String>, Vec<String>)> {
        self.accounts()?;
        let real = self.accounts.iter().flat_map(|accounts| &accounts.users);
        let real = real.filter(|(name, _)| !self.users.contains_key(*name));
        let expected = self.users.iter().filter_map(|(name, state)| Some((name, state.as_ref()?)));
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

    /// Is this account one that an earlier step will have made, or changed?
    pub fn expects_user(&self, name: &str) -> bool {
        self.users.contains_key(name)
    }

    /// Tells that an account will be there, or (`None`) will be gone.
    pub fn expect_user(&mut self, name: &str, state: Option<UserState>) {
        self.users.insert(name.to_owned(), state);
    }

    /// Tells that a group will be there, or (`None`) will be gone.
    pub fn expect_group(&mut self, name: &str, state: Option<GroupState>) {
        self.groups.insert(name.to_owned(), state);
    }

    fn accounts(&mut self) -> Result<&Accounts> {
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
    /// dpkg's status could not be read.
    pub fn package(&mut self, name: &str) -> Result<Option<String>> {
        if let Some(expected) = self.packages.get(name) {
            return Ok(expected.clone());
        }
        if self.dpkg.is_none() {
            self.dpkg = Some(packages::read_dpkg()?);
        }
        Ok(self.dpkg.as_ref().and_then(|dpkg| dpkg.get(name).cloned()))
    }

    /// Tells that a package will be installed (in that version; empty: whatever version there is) or (`None`) gone.
    pub fn expect_package(&mut self, name: &str, version: Option<String>) {
        self.packages.insert(name.to_owned(), version);
    }

    /// Tells that a package is going to be installed, and what of interest comes with it: `path /etc/redis`,
    /// `user redis`, `unit redis-server.service`.
    pub fn expect_arrival(&mut self, package: &str, brings: &[String]) {
        self.installing.push(package.to_owned());
        for what in brings {
            self.arriving.push((what.clone(), package.to_owned()));
        }
    }

    /// Does this (`path …`, `user …`, `unit …`) come with a package that an earlier step will install?
    pub fn arrival(&self, what: &str) -> Option<Arrival> {
        let found = self.arriving.iter().find(|(thing, _)| thing == what);
        found.map(|(_, package)| Arrival { package: package.clone() })
    }

    /// The packages that earlier steps are going to install.
    pub fn installing(&self) -> &[String] {
        &self.installing
    }

    // ---- units ----

    /// A systemd unit. An instance of a template that an earlier step brings counts as there.
    ///
    /// # Errors
    /// systemd did not answer.
    pub fn unit(&mut self, name: &str) -> Result<UnitState> {
        if let Some(expected) = self.expected_units.get(name) {
            return Ok(expected.clone());
        }
        if !self.units.contains_key(name) {
            let mut read = units::read_units(&BTreeSet::from([name.to_owned()]))?;
            self.units.append(&mut read);
        }
        let mut state = self.units.get(name).cloned().unwrap_or_else(UnitState::absent);
        let template = template_of(name).and_then(|template| self.expected_units.get(&template));
        match template {
            Some(template) if template.found && !state.found => state = UnitState::fresh(),
            Some(template) if !template.found => state.found = false,
            _ => {}
        }
        Ok(state)
    }

    /// Tells what a unit will be like.
    pub fn expect_unit(&mut self, name: &str, state: UnitState) {
        self.expected_units.insert(name.to_owned(), state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expectations_stand_before_the_disk() {
        let mut world = World::now();
        let path = Path::new("/etc/passwd");
        assert!(matches!(world.path(path).unwrap(), PathState::File { .. }));
        world.expect_path(path, PathState::Absent);
        assert_eq!(world.path(path).unwrap(), PathState::Absent);
        assert_eq!(world.content(path).unwrap(), None);
    }

    #[test]
    fn what_is_below_a_removed_folder_is_gone_and_stays_so() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        let (mut world, top) = (World::now(), folder.path().join("a"));
        let made = world.path(&top).unwrap();
        world.expect_path(&top, PathState::Absent);
        assert_eq!(world.path(&inner).unwrap(), PathState::Absent);
        assert_eq!(world.missing_folders(&inner).unwrap(), vec![top.clone()]);
        world.expect_path(&top, made);
        assert_eq!(world.path(&inner).unwrap(), PathState::Absent);
        assert_eq!(world.entries(&top).unwrap(), 0);
    }

    #[test]
    fn edited_content_lasts_until_the_path_becomes_something_else() {
        let mut world = World::now();
        let path = Path::new("/etc/passwd");
        let PathState::File { meta, .. } = world.path(path).unwrap() else { panic!("a file") };
        world.expect_path(path, PathState::File { digest: Digest::of(b"a"), meta: meta.clone() });
        assert_eq!(world.content(path).unwrap(), None, "bytes that come later");
        world.expect_content(path, b"a".to_vec());
        assert_eq!(world.content(path).unwrap(), Some(b"a".to_vec()));
        world.expect_path(path, PathState::File { digest: Digest::of(b"b"), meta });
        assert_eq!(world.content(path).unwrap(), None, "other bytes that come later");
    }

    #[test]
    fn a_link_that_will_be_there_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("real")).unwrap();
        fs::write(folder.path().join("real/file"), "x").unwrap();
        let mut world = World::now();
        world.expect_path(&folder.path().join("link"), PathState::Link { target: "real".into() });
        assert_eq!(world.content(&folder.path().join("link/file")).unwrap(), Some(b"x".to_vec()));
        world.expect_path(&folder.path().join("link/file"), PathState::Absent);
        assert_eq!(world.path(&folder.path().join("real/file")).unwrap(), PathState::Absent);
    }

    #[test]
    fn a_guard_that_names_a_pending_thing_is_noticed() {
        let mut world = World::now();
        world.expect_path(Path::new("/etc/app.conf"), PathState::Absent);
        world.expect_unit("app.service", UnitState::fresh());
        assert_eq!(world.touched("test -e /etc/app.conf").as_deref(), Some("path /etc/app.conf"));
        assert_eq!(world.touched("ls '/etc'").as_deref(), Some("path /etc/app.conf"));
        assert_eq!(world.touched("ls / /usr"), None);
        assert_eq!(world.touched("systemctl is-active app").as_deref(), Some("unit app.service"));
        assert_eq!(world.touched("systemctl is-active application"), None);
    }
}
