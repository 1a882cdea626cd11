//! The instance's folders, its configuration file and its ACL file.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::Uid;

use super::RedisShard;
use super::acl::AclFile;
use super::conf::RedisConf;
use super::marks::Mark;
use crate::host_fs::{self, PathError};
use crate::resources::mode::{self, FileMode};
use crate::resources::{BlobSource, HostView, PathMeta, PathState, atomic_file};

impl RedisShard {
    /// Returns the folder of the configuration file and the ACL file.
    pub fn conf_dir(&self) -> PathBuf {
        self.conf_dir.clone().unwrap_or_else(|| PathBuf::from(format!("/etc/redis/shard-{}", self.id)))
    }

    /// Returns the path of the configuration file.
    pub fn conf_path(&self) -> PathBuf {
        self.conf_dir().join("redis.conf")
    }

    /// Returns the path of the ACL file.
    pub fn acl_path(&self) -> PathBuf {
        self.conf_dir().join("users.acl")
    }

    /// Reads the configuration file; `None` if it does not exist.
    ///
    /// # Errors
    /// Returns an error if it cannot be read.
    pub fn read_conf(&self) -> Result<Option<RedisConf>> {
        match self.read_file(&self.conf_path()) {
            Ok(text) => Ok(Some(RedisConf::parse(&text))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads the users of the ACL file on the disk.
    ///
    /// # Errors
    /// Returns an error if it cannot be read or is not valid.
    pub fn current_acl(&self) -> Result<AclFile> {
        let path = self.acl_path();
        AclFile::parse(&self.read_file(&path)?).with_context(|| path.display().to_string())
    }

    /// Reads one of the instance's files, which its own user can replace: no other user's file may be read in its
    /// place.
    ///
    /// # Errors
    /// Returns an error if the file is missing, or belongs to neither root nor that user.
    pub fn read_file(&self, path: &Path) -> Result<String, PathError> {
        let owner = HostView::current().user_state(&self.user).ok().flatten().and_then(|user| user.uid);
        host_fs::read_trusted(path, owner.map(Uid::from_raw))
    }

    /// Creates the instance's two folders where they are missing, with their owner and mode.
    pub(super) fn create_folders(&self) -> Result<()> {
        [&self.conf_dir(), &self.data_dir]
            .into_iter()
            .try_for_each(|folder| atomic_file::create_directories(folder, &self.folder_meta()))
    }

    /// Writes the ACL file, then the configuration, which names it.
    pub(super) fn write_files(&self, acl: &str, running: &str, blobs: &dyn BlobSource) -> Result<()> {
        let conf = String::from_utf8(blobs.read_blob(&self.conf.digest)?).context("the configuration is not UTF-8")?;
        let plain = String::from_utf8(blobs.read_blob(&self.acl.digest)?).context("the ACL file is not UTF-8")?;
        let users = AclFile::parse(&plain).context("the ACL file")?;
        let marks = [Mark::of(&self.conf, &RedisConf::parse(&conf).normalize()), Mark::of(&self.acl, &users)];
        let marks: String = marks.iter().map(Mark::line).collect();
        let separate = if conf.ends_with('\n') { "" } else { "\n" };
        atomic_file::write_file(&self.acl_path(), acl.as_bytes(), &self.file_meta())?;
        atomic_file::write_file(
            &self.conf_path(),
            format!("{marks}{conf}{separate}{running}").as_bytes(),
            &self.file_meta(),
        )
    }

    /// Returns the permissions and the owner of the instance's files.
    pub fn file_meta(&self) -> PathMeta {
        mode::path_meta(FileMode(0o640), &self.user, None)
    }

    /// Returns the permissions and the owner of the instance's folders.
    pub(super) fn folder_meta(&self) -> PathMeta {
        mode::path_meta(FileMode(0o750), &self.user, None)
    }
}

/// Returns the permissions and the owner of a regular file; `None` if it does not exist.
pub(super) fn read_file_meta(view: &mut HostView, path: &Path) -> Result<Option<PathMeta>> {
    match view.path_state(path)? {
        PathState::Absent => Ok(None),
        PathState::File { meta, .. } => Ok(Some(meta)),
        _ => bail!("{} is not a regular file", path.display()),
    }
}
