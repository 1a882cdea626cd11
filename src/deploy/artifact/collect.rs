//! Gathers the files of a release from the building machine.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::MAX_FILE_BYTES;
use super::chunks::{FileContent, read_content};
use crate::deploy::recipe::FileEntry;
use crate::protocol::deploy::{ReleaseFile, ReleaseFolder, ReleaseLink, ReleasePath};

/// Sources of a recipe that cannot be packaged, all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingSources {
    /// The entry's place in the recipe, in bytes, and what is wrong with its source.
    pub sources: Vec<(Range<usize>, String)>,
}

impl fmt::Display for MissingSources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<&str> = self.sources.iter().map(|(_, what)| what.as_str()).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for MissingSources {}

/// A manifest's files and links, sorted by path, and where the files are.
pub(super) struct CollectedFiles {
    pub files: Vec<ReleaseFile>,
    pub links: Vec<ReleaseLink>,
    pub folders: Vec<ReleaseFolder>,
    /// Path of each file on the building machine.
    pub sources: BTreeMap<ReleasePath, PathBuf>,
}

/// Holds the manifest's files, sorted by path, and where they are.
#[derive(Default)]
struct FileCollector {
    files: BTreeMap<ReleasePath, ReleaseFile>,
    links: BTreeMap<ReleasePath, ReleaseLink>,
    folders: BTreeMap<ReleasePath, ReleaseFolder>,
    sources: BTreeMap<ReleasePath, PathBuf>,
}

/// Reads the sources of all entries below `base`.
///
/// # Errors
/// Returns an error if sources are missing, with all of them.
pub(super) fn collect_files(entries: &[FileEntry], base: &Path) -> Result<CollectedFiles, MissingSources> {
    let (mut collector, mut missing) = (FileCollector::default(), Vec::new());
    for entry in entries {
        if let Err(error) = collector.add_entry(&base.join(&entry.source), entry) {
            missing.push((entry.span.clone(), format!("{error:#}")));
        }
    }
    let paths = collector.files.keys().chain(collector.links.keys()).chain(collector.folders.keys());
    let paths = paths.map(ReleasePath::as_str);
    missing.extend(find_path_conflict(paths).map(|what| (0..0, what)));
    if missing.is_empty() {
        let FileCollector { files, links, folders, sources } = collector;
        Ok(CollectedFiles {
            files: files.into_values().collect(),
            links: links.into_values().collect(),
            folders: folders.into_values().collect(),
            sources,
        })
    } else {
        Err(MissingSources { sources: missing })
    }
}

impl FileCollector {
    /// Adds a file, or all files of a folder. A link that a recipe names is followed; one inside a folder is a link of
    /// the release, and refused if it leads out of it and not to the operating system.
    fn add_entry(&mut self, source: &Path, entry: &FileEntry) -> Result<()> {
        let (stat, dest) = (fs::metadata(source).with_context(|| source.display().to_string())?, entry.dest.as_str());
        if stat.is_dir() { self.add_dir(source, dest, entry) } else { self.add_file(source, dest, entry) }
    }

    fn add_dir(&mut self, source: &Path, dest: &str, entry: &FileEntry) -> Result<()> {
        let mut is_empty = true;
        for child in fs::read_dir(source).with_context(|| source.display().to_string())? {
            is_empty = false;
            let child = child.with_context(|| source.display().to_string())?;
            let (path, kind) = (child.path(), child.file_type()?);
            let name = child.file_name();
            let name = name.to_str().with_context(|| format!("{}: a name that is not UTF-8", path.display()))?;
            let dest = format!("{dest}/{name}");
            if kind.is_symlink() {
                self.add_link(&path, &dest)?;
            } else if kind.is_dir() {
                self.add_dir(&path, &dest, entry)?;
            } else {
                self.add_file(&path, &dest, entry)?;
            }
        }
        if is_empty {
            let path = ReleasePath::new(dest).map_err(anyhow::Error::msg)?;
            self.folders.insert(path.clone(), ReleaseFolder { path, owner: entry.owner.clone() });
        }
        Ok(())
    }

    fn add_link(&mut self, source: &Path, dest: &str) -> Result<()> {
        let shown = || source.display().to_string();
        let target = fs::read_link(source).with_context(shown)?;
        let target = target.to_str().with_context(|| format!("{}: a target that is not UTF-8", shown()))?.to_owned();
        let path = ReleasePath::new(dest).map_err(anyhow::Error::msg)?;
        let link = ReleaseLink { path: path.clone(), target };
        link.check_target().map_err(anyhow::Error::msg)?;
        anyhow::ensure!(self.links.insert(path, link).is_none(), "two links have the destination {dest}");
        Ok(())
    }

    fn add_file(&mut self, source: &Path, dest: &str, entry: &FileEntry) -> Result<()> {
        let shown = || source.display().to_string();
        let stat = fs::metadata(source).with_context(shown)?;
        anyhow::ensure!(stat.is_file(), "{}: neither a file nor a folder", shown());
        anyhow::ensure!(stat.len() <= MAX_FILE_BYTES, "{}: longer than {} GiB", shown(), MAX_FILE_BYTES >> 30);
        let FileContent { size, sha256, chunks } = read_content(source)?;
        let executable = stat.permissions().mode() & 0o111 != 0;
        let mode = entry.mode.unwrap_or(if executable { 0o755 } else { 0o644 });
        let path = ReleasePath::new(dest).map_err(anyhow::Error::msg)?;
        let file = ReleaseFile { path: path.clone(), mode, size, sha256, chunks, owner: entry.owner.clone() };
        anyhow::ensure!(self.files.insert(path.clone(), file).is_none(), "two files have the destination {dest}");
        self.sources.insert(path, source.to_owned());
        Ok(())
    }
}

/// Describes a path that is both a file and a folder.
pub(super) fn find_path_conflict<'a>(paths: impl Iterator<Item = &'a str> + Clone) -> Option<String> {
    let files: BTreeSet<&str> = paths.clone().collect();
    let folder_of = |path: &'a str| {
        path.match_indices('/')
            .map(|(at, _)| &path[..at])
            .find(|folder| files.contains(folder))
            .map(|file| (file, path))
    };
    paths.map(folder_of).find_map(|found| found).map(|(file, below)| format!("{file} is a file, and {below} is in it"))
}
