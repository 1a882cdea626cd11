//! Checks new content with a program before it replaces a file, such as `haproxy -c -f %s`.

use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::{OnAgentDeath, Program};

/// Stands for the path of the copy in the arguments.
const PLACEHOLDER: &str = "%s";

/// Time limit of the program.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Refuses a check that would not look at the content.
///
/// # Errors
/// Returns a description of the problem and the correction.
pub(super) fn check_argv(argv: &[String]) -> Result<(), String> {
    match argv.split_first() {
        None => Ok(()),
        Some((program, _)) if program.is_empty() => Err("`validate` has no program".to_owned()),
        Some((_, args)) if !args.iter().any(|arg| arg.contains(PLACEHOLDER)) => {
            Err(format!("`validate` needs an argument with {PLACEHOLDER}, the path of the content to check"))
        }
        Some(_) => Ok(()),
    }
}

/// Runs the check on a copy of the content in a folder that only this user can read. An empty `argv` accepts
/// everything.
///
/// # Errors
/// Returns an error if the program refuses the content, with its output unless `is_sensitive`.
pub(super) fn run(argv: &[String], dest: &Path, bytes: &[u8], is_sensitive: bool) -> Result<()> {
    let Some((program, args)) = argv.split_first() else { return Ok(()) };
    let folder = tempfile::Builder::new().prefix("dunlin-check-").tempdir().context("a folder for the check")?;
    // Some programs detect the format by the name of the file.
    let copy = folder.path().join(dest.file_name().unwrap_or(OsStr::new("content")));
    std::fs::write(&copy, bytes).with_context(|| format!("writing {}", copy.display()))?;
    let path = copy.display().to_string();
    let mut check = Program::new(program);
    if is_sensitive {
        check = check.hide_output(program);
    }
    let check = check.args(args.iter().map(|arg| arg.replace(PLACEHOLDER, &path)));
    let checked = check.guarded(OnAgentDeath::Kill).timeout(TIMEOUT).run();
    checked
        .map(drop)
        .with_context(|| format!("the new content of {} is not valid; the file is unchanged", dest.display()))
}
