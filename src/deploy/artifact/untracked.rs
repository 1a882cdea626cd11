//! Finds files that a release would contain by accident, and sources that are older than what they are built from.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Result;

use super::cargo_build::CargoBuild;
use super::git::list_files;
use crate::deploy::recipe::Recipe;

/// Flags of `git ls-files` for files that git neither tracks nor ignores.
const UNTRACKED: [&str; 2] = ["--others", "--exclude-standard"];
/// Flags of `git ls-files` for files that git ignores: results of a build.
const IGNORED: [&str; 3] = ["--others", "--ignored", "--exclude-standard"];
/// The inputs of a Cargo project that count without being tracked: a build uses them all the same.
const CARGO_INPUTS: [&str; 4] = ["*.rs", "*Cargo.toml", "Cargo.lock", ".cargo/config.toml"];

/// Returns the files in the recipe's folders, and the inputs of its Cargo builds, that git neither tracks nor ignores:
/// notes and secrets that lie around.
///
/// A file that the recipe names itself is wanted. Empty outside of a git repository.
///
/// # Errors
/// Git does not end.
pub fn list_untracked_files(recipe: &Recipe, source_dir: &Path, builds: &[CargoBuild]) -> Result<Vec<PathBuf>> {
    let sources = recipe.files.iter().map(|entry| entry.source.as_path());
    let folders: Vec<&Path> = sources.filter(|source| source_dir.join(source).is_dir()).collect();
    let mut files = if folders.is_empty() { Vec::new() } else { list_files(source_dir, &UNTRACKED, &folders)? };
    for build in builds {
        let inputs = list_files(&source_dir.join(&build.folder), &UNTRACKED, &CARGO_INPUTS.map(Path::new))?;
        files.extend(inputs.into_iter().map(|file| build.folder.join(file)));
    }
    files.sort();
    files.dedup();
    Ok(files)
}

/// A source of a recipe that is older than a file from which it may have been built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaleSource {
    /// The source, as the recipe names it.
    pub source: PathBuf,
    /// The newest tracked file outside of the recipe's sources.
    pub newer: PathBuf,
}

/// Returns the sources that a build created (git ignores all their files) and that are older than the newest tracked
/// file. Files below `excluded` are no input of a build. Empty outside of a git repository.
///
/// # Errors
/// Git does not end.
pub fn list_stale_sources(recipe: &Recipe, source_dir: &Path, excluded: &[PathBuf]) -> Result<Vec<StaleSource>> {
    let is_source = |file: &Path| recipe.files.iter().any(|entry| file.starts_with(&entry.source));
    let is_excluded = |file: &Path| excluded.iter().any(|folder| source_dir.join(file).starts_with(folder));
    let tracked = list_files(source_dir, &[], &[Path::new(".")])?;
    let inputs = tracked.iter().filter(|file| !is_source(file) && !is_excluded(file));
    let times = inputs.filter_map(|file| Some((modified_time(&source_dir.join(file))?, file)));
    let Some((newest_time, newest)) = times.max() else { return Ok(Vec::new()) };
    let mut stale = Vec::new();
    for entry in &recipe.files {
        let is_result = list_files(source_dir, &[], &[&entry.source])?.is_empty();
        let built = list_files(source_dir, &IGNORED, &[&entry.source])?;
        let built_time = built.iter().filter_map(|file| modified_time(&source_dir.join(file))).max();
        if is_result && built_time.is_some_and(|time| time < newest_time) {
            stale.push(StaleSource { source: entry.source.clone(), newer: newest.clone() });
        }
    }
    Ok(stale)
}

fn modified_time(path: &Path) -> Option<SystemTime> {
    path.symlink_metadata().and_then(|stat| stat.modified()).ok()
}
