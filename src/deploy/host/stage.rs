//! Writes a release next to the existing ones: into a folder that is renamed once it is complete and durable.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::fs::{CWD, RenameFlags, fchown, ioctl_ficlone, renameat_with};

use super::Answer;
use super::contents::{ContentFetcher, LocalContents, LocalFile, missing_file_contents, missing_texts};
use super::layout::{ServiceLayout, write_json};
use super::ownership::{OwnerIds, resolve_owners};
use super::releases::{ReleaseStamp, StoredRelease, modified_nanoseconds, store_setup};
use super::shared::{create_shared, link_shared};
use super::state::{DeployState, unix_seconds};
use super::sync_queue::SyncQueue;
use crate::atomic_file::sync_folder;
use crate::deploy::plan::check_shared_paths;
use crate::host_fs;
use crate::plan::{Digest, DigestHasher};
use crate::protocol::deploy::{
    DesiredState, FileOwner, RECORDS_DIR, Rejection, ReleaseFile, ReleaseManifest, ReleaseTarget, SharedPath,
    StagedRelease,
};
use crate::protocol::{Event, ProgressSink, TRANSFER_PHASE};
use crate::resources::BlobSource;

/// Number of bytes of a file after which the disk gets them, while further ones arrive.
const SYNC_INTERVAL_BYTES: u64 = 16 << 20;
/// Interval between two reports of the progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// Puts the state's release and setup on the host; a release that is here and whole is left alone.
pub(super) fn stage_release(
    layout: &ServiceLayout,
    desired: &DesiredState,
    blobs: &dyn BlobSource,
    sink: &dyn ProgressSink,
) -> Answer<StagedRelease> {
    if let Err(reason) = check_shared_paths(&desired.config.shared, &desired.manifest) {
        return Ok(Err(Rejection::Refused(reason)));
    }
    let (stored, _) = StoredRelease::list_all(layout)?;
    let (manifest, setup) = (&desired.manifest, &desired.config);
    let existing = stored.iter().find(|kept| kept.manifest.version == manifest.version);
    let is_complete = existing.is_some_and(|there| there.manifest == *manifest && there.find_damage().is_empty());
    let local = LocalContents::of_releases(&stored);
    let mut staging = ReleaseBuilder {
        layout,
        manifest,
        shared: &setup.shared,
        fetcher: ContentFetcher::new(blobs, missing_file_contents(&local, desired)),
        local,
        owners: resolve_owners(manifest)?,
        sink,
        transfer: TransferReporter::new(sink, manifest),
        reused_files: 0,
        written_files: 0,
    };
    // Read before anything is replaced: the texts may be in the release that is being replaced.
    let mut texts = BTreeMap::new();
    blobs.fetch_blobs(&missing_texts(&stored, desired))?;
    for digest in setup.blob_digests() {
        let here = stored.iter().find_map(|kept| kept.read_text(digest).ok());
        texts.insert(digest, here.map_or_else(|| blobs.read_blob(digest), Ok)?);
    }
    if !is_complete {
        if let Some(why) = replace_refusal(layout, existing, manifest)? {
            return Ok(Err(Rejection::Refused(why)));
        }
        match staging.create_release(existing, &desired.to_release_target()) {
            Ok(true) => {}
            Ok(false) => return Ok(Err(Rejection::Cancelled)),
            Err(error) => {
                // Frees a full disk at once, not at the next deploy.
                host_fs::remove_tree(&layout.partial_dir(&manifest.version)).ok();
                return Err(error);
            }
        }
    }
    create_shared(layout, setup)?;
    let release = layout.release_dir(&manifest.version);
    link_shared(&release, &setup.shared)?;
    store_setup(&release, setup, &texts).context("keeping the setup with the release")?;
    Ok(Ok(StagedRelease {
        reused: staging.reused_files,
        written: staging.written_files,
        bytes: staging.fetcher.received_bytes,
    }))
}

/// Returns why a release may not be replaced.
fn replace_refusal(
    layout: &ServiceLayout,
    existing: Option<&StoredRelease>,
    manifest: &ReleaseManifest,
) -> Result<Option<String>> {
    if layout.has_foreign_folder(&manifest.version) {
        return Ok(Some(layout.describe_foreign_folder(&manifest.version)));
    }
    let other = existing.is_some_and(|there| there.manifest != *manifest);
    Ok((other && DeployState::read(layout)?.is_used(&manifest.version)).then(|| {
        format!(
            "release {} is on this host with other contents and in use; package these under another version",
            manifest.version
        )
    }))
}

struct ReleaseBuilder<'a> {
    layout: &'a ServiceLayout,
    manifest: &'a ReleaseManifest,
    shared: &'a [SharedPath],
    local: LocalContents,
    owners: OwnerIds,
    fetcher: ContentFetcher<'a>,
    sink: &'a dyn ProgressSink,
    transfer: TransferReporter<'a>,
    reused_files: usize,
    written_files: usize,
}

impl ReleaseBuilder<'_> {
    /// Makes the release; `false` where the run was cancelled.
    fn create_release(&mut self, existing: Option<&StoredRelease>, target: &ReleaseTarget) -> Result<bool> {
        let partial = self.layout.partial_dir(&self.manifest.version);
        host_fs::remove_tree(&partial)?;
        host_fs::ensure_folder(&partial, 0o755)?;
        let (mut times, mut folders) = (BTreeMap::new(), BTreeSet::from([partial.clone()]));
        let sync_queue = SyncQueue::start()?;
        for file in &self.manifest.files {
            if self.sink.is_cancelled() {
                host_fs::remove_tree(&partial)?;
                return Ok(false);
            }
            let path = partial.join(file.path.as_str());
            let parent = path.parent().unwrap_or(&partial);
            host_fs::ensure_folder(parent, 0o755)?;
            let above = parent.ancestors().take_while(|above| above.starts_with(&partial));
            folders.extend(above.map(Path::to_owned));
            self.write_release_file(file, &path, &sync_queue)
                .with_context(|| format!("putting {} into the release", file.path))?;
            times.insert(file.path.to_string(), modified_nanoseconds(&fs::symlink_metadata(&path)?));
        }
        for link in &self.manifest.links {
            link.check_target().map_err(anyhow::Error::msg)?;
            let path = partial.join(link.path.as_str());
            let parent = path.parent().unwrap_or(&partial);
            host_fs::ensure_folder(parent, 0o755)?;
            folders.extend(parent.ancestors().take_while(|above| above.starts_with(&partial)).map(Path::to_owned));
            symlink(&link.target, &path).with_context(|| format!("putting {} into the release", link.path))?;
        }
        for folder in &self.manifest.folders {
            let path = partial.join(folder.path.as_str());
            host_fs::ensure_folder(&path, 0o755)?;
            set_owner(&File::open(&path)?, folder.owner.as_ref(), &self.owners)?;
            folders.extend(path.ancestors().take_while(|above| above.starts_with(&partial)).map(Path::to_owned));
        }
        link_shared(&partial, self.shared)?;
        sync_queue.finish()?;
        let records = partial.join(RECORDS_DIR);
        host_fs::ensure_folder(&records, 0o700)?;
        let setups = existing.filter(|there| there.manifest == *self.manifest);
        self.copy_records(setups, &records)?;
        write_json(&records.join("stamp.json"), &ReleaseStamp { staged_at: unix_seconds(), modified_times: times })?;
        // The manifest last: a folder with a manifest is a complete release.
        write_json(&records.join("manifest.json"), self.manifest)?;
        for folder in folders.iter().rev() {
            sync_folder(folder)?;
        }
        self.record_repair(target)?;
        self.publish_release(&partial, existing.is_some())?;
        Ok(true)
    }

    /// Records the repair of the confirmed release as a pending switch, until it was restarted and found healthy: a
    /// process that runs from it has the broken files open.
    fn record_repair(&self, target: &ReleaseTarget) -> Result<()> {
        let mut state = DeployState::read(self.layout)?;
        if state.confirmed_target().is_some_and(|confirmed| confirmed.version == target.version) {
            state.pending_switch = Some(target.clone());
            state.write(self.layout)?;
        }
        Ok(())
    }

    /// Copies the setups that a release under repair has served with.
    fn copy_records(&self, existing: Option<&StoredRelease>, records: &Path) -> Result<()> {
        let Some(there) = existing else { return Ok(()) };
        for name in ["setups", "texts"] {
            let (from, to) = (there.dir.join(RECORDS_DIR).join(name), records.join(name));
            if !from.is_dir() {
                continue;
            }
            host_fs::ensure_folder(&to, 0o700)?;
            for entry in fs::read_dir(&from).with_context(|| from.display().to_string())? {
                let entry = entry?;
                fs::copy(entry.path(), to.join(entry.file_name())).context("keeping a record")?;
            }
        }
        Ok(())
    }

    fn write_release_file(&mut self, file: &ReleaseFile, path: &Path, sync_queue: &SyncQueue) -> Result<()> {
        let source = self.local.find_file(file).cloned();
        if let Some(source) = &source
            && link_file(source, path, file)?
        {
            self.reused_files += 1;
            return Ok(());
        }
        let (local, fetcher, transfer) = (&mut self.local, &mut self.fetcher, &mut self.transfer);
        let mut is_copied = false;
        let out = create_file(&self.owners, file, path, |out| {
            if let Some(source) = &source {
                is_copied = copy_file(source, out, file)?;
                if is_copied {
                    return Ok(());
                }
            }
            let (mut hasher, mut offset, mut sync_due) = (DigestHasher::default(), 0, SYNC_INTERVAL_BYTES);
            for (digest, size) in file.contents() {
                let bytes = match local.read_content(digest, size) {
                    Some(bytes) => bytes,
                    None => {
                        let bytes = fetcher.take_content(digest, size)?;
                        transfer.report_progress(fetcher);
                        // A file may have the same content twice.
                        local.add_range(digest, path, offset);
                        bytes
                    }
                };
                hasher.update(&bytes);
                out.write_all(&bytes)?;
                offset += size;
                if offset >= sync_due {
                    sync_queue.add_file(out.try_clone()?);
                    sync_due = offset + SYNC_INTERVAL_BYTES;
                }
            }
            ensure!(hasher.finish() == file.sha256, "its digest differs from the manifest");
            Ok(())
        })?;
        sync_queue.add_file(out);
        if is_copied {
            self.reused_files += 1;
            return Ok(());
        }
        self.written_files += 1;
        self.local.add_file(file, path, true);
        Ok(())
    }

    /// Gives the release its name. One of the same name (damaged, or other and unused) is swapped out in one step, so
    /// that a link to it never points at nothing.
    fn publish_release(&self, partial: &Path, replace: bool) -> Result<()> {
        let release = self.layout.release_dir(&self.manifest.version);
        // A folder without records is not a release, but a remainder of something else.
        if replace || release.symlink_metadata().is_ok() {
            renameat_with(CWD, partial, CWD, &release, RenameFlags::EXCHANGE)
                .with_context(|| format!("replacing {}", release.display()))?;
            host_fs::remove_tree(partial)?;
        } else {
            self.layout.complete_release(&self.manifest.version)?;
        }
        sync_folder(&self.layout.releases_dir())
    }
}

/// Reports how many bytes of a release have arrived.
struct TransferReporter<'a> {
    sink: &'a dyn ProgressSink,
    job: String,
    reported_at: Option<Instant>,
}

impl<'a> TransferReporter<'a> {
    fn new(sink: &'a dyn ProgressSink, manifest: &ReleaseManifest) -> Self {
        Self { sink, job: format!("release {}", manifest.version), reported_at: None }
    }

    /// Reports the progress, the end always and all else in intervals.
    fn report_progress(&mut self, fetcher: &ContentFetcher<'_>) {
        let (done, total) = (fetcher.received_bytes, fetcher.total_bytes);
        if done < total && self.reported_at.is_some_and(|at| at.elapsed() < PROGRESS_INTERVAL) {
            return;
        }
        self.reported_at = Some(Instant::now());
        self.sink.emit(Event::Progress { job: self.job.clone(), phase: TRANSFER_PHASE.to_owned(), done, total });
    }
}

/// Links a file of another release, since releases are not written to. `false` if it is not possible: a link shares the
/// mode, and an owner other than the agent's account may write to the file.
fn link_file(source: &LocalFile, path: &Path, file: &ReleaseFile) -> Result<bool> {
    let is_shareable = source.owner.is_none() && file.owner.is_none() && source.mode == file.mode;
    Ok(is_shareable
        && has_mode_and_owner(&File::open(&source.path)?, file.mode)?
        && fs::hard_link(&source.path, path).is_ok())
}

/// Copies a file of another release, and shares its blocks if the file system can. Returns `false`, with `out` empty,
/// if the copy has another digest: the owner of the source may write to it at any time.
fn copy_file(source: &LocalFile, out: &mut File, file: &ReleaseFile) -> Result<bool> {
    let from = File::open(&source.path)?;
    if ioctl_ficlone(&*out, &from).is_err() {
        io::copy(&mut from.take(file.size + 1), out)?;
    }
    out.rewind()?;
    if out.metadata()?.len() == file.size && Digest::of_reader(&mut *out)? == file.sha256 {
        return Ok(true);
    }
    out.set_len(0)?;
    out.rewind()?;
    Ok(false)
}

/// Creates a file with its content, and then its owner and mode. Returns it for the caller to make durable.
fn create_file(
    owners: &OwnerIds,
    file: &ReleaseFile,
    path: &Path,
    write: impl FnOnce(&mut File) -> Result<()>,
) -> Result<File> {
    let mut out = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
    write(&mut out)?;
    set_owner(&out, file.owner.as_ref(), owners)?;
    out.set_permissions(Permissions::from_mode(file.mode))?;
    Ok(out)
}

fn set_owner(file: &File, owner: Option<&FileOwner>, owners: &OwnerIds) -> Result<()> {
    if let Some((uid, gid)) = owner.and_then(|owner| owners.get(owner)) {
        fchown(file, Some(*uid), Some(*gid)).context("setting the owner")?;
    }
    Ok(())
}

fn has_mode_and_owner(file: &File, mode: u32) -> Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let stat = file.metadata()?;
    Ok(stat.permissions().mode() & 0o7777 == mode && stat.uid() == rustix::process::geteuid().as_raw())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy::host::layout::has_content;
    use crate::protocol::deploy::ReleasePath;

    #[test]
    fn bytes_that_changed_after_they_were_compared_are_not_put_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let source = LocalFile { path: folder.path().join("source"), mode: 0o644, owner: None };
        let file = ReleaseFile {
            path: ReleasePath::new("bin/shop").unwrap(),
            mode: 0o644,
            size: 11,
            sha256: Digest::of_bytes(b"the program"),
            chunks: Vec::new(),
            owner: None,
        };
        let copy = |is_accepted: bool| {
            let mut out = tempfile::tempfile().unwrap();
            assert_eq!(copy_file(&source, &mut out, &file).unwrap(), is_accepted);
            assert_eq!(out.metadata().unwrap().len(), if is_accepted { 11 } else { 0 });
            assert_eq!(has_content(&source.path, file.size, &file.sha256), is_accepted);
        };
        for (bytes, is_accepted) in [("the program", true), ("the progress", false), ("a longer program", false)] {
            fs::write(&source.path, bytes).unwrap();
            copy(is_accepted);
        }
        // A sparse file that would take hours to read.
        File::options().write(true).open(&source.path).unwrap().set_len(1 << 43).unwrap();
        copy(false);
    }
}
