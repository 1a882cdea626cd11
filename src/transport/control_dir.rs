//! The folder of one run: ssh's configuration, known hosts and control sockets.
//!
//! A run removes its folder at its end. One that was killed cannot: its lock is free then, and the next run removes
//! what it left, with the ssh masters that still serve its sockets.

use std::fs::{self, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::lock::file_lock::{Access, try_lock};

/// Beginning of the folders' names.
const PREFIX: &str = "dunlin-ssh-";
/// Time limit for each answer of an ssh master.
const MASTER_TIMEOUT: Duration = Duration::from_secs(2);
/// Name of the file that is locked as long as the run lives.
const LOCK_NAME: &str = "lock";

/// The folder of a run, removed when this value is dropped.
pub struct ControlDir {
    folder: TempDir,
    /// Locked until the process ends, however it ends.
    _lock: File,
}

impl ControlDir {
    /// Creates a folder below `base`, which only this user can enter, and removes those that dead runs left there. The
    /// path should be short: that of a control socket may have 108 bytes.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be created.
    pub fn create(base: &Path) -> io::Result<Self> {
        remove_abandoned(base);
        let private = Permissions::from_mode(0o700);
        let folder = tempfile::Builder::new().prefix(PREFIX).permissions(private).tempdir_in(base)?;
        // Locked before it has its name, so that no other run takes the folder for abandoned.
        let (hidden, path) = (folder.path().join("lock.new"), folder.path().join(LOCK_NAME));
        let lock = File::create(&hidden)?;
        try_lock(&lock, Access::Exclusive)?;
        fs::rename(&hidden, &path)?;
        Ok(Self { folder, _lock: lock })
    }

    /// Returns its path.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Ends the ssh masters of a run and removes its folder, for an exit without destructors.
pub fn remove_control_dir(folder: &Path) {
    for socket in list_sockets(folder) {
        // A master that has exited needs no request.
        terminate_master(&socket).ok();
    }
    fs::remove_dir_all(folder).ok();
}

/// Asks an ssh master to exit, in the protocol of its control socket (PROTOCOL.mux of OpenSSH): a hello of both sides,
/// then the request. Each message is its length, its kind and one number.
fn terminate_master(socket: &Path) -> io::Result<()> {
    const HELLO: [u32; 3] = [8, 1, 4];
    const TERMINATE: [u32; 3] = [8, 0x1000_0005, 0];
    let mut master = UnixStream::connect(socket)?;
    master.set_read_timeout(Some(MASTER_TIMEOUT))?;
    master.set_write_timeout(Some(MASTER_TIMEOUT))?;
    for message in [HELLO, TERMINATE] {
        let bytes: Vec<u8> = message.iter().flat_map(|number| number.to_be_bytes()).collect();
        master.write_all(&bytes)?;
        let mut length = [0; 4];
        master.read_exact(&mut length)?;
        io::copy(&mut (&master).take(u32::from_be_bytes(length).into()), &mut io::sink())?;
    }
    Ok(())
}

/// Removes the folders of this user's runs that have ended.
fn remove_abandoned(base: &Path) {
    let own = rustix::process::geteuid().as_raw();
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_named = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        // Of the entry itself, not of what a link leads to: anybody may create names in /tmp.
        let is_own = || fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == own);
        if is_named && is_own() && is_abandoned(&path) {
            remove_control_dir(&path);
        }
    }
}

fn is_abandoned(folder: &Path) -> bool {
    let lock = File::open(folder.join(LOCK_NAME));
    lock.is_ok_and(|lock| try_lock(&lock, Access::Exclusive).unwrap_or(false))
}

/// Returns the control sockets of a folder, each in its own folder.
fn list_sockets(folder: &Path) -> Vec<PathBuf> {
    let folders = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path().join("master"));
    folders.filter(|path| fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_folders_of_dead_runs_are_removed() {
        let base = tempfile::tempdir().unwrap();
        let alive = ControlDir::create(base.path()).unwrap();
        let mode = fs::metadata(alive.path()).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o700);
        let abandoned = base.path().join("dunlin-ssh-dead");
        let starting = base.path().join("dunlin-ssh-new");
        let foreign = base.path().join("other");
        for folder in [&abandoned, &starting, &foreign] {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("config"), "").unwrap();
        }
        fs::write(abandoned.join(LOCK_NAME), "").unwrap();
        fs::write(foreign.join(LOCK_NAME), "").unwrap();
        let link = base.path().join("dunlin-ssh-link");
        symlink(&foreign, &link).unwrap();
        let other = ControlDir::create(base.path()).unwrap();
        assert!(!abandoned.exists());
        for path in [alive.path(), other.path(), &starting, &foreign, &foreign.join("config"), &link] {
            assert!(path.exists(), "{}", path.display());
        }
        let path = alive.path().to_owned();
        drop(alive);
        assert!(!path.exists());
    }
}
