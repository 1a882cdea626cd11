//! Changes that moves and failovers make to an instance's files: its primary, its users, its required replicas.

use std::path::Path;

use anyhow::{Context, Result};
use dunlin_shards::InstanceAddress;

use super::{RedisShard, acl, conf};
use crate::host_fs::{self, sync_parent};
use crate::resources::{BlobSource, atomic_file};

impl RedisShard {
    /// Makes a new instance that follows another, these users off: a move's target.
    ///
    /// # Errors
    /// Returns the error of the system; no unit is started in that case.
    pub fn create_replica(
        &self,
        replica_of: &InstanceAddress,
        disabled_user: &[String],
        blobs: &dyn BlobSource,
    ) -> Result<()> {
        self.create_folders()?;
        let acl = String::from_utf8(blobs.read_blob(&self.acl.digest)?).context("the ACL file is not UTF-8")?;
        let acl = disabled_user
            .iter()
            .try_fold(acl, |acl, user| acl::switch_user(&acl, user, false))
            .context("the ACL file")?;
        self.write_files(&acl, &self.initial_lines(Some(replica_of)), blobs)?;
        sync_parent(&self.conf_path())?;
        sync_parent(&self.conf_dir())?;
        self.enable_and_start()
    }

    /// Turns users on or off in the ACL file, durably.
    ///
    /// # Errors
    /// Returns an error if the file could not be read or written, is not valid, or does not define one of the users; it
    /// is not changed then.
    pub fn set_users_enabled(&self, users: &[String], on: bool) -> Result<()> {
        let switch = |text: String, user: &String| acl::switch_user(&text, user, on);
        self.edit_file(&self.acl_path(), |text| {
            let switched = users.iter().try_fold(text.to_owned(), switch);
            switched.with_context(|| self.acl_path().display().to_string())
        })
    }

    /// Removes the primary from the configuration file, durably. The running process is unaffected.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read or written.
    pub fn remove_replicaof(&self) -> Result<()> {
        self.edit_file(&self.conf_path(), |text| Ok(conf::remove_directive(text, "replicaof")))
    }

    /// Sets the primary in the configuration file, durably. The running process is unaffected.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read or written.
    pub fn set_replicaof(&self, address: &InstanceAddress) -> Result<()> {
        let InstanceAddress { host, port } = address;
        self.edit_file(&self.conf_path(), |text| Ok(conf::set_directive(text, "replicaof", &format!("{host} {port}"))))
    }

    /// Sets the number of connected replicas that the instance requires to accept writes after its next start, durably.
    /// The running process is unaffected.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read or written.
    pub fn set_min_replicas(&self, count: u32) -> Result<()> {
        self.edit_file(&self.conf_path(), |text| {
            Ok(conf::set_directive(text, "min-replicas-to-write", &count.to_string()))
        })
    }

    /// Replaces a file by an edit of itself, durable when this returns. Nothing is written where it says so already.
    fn edit_file(&self, path: &Path, edit: impl Fn(&str) -> Result<String>) -> Result<()> {
        let text = self.read_file(path)?;
        let edited = edit(&text)?;
        if edited != text {
            atomic_file::write_file(path, edited.as_bytes(), &self.file_meta())?;
        }
        let file = host_fs::open_file(path)?.with_context(|| format!("{} does not exist", path.display()))?;
        file.sync_all().with_context(|| format!("syncing {}", path.display()))?;
        sync_parent(path)
    }
}
