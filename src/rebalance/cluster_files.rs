//! The files that describe a cluster, the hosts that they name, and the connections to them.

use std::collections::{BTreeMap, BTreeSet};

use dunlin_shards::{ShardId, ShardMap};

use super::connected_hosts::{ConnectedHosts, admin_credentials};
use super::context::MoveOptions;
use super::instance_templates::{InstanceTemplates, TemplateSources};
use super::map_file::MapFile;
use super::run_error::{RunError, RunResult};
use super::state_files::StateFiles;
use super::{RebalanceContext, publish};
use crate::fleet::Fleet;
use crate::inventory::{Inventory, InventoryHost};
use crate::playbook::{Environment, PlaybookFiles};
use crate::project::Project;
use crate::protocol::throttle::ThrottleOverrides;
use crate::transport::{ConnectError, ConnectErrorKind};

/// A host that cannot be reached, with the error.
pub type UnreachableHost = (String, ConnectError);

/// The files that describe a cluster.
pub struct ClusterFiles {
    /// The project.
    pub project: Project,
    /// The hosts.
    pub inventory: Inventory,
    /// The shard map.
    pub map: ShardMap,
    /// Playbook and templates.
    pub plays: PlaybookFiles,
    /// The state that earlier commands saved: pending moves, their limits, capacity samples.
    pub state: StateFiles,
}

impl ClusterFiles {
    /// Takes the loaded files of a project.
    ///
    /// # Errors
    /// There is no shard map.
    pub fn new(project: Project, loaded: Environment, plays: PlaybookFiles) -> RunResult<Self> {
        let Some((map, _)) = loaded.map else {
            return Err(RunError::failed(format!("no shards.toml in {}", project.inventory.display())));
        };
        let state = StateFiles::new(&project.root, &project.inventory);
        Ok(Self { project, inventory: loaded.inventory, map, plays, state })
    }

    /// Returns the hosts that may have shards, in the order of the inventory: those of plays that create shards, and those
    /// of the map.
    ///
    /// # Errors
    /// Returns an error if a selector of the playbook selects no host.
    pub fn shard_hosts(&self) -> RunResult<Vec<&InventoryHost>> {
        let mut names = self.hosts_with_step("redis_shard")?;
        for entry in &self.map.shards {
            names.extend(std::iter::once(&entry.host).chain(&entry.replicas).map(String::as_str));
        }
        Ok(self.hosts_named(&names))
    }

    /// Returns the names of the shard hosts that a run is connected to: those that it locks.
    ///
    /// # Errors
    /// See [`Self::shard_hosts`].
    pub fn connected_shard_hosts(&self, context: &RebalanceContext<'_>) -> RunResult<Vec<String>> {
        let names = self.shard_hosts()?.into_iter().map(|host| host.name.clone());
        Ok(names.filter(|name| !context.hosts.unreachable.contains(name)).collect())
    }

    /// Returns the shard hosts and the consumers of the map.
    ///
    /// # Errors
    /// See [`Self::shard_hosts`].
    pub fn involved_hosts(&self) -> RunResult<Vec<&InventoryHost>> {
        let mut names: BTreeSet<&str> = self.shard_hosts()?.iter().map(|host| host.name.as_str()).collect();
        names.extend(self.hosts_with_step("shard_map")?);
        Ok(self.hosts_named(&names))
    }

    /// Returns the hosts of the plays that have a step of this kind.
    fn hosts_with_step(&self, kind: &str) -> RunResult<BTreeSet<&str>> {
        let mut names = BTreeSet::new();
        for play in &self.plays.playbook.plays {
            if play.steps.iter().any(|step| step.kind.name == kind) {
                let hosts = self.inventory.select_hosts(&play.hosts.value).map_err(RunError::failed)?;
                names.extend(hosts.iter().map(|host| host.name.as_str()));
            }
        }
        Ok(names)
    }

    fn hosts_named(&self, names: &BTreeSet<&str>) -> Vec<&InventoryHost> {
        self.inventory.hosts().iter().filter(|host| names.contains(host.name.as_str())).collect()
    }

    /// Checks that the map has these shards.
    ///
    /// # Errors
    /// It does not have one.
    pub fn ensure_shards_exist(&self, shards: &[ShardId]) -> RunResult<()> {
        match shards.iter().find(|shard| self.map.find_shard(**shard).is_none()) {
            None => Ok(()),
            Some(shard) => Err(RunError::invalid_request(format!("no shard {shard} in the map"))),
        }
    }

    /// Checks that no shard host among the unreachable ones answers and only refuses the login: such a host is not dead.
    ///
    /// # Errors
    /// Returns an error if one does.
    pub fn ensure_no_login_refused(&self, unreachable: &[UnreachableHost]) -> RunResult<()> {
        let hosts = self.shard_hosts()?;
        let rejects_login = |(name, error): &&UnreachableHost| {
            error.kind != ConnectErrorKind::Unreachable && hosts.iter().any(|host| host.name == *name)
        };
        match unreachable.iter().find(rejects_login) {
            None => Ok(()),
            Some((host, error)) => {
                let text = format!("{host} answers but refuses the login, so it is not dead; no changes were made");
                Err(RunError::refused(text).with_hint(error.hint()))
            }
        }
    }

    /// Checks that no later map than the one of these files is in the map's file or published.
    ///
    /// # Errors
    /// Returns an error if a consumer does not answer, or there is a later map.
    pub async fn ensure_map_is_current(&self, context: &RebalanceContext<'_>) -> RunResult<()> {
        let published = publish::published_epoch(context, &self.map).await?.max(context.map_file.read()?.epoch.0);
        if published <= self.map.epoch.0 {
            return Ok(());
        }
        let own = self.map.epoch.0;
        let text = format!("the map has epoch {own}, but epoch {published} is published; no changes were made");
        Err(RunError::refused(text).with_hint("get the newer map"))
    }

    /// Connects to the hosts that can be reached. Returns the others with their errors, in the order of the inventory.
    ///
    /// # Errors
    /// Returns an error if the inventory has no credentials of the instances.
    pub async fn connect_reachable<'a>(
        &'a self,
        fleet: &'a Fleet,
        operator: String,
    ) -> RunResult<(RebalanceContext<'a>, Vec<UnreachableHost>)> {
        let credentials = admin_credentials(&self.inventory)
            .map_err(|error| RunError::from(error).with_hint("copy secrets.toml.example and fill it in"))?;
        let names: Vec<String> = self.involved_hosts()?.iter().map(|host| host.name.clone()).collect();
        let (mut sessions, mut missing) = (BTreeMap::new(), Vec::new());
        for (name, session) in names.iter().zip(fleet.connect_all(&names).await) {
            match session {
                Ok(session) => drop(sessions.insert(name.clone(), session)),
                Err(error) => missing.push((name.clone(), error)),
            }
        }
        let context = RebalanceContext {
            hosts: ConnectedHosts {
                fleet,
                sessions,
                unreachable: missing.iter().map(|(name, _)| name.clone()).collect(),
                inventory: &self.inventory,
                credentials,
                generations: BTreeMap::new(),
            },
            map_file: MapFile { path: self.project.inventory.join("shards.toml") },
            templates: InstanceTemplates::new(TemplateSources {
                inventory: &self.inventory,
                playbook: &self.plays.playbook,
                templates: &self.plays.templates,
                file_folders: self.project.file_folders(self.plays.playbook.file.path()),
            }),
            options: MoveOptions { operator, throttle: ThrottleOverrides::default(), allow_reencoding: false },
        };
        Ok((context, missing))
    }
}
