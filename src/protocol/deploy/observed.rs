//! What a host tells of a service: releases, what is current, units, configuration, and what a killed run left.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{DesiredState, ReleaseTarget, ReleaseVersion};
use crate::plan::Digest;
use crate::protocol::lock::LockHolder;

/// A service on one host as it is now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceObservation {
    /// The releases in its folder, oldest first.
    pub releases: Vec<ObservedRelease>,
    /// Names of releases that a killed run did not complete.
    pub incomplete_releases: Vec<String>,
    /// Where the `current` link points; a target that is no release is told as it is written.
    pub current_link: Option<String>,
    /// What was switched to last and found healthy.
    pub confirmed: Option<ReleaseTarget>,
    /// What was confirmed before that: where a rollback goes.
    pub previous: Option<ReleaseTarget>,
    /// A switch that was begun and neither confirmed nor taken back.
    pub unfinished_switch: Option<ReleaseTarget>,
    /// User and group that the agent runs as: unit files are to be theirs.
    pub agent_account: (String, String),
    /// The units of the asked-for state, in its order.
    pub units: Vec<ObservedUnit>,
    /// The configuration files of the asked-for state, in its order.
    pub configs: Vec<ObservedText>,
    /// Units and configuration that the state now serving has and the asked-for one has not: the switch removes them.
    pub leftover_files: Vec<LeftoverFile>,
    /// Which of the asked-for contents the host has already; they never travel.
    pub present_blobs: Vec<Digest>,
    /// Tasks that were done here: name and version.
    pub completed_tasks: Vec<(String, ReleaseVersion)>,
    /// Where a release that the host keeps was asked about: its files and setup.
    pub retained_release: Option<DesiredState>,
    /// Who is deploying this service right now.
    pub lock_holder: Option<LockHolder>,
}

/// A release on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedRelease {
    /// Its version.
    pub version: ReleaseVersion,
    /// The digest of its manifest.
    pub manifest_digest: Digest,
    /// When it was put there, in seconds since 1970.
    pub staged_at: u64,
    /// What is wrong with its files: missing, or not those of the manifest. Empty where it is whole.
    pub damaged_files: Vec<String>,
    /// Bytes of its files.
    pub bytes: u64,
    /// Why the last switch to it failed, where one did after its last success.
    pub last_failure: Option<String>,
}

/// A file that is written from a text, as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedText {
    /// Its path.
    pub path: PathBuf,
    /// What is there.
    pub state: ObservedPath,
    /// Its text; only of an unlike file that is text, is not too long and may be shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The text that it is to have; only where the state is one that the host keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_text: Option<String>,
}

/// What stands at a path.
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
        /// Where it points.
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
    /// Whether it is started at boot.
    pub is_enabled: bool,
    /// `active`, `inactive`, `failed`, `activating` … as systemd says; `exited` for a one-shot unit that succeeded.
    pub active_state: String,
}

impl ObservedUnit {
    /// Does it run, or has it done what it does (a one-shot unit)?
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
