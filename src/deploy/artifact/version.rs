//! The version of a release where nobody gives one, and where its files come from.

use std::path::Path;

use anyhow::{Context, Result};

use super::cargo_build::{CargoBuild, find_cargo_builds};
use super::collect;
use super::git::run_git;
use super::untracked::list_untracked_files;
use crate::deploy::recipe::Recipe;
use crate::plan::{Digest, digest_json};
use crate::protocol::deploy::{ReleaseOrigin, ReleaseVersion};

/// Returns `git describe --tags --always --dirty` of `base`, else the first twelve digits of the contents' digest.
///
/// A tree with changes gets those digits too (`v1-3-gabc-dirty.1f2e3d4c5b6a`): two builds of it are two versions.
/// Files that git does not track are changes.
///
/// # Errors
/// Returns an error if the recipe's sources cannot be read, as for `package`.
pub fn default_version(recipe: &Recipe, source_dir: &Path) -> Result<ReleaseVersion> {
    let mut described = git_describe(source_dir)?;
    if let Some(text) = &mut described
        && !text.ends_with("-dirty")
        && has_untracked_files(recipe, source_dir)?
    {
        text.push_str("-dirty");
    }
    if let Some(described) = &described
        && !described.ends_with("-dirty")
        && let Ok(version) = ReleaseVersion::new(described.replace('/', "-"))
    {
        return Ok(version);
    }
    let collected =
        collect::collect_files(&recipe.files, source_dir).context("the version is a digest of the files")?;
    let digest = digest_json(&(&collected.files, &collected.links, &collected.folders));
    let text = match described {
        Some(described) => format!("{}.{}", described.replace('/', "-"), digest.short_hex()),
        None => digest.short_hex().to_owned(),
    };
    ReleaseVersion::new(text).or_else(|_| ReleaseVersion::new(digest.short_hex())).map_err(anyhow::Error::msg)
}

/// Returns the revision, target and lock file of the sources; `None` for sources that have none of them.
///
/// # Errors
/// Git does not end.
pub(super) fn read_origin(recipe: &Recipe, source_dir: &Path) -> Result<Option<ReleaseOrigin>> {
    let builds = find_cargo_builds(recipe, source_dir);
    let commit = run_git(source_dir, ["show", "-s", "--format=%H %ct", "HEAD"])?;
    let (revision, revision_time) = commit.as_deref().and_then(|text| text.trim().split_once(' ')).unzip();
    let origin = ReleaseOrigin {
        revision: revision.map(str::to_owned),
        revision_time: revision_time.and_then(|seconds| seconds.parse().ok()),
        is_modified: revision.is_some() && is_modified(recipe, source_dir)?,
        target: builds.iter().find_map(|build| build.target.clone()),
        lock_digest: builds.iter().find_map(|build| digest_lock_file(build, source_dir)),
    };
    Ok((origin != ReleaseOrigin::default()).then_some(origin))
}

fn is_modified(recipe: &Recipe, source_dir: &Path) -> Result<bool> {
    let changed = run_git(source_dir, ["status", "--porcelain", "--untracked-files=no"])?;
    Ok(changed.is_none_or(|files| !files.trim().is_empty()) || has_untracked_files(recipe, source_dir)?)
}

fn has_untracked_files(recipe: &Recipe, source_dir: &Path) -> Result<bool> {
    Ok(!list_untracked_files(recipe, source_dir, &find_cargo_builds(recipe, source_dir))?.is_empty())
}

/// Returns the digest of the `Cargo.lock` of a build: of its folder, or of the workspace above it.
fn digest_lock_file(build: &CargoBuild, source_dir: &Path) -> Option<Digest> {
    let folder = source_dir.join(&build.folder);
    folder
        .ancestors()
        .find_map(|folder| std::fs::read(folder.join("Cargo.lock")).ok())
        .map(|lock| Digest::of_bytes(&lock))
}

fn git_describe(base: &Path) -> Result<Option<String>> {
    let text = run_git(base, ["describe", "--tags", "--always", "--dirty"])?.unwrap_or_default();
    Ok((!text.trim().is_empty()).then(|| text.trim().to_owned()))
}
