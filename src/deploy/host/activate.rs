//! Brings configuration, units, link and processes of a host to one state. Every step may be done again.

use std::path::Path;

use anyhow::{Context, Result};

use super::layout::ServiceLayout;
use super::observe::agent_account;
use super::releases::StoredRelease;
use super::service_manager::ServiceManager;
use super::shared;
use crate::deploy::plan::{changes_service, find_reload_units, is_restart_due, should_run};
use crate::host_fs::{self, PathError};
use crate::plan::ResourceChange;
use crate::protocol::deploy::{
    ConfigFile, DesiredState, LeftoverFile, ObservedPath, ObservedUnit, ReleaseVersion, ServiceObservation, SwitchStep,
};
use crate::protocol::{Event, ProgressSink};
use crate::resources::{HostView, PathMeta, atomic_file};

/// Reports each step before it starts.
pub(super) struct StepReporter<'a> {
    sink: &'a dyn ProgressSink,
    job: String,
}

impl<'a> StepReporter<'a> {
    pub fn new(sink: &'a dyn ProgressSink, version: &ReleaseVersion) -> Self {
        Self { sink, job: format!("release {version}") }
    }

    pub fn report_step(&self, phase: &str) {
        self.sink.emit(Event::Progress { job: self.job.clone(), phase: phase.to_owned(), done: 0, total: 0 });
    }
}

/// Lists the actions that reach a state.
#[derive(Debug)]
pub(super) struct Activation {
    /// Units that are restarted, or started, in this order.
    pub restart_units: Vec<String>,
    /// Units that are reloaded.
    pub reload_units: Vec<String>,
    /// Set if files, units or processes change; otherwise only the journal does.
    pub changes_service: bool,
    /// Units that must be stopped first: a socket cannot be replaced under its service.
    stop_units: Vec<String>,
    /// Instances that the state does not have.
    leftover_instances: Vec<String>,
    leftover: Vec<LeftoverFile>,
}

/// The failure of a step.
#[derive(Debug)]
pub(super) struct StepFailure {
    /// The step.
    pub step: SwitchStep,
    /// Error text of the system or the service.
    pub detail: String,
}

impl StepFailure {
    /// Returns the conversion of an error into the failure of this step.
    pub fn at(step: SwitchStep) -> impl Fn(anyhow::Error) -> Self {
        move |error| Self { step, detail: format!("{error:#}") }
    }
}

/// Units that a switch may have stopped or started.
#[derive(Debug, Default)]
pub(super) enum TouchedUnits {
    /// All: an earlier run did not finish, and its steps are unknown.
    All,
    /// None.
    #[default]
    None,
    /// These.
    Named(Vec<String>),
}

impl TouchedUnits {
    fn add(&mut self, unit: &str) {
        match self {
            Self::All => {}
            Self::None => *self = Self::Named(vec![unit.to_owned()]),
            Self::Named(units) => units.push(unit.to_owned()),
        }
    }

    fn contains(&self, unit: &str) -> bool {
        match self {
            Self::All => true,
            Self::None => false,
            Self::Named(units) => units.iter().any(|name| name == unit),
        }
    }
}

impl Activation {
    /// Returns the actions for the rows of the plan.
    pub fn from_plan(desired: &DesiredState, observation: &ServiceObservation, rows: &[ResourceChange]) -> Self {
        let changes_service = changes_service(rows);
        let reload_units: Vec<String> =
            find_reload_units(desired, observation, rows).into_iter().map(str::to_owned).collect();
        let is_due = |unit: &str| is_restart_due(rows, unit) && !reload_units.iter().any(|name| name == unit);
        let actions = Self::from_due_units(desired, observation, is_due);
        Self { changes_service, reload_units, ..actions }
    }

    /// Returns the actions that restore a state: restarts the units that a switch touched, and starts those that do not
    /// run.
    pub fn restore(desired: &DesiredState, observation: &ServiceObservation, touched: &TouchedUnits) -> Self {
        let is_due = |name: &str| {
            let mut units = desired.config.units.iter().zip(&observation.units);
            units
                .any(|(unit, at)| unit.name == name && should_run(unit) && (touched.contains(name) || !at.is_running()))
        };
        Self::from_due_units(desired, observation, is_due)
    }

    fn from_due_units(desired: &DesiredState, observation: &ServiceObservation, is_due: impl Fn(&str) -> bool) -> Self {
        let units = &desired.config.units;
        let due: Vec<String> = units.iter().filter(|unit| is_due(&unit.name)).map(|unit| unit.name.clone()).collect();
        // Sockets, timers and paths before the services that they start.
        let (services, mut restart_units): (Vec<String>, Vec<String>) =
            due.into_iter().partition(|name| name.ends_with(".service"));
        // A socket, a timer that runs and did not change is left alone also where all services restart.
        restart_units.retain(|name| {
            units
                .iter()
                .zip(&observation.units)
                .any(|(unit, at)| unit.name == *name && !is_unaffected(unit.restart_on_release, unit, at))
        });
        let sockets = restart_units.iter().any(|name| name.ends_with(".socket"));
        let stop_units = if sockets { services.clone() } else { Vec::new() };
        restart_units.extend(services);
        let reload_units = Vec::new();
        Self {
            restart_units,
            reload_units,
            changes_service: true,
            stop_units,
            leftover_instances: observation.leftover_instances.clone(),
            leftover: observation.leftover_files.clone(),
        }
    }

    /// Applies the actions: configuration, units, link, restarts. Adds the units that it stops or starts to `touched`.
    pub fn apply(
        &self,
        layout: &ServiceLayout,
        services: &dyn ServiceManager,
        desired: &DesiredState,
        steps: &StepReporter<'_>,
        touched: &mut TouchedUnits,
    ) -> Result<(), StepFailure> {
        let version = &desired.manifest.version;
        let stored =
            StoredRelease::read(layout, version).and_then(|kept| kept.with_context(|| format!("{version} is missing")));
        let kept = stored.map_err(StepFailure::at(SwitchStep::Configuration))?;
        shared::create_shared(layout, &desired.config).map_err(StepFailure::at(SwitchStep::Configuration))?;
        write_configs(&kept, desired, steps).map_err(StepFailure::at(SwitchStep::Configuration))?;
        self.write_units(&kept, services, desired, steps).map_err(StepFailure::at(SwitchStep::Units))?;
        steps.report_step("link");
        layout.set_current_link(desired.link_target().as_deref()).map_err(StepFailure::at(SwitchStep::Link))?;
        for unit in &self.stop_units {
            steps.report_step("stop");
            touched.add(unit);
            services.stop_unit(unit).map_err(StepFailure::at(SwitchStep::Restart))?;
        }
        for unit in &self.restart_units {
            steps.report_step("restart");
            touched.add(unit);
            services.restart_unit(unit).map_err(StepFailure::at(SwitchStep::Restart))?;
        }
        for unit in &self.reload_units {
            steps.report_step("reload");
            // A return restarts it: a reload that failed may have left a part of the new release.
            touched.add(unit);
            services.reload_unit(unit).map_err(StepFailure::at(SwitchStep::Restart))?;
        }
        Ok(())
    }

    fn write_units(
        &self,
        stored: &StoredRelease,
        services: &dyn ServiceManager,
        desired: &DesiredState,
        steps: &StepReporter<'_>,
    ) -> Result<()> {
        let (owner, group) = agent_account(&mut HostView::current())?;
        let meta = PathMeta { mode: 0o644, owner, group };
        for instance in &self.leftover_instances {
            steps.report_step("remove");
            services.stop_unit(instance)?;
            services.set_enabled(instance, false)?;
        }
        for leftover in &self.leftover {
            steps.report_step("remove");
            if let Some(unit) = &leftover.unit {
                services.stop_unit(unit)?;
                services.set_enabled(unit, false)?;
            }
            host_fs::remove_file(&leftover.path)?;
        }
        for unit in &desired.config.units {
            steps.report_step("unit");
            write_if_changed(&services.unit_dir().join(unit.file_name()), &stored.read_text(&unit.digest)?, &meta)?;
        }
        steps.report_step("reload");
        services.reload_units()?;
        let names: Vec<&str> = desired.config.units.iter().map(|unit| unit.name.as_str()).collect();
        for (unit, state) in desired.config.units.iter().zip(services.read_unit_statuses(&names)?) {
            // It ran because it was enabled. Stopped first: after a kill it would count as not enabled.
            if state.enabled && !should_run(unit) {
                steps.report_step("stop");
                services.stop_unit(&unit.name)?;
            }
            if unit.start_at_boot != state.enabled {
                steps.report_step("enable");
                services.set_enabled(&unit.name, unit.start_at_boot)?;
            }
        }
        Ok(())
    }
}

/// Returns whether a unit that a release change does not restart runs from its desired unit file.
fn is_unaffected(restart: bool, unit: &crate::protocol::deploy::UnitFile, at: &ObservedUnit) -> bool {
    let same = matches!(&at.file.state, ObservedPath::File { digest, .. } if *digest == unit.digest);
    !restart && same && at.is_running()
}

fn write_configs(stored: &StoredRelease, desired: &DesiredState, steps: &StepReporter<'_>) -> Result<()> {
    for config in &desired.config.configs {
        steps.report_step("configuration");
        write_config(config, &stored.read_text(&config.digest)?)?;
    }
    Ok(())
}

/// Puts a configuration file in its place, with the folders above it.
pub(super) fn write_config(config: &ConfigFile, bytes: &[u8]) -> Result<()> {
    if let Some(parent) = config.dest.parent() {
        host_fs::ensure_folder(parent, 0o755)?;
    }
    write_if_changed(&config.dest, bytes, &config_meta(config))
}

/// Returns the mode and owner of a configuration file.
pub(super) fn config_meta(config: &ConfigFile) -> PathMeta {
    PathMeta { mode: config.mode, owner: config.owner.clone(), group: config.group.clone() }
}

/// Writes a file, unless it has these bytes already; then only owner and mode are set.
fn write_if_changed(path: &Path, bytes: &[u8], meta: &PathMeta) -> Result<()> {
    if has_content(path, bytes)? {
        atomic_file::set_ownership(path, meta)
    } else {
        atomic_file::write_file(path, bytes, meta)
    }
}

/// Returns whether a path is a file with exactly these bytes.
pub(super) fn has_content(path: &Path, bytes: &[u8]) -> Result<bool> {
    Ok(match host_fs::open_file(path) {
        Ok(Some(file)) => host_fs::read_limited(&file, bytes.len() as u64, path).is_ok_and(|current| current == bytes),
        Ok(None) | Err(PathError::WrongType { .. }) => false,
        Err(error) => return Err(error.into()),
    })
}
