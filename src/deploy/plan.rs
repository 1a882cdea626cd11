//! What a deploy does to one host: asked-for state × observation → rows. Pure; also run on the host itself, which
//! compares the rows' fingerprints with those of the plan that was shown and finds out what is due.

mod adoption;
mod compare;
mod release;
mod reload;
mod services;
mod shared;
mod shown;
mod texts;

use serde::Serialize;

use self::adoption::plan_adoption;
use self::release::{plan_link, plan_release};
use self::services::{plan_service, restart_reason};
use self::texts::{DesiredText, plan_instance, plan_text_file, plan_unit};
use crate::plan::{Action, AttributeChange, Digest, HostPlan, ResourceChange, StepRef, digest_json};
use crate::protocol::deploy::{DesiredState, ReleaseTask, ServiceObservation, TaskPhase, UnitFile};

pub use adoption::describe_unmanaged;
pub use compare::{ChangedByRun, find_stale_rows, find_unplanned_changes, planned_rows};
pub use reload::find_reload_units;
pub use shared::check_shared_paths;
pub use shown::hide_sensitive_digests;

/// Looks up the text of a unit or configuration file that is to be shown as a diff; `None` where it is not at hand.
pub type TextLookup<'a> = &'a dyn Fn(&Digest) -> Option<String>;

/// Plans one host; the rows are in the order in which things happen. `tasks` holds the due tasks for the rollout's first host and is empty for the others.
///
/// # Errors
/// Returns an error with the next step if the state cannot be reached from the observed one.
pub fn plan_host(
    host: &str,
    desired: &DesiredState,
    observation: &ServiceObservation,
    tasks: &[ReleaseTask],
    texts: TextLookup<'_>,
) -> Result<HostPlan, String> {
    let mut rows = plan_rows(desired, observation, texts)?;
    // Tasks belong to the release: they are due for as long as it is on its way to this or any other host.
    let plan_phase = |phase: TaskPhase| -> Vec<ResourceChange> {
        tasks.iter().filter(|task| task.phase == phase).map(|task| plan_task(task, desired)).collect()
    };
    let is_staged = |row: &ResourceChange| {
        [ADOPT_PREFIX, RELEASE_PREFIX, shared::PREFIX].iter().any(|prefix| row.resource.starts_with(prefix))
    };
    let staged = rows.iter().take_while(|row| is_staged(row)).count();
    rows.splice(staged..staged, plan_phase(TaskPhase::BeforeSwitch));
    rows.extend(plan_phase(TaskPhase::AfterSwitch));
    for (step, row) in rows.iter_mut().enumerate() {
        row.step = StepRef { play: 0, step };
    }
    Ok(HostPlan { host: host.to_owned(), rows })
}

/// Prefix of a task's row in the plan.
const TASK_PREFIX: &str = "task ";
/// Prefix of the row of a service that dunlin did not deploy.
const ADOPT_PREFIX: &str = "adopt ";
/// Prefix of the row of the release's files.
const RELEASE_PREFIX: &str = "release ";
/// Prefix of the row of settings that restart nothing.
const SETTINGS_PREFIX: &str = "settings ";

/// Returns the rows of one host without tasks: release, configuration, units, link, restarts.
///
/// # Errors
/// Returns an error under the same conditions as [`plan_host`].
pub fn plan_rows(
    desired: &DesiredState,
    observation: &ServiceObservation,
    texts: TextLookup<'_>,
) -> Result<Vec<ResourceChange>, String> {
    let mut rows = Vec::new();
    rows.extend(plan_adoption(desired, observation)?);
    rows.push(plan_release(desired, observation)?);
    check_shared_paths(&desired.config.shared, &desired.manifest)?;
    rows.extend(shared::plan_shared(desired, observation));
    for (config, at) in desired.config.configs.iter().zip(&observation.configs) {
        let to = DesiredText {
            digest: &config.digest,
            size: config.size,
            mode: config.mode,
            owner: &config.owner,
            group: &config.group,
            sensitive: config.sensitive,
        };
        rows.push(plan_text_file("config", &config.dest, at, &to, texts)?);
    }
    for instance in &observation.leftover_instances {
        let mut row = new_row("unit", instance, Action::Remove, Vec::new(), instance);
        row.reason = Some(format!("release {} does not have this instance", desired.manifest.version));
        rows.push(row);
    }
    for leftover in &observation.leftover_files {
        let mut row = new_row("file", &leftover.path.display().to_string(), Action::Remove, Vec::new(), leftover);
        row.reason = Some(format!("release {} does not have it", desired.manifest.version));
        rows.push(row);
    }
    for (unit, at) in desired.config.units.iter().zip(&observation.units) {
        let mut row = plan_unit(unit, at, &observation.agent_account, texts)?;
        if observation.lacks_unit_verification && row.changes.iter().any(|change| change.attribute == "content") {
            row.reason = Some("not verified: the host has no systemd-analyze".to_owned());
        }
        // The instances of a template share its file.
        if rows.iter().all(|planned| planned.resource != row.resource) {
            rows.push(row);
        }
        rows.extend(plan_instance(unit, at));
    }
    rows.push(plan_link(desired, observation));
    let cause = restart_reason(desired, observation, &rows);
    let mut services = Vec::new();
    for (unit, at) in desired.config.units.iter().zip(&observation.units).filter(|(unit, _)| should_run(unit)) {
        services.push(plan_service(unit, at, cause.as_deref()));
    }
    reload::describe_reloads(&mut services, &find_reload_units(desired, observation, &rows));
    rows.extend(services);
    if cause.is_none()
        && !changes_service(&rows)
        && observation.confirmed.as_ref().is_some_and(|confirmed| *confirmed != desired.to_release_target())
    {
        let mut row =
            new_row("settings", desired.manifest.service.as_str(), Action::Change, Vec::new(), &observation.confirmed);
        row.reason = Some("health check, hooks, shared paths or account changed; nothing is restarted".to_owned());
        rows.push(row);
    }
    if observation.out_of_rotation && observation.maintenance.is_none() {
        let mut row = new_row("rotation", desired.manifest.service.as_str(), Action::Run, Vec::new(), &true);
        row.reason = Some("the hooks after an earlier switch did not succeed; they run again".to_owned());
        rows.push(row);
    }
    Ok(rows)
}

/// Returns whether the rows change files, units or processes: such a change takes the host out of rotation.
pub fn changes_service(rows: &[ResourceChange]) -> bool {
    let is_record = |row: &ResourceChange| {
        [SETTINGS_PREFIX, "rotation ", shared::PREFIX].iter().any(|kind| row.resource.starts_with(kind))
    };
    rows.iter().any(|row| row.action.is_pending() && !is_record(row))
}

/// Returns whether the unit should run. Another unit, such as a timer, starts a service that is neither restarted nor
/// enabled.
pub fn should_run(unit: &UnitFile) -> bool {
    unit.restart_on_release || unit.start_at_boot || !unit.name.ends_with(".service")
}

/// Returns whether the unit's row is pending: it will be restarted or started.
pub fn is_restart_due(rows: &[ResourceChange], unit: &str) -> bool {
    let resource = format!("service {unit}");
    rows.iter().any(|row| row.resource == resource && row.action.is_pending())
}

/// Returns the name of a release from the target of a `current` link; other targets are returned as they are.
pub fn release_name(link_target: &str) -> String {
    link_target.strip_prefix("releases/").unwrap_or(link_target).to_owned()
}

/// Plans a task that is due for the release.
fn plan_task(task: &ReleaseTask, desired: &DesiredState) -> ResourceChange {
    let mut row = new_row("task", &task.name, Action::Run, Vec::new(), &());
    row.reason = Some(format!("it did not run for release {} yet", desired.manifest.version));
    row
}

/// Returns a row of a plan; its fingerprint is that of `observed`.
pub(super) fn new_row(
    kind: &str,
    key: &str,
    action: Action,
    changes: Vec<AttributeChange>,
    observed: &impl Serialize,
) -> ResourceChange {
    ResourceChange {
        step: StepRef { play: 0, step: 0 },
        name: None,
        resource: format!("{kind} {key}"),
        action,
        changes,
        reason: None,
        fingerprint: digest_json(observed),
    }
}

#[cfg(test)]
mod tests;
