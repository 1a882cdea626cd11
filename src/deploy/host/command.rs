//! Runs the commands of a service and of the system: they may hang, so they have a time limit, and only the end of what
//! they write is kept.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::host_fs;
use crate::process::{Completed, OnAgentDeath, Program};
use crate::protocol::deploy::ServiceRef;

/// Maximum number of bytes kept of a command's output.
const MAX_OUTPUT: usize = 8 * 1024;
/// Time to read output after the command ended; a process that it left in the background may keep it open.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);

/// Environment in which a service's own commands run: hooks, tasks, health checks.
pub(super) struct CommandContext<'a> {
    pub scope: &'a ServiceRef,
    pub version: &'a str,
    pub release_dir: &'a Path,
    pub user: Option<&'a str>,
}

/// A file that a command sees in the place of another one.
pub(super) struct BindMount {
    pub source: PathBuf,
    pub target: PathBuf,
}

/// Mounts each pair of files in a mount namespace of its own, and becomes the command behind `--`.
const BIND_SCRIPT: &str =
    r#"while [ "$1" != -- ]; do mount --bind -- "$1" "$2" || exit 125; shift 2; done; shift; exec "$@""#;

impl CommandContext<'_> {
    /// Runs a command of the service in the folder of its release.
    pub fn run_command(&self, argv: &[String], timeout: Duration) -> Result<Completed> {
        complete_within(self.build_program(argv, &[])?.guarded(OnAgentDeath::Kill), timeout)
    }

    /// Runs a task, which keeps `lock` open and sees the sources of the mounts in their targets. A migration must not
    /// stop halfway: it continues when the agent dies.
    pub fn run_task(&self, argv: &[String], timeout: Duration, mounts: &[BindMount], lock: File) -> Result<Completed> {
        let program = self.build_program(argv, mounts)?.guarded(OnAgentDeath::Finish).keep_open(lock);
        complete_within(program, timeout)
    }

    fn build_program(&self, argv: &[String], mounts: &[BindMount]) -> Result<Program<'static>> {
        let (program, args) = argv.split_first().context("a command without a program")?;
        let path = if program.contains('/') && !program.starts_with('/') {
            self.release_dir.join(program)
        } else {
            PathBuf::from(program)
        };
        if self.user.is_none() && path.starts_with(&self.scope.base_dir) {
            ensure_unchangeable(&path)?;
        }
        let mut words: Vec<&OsStr> = Vec::new();
        if !mounts.is_empty() {
            let namespace =
                ["unshare", "--mount", "--propagation", "private", "--", "/bin/sh", "-c", BIND_SCRIPT, "sh"];
            words.extend(namespace.map(OsStr::new));
            words.extend(mounts.iter().flat_map(|mount| [mount.source.as_os_str(), mount.target.as_os_str()]));
            words.push(OsStr::new("--"));
        }
        if let Some(user) = self.user {
            words.extend(["runuser", "-u", user, "--"].map(OsStr::new));
        }
        words.push(path.as_os_str());
        words.extend(args.iter().map(OsStr::new));
        Ok(Program::new(words[0])
            .args(&words[1..])
            .folder(self.release_dir)
            .env("DUNLIN_SERVICE", self.scope.service.as_str())
            .env("DUNLIN_VERSION", self.version)
            .env("DUNLIN_RELEASE", self.release_dir)
            .env("DUNLIN_ROOT", &self.scope.base_dir))
    }
}

/// Refuses a program of a release that another user can change, such as the service: it would run as root. One that is
/// missing is reported when it is started.
fn ensure_unchangeable(program: &Path) -> Result<()> {
    match host_fs::ensure_system_path(program) {
        Err(error) if !error.is_not_found() => {
            let hint = "set `user` in the recipe, or leave out `owner` of its files";
            Err(error).with_context(|| format!("{} is not run as root ({hint})", program.display()))
        }
        _ => Ok(()),
    }
}

/// Runs a command of the system.
pub(super) fn run_system_command(argv: &[String], timeout: Duration) -> Result<Completed> {
    let (program, args) = argv.split_first().context("a command without a program")?;
    complete_within(Program::new(program).args(args), timeout)
}

fn complete_within(program: Program<'_>, timeout: Duration) -> Result<Completed> {
    program.timeout(timeout).drain_timeout(DRAIN_TIMEOUT).max_output(MAX_OUTPUT).complete()
}
