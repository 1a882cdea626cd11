//! The version of a release where nobody gives one.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::collect;
use crate::deploy::recipe::Recipe;
use crate::plan::digest_json;
use crate::protocol::deploy::ReleaseVersion;

/// `git describe --tags --always --dirty` of `base`, else the first twelve digits of the contents' digest.
///
/// A tree with changes gets those digits too (`v1-3-gabc-dirty.1f2e3d4c5b6a`): two builds of it are two versions.
///
/// # Errors
/// Returns an error if the recipe's sources cannot be read, as for `package`.
pub fn default_version(recipe: &Recipe, source_dir: &Path) -> Result<ReleaseVersion> {
    let described = git_describe(source_dir);
    if let Some(described) = &described
        && !described.ends_with("-dirty")
        && let Ok(version) = ReleaseVersion::new(described.replace('/', "-"))
    {
        return Ok(version);
    }
    let collected =
        collect::collect_files(&recipe.files, source_dir).context("the version is a digest of the files")?;
    let digest = digest_json(&(&collected.files, &collected.links));
    let text = match described {
        Some(described) => format!("{}.{}", described.replace('/', "-"), digest.short_hex()),
        None => digest.short_hex().to_owned(),
    };
    ReleaseVersion::new(text).or_else(|_| ReleaseVersion::new(digest.short_hex())).map_err(anyhow::Error::msg)
}

fn git_describe(base: &Path) -> Option<String> {
    let output = Command::new("git")
        .args(["describe", "--tags", "--always", "--dirty"])
        .current_dir(base)
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}
