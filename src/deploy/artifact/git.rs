//! Asks git about the sources of a release.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Returns what git prints when it runs in `folder`; `None` if git is missing or fails, as outside of a repository.
pub(super) fn run_git<S: AsRef<OsStr>>(folder: &Path, args: impl IntoIterator<Item = S>) -> Option<String> {
    let output = Command::new("git").args(args).current_dir(folder).stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Returns the files that `git ls-files` lists with these flags below the paths, relative to `folder`.
pub(super) fn list_files(folder: &Path, flags: &[&str], paths: &[&Path]) -> Vec<PathBuf> {
    let flags = flags.iter().map(OsStr::new);
    let args = [OsStr::new("ls-files"), OsStr::new("-z")].into_iter().chain(flags).chain([OsStr::new("--")]);
    let listed = run_git(folder, args.chain(paths.iter().map(|path| path.as_os_str()))).unwrap_or_default();
    listed.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from).collect()
}
