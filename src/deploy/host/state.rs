//! The journal of a service on its host: what served, what is being switched to, what failed, what was run once.
//!
//! One small file, replaced as a whole. A switch stands in it from before its first change until it is confirmed or
//! taken back, so the next run can tell a switch that was killed from one that never was.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::layout::{ServiceLayout, read_json, write_json};
use crate::protocol::deploy::{ReleaseTarget, ReleaseVersion, TaskRecord};

/// Maximum number of confirmed switches that are recorded.
const MAX_HISTORY: usize = 50;
/// Maximum number of records of tasks.
const MAX_TASK_RECORDS: usize = 500;
const STATE_FORMAT_VERSION: u32 = 2;

/// The journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct DeployState {
    format_version: u32,
    /// Confirmed switches, oldest first; the last one serves.
    history: Vec<ConfirmedSwitch>,
    /// Switch in progress.
    pub pending_switch: Option<ReleaseTarget>,
    /// Set from before the hooks that take the host out of rotation until the hooks that return it have succeeded.
    pub out_of_rotation: bool,
    /// Cause of the last failed switch, per version.
    pub failures: BTreeMap<ReleaseVersion, String>,
    /// Records of tasks, oldest first; one per task and release.
    pub task_records: Vec<TaskRecord>,
}

/// A switch that succeeded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct ConfirmedSwitch {
    target: ReleaseTarget,
    confirmed_at: u64,
    operator: String,
}

impl DeployState {
    /// Reads the journal; an empty one where the service is new to the host.
    pub fn read(layout: &ServiceLayout) -> Result<Self> {
        let empty = Self {
            format_version: STATE_FORMAT_VERSION,
            history: Vec::new(),
            pending_switch: None,
            out_of_rotation: false,
            failures: BTreeMap::new(),
            task_records: Vec::new(),
        };
        let state = read_json::<Self>(&layout.state_path())?.unwrap_or(empty);
        ensure!(
            state.format_version == STATE_FORMAT_VERSION,
            "{} has format {}, and this version of dunlin knows {STATE_FORMAT_VERSION}",
            layout.state_path().display(),
            state.format_version
        );
        Ok(state)
    }

    pub fn write(&self, layout: &ServiceLayout) -> Result<()> {
        write_json(&layout.state_path(), self)
    }

    /// Returns the release that serves.
    pub fn confirmed_target(&self) -> Option<&ReleaseTarget> {
        self.history.last().map(|confirmed| &confirmed.target)
    }

    /// Returns the release that served before.
    pub fn previous_target(&self) -> Option<&ReleaseTarget> {
        self.history.iter().rev().nth(1).map(|confirmed| &confirmed.target)
    }

    /// The state in which a version served last.
    pub fn last_target_of(&self, version: &ReleaseVersion) -> Option<&ReleaseTarget> {
        self.history.iter().rev().map(|confirmed| &confirmed.target).find(|target| target.version == *version)
    }

    /// A switch ended well.
    pub fn confirm_switch(&mut self, target: &ReleaseTarget, operator: &str) {
        self.pending_switch = None;
        self.failures.remove(&target.version);
        if self.confirmed_target() != Some(target) {
            self.history.push(ConfirmedSwitch {
                target: target.clone(),
                confirmed_at: unix_seconds(),
                operator: operator.to_owned(),
            });
        }
        let excess = self.history.len().saturating_sub(MAX_HISTORY);
        self.history.drain(..excess);
    }

    /// May a release be removed or replaced?
    pub fn is_used(&self, version: &ReleaseVersion) -> bool {
        let used = [self.confirmed_target(), self.previous_target(), self.pending_switch.as_ref()];
        used.into_iter().flatten().any(|target| target.version == *version)
    }

    /// Returns the record of a task of a release.
    pub fn task_record(&self, name: &str, version: &ReleaseVersion) -> Option<&TaskRecord> {
        self.task_records.iter().find(|record| record.name == name && record.version == *version)
    }

    /// Records an attempt to run a task; replaces the record of an earlier attempt.
    pub fn record_task(&mut self, record: TaskRecord) {
        self.task_records.retain(|other| other.name != record.name || other.version != record.version);
        self.task_records.push(record);
        let excess = self.task_records.len().saturating_sub(MAX_TASK_RECORDS);
        self.task_records.drain(..excess);
    }

    /// Forgets a release that is gone. The records of its tasks remain: the release may be deployed again.
    pub fn remove_release(&mut self, version: &ReleaseVersion) {
        self.history.retain(|confirmed| confirmed.target.version != *version);
        self.failures.remove(version);
    }
}

/// Seconds since 1970.
pub(super) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
