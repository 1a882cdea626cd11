//! Requests and replies of a deploy.
//!
//! The order of a rollout: `ObserveService` on all hosts → plan → `LockService` and `CheckRelease` on all → `StageRelease`
//! on all → `RecordTask` on all and `RunTask` on one host before the switch → `SwitchRelease` batch by batch → tasks after it
//! → `PruneReleases` on all. Every request may be repeated: what is done is not done again. A host returns to its previous release by itself, with no controller in reach.

mod change;
mod desired;
mod history;
mod manifest;
mod names;
mod observed;
mod requests;
mod shared;
mod tasks;

use serde::{Deserialize, Serialize};

pub use change::{MaintenanceRecord, ServiceChange};
pub use desired::{
    AdoptedService, ConfigFile, DesiredState, HealthCheck, HealthProbe, ReleaseTarget, ServiceConfig, ServiceRef,
    SignatureCheck, SwitchHooks, UnitFile,
};
pub use history::{SwitchRecord, SwitchResult};
pub use manifest::{
    FileChunk, FileOwner, MANIFEST_FORMAT, ReleaseFile, ReleaseFolder, ReleaseLink, ReleaseManifest, ReleaseOrigin,
    is_account_name,
};
pub use names::{INCOMPLETE_SUFFIX, RECORDS_DIR, ReleasePath, ReleaseVersion, ServiceName, is_normalized_absolute};
pub use observed::{LeftoverFile, ObservedPath, ObservedRelease, ObservedText, ObservedUnit, ServiceObservation};
pub use requests::{
    ApplyChange, CheckHealth, CheckRelease, DeactivateRelease, DeployReply, DeployRequest, LockService, ObserveService,
    PlanChange, PruneReleases, RecordTask, Rejection, RollBack, RunTask, StageRelease, SwitchPurpose, SwitchRelease,
};
pub use shared::{ObservedShared, SHARED_DIR, SharedPath};
pub use tasks::{ReleaseTask, TaskPhase, TaskRecord, TaskState, TaskStatus};

use crate::plan::named_enum;

/// Selects the state that an observation is compared with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CompareWith {
    /// No comparison: releases and state only.
    Nothing,
    /// This one, of which the host may have nothing yet.
    Desired(Box<DesiredState>),
    /// A release that the host keeps, with the setup it served with last; without a version the previous one.
    RetainedRelease(Option<ReleaseVersion>),
    /// The release that served before the first switch of a run, with the setup it served with last.
    BeforeRun(String),
}

/// A release that was staged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedRelease {
    /// Files that were taken from earlier releases.
    pub reused: usize,
    /// Files that were written.
    pub written: usize,
    /// Bytes that the controller sent.
    pub bytes: u64,
}

/// Result of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRun {
    /// `false`: it had been done before.
    pub ran: bool,
    /// Reason of a failure; the task counts as not done then.
    pub failure: Option<String>,
}

/// Result of a switch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum SwitchOutcome {
    /// The state served already, and healthily.
    Unchanged,
    /// The state serves and passed its health check.
    Healthy {
        /// Version that serves.
        version: ReleaseVersion,
        /// Version that served before.
        previous: Option<ReleaseVersion>,
        /// Units that were restarted or started.
        restarted: Vec<String>,
        /// Milliseconds from the first restart until the check passed.
        gap_ms: u64,
        /// Main processes of its units.
        main_pids: Vec<u32>,
        /// Reason if the host did not return into rotation: a hook after the switch failed. The release is active.
        rotation_failure: Option<String>,
        /// True if the host is in maintenance: it stays out of rotation.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        in_maintenance: bool,
    },
    /// The state failed; what served before serves again.
    RolledBack {
        /// The version that failed.
        version: ReleaseVersion,
        /// The failure.
        failure: DeployFailure,
        /// The version that serves again.
        restored: ReleaseVersion,
        /// Reason if that version does not pass its health check either, or is not back in rotation (step `rotation`).
        restored_failure: Option<DeployFailure>,
    },
    /// The state that served before was applied again (restarted, repaired) and is not healthy: it was left as it is.
    Unhealthy {
        /// Its version.
        version: ReleaseVersion,
        /// The failure.
        failure: DeployFailure,
    },
    /// The state failed and there is nothing to return to: its units were stopped.
    Stopped {
        /// The version that failed.
        version: ReleaseVersion,
        /// The failure.
        failure: DeployFailure,
    },
}

/// Describes a failure with the details for its diagnosis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployFailure {
    /// The step that failed.
    pub step: SwitchStep,
    /// Error text of the system or the service.
    pub detail: String,
    /// The last lines of the units' journal since the switch.
    pub journal_lines: Vec<String>,
}

impl std::fmt::Display for DeployFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.step, self.detail)
    }
}

named_enum! {
    /// The steps of a switch that can fail.
    pub enum SwitchStep {
        /// Run the hooks before the switch.
        Drain = "drain",
        /// Write the configuration files.
        Configuration = "configuration",
        /// Write the unit files.
        Units = "units",
        /// Point the link to the release.
        Link = "link",
        /// Restart the units.
        Restart = "restart",
        /// Check the health.
        Health = "health",
        /// Restore the release that served before.
        Return = "return",
        /// Run the hooks after the switch, which return the host into rotation.
        Rotation = "rotation",
    }
}
