//! The run of an executable `hosts`: its environment, its limits, and the messages if it fails.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use super::parse_output;
use crate::inventory::diagnostic::{Diagnostic, Diagnostics};
use crate::inventory::raw::RawInventory;
use crate::inventory::source::SourceFile;
use crate::process::{End, OnAgentDeath, Program};

/// Time limit of the executable.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of bytes that the executable may print, on both streams together: some ten thousand hosts.
const MAX_OUTPUT_BYTES: u64 = 16 << 20;
/// Variables of the environment that the executable gets; all others are removed.
const PASSED_VARIABLES: [&str; 9] = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ", "TMPDIR"];
/// Names further variables to pass, separated by commas.
const EXTRA_VARIABLES: &str = "DUNLIN_INVENTORY_ENV";

/// Runs the executable and reads what it prints.
pub(in crate::inventory) fn run_script(script: &Path, dir: &Path, found: &mut Diagnostics) -> RawInventory {
    run_script_with_timeout(script, dir, SCRIPT_TIMEOUT, found)
}

pub(in crate::inventory) fn run_script_with_timeout(
    script: &Path,
    dir: &Path,
    limit: Duration,
    found: &mut Diagnostics,
) -> RawInventory {
    let file = SourceFile::new(script, "");
    let output = match capture_output(script, dir, limit) {
        Ok(output) => output,
        Err(message) => {
            found.push(Diagnostic::error_in_file(&file, message));
            return RawInventory::default();
        }
    };
    let stderr = String::from_utf8_lossy(&output.stderr);
    let with_stderr = |diagnostic: Diagnostic| match last_lines(&stderr) {
        None => diagnostic,
        Some(lines) => diagnostic.with_help(format!("its output:\n{lines}")),
    };
    if !output.status.success() {
        let message = format!("the dynamic inventory failed ({})", output.status);
        found.push(with_stderr(Diagnostic::error_in_file(&file, message)));
        return RawInventory::default();
    }
    parse_output(&output.stdout, &file, dir, found).unwrap_or_else(|error| {
        found.push(with_stderr(error));
        RawInventory::default()
    })
}

/// Returns the last lines of a program's output, where the cause usually is.
fn last_lines(text: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    (!lines.is_empty()).then(|| lines[lines.len().saturating_sub(10)..].join("\n"))
}

fn capture_output(script: &Path, dir: &Path, limit: Duration) -> Result<Output, String> {
    let absolute = std::path::absolute(script).map_err(|error| error.to_string())?;
    let mut program = Program::with_own_environment(absolute).clear_env().arg("--list").folder(dir).timeout(limit);
    for (name, value) in passed_environment() {
        program = program.env(&name, value);
    }
    let program = program.output_limit(MAX_OUTPUT_BYTES).guarded(OnAgentDeath::Kill);
    let completed =
        program.complete().map_err(|error| match error.downcast_ref::<std::io::Error>().map(std::io::Error::kind) {
            Some(ErrorKind::NotFound) => "cannot be run: the interpreter in its first line is missing".to_owned(),
            _ => format!("cannot be run: {}", error.root_cause()),
        })?;
    let status = match completed.end {
        End::Exited(status) => status,
        End::WroteTooMuch(limit) => return Err(format!("the dynamic inventory printed more than {limit} bytes")),
        End::TimedOut(_) | End::Cancelled => {
            return Err(format!("the dynamic inventory did not finish within {} s", limit.as_secs()));
        }
    };
    Ok(Output { status, stdout: completed.stdout.bytes, stderr: completed.stderr.bytes })
}

/// Returns the variables that the executable gets: a few of the system, and those that the operator names.
fn passed_environment() -> Vec<(String, OsString)> {
    let extra = std::env::var(EXTRA_VARIABLES).unwrap_or_default();
    let extra = extra.split(',').map(str::trim).filter(|name| !name.is_empty() && !name.contains(['=', '\0']));
    let names = PASSED_VARIABLES.into_iter().chain(extra);
    names.filter_map(|name| Some((name.to_owned(), std::env::var_os(name)?))).collect()
}
