//! Walks a path from `/`, one handle at a time, and checks each link on the way.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::PathError;

/// Maximum number of links in one path, as in Linux.
pub const MAX_LINKS: usize = 40;
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const HANDLE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A folder that was reached.
#[derive(Debug)]
pub struct Reached {
    /// The folder, open for reading.
    pub handle: OwnedFd,
    /// Its path without links.
    pub real: PathBuf,
}

/// Describes who controls where a link leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkOwner {
    /// Root, or the user that this process runs as.
    Trusted,
    /// A user, by number.
    User(u32),
}

impl LinkOwner {
    /// Returns who controls a link. A link of root with a second name in a user's folder counts as that user's: the
    /// user may have put it there.
    pub fn of(link: LinkCheck) -> Self {
        match link {
            LinkCheck { link_uid, .. } if !is_own_or_root(link_uid) => Self::User(link_uid),
            LinkCheck { folder_uid, link_count: 2.., .. } if !is_own_or_root(folder_uid) => Self::User(folder_uid),
            _ => Self::Trusted,
        }
    }

    /// Checks that the folder that a link leads to belongs to the user who controls the link.
    ///
    /// # Errors
    /// Returns an error that names the link, the folder and both owners.
    pub fn check_target(self, link: &Path, target: &Path, target_uid: u32) -> Result<(), PathError> {
        match self {
            Self::User(uid) if uid != target_uid => Err(PathError::UnsafeLink {
                link: link.to_owned(),
                link_owner: user_name(uid),
                target: target.to_owned(),
                target_owner: user_name(target_uid),
            }),
            _ => Ok(()),
        }
    }
}

/// The attributes of a link that decide who controls it.
#[derive(Clone, Copy, Debug)]
pub struct LinkCheck {
    /// Owner of the link.
    pub link_uid: u32,
    /// Number of names that the link has.
    pub link_count: u64,
    /// Owner of the folder that the link is in.
    pub folder_uid: u32,
}

/// One step of a walk.
enum WalkStep {
    Name(OsString),
    /// The end of a link's target: the folder reached must belong to the link's owner.
    EndOfLink(PathBuf, LinkOwner),
}

/// Opens a folder by its absolute path.
///
/// # Errors
/// Returns an error if the path is relative, missing, unsafe, or not a folder, or if the system fails.
pub fn open_folder(path: &Path) -> Result<Reached, PathError> {
    if !path.is_absolute() {
        return Err(PathError::io("open", path, Errno::INVAL));
    }
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    // Without a link on the way there is nothing to check; every other case, including errors, takes the slow path.
    match rustix::fs::openat2(rustix::fs::CWD, path, FOLDER, Mode::empty(), resolve) {
        Ok(handle) => Ok(Reached { handle, real: path.components().collect() }),
        Err(_) => Walk::from_root(path)?.finish(path),
    }
}

struct Walk {
    current: OwnedFd,
    real: PathBuf,
    parts: VecDeque<WalkStep>,
    link_count: usize,
}

impl Walk {
    fn from_root(path: &Path) -> Result<Self, PathError> {
        Ok(Self { current: open_root()?, real: PathBuf::from("/"), parts: to_parts(path).collect(), link_count: 0 })
    }

    fn finish(mut self, path: &Path) -> Result<Reached, PathError> {
        while let Some(part) = self.parts.pop_front() {
            match part {
                WalkStep::EndOfLink(link, owner) => {
                    let stat = stat_handle(&self.current, &self.real)?;
                    owner.check_target(&link, &self.real, stat.st_uid)?;
                }
                WalkStep::Name(name) => self.enter(&name, path)?,
            }
        }
        let opened = rustix::fs::openat(&self.current, ".", FOLDER, Mode::empty());
        let handle = opened.map_err(|source| PathError::io("open", &self.real, source))?;
        Ok(Reached { handle, real: self.real })
    }

    fn enter(&mut self, name: &OsStr, path: &Path) -> Result<(), PathError> {
        let next_path =
            if name == ".." { self.real.parent().unwrap_or(Path::new("/")).to_owned() } else { self.real.join(name) };
        let next = rustix::fs::openat(&self.current, name, HANDLE, Mode::empty())
            .map_err(|source| PathError::io("open", &next_path, source))?;
        let stat = stat_handle(&next, &next_path)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => (self.current, self.real) = (next, next_path),
            FileType::Symlink => self.follow(&next, &stat, next_path, path)?,
            _ => return Err(PathError::io("open", &next_path, Errno::NOTDIR)),
        }
        Ok(())
    }

    fn follow(&mut self, link: &OwnedFd, stat: &Stat, link_path: PathBuf, path: &Path) -> Result<(), PathError> {
        self.link_count += 1;
        if self.link_count > MAX_LINKS {
            return Err(PathError::TooManyLinks { path: path.to_owned() });
        }
        let folder = stat_handle(&self.current, &self.real)?;
        let target = rustix::fs::readlinkat(link, "", Vec::new())
            .map_err(|source| PathError::io("read the link", &link_path, source))?;
        let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
        let owner =
            LinkOwner::of(LinkCheck { link_uid: stat.st_uid, link_count: stat.st_nlink, folder_uid: folder.st_uid });
        self.parts.push_front(WalkStep::EndOfLink(link_path, owner));
        to_parts(&target).rev().for_each(|part| self.parts.push_front(part));
        if target.is_absolute() {
            (self.current, self.real) = (open_root()?, PathBuf::from("/"));
        }
        Ok(())
    }
}

fn open_root() -> Result<OwnedFd, PathError> {
    let opened = rustix::fs::openat(rustix::fs::CWD, "/", HANDLE | OFlags::DIRECTORY, Mode::empty());
    opened.map_err(|source| PathError::io("open", Path::new("/"), source))
}

fn stat_handle(handle: &OwnedFd, path: &Path) -> Result<Stat, PathError> {
    rustix::fs::fstat(handle).map_err(|source| PathError::io("look at", path, source))
}

/// Returns the names in a path, without `.` and the root.
fn to_parts(path: &Path) -> impl DoubleEndedIterator<Item = WalkStep> + '_ {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(WalkStep::Name(name.to_owned())),
        Component::ParentDir => Some(WalkStep::Name(OsString::from(".."))),
        _ => None,
    })
}

/// Returns whether a user number is root's or this process' own.
pub fn is_own_or_root(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

/// Returns the name of a user for a message: `user app`, or `user 1000` if the account file does not name it.
pub fn user_name(uid: u32) -> String {
    let accounts = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let mut entries = accounts.lines().map(|line| line.split(':'));
    let found = entries.find_map(|mut fields| {
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    });
    match found {
        Some("root") => "root".to_owned(),
        Some(name) => format!("user {name}"),
        None => format!("user {uid}"),
    }
}
