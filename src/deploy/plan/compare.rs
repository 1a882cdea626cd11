//! Compares the rows of a host with those of the plan that was shown. Pure; runs on the host, under its lock.

use std::collections::BTreeMap;

use super::release::link_fingerprint;
use super::{RELEASE_PREFIX, SETTINGS_PREFIX, TASK_PREFIX, shared};
use crate::plan::{Digest, HostPlan, PlannedRow, ResourceChange};
use crate::protocol::deploy::{ReleaseTarget, ServiceObservation};

/// Returns the rows of a plan that a host compares.
///
/// The rows of tasks are left out: another host may have done one meanwhile, and `RunTask` checks again.
pub fn planned_rows(plan: &HostPlan) -> Vec<PlannedRow> {
    plan.rows.iter().filter(|row| !row.resource.starts_with(TASK_PREFIX)).map(PlannedRow::from).collect()
}

/// Returns a line for each row that differs from the plan's rows.
pub fn find_stale_rows(rows: &[ResourceChange], planned: &[PlannedRow]) -> Vec<String> {
    let now: BTreeMap<&str, &Digest> = rows.iter().map(|row| (row.resource.as_str(), &row.fingerprint)).collect();
    let mut stale = Vec::new();
    for PlannedRow { resource, fingerprint, .. } in planned {
        if now.get(resource.as_str()) != Some(&fingerprint) {
            stale.push(describe_change(resource));
        }
    }
    let unplanned = now.keys().filter(|resource| planned.iter().all(|row| row.resource != **resource));
    stale.extend(unplanned.map(|resource| describe_unplanned(resource)));
    stale
}

/// The changes of the run itself to the host since its plan.
#[derive(Clone, Copy)]
pub enum ChangedByRun<'a> {
    /// Nothing.
    Nothing,
    /// The release was staged, on a host that served this state when the plan was made.
    Staged(Option<&'a ReleaseTarget>),
}

/// Returns a line for each change that is still due and that is not as the plan shows it.
///
/// A row that is in its desired state counts for nothing: a task may have put a configuration file in its place, and a
/// request may be repeated.
pub fn find_unplanned_changes(
    rows: &[ResourceChange],
    planned: &[PlannedRow],
    observation: &ServiceObservation,
    changed: ChangedByRun<'_>,
) -> Vec<String> {
    let due = rows.iter().filter(|row| row.action.is_pending() && !is_staged(row, changed));
    let describe = |row: &ResourceChange| {
        let Some(plan) = planned.iter().find(|plan| plan.resource == row.resource) else {
            return Some(describe_unplanned(&row.resource));
        };
        // A unit that the plan restarts is restarted whether or not it runs.
        let is_restart = row.resource.starts_with("service ") && plan.action.is_pending();
        let is_link = row.resource.starts_with("link ") && is_planned_link(plan, observation, changed);
        (plan.fingerprint != row.fingerprint && !is_restart && !is_link).then(|| describe_change(&row.resource))
    };
    due.filter_map(describe).collect()
}

/// Returns whether staging changes the row: the files of the release, and what becomes of the state that serves.
fn is_staged(row: &ResourceChange, changed: ChangedByRun<'_>) -> bool {
    let prefixes = [RELEASE_PREFIX, SETTINGS_PREFIX, shared::PREFIX];
    matches!(changed, ChangedByRun::Staged(_)) && prefixes.iter().any(|prefix| row.resource.starts_with(prefix))
}

/// Returns whether the link is where it was. Staging keeps a service that dunlin did not deploy as a release, and records
/// the repair of the active release as an unfinished switch.
fn is_planned_link(plan: &PlannedRow, observation: &ServiceObservation, changed: ChangedByRun<'_>) -> bool {
    let ChangedByRun::Staged(serving) = changed else { return false };
    let link = observation.current_link.as_deref();
    [observation.unfinished_switch.as_ref(), None]
        .into_iter()
        .any(|unfinished| link_fingerprint(link, serving, unfinished) == plan.fingerprint)
}

fn describe_change(resource: &str) -> String {
    format!("{resource} changed after the plan was made")
}

fn describe_unplanned(resource: &str) -> String {
    format!("{resource} is not in the plan")
}
