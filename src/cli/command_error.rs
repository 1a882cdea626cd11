//! Errors of commands, with an exit code and the next steps.

use super::exit::Exit;
use super::outcome::CommandOutcome;
use crate::inventory::Diagnostics;
use crate::plan::{ChangeCounts, format_count};
use crate::rebalance::run_error::{RunError, RunErrorKind};
use crate::rebalance::state_files::StateFileError;
use crate::report::Reporter;

/// A failed command.
#[derive(Debug)]
pub struct CommandError {
    /// The exit code.
    pub exit: Exit,
    /// The error.
    pub source: anyhow::Error,
    /// The next steps.
    pub hints: Vec<String>,
    /// The changes of the command's plan.
    pub counts: ChangeCounts,
    /// Number of hosts or moves that failed before.
    pub failed: usize,
    /// True if the message consists of rendered findings, each with its own severity.
    is_rendered: bool,
}

impl CommandError {
    /// Creates an error with an exit code.
    pub fn new(exit: Exit, source: impl Into<anyhow::Error>) -> Self {
        Self {
            exit,
            source: source.into(),
            hints: Vec::new(),
            counts: ChangeCounts::default(),
            failed: 0,
            is_rendered: false,
        }
    }

    /// Creates an error with a message.
    pub fn with_message(exit: Exit, text: impl std::fmt::Display) -> Self {
        Self::new(exit, anyhow::anyhow!("{text}"))
    }

    /// Adds a next step.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Creates an error of findings in files, each with its position.
    pub fn from_diagnostics(found: &Diagnostics, color: bool) -> Self {
        let mut text = found.render(color);
        if found.error_count() + found.warning_count() > 1 {
            text = format!("{text}\n{}", count_findings(found));
        }
        Self { is_rendered: true, ..Self::with_message(Exit::Error, text.trim_end()) }
    }

    /// Adds the counts of the command until it failed, for the last JSON event.
    pub fn with_counts(self, counts: ChangeCounts, failed: usize) -> Self {
        Self { counts, failed, ..self }
    }

    /// Prints the error and the next steps.
    pub fn print_to_stderr(&self, reporter: &Reporter) {
        let text = format!("{:#}", self.source);
        if self.is_rendered {
            reporter.report_findings(&text, &self.hints);
        } else {
            reporter.report_error(&text, &self.hints);
        }
    }

    /// Returns the exit code and the counts.
    pub fn outcome(&self) -> CommandOutcome {
        CommandOutcome { exit: self.exit, counts: self.counts, failed: self.failed }
    }
}

/// Formats the number of findings: `3 errors, 1 warning`.
pub fn count_findings(found: &Diagnostics) -> String {
    match (found.error_count(), found.warning_count()) {
        (errors, 0) => format_count(errors, "error"),
        (errors, warnings) => format!("{}, {}", format_count(errors, "error"), format_count(warnings, "warning")),
    }
}

impl From<anyhow::Error> for CommandError {
    fn from(source: anyhow::Error) -> Self {
        Self::new(Exit::Error, source)
    }
}

impl From<RunError> for CommandError {
    fn from(error: RunError) -> Self {
        let exit = match error.kind {
            RunErrorKind::InvalidRequest => Exit::Usage,
            RunErrorKind::Refused => Exit::Refused,
            RunErrorKind::Failed => Exit::Error,
        };
        Self { hints: error.hints, ..Self::new(exit, error.source) }
    }
}

impl From<StateFileError> for CommandError {
    fn from(source: StateFileError) -> Self {
        let hint = source.hint();
        Self::new(Exit::Error, source).with_hint(hint)
    }
}

impl From<std::io::Error> for CommandError {
    fn from(source: std::io::Error) -> Self {
        Self::new(Exit::Error, source)
    }
}
