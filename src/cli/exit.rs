//! The exit codes. Scripts rely on them.

use crate::deploy::rollout::{DeployPlanError, RunResult};
use crate::rebalance::run_end::RunEnd;

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

    /// Returns the exit code of a rollout, or of another change of a service.
    pub fn of_run(result: RunResult, is_interrupted: bool) -> Self {
        match result {
            _ if is_interrupted => Self::Interrupted,
            RunResult::Complete => Self::Done,
            RunResult::Partial => Self::Partial,
            RunResult::Locked => Self::Locked,
            RunResult::Refused => Self::Refused,
        }
    }

    /// Returns the worst exit code of hosts without a plan; `None` if all have one.
    pub fn of_plan_errors<'e>(errors: impl IntoIterator<Item = &'e DeployPlanError>) -> Option<Self> {
        let exits: Vec<Self> = errors
            .into_iter()
            .map(|error| match error {
                DeployPlanError::Templates(_) => Self::Error,
                DeployPlanError::Impossible(_) | DeployPlanError::Idle(_) | DeployPlanError::NotInRun(_) => {
                    Self::Refused
                }
                DeployPlanError::Connect(_) | DeployPlanError::Host(_) => Self::Partial,
            })
            .collect();
        [Self::Error, Self::Refused, Self::Partial].into_iter().find(|exit| exits.contains(exit))
    }
}

impl From<RunEnd> for Exit {
    fn from(end: RunEnd) -> Self {
        match end {
            RunEnd::Complete => Self::Done,
            RunEnd::Partial => Self::Partial,
            RunEnd::Interrupted => Self::Interrupted,
        }
    }
}
