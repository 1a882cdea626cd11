//! Finds what would stop a deploy on this host, before anything is written.

mod ports;
mod space;
mod units;

use anyhow::Result;

use self::ports::OwnUnits;
use self::units::UnitText;
use super::activate::config_meta;
use super::layout::ServiceLayout;
use super::ownership::find_invalid_references;
use super::releases::{StoredRelease, read_desired};
use super::service_manager::ServiceManager;
use super::state::DeployState;
use crate::deploy::signature::check_signature;
use crate::protocol::deploy::{DesiredState, UnitFile};
use crate::resources::{BlobSource, PathMeta, atomic_file};

/// A release and the host that is to take it.
pub(super) struct Preflight<'a> {
    pub layout: &'a ServiceLayout,
    pub services: &'a dyn ServiceManager,
    pub desired: &'a DesiredState,
    /// TCP ports on which the service's units listen.
    pub listen_ports: &'a [u16],
    /// Holds the texts of the units that the host does not have.
    pub blobs: &'a dyn BlobSource,
}

impl Preflight<'_> {
    /// Returns the reasons for which this host cannot take the release: accounts, space and inodes, units, ports.
    /// Writes nothing in the folders of the service and the system.
    pub fn find_problems(&self) -> Result<Vec<String>> {
        let manifest = &self.desired.manifest;
        let mut problems = find_missing_accounts(self.desired);
        let signature = check_signature(manifest, &self.desired.signature_check);
        problems.extend(signature.err().map(|error| error.to_string()));
        problems.extend(find_invalid_references(manifest));
        problems.extend(space::find_missing_space(self.layout, self.services, self.desired)?);
        let units = self.read_units()?;
        problems.extend(units::find_invalid_units(self.layout, self.services, manifest, &units)?);
        let own_units = self.read_own_units(units)?;
        let service = manifest.service.as_str();
        problems.extend(ports::find_taken_ports(service, self.listen_ports, &own_units)?);
        Ok(problems)
    }

    /// Returns the units of the release, and those that serve.
    fn read_own_units(&self, units: Vec<UnitText>) -> Result<OwnUnits> {
        let mut names: Vec<String> = units.into_iter().map(|unit| unit.name).collect();
        names.extend(self.read_active_units()?);
        names.sort_unstable();
        names.dedup();
        let all: Vec<&str> = names.iter().map(String::as_str).collect();
        let statuses = self.services.read_unit_statuses(&all)?;
        let main_pids = statuses.iter().map(|status| status.pid).filter(|pid| *pid != 0).collect();
        Ok(OwnUnits { names, main_pids })
    }

    fn read_units(&self) -> Result<Vec<UnitText>> {
        let (stored, _) = StoredRelease::list_all(self.layout)?;
        let read = |unit: &UnitFile| {
            let bytes = stored.iter().find_map(|release| release.read_text(&unit.digest).ok());
            let bytes = bytes.map_or_else(|| self.blobs.read_blob(&unit.digest), Ok)?;
            Ok(UnitText { name: unit.name.clone(), text: String::from_utf8_lossy(&bytes).into_owned() })
        };
        self.desired.config.units.iter().map(read).collect()
    }

    /// Returns the units of the state that serves and of a switch that is not finished.
    fn read_active_units(&self) -> Result<Vec<String>> {
        let state = DeployState::read(self.layout)?;
        let mut names = Vec::new();
        for target in [state.confirmed_target(), state.pending_switch.as_ref()].into_iter().flatten() {
            let units = read_desired(self.layout, target)?.map(|active| active.config.units);
            names.extend(units.into_iter().flatten().map(|unit| unit.name));
        }
        Ok(names)
    }
}

fn find_missing_accounts(desired: &DesiredState) -> Vec<String> {
    let mut problems = Vec::new();
    for config in &desired.config.configs {
        if let Err(error) = atomic_file::resolve_ids(&config_meta(config)) {
            problems.push(format!("{}: {error:#}", config.dest.display()));
        }
    }
    if let Some(user) = &desired.config.user {
        let meta = PathMeta { mode: 0, owner: user.clone(), group: "root".to_owned() };
        problems.extend(atomic_file::resolve_ids(&meta).err().map(|error| format!("hooks and tasks: {error:#}")));
    }
    problems
}
