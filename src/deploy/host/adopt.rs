//! Keeps a service that dunlin did not deploy as a release to return to: its units, configuration and `current` link.
//! The files of the service stay where they are.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::layout::{ServiceLayout, write_json};
use super::observe::find_unmanaged_units;
use super::releases::{self, ReleaseStamp, StoredRelease, store_setup};
use super::service_manager::{ServiceManager, UnitStatus};
use super::state::{DeployState, Direction, unix_seconds};
use super::switch::Switch;
use crate::atomic_file::sync_folder;
use crate::host_fs;
use crate::plan::Digest;
use crate::protocol::Event;
use crate::protocol::deploy::{
    AdoptedService, ConfigFile, DesiredState, HealthCheck, MANIFEST_FORMAT, RECORDS_DIR, ReleaseManifest,
    ReleaseTarget, ReleaseVersion, ServiceConfig, SignatureCheck, SwitchHooks, UnitFile,
};
use crate::resources::{HostView, PathState};

/// Maximum size of a unit or configuration file that is kept, in bytes.
const MAX_TEXT_BYTES: u64 = 16 << 20;

/// Texts of the kept files, by digest.
type TextMap = BTreeMap<Digest, Vec<u8>>;

/// Keeps what the host has of the service and dunlin did not make. Changes no file of it.
pub(super) fn adopt_service(switch: &Switch<'_>, desired: &DesiredState) -> Result<()> {
    let state = DeployState::read(switch.layout)?;
    match state.confirmed_target().cloned() {
        Some(serving) => extend_serving_state(switch, desired, state, &serving),
        None => record_adopted_release(switch, desired, state),
    }
}

/// Adds the units and configuration files that a later release adds, and that the host has, to the state that serves:
/// a return to it restores them.
fn extend_serving_state(
    switch: &Switch<'_>,
    desired: &DesiredState,
    mut state: DeployState,
    serving: &ReleaseTarget,
) -> Result<()> {
    let (layout, version) = (switch.layout, &serving.version);
    let mut extended = releases::read_desired(layout, serving)?
        .with_context(|| format!("the records of release {version} are missing"))?;
    switch.sink.emit(Event::Note { text: format!("keeping the present units with release {version}") });
    let mut texts = TextMap::new();
    let units = find_unmanaged_units(layout, &state, desired)?;
    extended.config.units.extend(read_units(switch.service_manager, &units, &mut texts)?);
    let is_new = |config: &&ConfigFile| extended.config.configs.iter().all(|other| other.dest != config.dest);
    let configs: Vec<&ConfigFile> = desired.config.configs.iter().filter(is_new).collect();
    extended.config.configs.extend(read_configs(&configs, &mut texts)?);
    let (stored, _) = StoredRelease::list_all(layout)?;
    for digest in extended.config.blob_digests() {
        if !texts.contains_key(digest) {
            let text = stored.iter().find_map(|release| release.read_text(digest).ok());
            let text = text.with_context(|| format!("a configuration file of release {version} is damaged"))?;
            texts.insert(digest.clone(), text);
        }
    }
    let texts = texts.iter().map(|(digest, text)| (digest, text.clone())).collect();
    store_setup(&layout.release_dir(version), &extended.config, &texts)?;
    state.extend_confirmed(&extended.to_release_target());
    state.write(layout)
}

/// Records what the host has of the service as the active release [`ReleaseVersion::ADOPTED`].
fn record_adopted_release(switch: &Switch<'_>, desired: &DesiredState, mut state: DeployState) -> Result<()> {
    let layout = switch.layout;
    let version = ReleaseVersion::adopted();
    let units = find_unmanaged_units(layout, &state, desired)?;
    let configs: Vec<&ConfigFile> = desired.config.configs.iter().collect();
    switch.sink.emit(Event::Note { text: format!("keeping the present service as release {version}") });
    let mut texts = TextMap::new();
    let config = ServiceConfig {
        units: read_units(switch.service_manager, &units, &mut texts)?,
        configs: read_configs(&configs, &mut texts)?,
        health: HealthCheck { probe: None, steady_ms: 0, ..desired.config.health.clone() },
        hooks: absolute_hooks(&desired.config.hooks),
        user: desired.config.user.clone(),
        adopted: Some(AdoptedService { current_link: read_link(&layout.current_link())? }),
        shared: Vec::new(),
    };
    let manifest = ReleaseManifest {
        format_version: MANIFEST_FORMAT,
        service: layout.service().clone(),
        version,
        origin: None,
        files: Vec::new(),
        links: Vec::new(),
        folders: Vec::new(),
    };
    let adopted = DesiredState { manifest, config, signature_check: SignatureCheck::default() };
    write_release(layout, &adopted, &texts)?;
    state.confirm_switch(&adopted.to_release_target(), &switch.scope.operator, Direction::Forward);
    state.write(layout)
}

fn read_units(services: &dyn ServiceManager, units: &[&UnitFile], texts: &mut TextMap) -> Result<Vec<UnitFile>> {
    let names: Vec<&str> = units.iter().map(|unit| unit.name.as_str()).collect();
    let mut kept = Vec::new();
    for (unit, status) in units.iter().zip(services.read_unit_statuses(&names)?) {
        let own_path = services.unit_dir().join(unit.file_name());
        let path = if own_path.symlink_metadata().is_ok() {
            own_path
        } else {
            match services.find_unit_file(&unit.name)? {
                Some(path) => path,
                None => continue,
            }
        };
        let bytes = read_text(&path)?.with_context(|| format!("{} disappeared", path.display()))?;
        let digest = Digest::of_bytes(&bytes);
        kept.push(UnitFile {
            name: unit.name.clone(),
            digest: digest.clone(),
            size: bytes.len() as u64,
            start_at_boot: status.enabled,
            restart_on_release: unit.restart_on_release && is_running(&status),
            reload_on_release: false,
            template: unit.template.clone(),
        });
        texts.insert(digest, bytes);
    }
    Ok(kept)
}

fn is_running(status: &UnitStatus) -> bool {
    matches!(status.active.as_str(), "active" | "activating" | "reloading" | "exited")
}

fn read_configs(configs: &[&ConfigFile], texts: &mut TextMap) -> Result<Vec<ConfigFile>> {
    let mut view = HostView::current();
    let mut kept = Vec::new();
    for config in configs {
        let meta = match view.path_state(&config.dest)? {
            PathState::Absent => continue,
            PathState::File { meta, .. } => meta,
            _ => bail!("{} is not a file", config.dest.display()),
        };
        let bytes = read_text(&config.dest)?.with_context(|| format!("{} disappeared", config.dest.display()))?;
        let digest = Digest::of_bytes(&bytes);
        kept.push(ConfigFile {
            dest: config.dest.clone(),
            digest: digest.clone(),
            size: bytes.len() as u64,
            mode: meta.mode,
            owner: meta.owner,
            group: meta.group,
            sensitive: config.sensitive,
        });
        texts.insert(digest, bytes);
    }
    Ok(kept)
}

fn read_text(path: &Path) -> Result<Option<Vec<u8>>> {
    let Some(file) = host_fs::open_file(path)? else { return Ok(None) };
    Ok(Some(host_fs::read_limited(&file, MAX_TEXT_BYTES, path)?))
}

fn read_link(link: &Path) -> Result<Option<PathBuf>> {
    match fs::read_link(link) {
        Ok(target) => Ok(Some(target)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", link.display())),
    }
}

/// Returns the hooks for a later switch from or to the kept service, whose release has no programs: hooks with a
/// program of the release are left out.
fn absolute_hooks(hooks: &SwitchHooks) -> SwitchHooks {
    let keep = |hooks: &[Vec<String>]| {
        let is_of_system = |argv: &&Vec<String>| {
            argv.first().is_some_and(|program| program.starts_with('/') || !program.contains('/'))
        };
        hooks.iter().filter(is_of_system).cloned().collect()
    };
    SwitchHooks { before: keep(&hooks.before), after: keep(&hooks.after), timeout_ms: hooks.timeout_ms }
}

/// Writes the release, which has records only.
fn write_release(layout: &ServiceLayout, adopted: &DesiredState, texts: &TextMap) -> Result<()> {
    let version = &adopted.manifest.version;
    let (partial, release) = (layout.partial_dir(version), layout.release_dir(version));
    let records = partial.join(RECORDS_DIR);
    host_fs::remove_tree(&partial)?;
    // A killed run may have left it; a folder of somebody else has no records.
    ensure!(
        release.symlink_metadata().is_err() || release.join(RECORDS_DIR).is_dir(),
        "{} exists, and dunlin did not make it; rename it",
        release.display()
    );
    host_fs::remove_tree(&release)?;
    host_fs::ensure_folder(&partial, 0o755)?;
    let texts = texts.iter().map(|(digest, text)| (digest, text.clone())).collect();
    store_setup(&partial, &adopted.config, &texts)?;
    let stamp = ReleaseStamp { staged_at: unix_seconds(), modified_times: BTreeMap::new() };
    write_json(&records.join("stamp.json"), &stamp)?;
    write_json(&records.join("manifest.json"), &adopted.manifest)?;
    sync_folder(&records)?;
    sync_folder(&partial)?;
    layout.complete_release(version)?;
    sync_folder(&layout.releases_dir())
}
