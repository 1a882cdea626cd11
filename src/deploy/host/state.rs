//! The journal of a service on its host: what served, what is being switched to, what failed, what was run once.
//!
//! One small file, replaced as a whole. A switch is recorded in it from before its first change until it is confirmed
//! or taken back, so the next run can tell a switch that was killed from one that never was.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::layout::{ServiceLayout, read_json, write_json};
use crate::protocol::deploy::{
    MaintenanceRecord, ReleaseTarget, ReleaseVersion, ServiceName, SwitchRecord, TaskRecord,
};

/// Maximum number of confirmed switches that are recorded.
const MAX_HISTORY: usize = 50;
/// Maximum number of records of switches.
const MAX_SWITCH_RECORDS: usize = 200;
/// Maximum number of records of tasks.
const MAX_TASK_RECORDS: usize = 500;
const STATE_FORMAT_VERSION: u32 = 2;

/// The journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct DeployState {
    format_version: u32,
    /// The service that the folder belongs to.
    service: ServiceName,
    /// Confirmed switches, oldest first; the last one serves. A rollback removes those after its target.
    history: Vec<ConfirmedSwitch>,
    /// Switch in progress.
    pub pending_switch: Option<ReleaseTarget>,
    /// Set from before the hooks that take the host out of rotation until the hooks that return it have succeeded.
    pub out_of_rotation: bool,
    /// State in which each release was last found healthy.
    healthy: BTreeMap<ReleaseVersion, ReleaseTarget>,
    /// Cause of the last failed switch, per version.
    pub failures: BTreeMap<ReleaseVersion, String>,
    /// Maintenance of the service, during which the host stays out of rotation.
    #[serde(default)]
    pub maintenance: Option<MaintenanceRecord>,
    /// Records of switches, oldest first.
    #[serde(default)]
    pub switch_records: Vec<SwitchRecord>,
    /// State that served until units of another origin were kept with it.
    #[serde(default)]
    replaced_target: Option<ReleaseTarget>,
    /// Records of tasks, oldest first; one per task and release.
    pub task_records: Vec<TaskRecord>,
}

/// Direction of a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// To a release that is deployed.
    Forward,
    /// Back to a release that served before.
    Back,
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
            service: layout.service().clone(),
            healthy: BTreeMap::new(),
            history: Vec::new(),
            pending_switch: None,
            out_of_rotation: false,
            failures: BTreeMap::new(),
            maintenance: None,
            switch_records: Vec::new(),
            replaced_target: None,
            task_records: Vec::new(),
        };
        let state = read_json::<Self>(&layout.state_path())?.unwrap_or(empty);
        ensure!(
            state.format_version == STATE_FORMAT_VERSION,
            "{} has format {}, and this version of dunlin knows {STATE_FORMAT_VERSION}",
            layout.state_path().display(),
            state.format_version
        );
        ensure!(
            state.service == *layout.service(),
            "{} belongs to the service {}, not to {}; give each service a root of its own",
            layout.root().display(),
            state.service,
            layout.service()
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

    /// Returns the release that served before the one that serves; the same release with another configuration is not
    /// an earlier one.
    pub fn previous_target(&self) -> Option<&ReleaseTarget> {
        let current = &self.confirmed_target()?.version;
        self.history.iter().rev().map(|confirmed| &confirmed.target).find(|target| target.version != *current)
    }

    /// Returns whether dunlin has switched to a release of the service, successfully or not.
    pub fn has_switched(&self) -> bool {
        !self.history.is_empty() || !self.failures.is_empty() || self.pending_switch.is_some()
    }

    /// Returns the state in which a release was last found healthy.
    pub fn healthy_target_of(&self, version: &ReleaseVersion) -> Option<&ReleaseTarget> {
        self.healthy.get(version)
    }

    /// Replaces the state that serves by one that keeps more of the host. It was healthy as it is.
    pub fn extend_confirmed(&mut self, target: &ReleaseTarget) {
        if let Some(confirmed) = self.history.last_mut() {
            self.replaced_target = Some(std::mem::replace(&mut confirmed.target, target.clone()));
            self.healthy.insert(target.version.clone(), target.clone());
        }
    }

    /// Returns whether a state serves that keeps more of the host than this one, which a plan expects.
    pub fn extends(&self, expected: Option<&ReleaseTarget>) -> bool {
        expected.is_some() && self.replaced_target.as_ref() == expected
    }

    /// Records a switch that ended well. A return removes the later switches, so that the next one goes further back.
    pub fn confirm_switch(&mut self, target: &ReleaseTarget, operator: &str, direction: Direction) {
        self.pending_switch = None;
        self.replaced_target = None;
        self.failures.remove(&target.version);
        self.healthy.insert(target.version.clone(), target.clone());
        if direction == Direction::Back
            && let Some(at) = self.history.iter().rposition(|confirmed| confirmed.target.version == target.version)
        {
            self.history.truncate(at);
        }
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

    /// Takes the only confirmed switch back, before its units are stopped. Until then the switch counts as unfinished.
    pub fn begin_deactivation(&mut self, target: &ReleaseTarget, reason: &str) {
        self.history.clear();
        self.healthy.remove(&target.version);
        self.failures.insert(target.version.clone(), reason.to_owned());
        self.pending_switch = Some(target.clone());
    }

    /// Returns whether a release was switched to, successfully or not.
    pub fn was_tried(&self, version: &ReleaseVersion) -> bool {
        self.healthy.contains_key(version) || self.failures.contains_key(version)
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

    /// Records a switch that ended.
    pub fn record_switch(&mut self, record: SwitchRecord) {
        self.switch_records.push(record);
        let excess = self.switch_records.len().saturating_sub(MAX_SWITCH_RECORDS);
        self.switch_records.drain(..excess);
    }

    /// Forgets a release that is gone. The records of its tasks remain: the release may be deployed again.
    pub fn remove_release(&mut self, version: &ReleaseVersion) {
        self.history.retain(|confirmed| confirmed.target.version != *version);
        self.failures.remove(version);
        self.healthy.remove(version);
    }
}

/// Seconds since 1970.
pub(super) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
