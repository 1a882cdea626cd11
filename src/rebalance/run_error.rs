//! Errors of a run on shards that decide more than a text: what kind of failure, and the next steps.

use std::fmt::Display;

use super::state_files::StateFileError;

/// Kind of a failed run. The command line has an exit code for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunErrorKind {
    /// The operator asked for something that does not exist.
    InvalidRequest,
    /// The run is refused; no changes were made.
    Refused,
    /// Something failed.
    Failed,
}

/// A failed run.
#[derive(Debug)]
pub struct RunError {
    /// The kind.
    pub kind: RunErrorKind,
    /// The error.
    pub source: anyhow::Error,
    /// The next steps.
    pub hints: Vec<String>,
}

/// Result of a step of a run.
pub type RunResult<T> = Result<T, RunError>;

impl RunError {
    /// Creates an error from another one.
    pub fn new(kind: RunErrorKind, source: impl Into<anyhow::Error>) -> Self {
        Self { kind, source: source.into(), hints: Vec::new() }
    }

    /// Creates the error of a refused run.
    pub fn refused(text: impl Display) -> Self {
        Self::new(RunErrorKind::Refused, anyhow::anyhow!("{text}"))
    }

    /// Creates the error of a request for something that does not exist.
    pub fn invalid_request(text: impl Display) -> Self {
        Self::new(RunErrorKind::InvalidRequest, anyhow::anyhow!("{text}"))
    }

    /// Creates the error of something that failed.
    pub fn failed(text: impl Display) -> Self {
        Self::new(RunErrorKind::Failed, anyhow::anyhow!("{text}"))
    }

    /// Creates the error of a failed preflight.
    pub fn preflight_failed(reasons: &[String]) -> Self {
        Self::refused(format!("preflight failed; no changes were made\n  {}", reasons.join("\n  ")))
    }

    /// Adds a next step.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

impl From<anyhow::Error> for RunError {
    fn from(source: anyhow::Error) -> Self {
        Self::new(RunErrorKind::Failed, source)
    }
}

impl From<StateFileError> for RunError {
    fn from(source: StateFileError) -> Self {
        let hint = source.hint();
        Self::new(RunErrorKind::Failed, source).with_hint(hint)
    }
}
