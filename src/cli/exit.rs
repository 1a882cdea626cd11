//! The exit codes. Scripts rely on them.

/// The exit code of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done, or nothing to do.
    Done = 0,
    /// An error; `check`: there are findings.
    Error = 1,
    /// `--dry-run --detailed-exitcode`: changes are pending.
    Pending = 2,
    /// Refused before the first change: preflight failed, the plan is out of date, or it was not confirmed.
    Refused = 3,
    /// Some hosts failed, or the run is incomplete; it can be run again or resumed.
    Partial = 4,
    /// Another run holds the lock.
    Locked = 5,
    /// The command line is invalid.
    Usage = 64,
    /// Interrupted; the state was reported.
    Interrupted = 130,
}

impl Exit {
    /// Returns the number of the exit code.
    pub fn code(self) -> u8 {
        self as u8
    }
}
