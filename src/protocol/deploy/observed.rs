//! State of a service on a host: releases, the current one, units, configuration, and what an interrupted run left.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{DesiredState, MaintenanceRecord, ObservedShared, ReleaseTarget, ReleaseVersion, SwitchRecord, TaskRecord};
use crate::plan::Digest;
use crate::protocol::lock::LockHolder;

/// A service on one host as it is now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceObservation {
    /// The releases in its folder, oldest first.
    pub releases: Vec<ObservedRelease>,
    /// Names of releases that a killed run did not complete.
    pub incomplete_releases: Vec<String>,
    /// Target of the `current` link; one that is not a release is reported as it is.
    pub current_link: Option<String>,
    /// Last state that was switched to and passed its health check.
    pub confirmed: Option<ReleaseTarget>,
    /// State confirmed before that: the target of a rollback.
    pub previous: Option<ReleaseTarget>,
    /// A switch that was begun and neither confirmed nor taken back.
    pub unfinished_switch: Option<ReleaseTarget>,
    /// Set if the hooks that return the host into rotation have not succeeded since a switch.
    pub out_of_rotation: bool,
    /// Maintenance of the service, during which the host stays out of rotation.
    #[serde(default)]
    pub maintenance: Option<MaintenanceRecord>,
    /// User and group that the agent runs as: unit files are to be theirs.
    pub agent_account: (String, String),
    /// Set if the host has no program that verifies units, so that a preflight finds no faults in them.
    pub lacks_unit_verification: bool,
    /// Units of the asked-for state and the `current` link that were on the host before dunlin first deployed the
    /// service. Empty after the first deploy.
    pub unmanaged_paths: Vec<PathBuf>,
    /// The units of the asked-for state, in its order.
    pub units: Vec<ObservedUnit>,
    /// The configuration files of the asked-for state, in its order.
    pub configs: Vec<ObservedText>,
    /// The shared paths of the asked-for state, in its order.
    #[serde(default)]
    pub shared: Vec<ObservedShared>,
    /// Units and configuration that the state now serving has and the asked-for one has not: the switch removes them.
    pub leftover_files: Vec<LeftoverFile>,
    /// Instances of template units that run or are enabled, and that the asked-for state has not: the switch stops
    /// them.
    #[serde(default)]
    pub leftover_instances: Vec<String>,
    /// Requested contents that the host has already; they are not sent.
    pub present_blobs: Vec<Digest>,
    /// Records of switches, oldest first.
    pub switch_records: Vec<SwitchRecord>,
    /// Records of tasks.
    pub task_records: Vec<TaskRecord>,
    /// Files and setup of the kept release that was requested.
    pub retained_release: Option<DesiredState>,
    /// Operator who is deploying this service now.
    pub lock_holder: Option<LockHolder>,
}

/// A release on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedRelease {
    /// Its version.
    pub version: ReleaseVersion,
    /// The digest of its manifest.
    pub manifest_digest: Digest,
    /// Time of the git revision that it was packaged from, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision_time: Option<u64>,
    /// Time of staging, in seconds since 1970.
    pub staged_at: u64,
    /// Files that are missing or differ from the manifest; empty for an intact release.
    pub damaged_files: Vec<String>,
    /// Bytes of its files.
    pub bytes: u64,
    /// Reason of the last failed switch to it, if it failed after its last success.
    pub last_failure: Option<String>,
}

/// A file that is written from a text, as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedText {
    /// Its path.
    pub path: PathBuf,
    /// Observed content of the path.
    pub state: ObservedPath,
    /// Its text; only of an unlike file that is text, is not too long and may be shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The text that it is to have; only where the state is one that the host keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_text: Option<String>,
}

/// Content of a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum ObservedPath {
    /// Nothing.
    Absent,
    /// A file.
    File {
        /// SHA-256 of its bytes.
        digest: Digest,
        /// Permission bits.
        mode: u32,
        /// The owning user.
        owner: String,
        /// The owning group.
        group: String,
    },
    /// A link; it is replaced by a file.
    Link {
        /// Target of the link.
        target: PathBuf,
    },
    /// A folder, a device: the switch is refused.
    Other,
}

/// A unit as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedUnit {
    /// Its file.
    pub file: ObservedText,
    /// True if it is started at boot.
    pub is_enabled: bool,
    /// `active`, `inactive`, `failed`, `activating` … as systemd says; `exited` for a one-shot unit that succeeded.
    pub active_state: String,
    /// True if the unit, as loaded, has a command to reload it.
    #[serde(default)]
    pub can_reload: bool,
}

impl ObservedUnit {
    /// Returns true if the unit runs, or succeeded as a one-shot unit.
    pub fn is_running(&self) -> bool {
        matches!(self.active_state.as_str(), "active" | "reloading" | "exited")
    }
}

/// Something that the state now serving has and the asked-for one has not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftoverFile {
    /// The file.
    pub path: PathBuf,
    /// The unit, where it is one: it is stopped and disabled first.
    pub unit: Option<String>,
}
