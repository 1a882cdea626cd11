//! The version of a release where nobody gives one.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::collect;
use crate::deploy::recipe::Recipe;
use crate::plan::digest_of;
use crate::wire::deploy::Version;

/// `git describe --tags --always --dirty` of `base`, else the first twelve digits of the contents' digest.
///
/// A tree with changes gets those digits too (`v1-3-gabc-dirty.1f2e3d4c5b6a`): two builds of it are two versions.
///
/// # Errors
/// The recipe's sources cannot be read, as for [`super::package`].
pub fn default_version(recipe: &Recipe, base: &Path) -> Result<Version> {
    let described = describe(base);
    if let Some(described) = &described
        && !described.ends_with("-dirty")
        && let Ok(version) = Version::new(described.replace('/', "-"))
    {
        return Ok(version);
    }
    let (files, _) = collect::collect(&recipe.files, base).context("the version is a digest of the files")?;
    let digest = digest_of(&files);
    let text = match described {
        Some(described) => format!("{}.{}", described.replace('/', "-"), digest.short()),
        None => digest.short().to_owned(),
    };
    Version::new(text).or_else(|_| Version::new(digest.short())).map_err(anyhow::Error::msg)
}

fn describe(base: &Path) -> Option<String> {
    let output = Command::new("git")
        .args(["describe", "--tags", "--always", "--dirty"])
        .current_dir(base)
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}
