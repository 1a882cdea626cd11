//! The TLS files that a running instance has in memory: it loads them again when they change, without a restart.
//!
//! `CONFIG SET` of their paths, even to the same values, has Redis load all three files. Connections stay open. No
//! command of Redis shows what it has loaded, so two things decide: the certificate that the instance serves, and a
//! comment in the configuration (Redis keeps comments) with the files that its process has loaded last. Without one the
//! process loaded them when it started.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::pending_restart::START_TOLERANCE;
use super::process::RunningProcess;
use super::tls_connection::receive_certificate;
use super::{ObservedShardFiles, RedisShard};
use crate::host_fs;
use crate::plan::{AttributeChange, Digest, digest_json};
use crate::resources::{BlobSource, HostView, PathState, atomic_file};

/// The attribute in a plan.
pub const TLS_FILES: &str = "TLS files";
/// Start of the comment.
const MARK: &str = "# dunlin-tls:";

impl RedisShard {
    /// Returns whether the TLS files changed since the running instance loaded them, or will change by earlier steps.
    /// An instance that accepts no TLS needs a restart instead, for its configuration.
    ///
    /// # Errors
    /// Returns an error if a file cannot be read.
    pub(super) fn has_old_tls_files(
        &self,
        view: &mut HostView,
        conf: &str,
        process: Option<&RunningProcess>,
    ) -> Result<bool> {
        if !self.uses_tls() {
            return Ok(false);
        }
        let on_disk = self.digest_tls_files(&mut HostView::current())?;
        let desired = self.digest_tls_files(view)?;
        let (Some(on_disk), Some(desired)) = (on_disk, desired) else { return Ok(false) };
        let Some(served) = self.served_certificate() else { return Ok(false) };
        if on_disk != desired || self.read_leaf_certificate()?.is_some_and(|leaf| leaf != served) {
            return Ok(true);
        }
        let Some(process) = process else { return Ok(false) };
        match find_mark(conf, process) {
            Some(loaded) => Ok(loaded != on_disk.as_str()),
            None => self.are_tls_files_newer(process),
        }
    }

    /// Returns the row's change if the running instance loads its TLS files again.
    pub(super) fn tls_change(&self, observed: &ObservedShardFiles) -> Option<AttributeChange> {
        let reloads = observed.has_old_tls_files && self.admin_password.is_some();
        reloads.then(|| AttributeChange::new(TLS_FILES, "changed after they were loaded", "reloaded without a restart"))
    }

    /// Has the running instance load its TLS files again if they changed, and checks which certificate it then serves.
    ///
    /// # Errors
    /// Returns an error if the connection fails, or if the instance rejects the files.
    pub(super) fn reload_tls_files(&self, observed: &ObservedShardFiles, blobs: &dyn BlobSource) -> Result<()> {
        let Some(password) = self.admin_password.as_ref().filter(|_| observed.has_old_tls_files) else { return Ok(()) };
        let loaded = self.digest_tls_files(&mut HostView::current())?;
        let mut command = redis::cmd("CONFIG");
        command.arg("SET");
        for (key, path) in self.tls_paths() {
            let directive = if key == "tls_ca_file" { "tls-ca-cert-file".to_owned() } else { key.replace('_', "-") };
            command.arg(directive).arg(path.as_os_str().as_encoded_bytes());
        }
        let set = self.connect_as_admin(password, blobs).and_then(|mut connection| Ok(command.exec(&mut *connection)?));
        set.with_context(|| {
            format!(
                "loading the TLS files into the running instance of shard {}, which keeps those that it has: check that \
                 certificate and key belong together and that user {} can read them; if another CA signed the \
                 certificate in memory, or it is for another address, restart the instance",
                self.id, self.user
            )
        })?;
        let leaf = self.read_leaf_certificate()?;
        let serves_file = leaf.is_none_or(|leaf| self.served_certificate() == Some(leaf));
        ensure!(
            serves_file,
            "the instance of shard {} serves another certificate than {}",
            self.id,
            self.tls_cert_file
        );
        match (RunningProcess::of_instance(&self.data_dir), loaded) {
            (Some(process), Some(loaded)) => self.write_tls_mark(&process, &loaded),
            _ => Ok(()),
        }
    }

    /// Returns the comment of the configuration file that names the loaded files, for a new configuration file.
    pub(super) fn tls_mark_line(&self) -> String {
        let conf = self.read_file(&self.conf_path()).unwrap_or_default();
        conf.split_inclusive('\n').filter(|line| line.starts_with(MARK)).collect()
    }

    fn write_tls_mark(&self, process: &RunningProcess, loaded: &Digest) -> Result<()> {
        let conf = self.read_file(&self.conf_path())?;
        let rest: String = conf.split_inclusive('\n').filter(|line| !line.starts_with(MARK)).collect();
        let text = format!("{MARK} {} {}\n{rest}", process.identity(), loaded.as_str());
        atomic_file::write_file(&self.conf_path(), text.as_bytes(), &self.file_meta())
    }

    /// Returns a digest of the TLS files that the step names; `None` if one of them is not a regular file.
    fn digest_tls_files(&self, view: &mut HostView) -> Result<Option<Digest>> {
        let mut digests = Vec::new();
        for (key, path) in self.tls_paths() {
            let PathState::File { digest, .. } = view.path_state(path)? else { return Ok(None) };
            digests.push((key, digest));
        }
        Ok(Some(digest_json(&digests)))
    }

    /// Returns whether a file was written after the process started.
    fn are_tls_files_newer(&self, process: &RunningProcess) -> Result<bool> {
        let started_at = process.started_at()? + START_TOLERANCE;
        for (_, path) in self.tls_paths() {
            let Some(file) = host_fs::open_file(path)? else { continue };
            let changed_at = file.metadata().with_context(|| path.display().to_string())?.ctime();
            if UNIX_EPOCH + Duration::from_secs(changed_at.unsigned_abs()) > started_at {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns the encoded certificate in `tls_cert_file`; `None` without that key, or if the file has none.
    fn read_leaf_certificate(&self) -> Result<Option<Vec<u8>>> {
        if self.tls_cert_file.is_empty() {
            return Ok(None);
        }
        let text = host_fs::read_trusted(Path::new(&self.tls_cert_file), None)?;
        Ok(CertificateDer::from_pem_slice(text.as_bytes()).ok().map(|leaf| leaf.to_vec()))
    }

    /// Returns the encoded certificate that the running instance serves; `None` if it accepts no TLS.
    fn served_certificate(&self) -> Option<Vec<u8>> {
        let (host, port) = self.live_address().ok()?;
        receive_certificate(&host, port).ok().flatten()
    }
}

/// Returns the digest in the comment of this process; `None` if there is none.
fn find_mark<'c>(conf: &'c str, process: &RunningProcess) -> Option<&'c str> {
    let mut marks = conf.lines().filter_map(|line| line.strip_prefix(MARK)?.trim().split_once(' '));
    marks.rfind(|(identity, _)| *identity == process.identity()).map(|(_, digest)| digest)
}
