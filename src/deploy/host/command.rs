//! Runs the commands of a service and of the system: they may hang, so they have a time limit, and only the end of what
//! they write is kept.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

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

impl CommandContext<'_> {
    /// Runs a command of the service in the folder of its release.
    pub fn run_command(&self, argv: &[String], timeout: Duration) -> Result<Completed> {
        let (program, args) = argv.split_first().context("a command without a program")?;
        let path = if program.contains('/') && !program.starts_with('/') {
            self.release_dir.join(program)
        } else {
            PathBuf::from(program)
        };
        let program = match self.user {
            Some(user) => Program::new("runuser").args(["-u", user, "--"]).arg(path),
            None => Program::new(&path),
        };
        let program = program.args(args).folder(self.release_dir);
        let program = program
            .env("DUNLIN_SERVICE", self.scope.service.as_str())
            .env("DUNLIN_VERSION", self.version)
            .env("DUNLIN_RELEASE", self.release_dir)
            .env("DUNLIN_ROOT", &self.scope.base_dir);
        complete_within(program.guarded(OnAgentDeath::Kill), timeout)
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
