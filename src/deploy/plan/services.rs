//! Plans which units restart.

use super::{new_row, shared};
use crate::plan::{Action, ResourceChange};
use crate::protocol::deploy::{DesiredState, ObservedPath, ObservedUnit, ServiceObservation, UnitFile};

/// Returns why all services of the release restart, if they do.
pub(super) fn restart_reason(
    desired: &DesiredState,
    observation: &ServiceObservation,
    rows: &[ResourceChange],
) -> Option<String> {
    if let Some(unfinished) = &observation.unfinished_switch {
        return Some(format!("a switch to {} was not confirmed healthy", unfinished.version));
    }
    let starts = || format!("release {} starts to serve", desired.manifest.version);
    if observation.confirmed.as_ref().is_none_or(|confirmed| confirmed.version != desired.manifest.version) {
        return Some(starts());
    }
    let pending = rows.iter().find(|row| row.action.is_pending() && !is_enable_only(row) && !shared::is_shared(row))?;
    Some(match pending.resource.split_once(' ') {
        Some(("config", path)) => format!("{path} changes"),
        Some(("unit", path)) => format!("{path} changes"),
        Some(("file", path)) => format!("{path} goes"),
        _ => starts(),
    })
}

/// Returns whether a change of a unit needs no restart: it is enabled, or the owner of its file is repaired.
pub(super) fn is_enable_only(row: &ResourceChange) -> bool {
    row.resource.starts_with("unit ")
        && row.changes.iter().all(|change| change.attribute != "content" && change.attribute != "type")
}

pub(super) fn plan_service(unit: &UnitFile, at: &ObservedUnit, cause: Option<&str>) -> ResourceChange {
    let changes_itself = !matches!(&at.file.state, ObservedPath::File { digest, .. } if *digest == unit.digest);
    let reason = match cause {
        Some(cause) if unit.restart_on_release => Some(cause.to_owned()),
        _ if changes_itself => Some("its unit changes".to_owned()),
        _ if !at.is_running() => Some(format!("it is {}", at.active_state)),
        _ => None,
    };
    let action = if reason.is_some() { Action::Run } else { Action::None };
    let mut row = new_row("service", &unit.name, action, Vec::new(), &at.is_running());
    row.reason = reason;
    row
}
