//! Replaces files atomically and durably: a reader sees the old content or the new one, never a part, also after a
//! crash or a power failure.
//!
//! The new content is written to a temporary file in the same folder. It is created with mode 0600, gets its owner and
//! mode through its descriptor, and only then its name: at no time does a path exist through which another user could
//! redirect the write or read a secret early.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, XattrFlags};
use rustix::io::Errno;

/// The prefix of temporary files; one that a crash leaves behind is recognized by it.
const TEMPORARY_PREFIX: &str = ".dunlin-";
/// Maximum number of names tried for a temporary file.
const MAX_NAME_ATTEMPTS: u32 = 64;
/// The limit of Linux for the names of all extended attributes of a file, and for the value of one.
const MAX_XATTR_BYTES: usize = 64 * 1024;

/// The attributes of a file that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// The permission bits, exactly: the process' umask does not apply.
    pub mode: u32,
    /// The owner and group; the process' own where there are none.
    pub owner: Option<(Uid, Gid)>,
}

impl Attributes {
    /// Returns the attributes of a file with this mode that belongs to the process' own user.
    pub fn with_mode(mode: u32) -> Self {
        Self { mode, owner: None }
    }
}

/// A folder that is held open while files in it are replaced: a rename of the folder's path meanwhile has no effect.
#[derive(Debug)]
pub struct Folder {
    handle: OwnedFd,
    /// For messages only.
    path: PathBuf,
}

impl Folder {
    /// Opens a folder.
    ///
    /// # Errors
    /// Returns an error if the path is missing, is not a folder, or cannot be read.
    pub fn open(path: &Path) -> io::Result<Self> {
        let folder = OpenOptions::new().read(true).custom_flags(OFlags::DIRECTORY.bits().cast_signed()).open(path)?;
        Ok(Self::from_handle(folder.into(), path))
    }

    /// Wraps a folder that is open already; `path` is what messages call it.
    pub fn from_handle(handle: OwnedFd, path: &Path) -> Self {
        Self { handle, path: path.to_owned() }
    }

    /// Creates or replaces the file `name`; content and name survive a power failure when this returns. On an error the
    /// old file is unchanged and no temporary file remains.
    ///
    /// # Errors
    /// Returns an error if the folder is not writable, the owner cannot be set, or the disk is full.
    pub fn replace(&self, name: &OsStr, bytes: &[u8], attributes: &Attributes) -> Result<()> {
        let path = self.path.join(name);
        let mut temporary = Temporary::create(self)
            .with_context(|| format!("cannot create a temporary file in {}", self.path.display()))?;
        temporary.write(name, bytes, attributes).with_context(|| format!("cannot write {}", path.display()))?;
        temporary.rename(name).with_context(|| format!("cannot replace {}", path.display()))?;
        self.sync()
    }

    /// Creates a symbolic link at `name`, replacing an existing link or file.
    ///
    /// # Errors
    /// Returns an error if the folder is not writable, or a folder has that name.
    pub fn replace_link(&self, name: &OsStr, target: &Path) -> io::Result<()> {
        let (temporary, ()) = find_free_name(|free| rustix::fs::symlinkat(target, &self.handle, free))?;
        let renamed = rustix::fs::renameat(&self.handle, &temporary, &self.handle, name);
        if renamed.is_err() {
            rustix::fs::unlinkat(&self.handle, &temporary, AtFlags::empty()).ok();
        }
        Ok(renamed?)
    }

    /// Returns the open folder.
    pub fn handle(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    /// Waits until names that were created, renamed or removed in the folder survive a power failure.
    ///
    /// # Errors
    /// Returns an error on an I/O error.
    pub fn sync(&self) -> Result<()> {
        rustix::fs::fsync(&self.handle).with_context(|| format!("cannot sync {}", self.path.display()))
    }
}

/// Creates or replaces a file. On an error the old file is unchanged and no temporary file remains.
///
/// # Errors
/// Returns an error if the folder is missing or not writable, the owner cannot be set, or the disk is full.
pub fn write_atomically(path: &Path, bytes: &[u8], attributes: &Attributes) -> Result<()> {
    let (folder, name) = split(path)?;
    let folder = Folder::open(folder).with_context(|| format!("cannot open {}", folder.display()))?;
    folder.replace(name, bytes, attributes)
}

/// Waits until names that were created, renamed or removed in the folder survive a power failure.
///
/// # Errors
/// Returns an error if the folder is missing, or on an I/O error.
pub fn sync_folder(path: &Path) -> Result<()> {
    Folder::open(path).with_context(|| format!("cannot open {}", path.display()))?.sync()
}

/// Returns the permission bits of an existing file, for a replacement that keeps them.
///
/// # Errors
/// Returns an error if the file exists but its attributes cannot be read.
pub fn existing_mode(path: &Path) -> io::Result<Option<u32>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.permissions().mode() & 0o7777)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Replaces a text file durably; it keeps its mode, and a new one is for its owner alone.
///
/// # Errors
/// Returns an error under the same conditions as [`write_atomically`].
pub fn replace_text(path: &Path, text: &str) -> Result<()> {
    let mode = existing_mode(path).with_context(|| path.display().to_string())?.unwrap_or(0o600);
    write_atomically(path, text.as_bytes(), &Attributes::with_mode(mode))
}

fn split(path: &Path) -> Result<(&Path, &OsStr)> {
    let name = path.file_name().with_context(|| format!("{} does not name a file", path.display()))?;
    // A relative path of one part has the empty path as its parent.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok((folder, name))
}

/// A temporary file; removed when it is dropped before its rename.
struct Temporary<'a> {
    folder: &'a Folder,
    name: OsString,
    file: File,
    is_renamed: bool,
}

impl<'a> Temporary<'a> {
    fn create(folder: &'a Folder) -> io::Result<Self> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let create = |name: &OsStr| rustix::fs::openat(&folder.handle, name, flags, Mode::RUSR | Mode::WUSR);
        let (name, file) = find_free_name(create)?;
        Ok(Self { folder, name, file: file.into(), is_renamed: false })
    }

    /// Writes the content and sets the attributes, to replace the file `name`.
    fn write(&mut self, name: &OsStr, bytes: &[u8], attributes: &Attributes) -> io::Result<()> {
        self.file.write_all(bytes)?;
        if let Some((uid, gid)) = attributes.owner {
            rustix::fs::fchown(self.file.as_fd(), Some(uid), Some(gid))?;
        }
        // After the change of owner, which clears capabilities, and before the mode, which limits an access control
        // list.
        self.copy_extended_attributes(name)?;
        // After the change of owner, which clears the set-id bits.
        rustix::fs::fchmod(self.file.as_fd(), Mode::from_raw_mode(attributes.mode))?;
        self.file.sync_all()
    }

    /// Copies the extended attributes of the file that is replaced: its access control list, capabilities and labels.
    /// Those of another user's file are not copied: that user may have granted access to others.
    fn copy_extended_attributes(&self, name: &OsStr) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let Ok(old) = rustix::fs::openat(&self.folder.handle, name, flags, Mode::empty()) else { return Ok(()) };
        let (stat, new_stat) = (rustix::fs::fstat(&old)?, rustix::fs::fstat(&self.file)?);
        if !FileType::from_raw_mode(stat.st_mode).is_file() || stat.st_uid != new_stat.st_uid {
            return Ok(());
        }
        let mut names = vec![0; MAX_XATTR_BYTES];
        let Ok(length) = rustix::fs::flistxattr(&old, &mut names) else { return Ok(()) };
        let mut value = vec![0; MAX_XATTR_BYTES];
        for name in names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
            let length = rustix::fs::fgetxattr(&old, name, &mut value)?;
            rustix::fs::fsetxattr(&self.file, name, &value[..length], XattrFlags::empty())?;
        }
        Ok(())
    }

    fn rename(mut self, name: &OsStr) -> io::Result<()> {
        rustix::fs::renameat(&self.folder.handle, &self.name, &self.folder.handle, name)?;
        self.is_renamed = true;
        Ok(())
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.is_renamed {
            // The write has failed already, and that is the error to report.
            rustix::fs::unlinkat(&self.folder.handle, &self.name, AtFlags::empty()).ok();
        }
    }
}

/// Creates something under a temporary name that nothing else has, and returns the name with what `create` returned.
fn find_free_name<T>(create: impl Fn(&OsStr) -> rustix::io::Result<T>) -> io::Result<(OsString, T)> {
    for _ in 0..MAX_NAME_ATTEMPTS {
        let name = OsString::from(format!("{TEMPORARY_PREFIX}{:016x}", random_number()));
        match create(&name) {
            Ok(created) => return Ok((name, created)),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::Error::from(io::ErrorKind::AlreadyExists))
}

/// Returns a number that another process cannot easily foresee. It need not be secret: `O_EXCL` refuses a name that
/// somebody took first.
fn random_number() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(folder: &Path) -> Vec<OsString> {
        let mut names: Vec<OsString> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_mode_is_exact_and_no_temporary_file_remains() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        for mode in [0o666, 0o600, 0o2775] {
            write_atomically(&path, b"new", &Attributes::with_mode(mode)).unwrap();
            assert_eq!(existing_mode(&path).unwrap(), Some(mode));
        }
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["state.json"]);
        assert_eq!(existing_mode(&folder.path().join("absent")).unwrap(), None);
    }

    #[test]
    fn a_link_is_replaced_and_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (link, target) = (folder.path().join("link"), folder.path().join("target"));
        fs::write(&target, "old").unwrap();
        symlink(&target, &link).unwrap();
        write_atomically(&link, b"new", &Attributes::with_mode(0o644)).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_file());
        assert_eq!(fs::read(&target).unwrap(), b"old");
    }

    #[test]
    fn extended_attributes_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "old").unwrap();
        rustix::fs::setxattr(&path, "user.origin", b"mirror", XattrFlags::empty()).unwrap();
        write_atomically(&path, b"new", &Attributes::with_mode(0o600)).unwrap();
        let mut value = [0; 16];
        let length = rustix::fs::getxattr(&path, "user.origin", &mut value).unwrap();
        assert_eq!(&value[..length], b"mirror");
    }

    #[test]
    fn a_failed_write_leaves_everything_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("taken");
        // A folder with an entry cannot be replaced by a file.
        fs::create_dir_all(path.join("entry")).unwrap();
        let error = write_atomically(&path, b"new", &Attributes::with_mode(0o644)).unwrap_err();
        assert!(error.to_string().contains("taken"), "{error:#}");
        assert_eq!(names(folder.path()), ["taken"]);
        let missing = folder.path().join("no/such/file");
        assert!(write_atomically(&missing, b"new", &Attributes::with_mode(0o644)).is_err());
        assert!(write_atomically(Path::new("/"), b"new", &Attributes::with_mode(0o644)).is_err());
    }

    #[test]
    fn a_folder_that_is_held_open_is_written_to_wherever_its_path_leads_now() {
        let root = tempfile::tempdir().unwrap();
        let (here, there, other) = (root.path().join("here"), root.path().join("there"), root.path().join("other"));
        fs::create_dir(&here).unwrap();
        fs::create_dir(&other).unwrap();
        let folder = Folder::open(&here).unwrap();
        fs::rename(&here, &there).unwrap();
        symlink(&other, &here).unwrap();
        folder.replace(OsStr::new("file"), b"new", &Attributes::with_mode(0o600)).unwrap();
        assert_eq!(names(&there), ["file"]);
        assert!(names(&other).is_empty());
    }
}
