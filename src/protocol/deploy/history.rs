//! Records of the switches of a service on a host.

use serde::{Deserialize, Serialize};

use super::{ReleaseVersion, SwitchOutcome};
use crate::plan::named_enum;

/// Maximum number of characters of a failure that a record keeps.
const MAX_FAILURE_CHARS: usize = 300;

named_enum! {
    /// Result of a switch.
    pub enum SwitchResult {
        /// The release serves.
        Healthy = "healthy",
        /// The release serves, but a hook after the switch failed.
        OutOfRotation = "out of rotation",
        /// The release failed, and the one before serves again.
        RolledBack = "rolled back",
        /// The release that served before was applied again and is not healthy.
        Unhealthy = "unhealthy",
        /// The first release failed, and its units were stopped.
        Stopped = "stopped",
    }
}

/// A switch of a service on a host, recorded when it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchRecord {
    /// Operator: `alice@laptop`.
    pub operator: String,
    /// The run of dunlin; empty in records of an older version.
    #[serde(default)]
    pub run: String,
    /// Time of the start, in seconds since 1970.
    pub started_at: u64,
    /// Duration from the first hook to the last, in milliseconds.
    pub duration_ms: u64,
    /// The release that served before.
    pub from: Option<ReleaseVersion>,
    /// The release that was switched to.
    pub to: ReleaseVersion,
    /// Git revision of that release, if its manifest has one.
    #[serde(default)]
    pub revision: Option<String>,
    /// The result.
    pub result: SwitchResult,
    /// The beginning of the failure.
    pub failure: Option<String>,
}

impl SwitchOutcome {
    /// Returns the result and the failure for the record of the switch; `None` if nothing was switched.
    pub fn to_result(&self) -> Option<(SwitchResult, Option<String>)> {
        let (result, failure) = match self {
            Self::Unchanged => return None,
            Self::Healthy { rotation_failure: None, .. } => return Some((SwitchResult::Healthy, None)),
            Self::Healthy { rotation_failure: Some(detail), .. } => (SwitchResult::OutOfRotation, detail.clone()),
            Self::RolledBack { failure, .. } => (SwitchResult::RolledBack, failure.to_string()),
            Self::Unhealthy { failure, .. } => (SwitchResult::Unhealthy, failure.to_string()),
            Self::Stopped { failure, .. } => (SwitchResult::Stopped, failure.to_string()),
        };
        let line = failure.lines().next().unwrap_or_default();
        Some((result, Some(line.chars().take(MAX_FAILURE_CHARS).collect())))
    }
}
