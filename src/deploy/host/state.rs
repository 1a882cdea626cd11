//! The journal of a service on its host: what served, what is being switched to, what failed, what was run once.
//!
//! One small file, replaced as a whole. A switch stands in it from before its first change until it is confirmed or
//! taken back, so the next run can tell a switch that was killed from one that never was.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::layout::{Layout, read_json, write_json};
use crate::wire::deploy::{Target, Version};

/// How many confirmed switches are remembered.
const REMEMBERED: usize = 50;
const FORMAT: u32 = 1;

/// The journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    format_version: u32,
    /// Confirmed switches, oldest first; the last one serves.
    history: Vec<Confirmed>,
    /// A switch that is under way.
    pub switching: Option<Target>,
    /// Why the last switch to a version failed.
    pub failed: BTreeMap<Version, String>,
    /// Once-steps that were done: name and version.
    pub once: Vec<(String, Version)>,
}

/// A switch that ended well.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Confirmed {
    target: Target,
    at: u64,
    by: String,
}

impl State {
    /// Reads the journal; an empty one where the service is new to the host.
    pub fn read(layout: &Layout) -> Result<Self> {
        let empty = Self {
            format_version: FORMAT,
            history: Vec::new(),
            switching: None,
            failed: BTreeMap::new(),
            once: Vec::new(),
        };
        let state = read_json::<Self>(&layout.state())?.unwrap_or(empty);
        ensure!(
            state.format_version == FORMAT,
            "{} has format {}, and this version of dunlin knows {FORMAT}",
            layout.state().display(),
            state.format_version
        );
        Ok(state)
    }

    pub fn write(&self, layout: &Layout) -> Result<()> {
        write_json(&layout.state(), self)
    }

    /// What serves.
    pub fn confirmed(&self) -> Option<&Target> {
        self.history.last().map(|confirmed| &confirmed.target)
    }

    /// What served before that.
    pub fn previous(&self) -> Option<&Target> {
        self.history.iter().rev().nth(1).map(|confirmed| &confirmed.target)
    }

    /// The state in which a version served last.
    pub fn last_of(&self, version: &Version) -> Option<&Target> {
        self.history.iter().rev().map(|confirmed| &confirmed.target).find(|target| target.version == *version)
    }

    /// A switch ended well.
    pub fn confirm(&mut self, target: &Target, by: &str) {
        self.switching = None;
        self.failed.remove(&target.version);
        if self.confirmed() != Some(target) {
            self.history.push(Confirmed { target: target.clone(), at: now(), by: by.to_owned() });
        }
        let surplus = self.history.len().saturating_sub(REMEMBERED);
        self.history.drain(..surplus);
    }

    /// May a release be removed or replaced?
    pub fn is_used(&self, version: &Version) -> bool {
        let used = [self.confirmed(), self.previous(), self.switching.as_ref()];
        used.into_iter().flatten().any(|target| target.version == *version)
    }

    /// Forgets a release that is gone.
    pub fn forget(&mut self, version: &Version) {
        self.history.retain(|confirmed| confirmed.target.version != *version);
        self.failed.remove(version);
        self.once.retain(|(_, of)| of != version);
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
