//! The hostile user, and the folder that belongs to them.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Uid};

/// The user `nobody` of Debian, and its group.
pub const NOBODY: u32 = 65534;

/// A folder with a home that belongs to `nobody`, and a file and a folder of root that they must not get.
pub struct HostileHome {
    folder: tempfile::TempDir,
}

impl HostileHome {
    pub fn create() -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests need root: they act as another user");
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let made = Self { folder };
        fs::create_dir(made.home()).unwrap();
        chown(made.home(), Some(NOBODY), Some(NOBODY)).unwrap();
        fs::write(made.victim(), "root's own\n").unwrap();
        fs::set_permissions(made.victim(), Permissions::from_mode(0o600)).unwrap();
        fs::create_dir(made.victim_folder()).unwrap();
        made
    }

    pub fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    pub fn victim(&self) -> PathBuf {
        self.folder.path().join("victim")
    }

    pub fn victim_folder(&self) -> PathBuf {
        self.folder.path().join("victim.d")
    }

    /// Puts a link into the home, as its user.
    pub fn plant_link(&self, name: &str, target: &Path) {
        let link = self.home().join(name);
        symlink(target, &link).unwrap();
        std::os::unix::fs::lchown(&link, Some(NOBODY), Some(NOBODY)).unwrap();
    }

    /// Holds that what belongs to root is as it was.
    pub fn assert_unharmed(&self) {
        let stat = fs::symlink_metadata(self.victim()).unwrap();
        assert_eq!((stat.uid(), stat.mode() & 0o7777), (0, 0o600), "the attack changed a file of root");
        assert_eq!(fs::read_to_string(self.victim()).unwrap(), "root's own\n");
        let stat = fs::symlink_metadata(self.victim_folder()).unwrap();
        assert_eq!((stat.uid(), stat.mode() & 0o7777), (0, 0o755), "the attack changed a folder of root");
        assert_eq!(fs::read_dir(self.victim_folder()).unwrap().count(), 0, "the attack put a file in root's folder");
    }
}

/// Makes the calling thread, and no other, one of `nobody`.
pub fn become_nobody() {
    let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    rustix::thread::set_thread_groups(&[]).unwrap();
    rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
    rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
}
