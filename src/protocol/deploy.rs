//! Requests and replies of a deploy.
//!
//! The order of a rollout: `Observe` all hosts → plan → `LockService` and `Preflight` on all → `Stage` all → `RecordTask` on all and
//! `RunTask` on one host before the switch → `Switch` batch by batch → tasks after it → `Prune` all. Every request may be repeated: what is done is not done
//! again. A host returns to its previous release by itself, with no controller in reach.

mod change;
mod desired;
mod history;
mod manifest;
mod names;
mod observed;
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
pub use shared::{ObservedShared, SHARED_DIR, SharedPath};
pub use tasks::{ReleaseTask, TaskPhase, TaskRecord, TaskState, TaskStatus};

use crate::plan::{Digest, ResourceChange, named_enum};
use crate::protocol::lock::LockHolder;

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
}

/// A step of a deploy on one host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeployRequest {
    /// Observe the service; changes nothing, takes no lock. Answer: [`DeployReply::Observed`].
    Observe {
        /// The service.
        scope: ServiceRef,
        /// Compared with what.
        compare_with: CompareWith,
    },
    /// Find what would stop the deploy on this host; changes nothing. Answer: [`DeployReply::PreflightDone`].
    Preflight {
        /// The service.
        scope: ServiceRef,
        /// The state.
        desired: Box<DesiredState>,
        /// TCP ports on which the service's units listen.
        listen_ports: Vec<u16>,
    },
    /// Put the release's files and setup beside the existing ones. Answer: [`DeployReply::Staged`].
    Stage {
        /// The service.
        scope: ServiceRef,
        /// The state.
        desired: Box<DesiredState>,
        /// The plan's rows as `(resource, fingerprint)`; a different host state is refused with [`DeployReply::PlanOutdated`]. Empty: any.
        expected_changes: Vec<(String, Digest)>,
        /// Keep a service that dunlin did not deploy as the release [`ReleaseVersion::ADOPTED`]; without it, such a host
        /// is refused.
        adopt: bool,
    },
    /// Make a staged state the serving one; return to the one before where it does not get healthy.
    /// Answer: [`DeployReply::Switched`].
    Switch {
        /// The service.
        scope: ServiceRef,
        /// The state.
        target: ReleaseTarget,
        /// State that served at plan time; if another one serves now, the answer is [`DeployReply::PlanOutdated`].
        expected_current: Option<ReleaseTarget>,
        /// Set to return to a state that served before: the next rollback goes further back.
        is_return: bool,
    },
    /// Switch to a release that the host keeps. Answer: [`DeployReply::Switched`].
    Rollback {
        /// The service.
        scope: ServiceRef,
        /// To which; without it the previous one.
        version: Option<ReleaseVersion>,
        /// As in [`DeployRequest::Switch`].
        expected_current: Option<ReleaseTarget>,
    },
    /// Stop the release that this rollout made the active one on a host that served nothing before.
    /// Answer: [`DeployReply::Switched`] with [`SwitchOutcome::Stopped`].
    Deactivate {
        /// The service.
        scope: ServiceRef,
        /// The state; if another one serves now, the answer is [`DeployReply::PlanOutdated`].
        target: ReleaseTarget,
    },
    /// Check the health of the active release for at most two seconds; changes nothing. Answer:
    /// [`DeployReply::HealthChecked`].
    CheckHealth {
        /// The service.
        scope: ServiceRef,
        /// Main processes of the units after the switch; other processes are a failure.
        expected_pids: Option<Vec<u32>>,
    },
    /// Lock the service for this run, until the agent ends. Answer: [`DeployReply::ServiceLocked`].
    LockService {
        /// The service.
        scope: ServiceRef,
    },
    /// Record an attempt to run a task, or its result. Answer: [`DeployReply::TaskRecorded`].
    RecordTask {
        /// The service.
        scope: ServiceRef,
        /// The record; it replaces the record of an earlier attempt.
        record: TaskRecord,
    },
    /// Run a task whose attempt is recorded as started on this host. Answer: [`DeployReply::TaskRun`].
    RunTask {
        /// The service.
        scope: ServiceRef,
        /// The staged state that the task belongs to.
        target: ReleaseTarget,
        /// The task.
        task: ReleaseTask,
        /// The run of dunlin that recorded the attempt.
        run: String,
    },
    /// Plan a change of the service; changes nothing, takes no lock. Answer: [`DeployReply::ChangePlanned`].
    PlanChange {
        /// The service.
        scope: ServiceRef,
        /// The change.
        change: ServiceChange,
    },
    /// Apply a change of the service. Answer: [`DeployReply::ChangeApplied`].
    ApplyChange {
        /// The service.
        scope: ServiceRef,
        /// The change.
        change: ServiceChange,
        /// The plan's rows as in [`DeployRequest::Stage`].
        expected_changes: Vec<(String, Digest)>,
    },
    /// Remove the oldest releases, and what killed runs left; never one that serves or could be returned to.
    /// Answer: [`DeployReply::Pruned`].
    Prune {
        /// The service.
        scope: ServiceRef,
        /// Maximum number of releases to keep, including the serving and the previous one; at least 1.
        keep_releases: usize,
    },
}

impl DeployRequest {
    /// Returns the service of the request.
    pub fn scope(&self) -> &ServiceRef {
        match self {
            Self::Observe { scope, .. }
            | Self::Preflight { scope, .. }
            | Self::Stage { scope, .. }
            | Self::Switch { scope, .. }
            | Self::Rollback { scope, .. }
            | Self::Deactivate { scope, .. }
            | Self::CheckHealth { scope, .. }
            | Self::LockService { scope }
            | Self::RecordTask { scope, .. }
            | Self::RunTask { scope, .. }
            | Self::PlanChange { scope, .. }
            | Self::ApplyChange { scope, .. }
            | Self::Prune { scope, .. } => scope,
        }
    }

    /// The contents it works with; those that the host has already need not travel (the host half tells which).
    pub fn required_blobs(&self) -> Vec<Digest> {
        match self {
            Self::Stage { desired, .. } => desired.blob_digests(),
            Self::Preflight { desired, .. } => desired.config.units.iter().map(|unit| unit.digest.clone()).collect(),
            _ => Vec::new(),
        }
    }
}

/// The result of a [`DeployRequest`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeployReply {
    /// To `Observe`.
    Observed(Box<ServiceObservation>),
    /// To `Preflight`: the reasons for which the host cannot take the release.
    PreflightDone(Vec<String>),
    /// To `Stage`.
    Staged {
        /// Files that were taken from earlier releases.
        reused: usize,
        /// Files that were written.
        written: usize,
        /// Bytes that the controller sent.
        bytes: u64,
    },
    /// To `Switch` and `Rollback`.
    Switched(SwitchOutcome),
    /// To `CheckHealth`: the failure, if it is one.
    HealthChecked(Option<DeployFailure>),
    /// To `LockService`: the records of tasks on this host.
    ServiceLocked {
        /// The records.
        tasks: Vec<TaskRecord>,
    },
    /// To `RecordTask`.
    TaskRecorded,
    /// To `RunTask`.
    TaskRun {
        /// `false`: it had been done before.
        ran: bool,
        /// Reason of a failure; the task counts as not done then.
        failure: Option<String>,
    },
    /// To `PlanChange`.
    ChangePlanned(Vec<ResourceChange>),
    /// To `ApplyChange`: the failure, if it is one.
    ChangeApplied(Option<DeployFailure>),
    /// To `Prune`: the versions that are gone, then the names of incomplete ones.
    Pruned(Vec<String>),
    /// Another run deploys this service on this host; nothing was done.
    Locked(LockHolder),
    /// The world is another than the plan's; nothing was done. One line a difference.
    PlanOutdated(Vec<String>),
    /// Rejected without any change: the reason and the next step.
    Refused(String),
    /// The run was cancelled before anything was changed.
    Cancelled,
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
