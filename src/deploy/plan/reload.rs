//! Finds the units that a switch reloads instead of restarting them.

use super::services::is_enable_only;
use super::should_run;
use crate::plan::ResourceChange;
use crate::protocol::deploy::{DesiredState, ObservedPath, ServiceObservation};

/// Returns the units that are reloaded: the release is all that changes, and all units run from their desired files.
pub fn find_reload_units<'d>(
    desired: &'d DesiredState,
    observation: &ServiceObservation,
    rows: &[ResourceChange],
) -> Vec<&'d str> {
    let changes_release =
        observation.confirmed.as_ref().is_some_and(|confirmed| confirmed.version != desired.manifest.version);
    let changes_files = rows.iter().any(|row| row.action.is_pending() && is_file(row) && !is_enable_only(row));
    let units = || desired.config.units.iter().zip(&observation.units);
    // A socket that is replaced needs its service to stop.
    let restarts_socket = units().any(|(unit, _)| unit.restart_on_release && !unit.name.ends_with(".service"));
    let runs_all = units().all(|(unit, at)| {
        let is_same = matches!(&at.file.state, ObservedPath::File { digest, .. } if *digest == unit.digest);
        is_same && (!should_run(unit) || at.is_running())
    });
    if !changes_release
        || changes_files
        || restarts_socket
        || !runs_all
        || observation.unfinished_switch.is_some()
        || !observation.unmanaged_paths.is_empty()
    {
        return Vec::new();
    }
    let reloads = units().filter(|(unit, at)| unit.restart_on_release && unit.reload_on_release && at.can_reload);
    reloads.map(|(unit, _)| unit.name.as_str()).collect()
}

/// Says in the rows of the services which of them are reloaded.
pub(super) fn describe_reloads(services: &mut [ResourceChange], reload_units: &[&str]) {
    let is_reloaded =
        |row: &&mut ResourceChange| reload_units.iter().any(|unit| row.resource == format!("service {unit}"));
    for row in services.iter_mut().filter(is_reloaded) {
        row.reason = row.reason.take().map(|reason| format!("{reason}; the unit is reloaded"));
    }
}

fn is_file(row: &ResourceChange) -> bool {
    ["config ", "unit ", "file "].iter().any(|kind| row.resource.starts_with(kind))
}
