//! The host as a step sees it: what is there now, overlaid with what the earlier steps will have made.
//!
//! While planning, each step tells the world what it will have made true (`expect_…`); the next step's reads see
//! that instead of the disk. While applying nothing is expected, and the reads see the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::exec::Exec;
use crate::plan::Digest;

/// Permissions and ownership of a path, ownership by name where the name is known (else the number).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Permission bits, 0 to 0o7777.
    pub mode: u32,
    /// The owning user.
    pub owner: String,
    /// The owning group.
    pub group: String,
}

/// What stands at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "lowercase")]
pub enum PathState {
    /// Nothing.
    Absent,
    /// A regular file.
    File {
        /// SHA-256 of its bytes.
        digest: Digest,
        /// Permissions and ownership.
        meta: Meta,
    },
    /// A directory.
    Directory {
        /// Permissions and ownership.
        meta: Meta,
    },
    /// A symbolic link.
    Link {
        /// Where it points, as written in it.
        target: PathBuf,
    },
    /// A device, a socket, a pipe.
    Other,
}

/// A user account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserState {
    /// The number; absent for an account that an earlier step will have made without fixing it.
    pub uid: Option<u32>,
    /// The primary group's name.
    pub group: String,
    /// The comment (GECOS) field.
    pub comment: String,
    /// The home folder.
    pub home: String,
    /// The login shell.
    pub shell: String,
    /// Supplementary groups.
    pub groups: BTreeSet<String>,
}

/// A group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupState {
    /// The number; absent for one that an earlier step will have made without fixing it.
    pub gid: Option<u32>,
}

/// A systemd unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitState {
    /// Is there a unit file (or an instance's template)?
    pub found: bool,
    /// Is it masked?
    pub masked: bool,
    /// `enabled`, `disabled`, `static` … as systemd's `UnitFileState` says.
    pub enabled: String,
    /// `active`, `inactive`, `failed`, `activating` … as systemd's `ActiveState` says.
    pub active: String,
}

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
    paths: BTreeMap<PathBuf, PathState>,
    contents: BTreeMap<PathBuf, Vec<u8>>,
    users: BTreeMap<String, UserState>,
    groups: BTreeMap<String, GroupState>,
    packages: BTreeMap<String, Option<String>>,
    expected_units: BTreeMap<String, UnitState>,
    arriving: Vec<(String, String)>,
    installing: Vec<String>,
    pending: bool,
    units: BTreeMap<String, UnitState>,
    accounts: Option<Accounts>,
    dpkg: Option<BTreeMap<String, String>>,
}

/// `/etc/passwd` and `/etc/group`, read once.
#[derive(Debug)]
struct Accounts {
    users: BTreeMap<String, UserState>,
    groups: BTreeMap<String, GroupState>,
    user_names: BTreeMap<u32, String>,
    group_names: BTreeMap<u32, String>,
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
        self.units.append(&mut read_units(&wants.units)?);
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

    // ---- paths ----

    /// What stands at a path (links are not followed).
    ///
    /// # Errors
    /// The path could not be looked at, for another reason than its absence.
    pub fn path(&mut self, path: &Path) -> Result<PathState> {
        if let Some(expected) = self.paths.get(path) {
            return Ok(expected.clone());
        }
        let stat = match fs::symlink_metadata(path) {
            Ok(stat) => stat,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(PathState::Absent);
            }
            Err(error) => return Err(error).with_context(|| format!("looking at {}", path.display())),
        };
        let kind = stat.file_type();
        if kind.is_symlink() {
            let target = fs::read_link(path).with_context(|| format!("reading the link {}", path.display()))?;
            return Ok(PathState::Link { target });
        }
        let meta = self.meta(&stat)?;
        if kind.is_dir() {
            Ok(PathState::Directory { meta })
        } else if kind.is_file() {
            let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
            Ok(PathState::File { digest: Digest::of(&bytes), meta })
        } else {
            Ok(PathState::Other)
        }
    }

    /// The bytes of a file, or of what an earlier step will have made of it; `None` where there is no file.
    ///
    /// # Errors
    /// The file could not be read.
    pub fn content(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        if let Some(bytes) = self.contents.get(path) {
            return Ok(Some(bytes.clone()));
        }
        if let Some(PathState::Absent) = self.paths.get(path) {
            return Ok(None);
        }
        match fs::read(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }

    /// Tells what will stand at a path.
    pub fn expect_path(&mut self, path: &Path, state: PathState) {
        self.paths.insert(path.to_owned(), state);
    }

    /// Tells what a file will contain, for steps that edit it further.
    pub fn expect_content(&mut self, path: &Path, bytes: Vec<u8>) {
        self.contents.insert(path.to_owned(), bytes);
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
            return Ok(Some(expected.clone()));
        }
        Ok(self.accounts()?.users.get(name).cloned())
    }

    /// A group.
    ///
    /// # Errors
    /// As for users.
    pub fn group(&mut self, name: &str) -> Result<Option<GroupState>> {
        if let Some(expected) = self.groups.get(name) {
            return Ok(Some(expected.clone()));
        }
        Ok(self.accounts()?.groups.get(name).cloned())
    }

    /// Tells that an account will be there.
    pub fn expect_user(&mut self, name: &str, state: UserState) {
        self.users.insert(name.to_owned(), state);
    }

    /// Tells that a group will be there.
    pub fn expect_group(&mut self, name: &str, state: GroupState) {
        self.groups.insert(name.to_owned(), state);
    }

    fn accounts(&mut self) -> Result<&Accounts> {
        if self.accounts.is_none() {
            self.accounts = Some(Accounts::read()?);
        }
        Ok(self.accounts.as_ref().expect("read just now"))
    }

    // ---- packages ----

    /// The version of an installed package; `None` where it is not installed.
    ///
    /// # Errors
    /// dpkg's status could not be read.
    pub fn package(&mut self, name: &str) -> Result<Option<String>> {
        if let Some(expected) = self.packages.get(name) {
            return Ok(expected.clone());
        }
        if self.dpkg.is_none() {
            self.dpkg = Some(read_dpkg()?);
        }
        Ok(self.dpkg.as_ref().and_then(|dpkg| dpkg.get(name).cloned()))
    }

    /// Tells that a package will be installed (in that version, if the step fixes one) or will be gone.
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

    /// A systemd unit.
    ///
    /// # Errors
    /// systemd did not answer.
    pub fn unit(&mut self, name: &str) -> Result<UnitState> {
        if let Some(expected) = self.expected_units.get(name) {
            return Ok(expected.clone());
        }
        if !self.units.contains_key(name) {
            let mut read = read_units(&BTreeSet::from([name.to_owned()]))?;
            self.units.append(&mut read);
        }
        Ok(self.units.get(name).cloned().unwrap_or_else(UnitState::absent))
    }

    /// Tells what a unit will be like.
    pub fn expect_unit(&mut self, name: &str, state: UnitState) {
        self.expected_units.insert(name.to_owned(), state);
    }
}

impl UnitState {
    /// No unit file of that name.
    pub fn absent() -> Self {
        Self { found: false, masked: false, enabled: String::new(), active: "inactive".to_owned() }
    }
}

impl Accounts {
    fn read() -> Result<Self> {
        let passwd = fs::read_to_string("/etc/passwd").context("reading /etc/passwd")?;
        let group = fs::read_to_string("/etc/group").context("reading /etc/group")?;
        Ok(Self::parse(&passwd, &group))
    }

    /// Reads the colon-separated forms of passwd(5) and group(5); lines that do not have it are passed over.
    fn parse(passwd: &str, group: &str) -> Self {
        let (mut groups, mut group_names, mut members) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        for line in group.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            if let [name, _, gid, list] = fields[..]
                && let Ok(gid) = gid.parse::<u32>()
            {
                groups.insert(name.to_owned(), GroupState { gid: Some(gid) });
                group_names.entry(gid).or_insert_with(|| name.to_owned());
                members.push((name, list));
            }
        }
        let (mut users, mut user_names) = (BTreeMap::<String, UserState>::new(), BTreeMap::new());
        for line in passwd.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            if let [name, _, uid, gid, comment, home, shell] = fields[..]
                && let (Ok(uid), Ok(gid)) = (uid.parse::<u32>(), gid.parse::<u32>())
            {
                let group = group_names.get(&gid).cloned().unwrap_or_else(|| gid.to_string());
                user_names.entry(uid).or_insert_with(|| name.to_owned());
                users.insert(
                    name.to_owned(),
                    UserState {
                        uid: Some(uid),
                        group,
                        comment: comment.to_owned(),
                        home: home.to_owned(),
                        shell: shell.to_owned(),
                        groups: BTreeSet::new(),
                    },
                );
            }
        }
        for (group, list) in members {
            for member in list.split(',').filter(|member| !member.is_empty()) {
                if let Some(user) = users.get_mut(member) {
                    user.groups.insert(group.to_owned());
                }
            }
        }
        Self { users, groups, user_names, group_names }
    }
}

fn read_dpkg() -> Result<BTreeMap<String, String>> {
    match fs::read_to_string("/var/lib/dpkg/status") {
        Ok(status) => Ok(parse_dpkg(&status)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(error).context("reading /var/lib/dpkg/status"),
    }
}

/// Installed packages and their versions, from dpkg's status file (paragraphs of `Package:`, `Status:`, `Version:`).
fn parse_dpkg(status: &str) -> BTreeMap<String, String> {
    let mut installed = BTreeMap::new();
    let (mut name, mut version, mut is_installed) = ("", "", false);
    for line in status.lines().chain([""]) {
        if let Some(value) = line.strip_prefix("Package: ") {
            name = value;
        } else if let Some(value) = line.strip_prefix("Version: ") {
            version = value;
        } else if let Some(value) = line.strip_prefix("Status: ") {
            is_installed = value.ends_with(" ok installed");
        } else if line.is_empty() {
            if is_installed && !name.is_empty() {
                installed.insert(name.to_owned(), version.to_owned());
            }
            (name, version, is_installed) = ("", "", false);
        }
    }
    installed
}

fn read_units(names: &BTreeSet<String>) -> Result<BTreeMap<String, UnitState>> {
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let asked = Exec::new("systemctl")
        .args(["show", "--property=Id,Names,LoadState,UnitFileState,ActiveState", "--"])
        .args(names)
        .run()
        .context("asking systemd for the state of units")?;
    let blocks = parse_units(&String::from_utf8_lossy(&asked));
    // systemd answers in the order of the question; the names are ours, since an alias answers with another Id.
    Ok(names.iter().cloned().zip(blocks).collect())
}

/// One state for each paragraph of `systemctl show`.
fn parse_units(shown: &str) -> Vec<UnitState> {
    let parse = |block: &str| {
        let mut state = UnitState::absent();
        for line in block.lines() {
            match line.split_once('=') {
                Some(("LoadState", value)) => {
                    state.found = value != "not-found";
                    state.masked = value == "masked";
                }
                Some(("UnitFileState", value)) => state.enabled = value.to_owned(),
                Some(("ActiveState", value)) => state.active = value.to_owned(),
                _ => {}
            }
        }
        state
    };
    shown.split("\n\n").filter(|block| !block.trim().is_empty()).map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_know_groups_and_members() {
        let accounts = Accounts::parse(
            "root:x:0:0:root:/root:/bin/bash\nredis:x:101:102::/var/lib/redis:/usr/sbin/nologin\nbroken\n",
            "root:x:0:\nredis:x:102:\nssl-cert:x:103:redis,nobody\n",
        );
        let redis = &accounts.users["redis"];
        assert_eq!((redis.uid, redis.group.as_str()), (Some(101), "redis"));
        assert_eq!(redis.groups, BTreeSet::from(["ssl-cert".to_owned()]));
        assert_eq!(accounts.groups["ssl-cert"].gid, Some(103));
        assert_eq!(accounts.user_names[&101], "redis");
    }

    #[test]
    fn dpkg_counts_only_what_is_installed() {
        let status = "Package: a\nStatus: install ok installed\nVersion: 1\n\nPackage: b\nStatus: deinstall ok config-files\nVersion: 2\n";
        assert_eq!(parse_dpkg(status), BTreeMap::from([("a".to_owned(), "1".to_owned())]));
    }

    #[test]
    fn units_are_told_apart() {
        let shown = "Id=a.service\nLoadState=loaded\nActiveState=active\nUnitFileState=enabled\n\nId=b.service\nLoadState=not-found\nActiveState=inactive\nUnitFileState=\n";
        let units = parse_units(shown);
        assert_eq!(units.len(), 2);
        assert!(units[0].found && units[0].active == "active" && units[0].enabled == "enabled");
        assert_eq!(units[1], UnitState::absent());
    }

    #[test]
    fn expectations_stand_before_the_disk() {
        let mut world = World::now();
        let path = Path::new("/etc/passwd");
        assert!(matches!(world.path(path).unwrap(), PathState::File { .. }));
        world.expect_path(path, PathState::Absent);
        assert_eq!(world.path(path).unwrap(), PathState::Absent);
        assert_eq!(world.content(path).unwrap(), None);
    }
}
