//! Asks git about the sources of a release.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::deploy::signature::SIGN_PASSWORD;
use crate::process::{End, Program};

/// Time limit of git: on a large repository with cold caches, `git status` takes minutes.
const GIT_TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// Maximum number of bytes that git prints: the names of a few million files.
const MAX_GIT_OUTPUT: usize = 256 << 20;

/// Settings of a repository with which git would run programs that the repository names. The sources may come from
/// anybody, and `dunlin check` and `package --no-build` run nothing of theirs.
const SAFE_SETTINGS: [&str; 3] = ["core.fsmonitor=false", "core.hooksPath=/dev/null", "log.showSignature=false"];

/// Returns what git prints when it runs in `folder`; `None` if git is missing or fails, as outside of a repository.
///
/// # Errors
/// Git does not end within its time limit, or prints too much: what it would say is unknown.
pub(super) fn run_git<S: AsRef<OsStr>>(folder: &Path, args: impl IntoIterator<Item = S>) -> Result<Option<String>> {
    let git = Program::with_own_environment("git").args(SAFE_SETTINGS.iter().flat_map(|setting| ["-c", setting]));
    let git = git.args(args).folder(folder).without_env(SIGN_PASSWORD);
    read_output(git.timeout(GIT_TIMEOUT).max_output(MAX_GIT_OUTPUT))
        .with_context(|| format!("asking git about {}", folder.display()))
}

fn read_output(git: Program<'_>) -> Result<Option<String>> {
    let Ok(completed) = git.complete() else { return Ok(None) };
    let End::Exited(status) = completed.end else { bail!("git {}", completed.describe()) };
    ensure!(completed.stdout.omitted == 0, "git printed {} bytes too much", completed.stdout.omitted);
    Ok(status.success().then(|| String::from_utf8_lossy(&completed.stdout.bytes).into_owned()))
}

/// Returns the files that `git ls-files` lists with these flags below the paths, relative to `folder`.
///
/// # Errors
/// See [`run_git`].
pub(super) fn list_files(folder: &Path, flags: &[&str], paths: &[&Path]) -> Result<Vec<PathBuf>> {
    let flags = flags.iter().map(OsStr::new);
    let args = [OsStr::new("ls-files"), OsStr::new("-z")].into_iter().chain(flags).chain([OsStr::new("--")]);
    let listed = run_git(folder, args.chain(paths.iter().map(|path| path.as_os_str())))?.unwrap_or_default();
    Ok(listed.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from).collect())
}

/// Returns whether git ignores a path; `false` without git.
///
/// # Errors
/// Returns an error if git does not end within its time limit.
pub fn is_ignored_by_git(path: &Path, folder: &Path) -> Result<bool> {
    let args = [OsStr::new("check-ignore"), OsStr::new("--quiet"), OsStr::new("--"), path.as_os_str()];
    Ok(run_git(folder, args)?.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_git_whose_answer_is_unknown_is_an_error() {
        let shell = |line: &str| Program::new("/bin/sh").args(["-c", line]);
        assert_eq!(read_output(shell("echo a.rs")).unwrap().as_deref(), Some("a.rs\n"));
        assert_eq!(read_output(shell("exit 128")).unwrap(), None, "no repository");
        assert_eq!(read_output(Program::new("/no/such/git")).unwrap(), None);
        read_output(shell("sleep 600").timeout(Duration::from_millis(10))).unwrap_err();
        read_output(shell("echo a.rs; echo b.rs").max_output(5)).unwrap_err();
    }
}
