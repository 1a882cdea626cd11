//! What a host tells of a service: releases, what is current, units, configuration, and what a killed run left.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Desired, Target, Version};
use crate::plan::Digest;
use crate::wire::lock::Holder;

/// A service on one host as it is now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// The releases in its folder, oldest first.
    pub releases: Vec<Release>,
    /// Names of releases that a killed run did not complete.
    pub partial: Vec<String>,
    /// Where the `current` link points; a target that is no release is told as it is written.
    pub current: Option<String>,
    /// What was switched to last and found healthy.
    pub confirmed: Option<Target>,
    /// What was confirmed before that: where a rollback goes.
    pub previous: Option<Target>,
    /// A switch that was begun and neither confirmed nor taken back.
    pub unfinished: Option<Target>,
    /// User and group that the agent runs as: unit files are to be theirs.
    pub account: (String, String),
    /// The units of the asked-for state, in its order.
    pub units: Vec<UnitSeen>,
    /// The configuration files of the asked-for state, in its order.
    pub configs: Vec<TextSeen>,
    /// Units and configuration that the state now serving has and the asked-for one has not: the switch removes them.
    pub leftover: Vec<Leftover>,
    /// Which of the asked-for contents the host has already; they never travel.
    pub has: Vec<Digest>,
    /// Once-steps that were done here: name and version.
    pub once: Vec<(String, Version)>,
    /// Where a release that the host keeps was asked about: its files and setup.
    pub kept: Option<Desired>,
    /// Who is deploying this service right now.
    pub locked: Option<Holder>,
}

/// A release on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Its version.
    pub version: Version,
    /// The digest of its manifest.
    pub manifest: Digest,
    /// When it was put there, in seconds since 1970.
    pub staged_at: u64,
    /// What is wrong with its files: missing, or not those of the manifest. Empty where it is whole.
    pub damage: Vec<String>,
    /// Bytes of its files.
    pub bytes: u64,
    /// Why the last switch to it failed, where one did after its last success.
    pub failed: Option<String>,
}

/// A file that is written from a text, as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextSeen {
    /// Its path.
    pub path: PathBuf,
    /// What is there.
    pub state: Seen,
    /// Its text; only of an unlike file that is text, is not too long and may be shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The text that it is to have; only where the state is one that the host keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<String>,
}

/// What stands at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Seen {
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
pub struct UnitSeen {
    /// Its file.
    pub file: TextSeen,
    /// Whether it is started at boot.
    pub enabled: bool,
    /// `active`, `inactive`, `failed`, `activating` … as systemd says; `exited` for a one-shot unit that succeeded.
    pub active: String,
}

impl UnitSeen {
    /// Does it run, or has it done what it does (a one-shot unit)?
    pub fn is_running(&self) -> bool {
        matches!(self.active.as_str(), "active" | "reloading" | "exited")
    }
}

/// Something that the state now serving has and the asked-for one has not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leftover {
    /// The file.
    pub path: PathBuf,
    /// The unit, where it is one: it is stopped and disabled first.
    pub unit: Option<String>,
}
