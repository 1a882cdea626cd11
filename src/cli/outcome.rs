//! The outcome of a command: its exit code, and the counts of the last JSON event.

use super::exit::Exit;
use crate::plan::ChangeCounts;

/// The outcome of a command that did not fail as a whole.
#[derive(Clone, Copy, Debug)]
pub struct CommandOutcome {
    /// The exit code.
    pub exit: Exit,
    /// The changes of its plan.
    pub counts: ChangeCounts,
    /// Number of hosts or moves that failed.
    pub failed: usize,
}

impl CommandOutcome {
    /// Returns the outcome of a command that changes nothing on hosts and failed on some of them.
    pub fn of_hosts(failed: usize, is_interrupted: bool) -> Self {
        let exit = match (failed, is_interrupted) {
            (_, true) => Exit::Interrupted,
            (0, false) => Exit::Done,
            _ => Exit::Partial,
        };
        Self { failed, ..exit.into() }
    }
}

impl From<Exit> for CommandOutcome {
    fn from(exit: Exit) -> Self {
        Self { exit, counts: ChangeCounts::default(), failed: 0 }
    }
}
