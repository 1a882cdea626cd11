//! Puts a release beside those that are there: into a folder that is renamed when all of it is whole and durable.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rustix::fs::{CWD, RenameFlags, ioctl_ficlone, renameat_with};

use super::layout::{Layout, folder, remove_all, write_json};
use super::releases::{Kept, Stamp, keep_setup, time_of};
use super::state::{State, now};
use crate::atomic_file::sync_folder;
use crate::plan::Digest;
use crate::resources::Blobs;
use crate::wire::deploy::{Desired, Manifest, RECORDS, ReleaseFile, Reply, Target};
use crate::wire::{Event, Sink};

/// Where a content stands on this host already.
type Local = BTreeMap<Digest, Vec<Place>>;

/// A file of a release that is here.
struct Place {
    path: PathBuf,
    mode: u32,
}

/// The contents of a state that no release on this host has whole.
pub(super) fn missing(layout: &Layout, desired: &Desired) -> Result<Vec<Digest>> {
    let (kept, _) = Kept::all(layout)?;
    let mut here = local(&kept);
    here.retain(|digest, places| places.iter().any(|place| read(&place.path, digest).is_some()));
    let texts: BTreeSet<&Digest> = desired.setup.contents().collect();
    let lacks = |digest: &Digest| {
        let as_text = texts.contains(digest) && kept.iter().any(|kept| kept.text(digest).is_ok());
        !here.contains_key(digest) && !as_text
    };
    Ok(desired.contents().into_iter().filter(lacks).collect())
}

/// Where each content of the releases here may be found; the bytes are checked when they are taken.
fn local(kept: &[Kept]) -> Local {
    let mut local = Local::new();
    for kept in kept {
        for file in &kept.manifest.files {
            let place = Place { path: kept.folder.join(file.path.as_str()), mode: file.mode };
            local.entry(file.sha256.clone()).or_default().push(place);
        }
    }
    local
}

fn read(path: &Path, digest: &Digest) -> Option<Vec<u8>> {
    fs::read(path).ok().filter(|bytes| Digest::of(bytes) == *digest)
}

/// Puts the state's release and setup on the host; a release that is here and whole is left alone.
pub(super) fn stage(layout: &Layout, desired: &Desired, blobs: &dyn Blobs, sink: &dyn Sink) -> Result<Reply> {
    let (kept, _) = Kept::all(layout)?;
    let (manifest, setup) = (&desired.manifest, &desired.setup);
    let there = kept.iter().find(|kept| kept.manifest.version == manifest.version);
    let whole = there.is_some_and(|there| there.manifest == *manifest && there.damage().is_empty());
    let mut staging = Staging { layout, manifest, local: local(&kept), blobs, sink, reused: 0, written: 0, bytes: 0 };
    // Taken before anything is replaced: they may stand in the very release that is.
    let mut texts = BTreeMap::new();
    for digest in setup.contents() {
        let here = kept.iter().find_map(|kept| kept.text(digest).ok());
        texts.insert(digest, here.map_or_else(|| blobs.get(digest), Ok)?);
    }
    if !whole {
        if let Some(why) = refusal(layout, there, manifest)? {
            return Ok(Reply::Refused(why));
        }
        if !staging.make(there, &desired.target())? {
            return Ok(Reply::Cancelled);
        }
    }
    let release = layout.release(&manifest.version);
    keep_setup(&release, setup, &texts).context("keeping the setup with the release")?;
    if let Some(mut kept) = Kept::read(layout, &manifest.version)? {
        kept.stamp.setup = Some(setup.digest());
        kept.write_stamp()?;
    }
    Ok(Reply::Staged { reused: staging.reused, written: staging.written, bytes: staging.bytes })
}

/// Why a release may not be replaced.
fn refusal(layout: &Layout, there: Option<&Kept>, manifest: &Manifest) -> Result<Option<String>> {
    let other = there.is_some_and(|there| there.manifest != *manifest);
    Ok((other && State::read(layout)?.is_used(&manifest.version)).then(|| {
        format!(
            "release {} is here with other contents and in use; package these under another version",
            manifest.version
        )
    }))
}

struct Staging<'a> {
    layout: &'a Layout,
    manifest: &'a Manifest,
    local: Local,
    blobs: &'a dyn Blobs,
    sink: &'a dyn Sink,
    reused: usize,
    written: usize,
    bytes: u64,
}

impl Staging<'_> {
    /// Makes the release; `false` where the run was cancelled.
    fn make(&mut self, there: Option<&Kept>, target: &Target) -> Result<bool> {
        let partial = self.layout.partial(&self.manifest.version);
        remove_all(&partial)?;
        folder(&partial, 0o755)?;
        let (mut times, mut folders) = (BTreeMap::new(), BTreeSet::from([partial.clone()]));
        for (index, file) in self.manifest.files.iter().enumerate() {
            if self.sink.cancelled() {
                remove_all(&partial)?;
                return Ok(false);
            }
            self.tell(index);
            let path = partial.join(file.path.as_str());
            let parent = path.parent().unwrap_or(&partial);
            folder(parent, 0o755)?;
            let above = parent.ancestors().take_while(|above| above.starts_with(&partial));
            folders.extend(above.map(Path::to_owned));
            self.put(file, &path).with_context(|| format!("putting {} into the release", file.path))?;
            times.insert(file.path.to_string(), time_of(&fs::symlink_metadata(&path)?));
        }
        let records = partial.join(RECORDS);
        folder(&records, 0o700)?;
        let setups = there.filter(|there| there.manifest == *self.manifest);
        self.keep_records(setups, &records)?;
        write_json(&records.join("stamp.json"), &Stamp { staged_at: now(), times, setup: None })?;
        // The manifest last: a release counts as one where it stands.
        write_json(&records.join("manifest.json"), self.manifest)?;
        for folder in folders.iter().rev() {
            sync_folder(folder)?;
        }
        self.tell(self.manifest.files.len());
        self.note_repair(target)?;
        self.rename(&partial, there.is_some())?;
        Ok(true)
    }

    /// Whoever serves from a release that is repaired has the broken files open: it counts as a switch that is not
    /// confirmed, until it was restarted and found healthy.
    fn note_repair(&self, target: &Target) -> Result<()> {
        let mut state = State::read(self.layout)?;
        if state.confirmed().is_some_and(|confirmed| confirmed.version == target.version) {
            state.switching = Some(target.clone());
            state.write(self.layout)?;
        }
        Ok(())
    }

    /// A release that is repaired keeps the setups it served with.
    fn keep_records(&self, there: Option<&Kept>, records: &Path) -> Result<()> {
        let Some(there) = there else { return Ok(()) };
        for name in ["setups", "texts"] {
            let (from, to) = (there.folder.join(RECORDS).join(name), records.join(name));
            if !from.is_dir() {
                continue;
            }
            folder(&to, 0o700)?;
            for entry in fs::read_dir(&from).with_context(|| from.display().to_string())? {
                let entry = entry?;
                fs::copy(entry.path(), to.join(entry.file_name())).context("keeping a record")?;
            }
        }
        Ok(())
    }

    fn put(&mut self, file: &ReleaseFile, path: &Path) -> Result<()> {
        for place in self.local.get(&file.sha256).into_iter().flatten() {
            if read(&place.path, &file.sha256).is_some() && reuse(place, path, file.mode)? {
                self.reused += 1;
                return Ok(());
            }
        }
        let bytes = self.blobs.get(&file.sha256)?;
        ensure!(Digest::of(&bytes) == file.sha256, "its bytes do not have the manifest's digest");
        let mut out = OpenOptions::new().write(true).create_new(true).open(path)?;
        out.write_all(&bytes)?;
        out.set_permissions(Permissions::from_mode(file.mode))?;
        out.sync_all()?;
        self.written += 1;
        self.bytes += bytes.len() as u64;
        let place = Place { path: path.to_owned(), mode: file.mode };
        self.local.entry(file.sha256.clone()).or_default().push(place);
        Ok(())
    }

    /// Gives the release its name. One of the same name (damaged, or other and unused) is swapped out in one step, so
    /// that a link to it never points at nothing.
    fn rename(&self, partial: &Path, replace: bool) -> Result<()> {
        let release = self.layout.release(&self.manifest.version);
        // What stands there without records is no release: the rest of something else.
        if replace || release.symlink_metadata().is_ok() {
            renameat_with(CWD, partial, CWD, &release, RenameFlags::EXCHANGE)
                .with_context(|| format!("replacing {}", release.display()))?;
            remove_all(partial)?;
        } else {
            fs::rename(partial, &release).with_context(|| format!("completing {}", release.display()))?;
        }
        sync_folder(&self.layout.releases())
    }

    fn tell(&self, done: usize) {
        self.sink.emit(Event::Progress {
            job: format!("release {}", self.manifest.version),
            phase: "stage".to_owned(),
            done: done as u64,
            total: self.manifest.files.len() as u64,
        });
    }
}

/// Takes a file over from another release: shares its blocks where the file system can, else links it, since releases
/// are not written to. `false` where neither can be done.
fn reuse(place: &Place, path: &Path, mode: u32) -> Result<bool> {
    let from = File::open(&place.path)?;
    let to = OpenOptions::new().write(true).create_new(true).open(path)?;
    if ioctl_ficlone(&to, &from).is_ok() {
        to.set_permissions(Permissions::from_mode(mode))?;
        to.sync_all()?;
        return Ok(true);
    }
    drop(to);
    fs::remove_file(path)?;
    // A link shares mode and owner too.
    Ok(place.mode == mode && is_plain(&from, mode)? && fs::hard_link(&place.path, path).is_ok())
}

fn is_plain(file: &File, mode: u32) -> Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let stat = file.metadata()?;
    Ok(stat.permissions().mode() & 0o7777 == mode && stat.uid() == rustix::process::geteuid().as_raw())
}
