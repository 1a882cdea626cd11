//! Deploying: what a host is asked, and what it answers.
//!
//! The order of a rollout: `Observe` all hosts → plan → `Stage` all → `Once` before the switch on the first host →
//! `Switch` batch by batch → `Once` after it → `Prune` all. Every request may be repeated: what is done is not done
//! again. A host returns to its previous release by itself, with no controller in reach.

mod desired;
mod names;
mod observed;

use serde::{Deserialize, Serialize};

pub use desired::{
    ConfigFile, DesiredState, HealthCheck, HealthProbe, MANIFEST_FORMAT, ReleaseFile, ReleaseManifest, ReleaseTarget,
    ServiceConfig, ServiceRef, SwitchHooks, UnitFile, is_normalized_absolute,
};
pub use names::{INCOMPLETE_SUFFIX, RECORDS_DIR, ReleasePath, ReleaseVersion, ServiceName};
pub use observed::{LeftoverFile, ObservedPath, ObservedRelease, ObservedText, ObservedUnit, ServiceObservation};

use crate::plan::Digest;
use crate::protocol::lock::LockHolder;

/// Which state of the service an observation is compared with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CompareWith {
    /// None: releases and state only.
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
    /// What is there? Changes nothing, takes no lock. Answer: [`Reply::Observed`].
    Observe {
        /// Which service.
        scope: ServiceRef,
        /// Compared with what.
        compare_with: CompareWith,
    },
    /// Put the release's files and setup beside those that are there. Answer: [`Reply::Staged`].
    Stage {
        /// Which service.
        scope: ServiceRef,
        /// The state.
        desired: Box<DesiredState>,
        /// The plan's rows as `(resource, fingerprint)`; another world is refused with [`Reply::Stale`]. Empty: any.
        expected_changes: Vec<(String, Digest)>,
    },
    /// Make a staged state the serving one; return to the one before where it does not get healthy.
    /// Answer: [`Reply::Switched`].
    Switch {
        /// Which service.
        scope: ServiceRef,
        /// The state.
        target: ReleaseTarget,
        /// What served when the plan was made; another one now is refused with [`Reply::Stale`].
        expected_current: Option<ReleaseTarget>,
    },
    /// Switch to a release that the host keeps. Answer: [`Reply::Switched`].
    Rollback {
        /// Which service.
        scope: ServiceRef,
        /// To which; without it the previous one.
        version: Option<ReleaseVersion>,
        /// As in [`Request::Switch`].
        expected_current: Option<ReleaseTarget>,
    },
    /// Does what serves now pass its health check? Changes nothing. Answer: [`Reply::Health`].
    CheckHealth {
        /// Which service.
        scope: ServiceRef,
    },
    /// Run a task, unless it was done here for this version. Answer: [`Reply::Once`].
    RunTask {
        /// Which service.
        scope: ServiceRef,
        /// The staged state it belongs to.
        target: ReleaseTarget,
        /// The step.
        task: ReleaseTask,
    },
    /// Remove the oldest releases, and what killed runs left; never one that serves or could be returned to.
    /// Answer: [`Reply::Pruned`].
    Prune {
        /// Which service.
        scope: ServiceRef,
        /// How many releases stay at most, the serving and the previous one included; at least 1.
        keep_releases: usize,
    },
}

impl DeployRequest {
    /// Which service it is about.
    pub fn scope(&self) -> &ServiceRef {
        match self {
            Self::Observe { scope, .. }
            | Self::Stage { scope, .. }
            | Self::Switch { scope, .. }
            | Self::Rollback { scope, .. }
            | Self::CheckHealth { scope }
            | Self::RunTask { scope, .. }
            | Self::Prune { scope, .. } => scope,
        }
    }

    /// The contents it works with; those that the host has already need not travel (the host half tells which).
    pub fn required_blobs(&self) -> Vec<Digest> {
        match self {
            Self::Stage { desired, .. } => desired.blob_digests(),
            _ => Vec::new(),
        }
    }
}

/// A command that is run on one host of a rollout: a migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseTask {
    /// Its name.
    pub name: String,
    /// Program and arguments, as in [`Setup::user`].
    pub argv: Vec<String>,
    /// When.
    pub phase: TaskPhase,
    /// Milliseconds until it is ended and counts as failed.
    pub timeout_ms: u64,
}

/// On which side of the switch a task runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskPhase {
    /// Before the first host is switched.
    BeforeSwitch,
    /// After the last host was switched.
    AfterSwitch,
}

/// The result of a [`Request`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeployReply {
    /// To `Observe`.
    Observed(Box<ServiceObservation>),
    /// To `Stage`.
    Staged {
        /// Files that were taken from earlier releases.
        reused: usize,
        /// Files that were written.
        written: usize,
        /// Bytes written.
        bytes: u64,
    },
    /// To `Switch` and `Rollback`.
    Switched(SwitchOutcome),
    /// To `Health`: the failure, if it is one.
    HealthChecked(Option<DeployFailure>),
    /// To `Once`.
    TaskRun {
        /// `false`: it had been done before.
        ran: bool,
        /// Why it failed, where it did; it counts as not done then.
        failure: Option<String>,
    },
    /// To `Prune`: the versions that are gone, then the names of incomplete ones.
    Pruned(Vec<String>),
    /// Somebody else deploys this service on this host; nothing was done.
    Locked(LockHolder),
    /// The world is another than the plan's; nothing was done. One line a difference.
    PlanOutdated(Vec<String>),
    /// It cannot be done as asked, and nothing was done: a sentence with the way out.
    Refused(String),
    /// The run was cancelled before anything was changed.
    Cancelled,
}

/// How a switch ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum SwitchOutcome {
    /// The state served already, and healthily.
    Unchanged,
    /// The state serves and passed its health check.
    Healthy {
        /// What serves.
        version: ReleaseVersion,
        /// What served before.
        previous: Option<ReleaseVersion>,
        /// Units that were restarted or started.
        restarted: Vec<String>,
        /// Milliseconds from the first restart until the check passed.
        gap_ms: u64,
        /// A hook behind the switch that failed: the release serves nevertheless.
        failed_hook: Option<String>,
    },
    /// The state failed; what served before serves again.
    RolledBack {
        /// The version that failed.
        version: ReleaseVersion,
        /// What failed.
        failure: DeployFailure,
        /// The version that serves again.
        restored: ReleaseVersion,
        /// Where that one does not pass its health check either: why.
        restored_failure: Option<DeployFailure>,
    },
    /// The state that served before was applied again (restarted, repaired) and is not healthy: it was left as it is.
    Unhealthy {
        /// Its version.
        version: ReleaseVersion,
        /// What failed.
        failure: DeployFailure,
    },
    /// The state failed and there is nothing to return to: its units were stopped.
    Stopped {
        /// The version that failed.
        version: ReleaseVersion,
        /// What failed.
        failure: DeployFailure,
    },
}

/// What failed, with what is needed to find out why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployFailure {
    /// The step: `drain`, `configuration`, `units`, `link`, `restart`, `health`.
    pub step: String,
    /// What the system or the service said.
    pub detail: String,
    /// The last lines of the units' journal since the switch.
    pub journal_lines: Vec<String>,
}
