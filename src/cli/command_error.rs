//! What went wrong, at the edge: printed in one place, with the next step, and turned into an exit code.

use super::exit::Exit;
use super::outcome::CommandOutcome;
use crate::inventory::Diagnostics;
use crate::plan::ChangeCounts;
use crate::rebalance::state_files::StateFileError;
use crate::report::Reporter;

/// A failed command.
#[derive(Debug)]
pub struct CommandError {
    /// The exit code.
    pub exit: Exit,
    /// What happened; empty where it was already reported host by host.
    pub source: anyhow::Error,
    /// The next commands to run.
    pub hints: Vec<String>,
    /// The changes of the command's plan.
    pub counts: ChangeCounts,
    /// How many hosts or moves failed before.
    pub failed: usize,
    /// Whether the message is rendered findings, each with its own severity.
    is_rendered: bool,
}

impl CommandError {
    /// A failure with that exit code.
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

    /// A failure told in one sentence.
    pub fn with_message(exit: Exit, text: impl std::fmt::Display) -> Self {
        Self::new(exit, anyhow::anyhow!("{text}"))
    }

    /// Adds the next step.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Mistakes in files, each with its place.
    pub fn from_diagnostics(found: &Diagnostics, colour: bool) -> Self {
        let mut text = found.render(colour);
        if found.error_count() + found.warning_count() > 1 {
            text = format!("{text}\n{}", count_findings(found));
        }
        Self { is_rendered: true, ..Self::with_message(Exit::Error, text.trim_end()) }
    }

    /// Adds what the command counted before it failed, for the last JSON line.
    pub fn with_counts(self, counts: ChangeCounts, failed: usize) -> Self {
        Self { counts, failed, ..self }
    }

    /// Prints it.
    pub fn print_to_stderr(&self, reporter: &Reporter) {
        let text = format!("{:#}", self.source);
        if self.is_rendered {
            reporter.findings(&text, &self.hints);
        } else {
            reporter.error(&text, &self.hints);
        }
    }

    /// Returns the exit code and the counts.
    pub fn outcome(&self) -> CommandOutcome {
        CommandOutcome { exit: self.exit, counts: self.counts, failed: self.failed }
    }
}

/// `3 errors, 1 warning`.
pub fn count_findings(found: &Diagnostics) -> String {
    let part = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    match (found.error_count(), found.warning_count()) {
        (errors, 0) => part(errors, "error"),
        (errors, warnings) => format!("{}, {}", part(errors, "error"), part(warnings, "warning")),
    }
}

impl From<anyhow::Error> for CommandError {
    fn from(source: anyhow::Error) -> Self {
        Self::new(Exit::Error, source)
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
