//! Reads the state of a service on this host. Writes nothing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::layout::ServiceLayout;
use super::releases::{self, StoredRelease};
use super::service_manager::{ServiceManager, UnitStatus};
use super::shared::observe_shared;
use super::state::DeployState;
use crate::plan::Digest;
use crate::protocol::deploy::{
    CompareWith, ConfigFile, DesiredState, LeftoverFile, ObservedPath, ObservedText, ObservedUnit, ReleaseTarget,
    ReleaseVersion, ServiceConfig, ServiceObservation, UnitFile,
};
use crate::resources::{HostView, PathState};

/// Longest text that is sent for a diff, in bytes.
const MAX_DIFF_TEXT_BYTES: usize = 256 * 1024;

/// Reads the service, compared with `about`; `Err` inside: the release asked about is not there.
pub(super) fn observe_service(
    layout: &ServiceLayout,
    services: &dyn ServiceManager,
    compare_with: &CompareWith,
) -> Result<Result<ServiceObservation, String>> {
    let state = DeployState::read(layout)?;
    let (stored, partial) = StoredRelease::list_all(layout)?;
    let mut observation = ServiceObservation {
        releases: stored.iter().map(|kept| kept.to_release(&state)).collect(),
        incomplete_releases: partial,
        current_link: layout.read_current_link()?,
        confirmed: state.confirmed_target().cloned(),
        previous: state.previous_target().cloned(),
        unfinished_switch: state.pending_switch.clone(),
        out_of_rotation: state.out_of_rotation,
        maintenance: state.maintenance.clone(),
        switch_records: state.switch_records.clone(),
        task_records: state.task_records.clone(),
        lock_holder: layout.service_lock().list_holders()?.into_iter().next(),
        ..ServiceObservation::default()
    };
    match compare_with {
        CompareWith::Nothing => {}
        CompareWith::Desired(desired) => {
            let version = &desired.manifest.version;
            // The plan names the folder of a service that is about to be adopted.
            let is_to_adopt = !state.has_switched() && observation.current_link.as_deref() == Some(version.as_str());
            if !is_to_adopt && layout.has_foreign_folder(version) {
                return Ok(Err(layout.describe_foreign_folder(version)));
            }
            observe_desired(&mut observation, layout, services, desired, &stored, None)?;
        }
        CompareWith::RetainedRelease(_) | CompareWith::BeforeRun(_) => {
            let target = match compare_with {
                CompareWith::BeforeRun(run) => target_before_run(&state, run, &stored),
                CompareWith::RetainedRelease(Some(version)) => rollback_target(&state, Some(version), &stored),
                _ => rollback_target(&state, None, &stored),
            };
            let target = match target {
                Ok(target) => target,
                Err(reason) => return Ok(Err(reason)),
            };
            let Some(desired) = releases::read_with_current_secrets(layout, &state, &target)? else {
                return Ok(Err(format!("the records of release {} are incomplete; deploy it again", target.version)));
            };
            let release = stored.iter().find(|kept| kept.manifest.version == target.version);
            observe_desired(&mut observation, layout, services, &desired, &stored, release)?;
            // A return has no --adopt; the plan shows what it replaces.
            observation.unmanaged_paths.clear();
            observation.retained_release = Some(desired);
        }
    }
    Ok(Ok(observation))
}

/// Returns the state to which a rollback goes: that of the given version, else the one before; or the reason why there
/// is none.
///
/// While a switch is not confirmed, "the one before" is what served until then.
pub(super) fn rollback_target(
    state: &DeployState,
    version: Option<&ReleaseVersion>,
    stored: &[StoredRelease],
) -> Result<ReleaseTarget, String> {
    let describe_available = || {
        let versions: Vec<&str> = stored.iter().map(|kept| kept.manifest.version.as_str()).collect();
        if versions.is_empty() {
            "no releases are on this host".to_owned()
        } else {
            format!("available: {}", versions.join(", "))
        }
    };
    let Some(version) = version else {
        let before = if state.pending_switch.is_some() { state.confirmed_target() } else { state.previous_target() };
        return before
            .cloned()
            .ok_or_else(|| format!("no earlier release was active on this host; {}", describe_available()));
    };
    if stored.iter().all(|release| release.manifest.version != *version) {
        return Err(format!("release {version} is not on this host; {}", describe_available()));
    }
    state.healthy_target_of(version).cloned().ok_or_else(|| match state.failures.get(version) {
        Some(failure) => format!("release {version} was never healthy on this host ({failure})"),
        None => format!("release {version} was never active on this host"),
    })
}

/// Returns the state to which a return from a run goes: that of the release that served before its first switch.
fn target_before_run(state: &DeployState, run: &str, stored: &[StoredRelease]) -> Result<ReleaseTarget, String> {
    let mut records = state.switch_records.iter();
    let record = records.find(|record| record.run == run);
    let record = record.ok_or_else(|| format!("run {run} switched no release on this host"))?;
    let before = record.from.as_ref();
    let before = before.ok_or_else(|| format!("no release was active on this host before run {run}"))?;
    rollback_target(state, Some(before), stored)
}

fn observe_desired(
    observation: &mut ServiceObservation,
    layout: &ServiceLayout,
    services: &dyn ServiceManager,
    desired: &DesiredState,
    stored: &[StoredRelease],
    texts: Option<&StoredRelease>,
) -> Result<()> {
    let mut view = HostView::current();
    let setup = &desired.config;
    observation.agent_account = agent_account(&mut view)?;
    observation.lacks_unit_verification = !services.can_verify_units();
    observation.unmanaged_paths = find_unmanaged(layout, services, desired)?;
    let names: Vec<&str> = setup.units.iter().map(|unit| unit.name.as_str()).collect();
    for (unit, state) in setup.units.iter().zip(services.read_unit_statuses(&names)?) {
        let path = services.unit_dir().join(unit.file_name());
        let file = observe_text(&mut view, &path, &unit.digest, false, texts)?;
        let UnitStatus { active, enabled, can_reload, .. } = state;
        observation.units.push(ObservedUnit { file, is_enabled: enabled, active_state: active, can_reload });
    }
    for config in &setup.configs {
        observation.configs.push(observe_text(&mut view, &config.dest, &config.digest, config.sensitive, texts)?);
    }
    // What an unfinished switch has put there counts as well as what served.
    for target in [observation.confirmed.clone(), observation.unfinished_switch.clone()].into_iter().flatten() {
        if let Some(earlier) = releases::read_desired(layout, &target)? {
            find_leftovers(&mut observation.leftover_files, &mut view, services.unit_dir(), &earlier.config, setup)?;
            find_leftover_instances(&mut observation.leftover_instances, services, &earlier.config, setup)?;
        }
    }
    observation.shared = observe_shared(layout, desired)?;
    observation.present_blobs = available_contents(desired, observation, stored);
    Ok(())
}

/// Returns the units of the state, and before the first switch the `current` link, that dunlin did not make.
pub(super) fn find_unmanaged(
    layout: &ServiceLayout,
    services: &dyn ServiceManager,
    desired: &DesiredState,
) -> Result<Vec<PathBuf>> {
    let (mut paths, state) = (Vec::new(), DeployState::read(layout)?);
    for unit in find_unmanaged_units(layout, &state, desired)? {
        let own_path = services.unit_dir().join(unit.file_name());
        let loaded = services.find_unit_file(&unit.name)?;
        // A file that was written after the last reload counts too.
        let found = loaded.or_else(|| own_path.symlink_metadata().is_ok().then_some(own_path));
        // The instances of a template share its file.
        paths.extend(found.filter(|path| !paths.contains(path)));
    }
    if !state.has_switched() && layout.current_link().symlink_metadata().is_ok() {
        paths.push(layout.current_link());
    }
    Ok(paths)
}

/// Returns the units of a state that no release on this host has: if the host has them, dunlin did not make them.
pub(super) fn find_unmanaged_units<'d>(
    layout: &ServiceLayout,
    state: &DeployState,
    desired: &'d DesiredState,
) -> Result<Vec<&'d UnitFile>> {
    let mut managed = BTreeSet::new();
    let active = [state.confirmed_target(), state.pending_switch.as_ref()];
    for target in active.into_iter().flatten() {
        let units = releases::read_desired(layout, target)?.map(|earlier| earlier.config.units).unwrap_or_default();
        managed.extend(units.iter().map(|unit| unit.file_name().to_owned()));
    }
    // A first release that failed leaves its units, stopped.
    if state.has_switched() && state.confirmed_target().is_none() {
        for release in StoredRelease::list_all(layout)?.0 {
            let units = release.read_setups()?.into_iter().flat_map(|setup| setup.units);
            managed.extend(units.map(|unit| unit.file_name().to_owned()));
        }
    }
    Ok(desired.config.units.iter().filter(|unit| !managed.contains(unit.file_name())).collect())
}

/// Returns the names of the user and the group that this process runs as.
pub(super) fn agent_account(world: &mut HostView) -> Result<(String, String)> {
    // The kernel gives this folder to the effective user, proc(5).
    match world.path_state(Path::new("/proc/self/fd"))? {
        PathState::Directory { meta } => Ok((meta.owner, meta.group)),
        _ => bail!("cannot read /proc/self/fd to find the user of the agent"),
    }
}

fn observe_text(
    world: &mut HostView,
    path: &Path,
    expected: &Digest,
    sensitive: bool,
    texts: Option<&StoredRelease>,
) -> Result<ObservedText> {
    let state = match world.path_state(path)? {
        PathState::Absent => ObservedPath::Absent,
        PathState::File { digest, meta } => {
            ObservedPath::File { digest, mode: meta.mode, owner: meta.owner, group: meta.group }
        }
        PathState::Link { target } => ObservedPath::Link { target },
        PathState::Directory { .. } | PathState::Other => ObservedPath::Other,
    };
    let differs = !matches!(&state, ObservedPath::File { digest, .. } if digest == expected);
    let shown = |bytes: Vec<u8>| {
        String::from_utf8(bytes).ok().filter(|text| text.len() <= MAX_DIFF_TEXT_BYTES && !text.contains('\0'))
    };
    let (mut text, mut wanted) = (None, None);
    if differs && !sensitive {
        if matches!(state, ObservedPath::File { .. }) {
            text = world.read_content(path)?.and_then(shown);
        }
        wanted = texts.and_then(|kept| kept.read_text(expected).ok()).and_then(shown);
    }
    Ok(ObservedText { path: path.to_owned(), state, text, desired_text: wanted })
}

/// Adds the units and the configuration that an earlier state has put on the host and the desired one does not have.
fn find_leftovers(
    found: &mut Vec<LeftoverFile>,
    world: &mut HostView,
    units: &Path,
    earlier: &ServiceConfig,
    desired: &ServiceConfig,
) -> Result<()> {
    let mut add = |path: PathBuf, unit: Option<String>| -> Result<()> {
        let left = LeftoverFile { path, unit };
        if !found.contains(&left) && world.path_state(&left.path)? != PathState::Absent {
            found.push(left);
        }
        Ok(())
    };
    let has_file = |unit: &UnitFile| desired.units.iter().any(|other| other.file_name() == unit.file_name());
    for unit in earlier.units.iter().filter(|unit| !has_file(unit)) {
        // A template itself does not run, and its instances stop before.
        add(units.join(unit.file_name()), unit.template.is_none().then(|| unit.name.clone()))?;
    }
    let gone = |config: &&ConfigFile| desired.configs.iter().all(|other| other.dest != config.dest);
    for config in earlier.configs.iter().filter(gone) {
        add(config.dest.clone(), None)?;
    }
    Ok(())
}

/// Finds instances of an earlier state that the desired one does not have, and that run or are enabled.
fn find_leftover_instances(
    found: &mut Vec<String>,
    services: &dyn ServiceManager,
    earlier: &ServiceConfig,
    desired: &ServiceConfig,
) -> Result<()> {
    let is_gone = |unit: &&UnitFile| {
        unit.template.is_some() && !found.contains(&unit.name) && desired.units.iter().all(|own| own.name != unit.name)
    };
    let gone: Vec<&str> = earlier.units.iter().filter(is_gone).map(|unit| unit.name.as_str()).collect();
    let statuses = services.read_unit_statuses(&gone)?;
    let is_left = |status: &UnitStatus| status.enabled || status.active != "inactive";
    let left = gone.iter().zip(&statuses).filter(|(_, status)| is_left(status));
    let left: Vec<String> = left.map(|(name, _)| (*name).to_owned()).collect();
    found.extend(left);
    Ok(())
}

/// Returns the requested contents that a release on this host has intact.
fn available_contents(
    desired: &DesiredState,
    observation: &ServiceObservation,
    stored: &[StoredRelease],
) -> Vec<Digest> {
    let mut here = BTreeSet::new();
    for kept in stored {
        let damaged = observation.releases.iter().find(|release| release.version == kept.manifest.version);
        let damaged: &[String] = damaged.map_or(&[], |release| &release.damaged_files);
        let whole = kept.manifest.files.iter().filter(|file| !damaged.iter().any(|path| path == file.path.as_str()));
        here.extend(whole.flat_map(crate::protocol::deploy::ReleaseFile::contents).map(|(digest, _)| digest.clone()));
    }
    let setup: BTreeSet<&Digest> = desired.config.blob_digests().collect();
    let known = |digest: &Digest| here.contains(digest) || (setup.contains(digest) && has_text(digest, stored));
    desired.blob_digests().into_iter().filter(known).collect()
}

fn has_text(digest: &Digest, stored: &[StoredRelease]) -> bool {
    stored.iter().any(|kept| kept.read_text(digest).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollback_without_a_previous_release_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let scope = crate::protocol::deploy::ServiceRef {
            service: crate::protocol::deploy::ServiceName::new("demo").unwrap(),
            base_dir: folder.path().join("demo"),
            operator: "test".to_owned(),
            run: "r1".to_owned(),
        };
        let state = DeployState::read(&ServiceLayout::from_scope(&scope).unwrap()).unwrap();
        let refused = |version: Option<&ReleaseVersion>| rollback_target(&state, version, &[]).unwrap_err();
        let named = refused(Some(&ReleaseVersion::new("1").unwrap()));
        crate::messages::check("rollback-no-release", [("the one before", refused(None)), ("a named one", named)]);
    }
}
