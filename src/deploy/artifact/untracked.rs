//! Finds files that a release would contain by accident.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::deploy::recipe::Recipe;

/// Returns the files in the recipe's folders that git neither tracks nor ignores: notes and secrets that lie around.
///
/// A file that the recipe names itself is wanted. Empty outside of a git repository.
pub fn list_untracked_files(recipe: &Recipe, source_dir: &Path) -> Vec<PathBuf> {
    let folders: Vec<&PathBuf> =
        recipe.files.iter().map(|entry| &entry.source).filter(|source| source_dir.join(source).is_dir()).collect();
    if folders.is_empty() {
        return Vec::new();
    }
    let listed = Command::new("git")
        .args(["ls-files", "--others", "--exclude-standard", "-z", "--"])
        .args(folders)
        .current_dir(source_dir)
        .stdin(Stdio::null())
        .output();
    let Ok(output) = listed.map(|output| if output.status.success() { output.stdout } else { Vec::new() }) else {
        return Vec::new();
    };
    let names = String::from_utf8_lossy(&output).into_owned();
    names.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from).collect()
}
