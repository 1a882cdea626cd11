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
    Config, Desired, Drain, FORMAT, Health, Manifest, Probe, ReleaseFile, Scope, Setup, Target, Unit, is_plain_absolute,
};
pub use names::{PARTIAL, RECORDS, RelPath, Service, Version};
pub use observed::{Leftover, Observation, Release, Seen, TextSeen, UnitSeen};

use crate::plan::Digest;
use crate::wire::lock::Holder;

/// Which state of the service an observation is compared with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum About {
    /// None: releases and state only.
    Nothing,
    /// This one, of which the host may have nothing yet.
    Desired(Box<Desired>),
    /// A release that the host keeps, with the setup it served with last; without a version the previous one.
    Kept(Option<Version>),
}

/// A step of a deploy on one host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// What is there? Changes nothing, takes no lock. Answer: [`Reply::Observed`].
    Observe {
        /// Which service.
        scope: Scope,
        /// Compared with what.
        about: About,
    },
    /// Put the release's files and setup beside those that are there. Answer: [`Reply::Staged`].
    Stage {
        /// Which service.
        scope: Scope,
        /// The state.
        desired: Box<Desired>,
        /// The plan's rows as `(resource, fingerprint)`; another world is refused with [`Reply::Stale`]. Empty: any.
        expected: Vec<(String, Digest)>,
    },
    /// Make a staged state the serving one; return to the one before where it does not get healthy.
    /// Answer: [`Reply::Switched`].
    Switch {
        /// Which service.
        scope: Scope,
        /// The state.
        target: Target,
        /// What served when the plan was made; another one now is refused with [`Reply::Stale`].
        from: Option<Target>,
    },
    /// Switch to a release that the host keeps. Answer: [`Reply::Switched`].
    Rollback {
        /// Which service.
        scope: Scope,
        /// To which; without it the previous one.
        to: Option<Version>,
        /// As in [`Request::Switch`].
        from: Option<Target>,
    },
    /// Does what serves now pass its health check? Changes nothing. Answer: [`Reply::Health`].
    Health {
        /// Which service.
        scope: Scope,
    },
    /// Run a once-step, unless it was done here for this version. Answer: [`Reply::Once`].
    Once {
        /// Which service.
        scope: Scope,
        /// The staged state it belongs to.
        target: Target,
        /// The step.
        step: Once,
    },
    /// Remove the oldest releases, and what killed runs left; never one that serves or could be returned to.
    /// Answer: [`Reply::Pruned`].
    Prune {
        /// Which service.
        scope: Scope,
        /// How many releases stay at most, the serving and the previous one included; at least 1.
        keep: usize,
    },
}

impl Request {
    /// Which service it is about.
    pub fn scope(&self) -> &Scope {
        match self {
            Self::Observe { scope, .. }
            | Self::Stage { scope, .. }
            | Self::Switch { scope, .. }
            | Self::Rollback { scope, .. }
            | Self::Health { scope }
            | Self::Once { scope, .. }
            | Self::Prune { scope, .. } => scope,
        }
    }

    /// The contents it works with; those that the host has already need not travel (the host half tells which).
    pub fn contents(&self) -> Vec<Digest> {
        match self {
            Self::Stage { desired, .. } => desired.contents(),
            _ => Vec::new(),
        }
    }
}

/// A command that is run on one host of a rollout: a migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Once {
    /// Its name.
    pub name: String,
    /// Program and arguments, as in [`Setup::user`].
    pub argv: Vec<String>,
    /// When.
    pub when: When,
    /// Milliseconds until it is ended and counts as failed.
    pub timeout_ms: u64,
}

/// On which side of the switch a once-step runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// Before the first host is switched.
    Before,
    /// After the last host was switched.
    After,
}

/// The result of a [`Request`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To `Observe`.
    Observed(Box<Observation>),
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
    Switched(Outcome),
    /// To `Health`: the failure, if it is one.
    Health(Option<Failure>),
    /// To `Once`.
    Once {
        /// `false`: it had been done before.
        ran: bool,
        /// Why it failed, where it did; it counts as not done then.
        failed: Option<String>,
    },
    /// To `Prune`: the versions that are gone, then the names of incomplete ones.
    Pruned(Vec<String>),
    /// Somebody else deploys this service on this host; nothing was done.
    Locked(Holder),
    /// The world is another than the plan's; nothing was done. One line a difference.
    Stale(Vec<String>),
    /// It cannot be done as asked, and nothing was done: a sentence with the way out.
    Refused(String),
    /// The run was cancelled before anything was changed.
    Cancelled,
}

/// How a switch ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// The state served already, and healthily.
    Unchanged,
    /// The state serves and passed its health check.
    Healthy {
        /// What serves.
        version: Version,
        /// What served before.
        before: Option<Version>,
        /// Units that were restarted or started.
        restarted: Vec<String>,
        /// Milliseconds from the first restart until the check passed.
        gap_ms: u64,
        /// A hook behind the switch that failed: the release serves nevertheless.
        hook: Option<String>,
    },
    /// The state failed; what served before serves again.
    Returned {
        /// The version that failed.
        version: Version,
        /// What failed.
        failed: Failure,
        /// The version that serves again.
        to: Version,
        /// Where that one does not pass its health check either: why.
        unhealthy: Option<Failure>,
    },
    /// The state that served before was applied again (restarted, repaired) and is not healthy: it was left as it is.
    Unhealthy {
        /// Its version.
        version: Version,
        /// What failed.
        failed: Failure,
    },
    /// The state failed and there is nothing to return to: its units were stopped.
    Stopped {
        /// The version that failed.
        version: Version,
        /// What failed.
        failed: Failure,
    },
}

/// What failed, with what is needed to find out why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The step: `drain`, `configuration`, `units`, `link`, `restart`, `health`.
    pub step: String,
    /// What the system or the service said.
    pub detail: String,
    /// The last lines of the units' journal since the switch.
    pub log: Vec<String>,
}
