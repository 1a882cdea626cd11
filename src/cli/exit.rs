//! All exit codes, and what each means; scripts rely on them.

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done, or nothing to do.
    Done = 0,
    /// An error; `check`: there are findings.
    Error = 1,
    /// `--dry-run --detailed-exitcode`: changes are pending.
    Pending = 2,
    /// Refused before anything was done: preflight, a stale plan, not confirmed.
    Refused = 3,
    /// Some hosts failed, or the run stopped half way; it can be run again or resumed.
    Partial = 4,
    /// Another run holds the lock.
    Locked = 5,
    /// The command line is wrong.
    Usage = 64,
    /// Interrupted; the state was reported.
    Interrupted = 130,
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        self as u8
    }
}
