//! Takes a host out of rotation for maintenance, and returns it, by the hooks of the active release.

use anyhow::{Context, Result};

use super::Answer;
use super::layout::ServiceLayout;
use super::releases::read_desired;
use super::state::{DeployState, unix_seconds};
use super::switch::{Switch, plain_failure};
use crate::deploy::plan::new_row;
use crate::plan::{Action, AttributeChange, ResourceChange};
use crate::protocol::deploy::{DeployFailure, DesiredState, MaintenanceRecord, SwitchStep};

/// Plans the start or the end of a maintenance.
pub(super) fn plan_maintenance(layout: &ServiceLayout, start: bool) -> Result<Result<Vec<ResourceChange>, String>> {
    let state = DeployState::read(layout)?;
    let service = layout.service();
    if let Some(pending) = &state.pending_switch {
        let reason = format!("a switch to {} was not completed; deploy or roll back first", pending.version);
        return Ok(Err(reason));
    }
    let observed = (&state.maintenance, state.out_of_rotation, state.confirmed_target());
    let mut row = new_row("rotation", service.as_str(), Action::None, Vec::new(), &observed);
    let Some(active) = state.confirmed_target() else {
        return Ok(if start { Err(format!("no release of {service} is active on this host")) } else { Ok(vec![row]) });
    };
    let is_in_maintenance = state.maintenance.as_ref().is_some_and(|maintenance| maintenance.is_drained);
    if start && !is_in_maintenance {
        let desired = read_active(layout, &state)?;
        if desired.config.hooks.before.is_empty() {
            return Ok(Err(format!(
                "release {} has no hooks that take a host out of rotation; set `before_switch` and `after_switch` in \
                 [hooks] and deploy",
                active.version
            )));
        }
        row.action = Action::Change;
        row.changes = vec![AttributeChange::new("maintenance", "off", "on")];
        row.reason = Some("the hooks before a switch take the host out of rotation".to_owned());
    }
    if !start && (state.maintenance.is_some() || state.out_of_rotation) {
        row.action = Action::Change;
        row.changes = vec![AttributeChange::new("maintenance", "on", "off")];
        row.reason = Some("the hooks after a switch return the host into rotation".to_owned());
    }
    Ok(Ok(vec![row]))
}

/// Takes the host out of rotation. If a hook fails, the host returns into rotation.
pub(super) fn start_maintenance(switch: &Switch<'_>) -> Answer<Option<DeployFailure>> {
    let mut state = DeployState::read(switch.layout)?;
    let desired = read_active(switch.layout, &state)?;
    let operator = switch.scope.operator.clone();
    state.maintenance = Some(MaintenanceRecord { operator, since: unix_seconds(), is_drained: false });
    state.out_of_rotation = true;
    state.write(switch.layout)?;
    if let Err(error) = switch.run_hooks(&desired, &desired.config.hooks.before) {
        let mut detail = format!("{error:#}");
        state.maintenance = None;
        state.write(switch.layout)?;
        match switch.return_to_rotation(&mut state, &desired, &desired.config.hooks.after)? {
            None => detail.push_str("; the host is back in rotation"),
            Some(failure) => detail.push_str(&format!("; the host is not back in rotation: {failure}")),
        }
        return Ok(Ok(Some(plain_failure(SwitchStep::Drain, detail))));
    }
    if let Some(maintenance) = &mut state.maintenance {
        maintenance.is_drained = true;
    }
    state.write(switch.layout)?;
    Ok(Ok(None))
}

/// Returns the host to rotation if its release is healthy. Otherwise the maintenance continues.
pub(super) fn end_maintenance(switch: &Switch<'_>) -> Answer<Option<DeployFailure>> {
    let mut state = DeployState::read(switch.layout)?;
    let desired = read_active(switch.layout, &state)?;
    if let Some(failure) = switch.check_again(&desired, None) {
        return Ok(Ok(Some(failure)));
    }
    state.maintenance = None;
    // Written first: after a kill, the next run or deploy runs the hooks.
    state.out_of_rotation = true;
    state.write(switch.layout)?;
    let failure = switch.return_to_rotation(&mut state, &desired, &desired.config.hooks.after)?;
    Ok(Ok(failure.map(|detail| plain_failure(SwitchStep::Rotation, detail))))
}

fn read_active(layout: &ServiceLayout, state: &DeployState) -> Result<DesiredState> {
    let active = state.confirmed_target().context("no release is active")?;
    read_desired(layout, active)?.with_context(|| format!("the records of release {} are missing", active.version))
}
