//! Removes a service from a host: what dunlin put there, and nothing else.
//!
//! Units and configuration go before the releases that record them, and the state goes last: after a kill at any
//! moment, the next run finds what is left.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;

use super::Answer;
use super::layout::{ServiceLayout, remove_empty_dir};
use super::prune::remove_release;
use super::releases::{StoredRelease, read_desired};
use super::service_manager::ServiceManager;
use super::state::DeployState;
use super::switch::{Switch, plain_failure};
use crate::deploy::plan::new_row;
use crate::host_fs;
use crate::plan::{Action, AttributeChange, ResourceChange, format_count};
use crate::protocol::Event;
use crate::protocol::deploy::{
    DeployFailure, DesiredState, INCOMPLETE_SUFFIX, Rejection, ReleaseVersion, ServiceConfig, SwitchStep,
};

/// The units, files and folders of a service that dunlin made on the host.
pub(super) struct InstalledService {
    /// The rows of the plan that removes it.
    pub rows: Vec<ResourceChange>,
    /// The active release, if its hooks take the host out of rotation first.
    drained_release: Option<DesiredState>,
    /// Units that run or are enabled, in the order in which they start.
    units: Vec<String>,
    /// Unit files and configuration files.
    files: Vec<PathBuf>,
    releases: Vec<ReleaseVersion>,
    incomplete_releases: Vec<String>,
}

impl InstalledService {
    /// Observes the service; `Err` inside: the reason for which it cannot be removed.
    pub fn observe(
        layout: &ServiceLayout,
        services: &dyn ServiceManager,
        delete_shared: bool,
    ) -> Result<Result<Self, String>> {
        let mut installed = Self {
            rows: Vec::new(),
            drained_release: None,
            units: Vec::new(),
            files: Vec::new(),
            releases: Vec::new(),
            incomplete_releases: Vec::new(),
        };
        if !layout.records_dir().is_dir() {
            return Ok(Ok(installed));
        }
        let state = DeployState::read(layout)?;
        if let Some(active) = state.confirmed_target().filter(|active| active.version.is_adopted()) {
            let reason = format!(
                "release {} is active, and dunlin did not make it; deploy a release first, or remove the service by hand",
                active.version
            );
            return Ok(Err(reason));
        }
        let (stored, incomplete) = StoredRelease::list_all(layout)?;
        let configs = installed_configs(layout, &state, &stored)?;
        installed.add_units(services, &configs)?;
        installed.add_files(services.unit_dir(), &configs);
        installed.add_rotation(layout, &state)?;
        if let Some(target) = layout.read_current_link()? {
            installed.add_row("link", "current", None, &target);
        }
        installed.releases = stored.iter().map(|release| release.manifest.version.clone()).collect();
        installed.incomplete_releases = incomplete;
        for release in &stored {
            let files = format_count(release.manifest.files.len(), "file");
            installed.add_row("release", release.manifest.version.as_str(), Some(files), &release.manifest.digest());
        }
        for name in installed.incomplete_releases.clone() {
            installed.add_row("release", &format!("{name}{INCOMPLETE_SUFFIX}"), None, &());
        }
        let shared = layout.shared_dir();
        if shared.is_dir() && delete_shared {
            installed.add_row("shared", &shared.display().to_string(), None, &());
        } else if shared.is_dir() {
            let mut row = new_row("shared", &shared.display().to_string(), Action::None, Vec::new(), &());
            row.reason = Some("it stays; --delete-shared removes it".to_owned());
            installed.rows.push(row);
        }
        installed.add_row("state", &layout.records_dir().display().to_string(), None, &());
        Ok(Ok(installed))
    }

    fn add_row(&mut self, kind: &str, key: &str, reason: Option<String>, observed: &impl Serialize) {
        let mut row = new_row(kind, key, Action::Remove, Vec::new(), observed);
        row.reason = reason;
        self.rows.push(row);
    }

    fn add_units(&mut self, services: &dyn ServiceManager, configs: &[ServiceConfig]) -> Result<()> {
        let mut names: Vec<&str> = Vec::new();
        for unit in configs.iter().flat_map(|config| &config.units) {
            if !names.contains(&unit.name.as_str()) {
                names.push(&unit.name);
            }
        }
        for (name, status) in names.iter().zip(services.read_unit_statuses(&names)?) {
            let is_active = !matches!(status.active.as_str(), "inactive" | "exited");
            if !is_active && !status.enabled {
                continue;
            }
            let observed = (&status.active, status.enabled);
            let mut row = new_row("service", name, Action::Remove, Vec::new(), &observed);
            if is_active {
                row.changes.push(AttributeChange::new("active", &status.active, "inactive"));
            }
            if status.enabled {
                row.changes.push(AttributeChange::new("enabled", true, false));
            }
            self.rows.push(row);
            self.units.push((*name).to_owned());
        }
        Ok(())
    }

    fn add_files(&mut self, unit_dir: &Path, configs: &[ServiceConfig]) {
        let units = configs.iter().flat_map(|config| &config.units).map(|unit| unit_dir.join(unit.file_name()));
        let files = configs.iter().flat_map(|config| &config.configs).map(|config| config.dest.clone());
        let paths: Vec<(&str, PathBuf)> =
            units.map(|path| ("unit", path)).chain(files.map(|path| ("config", path))).collect();
        for (kind, path) in paths {
            if self.files.contains(&path) {
                continue;
            }
            // Every change of a file, also one that keeps its size and times, changes these.
            if let Ok(file) = path.symlink_metadata() {
                let observed = (file.dev(), file.ino(), file.size(), file.ctime(), file.ctime_nsec());
                self.add_row(kind, &path.display().to_string(), None, &observed);
                self.files.push(path);
            }
        }
    }

    /// Takes the host out of rotation before its units stop.
    fn add_rotation(&mut self, layout: &ServiceLayout, state: &DeployState) -> Result<()> {
        let is_drained = state.maintenance.as_ref().is_some_and(|maintenance| maintenance.is_drained);
        let active = state.confirmed_target().map(|active| read_desired(layout, active)).transpose()?.flatten();
        let drained = active.filter(|active| !active.config.hooks.before.is_empty());
        if self.units.is_empty() || is_drained {
            return Ok(());
        }
        if let Some(release) = drained {
            let mut row =
                new_row("rotation", layout.service().as_str(), Action::Run, Vec::new(), &state.out_of_rotation);
            row.reason = Some("the hooks before a switch take the host out of rotation".to_owned());
            self.rows.insert(0, row);
            self.drained_release = Some(release);
        }
        Ok(())
    }
}

/// Returns the units and configuration that dunlin put on the host: those of the active release and of a switch that
/// was not completed; before the first success those of all releases.
fn installed_configs(
    layout: &ServiceLayout,
    state: &DeployState,
    stored: &[StoredRelease],
) -> Result<Vec<ServiceConfig>> {
    let mut configs = Vec::new();
    for target in [state.confirmed_target(), state.pending_switch.as_ref()].into_iter().flatten() {
        configs.extend(read_desired(layout, target)?.map(|desired| desired.config));
    }
    if state.has_switched() && state.confirmed_target().is_none() {
        for release in stored {
            configs.extend(release.read_setups()?);
        }
    }
    Ok(configs)
}

/// Removes the service. A hook that fails stops it before the first change.
pub(super) fn undeploy_service(switch: &Switch<'_>, delete_shared: bool) -> Answer<Option<DeployFailure>> {
    let (layout, services) = (switch.layout, switch.service_manager);
    let installed = match InstalledService::observe(layout, services, delete_shared)? {
        Ok(installed) => installed,
        Err(reason) => return Ok(Err(Rejection::Refused(reason))),
    };
    let mut state = DeployState::read(layout)?;
    if let Some(release) = &installed.drained_release {
        state.out_of_rotation = true;
        state.write(layout)?;
        report(switch, "taking the host out of rotation");
        if let Err(error) = switch.run_hooks(release, &release.config.hooks.before) {
            let mut detail = format!("{error:#}; nothing was removed");
            if let Some(failure) = switch.return_to_rotation(&mut state, release, &release.config.hooks.after)? {
                detail.push_str(&format!("; the host is not back in rotation: {failure}"));
            }
            return Ok(Ok(Some(plain_failure(SwitchStep::Drain, detail))));
        }
    }
    for unit in installed.units.iter().rev() {
        report(switch, &format!("stopping {unit}"));
        services.stop_unit(unit)?;
        services.set_enabled(unit, false)?;
        services.forget_failure(unit)?;
    }
    for file in &installed.files {
        report(switch, &format!("removing {}", file.display()));
        host_fs::remove_file(file)?;
    }
    if !installed.files.is_empty() {
        services.reload_units()?;
    }
    layout.set_current_link(None)?;
    for version in &installed.releases {
        report(switch, &format!("removing release {version}"));
        remove_release(layout, &mut state, version)?;
    }
    for name in &installed.incomplete_releases {
        host_fs::remove_tree(&layout.releases_dir().join(format!("{name}{INCOMPLETE_SUFFIX}")))?;
    }
    if delete_shared {
        report(switch, &format!("removing {}", layout.shared_dir().display()));
        host_fs::remove_tree(&layout.shared_dir())?;
    }
    host_fs::remove_tree(&layout.records_dir())?;
    // Files that dunlin did not create stay.
    remove_empty_dir(&layout.releases_dir())?;
    remove_empty_dir(layout.root())?;
    Ok(Ok(None))
}

fn report(switch: &Switch<'_>, text: &str) {
    switch.sink.emit(Event::Note { text: text.to_owned() });
}
