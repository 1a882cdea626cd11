//! Loads the files of shard commands, and connects to the hosts of shards and the consumers of the map.

use std::collections::{BTreeMap, BTreeSet};

use dunlin_shards::ShardMap;

use super::CommonArgs;
use super::command_error::CommandError;
use super::connect_args::ConnectArgs;
use super::exit::Exit;
use super::host_locks::operator_id;
use super::project::{Environment, PlaybookFiles, find_project, load_environment, load_plays};
use super::runtime::build_fleet;
use crate::fleet::Fleet;
use crate::inventory::InventoryHost;
use crate::plan::format_count;
use crate::project::Project;
use crate::protocol::throttle::ThrottleOverrides;
use crate::rebalance::RebalanceContext;
use crate::rebalance::connected_hosts::{ConnectedHosts, admin_credentials};
use crate::rebalance::context::MoveOptions;
use crate::rebalance::instance_templates::{InstanceTemplates, TemplateSources};
use crate::rebalance::map_file::MapFile;
use crate::rebalance::state_files::StateFiles;
use crate::transport::ConnectError;

/// The files of shard commands.
pub struct ShardFiles {
    /// The project.
    pub project: Project,
    /// Inventory and map.
    pub loaded: Environment,
    /// Playbook and templates.
    pub plays: PlaybookFiles,
    /// The state that earlier commands saved: pending moves, their limits, capacity samples.
    pub state: StateFiles,
    connect: ConnectArgs,
}

impl ShardFiles {
    /// Loads the files.
    ///
    /// # Errors
    /// Returns an error if files have mistakes, or there is no shard map.
    pub fn load(connect: &ConnectArgs, common: &CommonArgs) -> Result<Self, CommandError> {
        let project = find_project(&connect.inventory, common)?;
        let loaded = load_environment(&project, common)?;
        let plays = load_plays(&project, None, common)?;
        if loaded.map.is_none() {
            return Err(CommandError::with_message(
                Exit::Error,
                format!("no shards.toml in {}", project.inventory.display()),
            ));
        }
        let state = StateFiles::new(&project.root, &project.inventory);
        Ok(Self { project, loaded, plays, state, connect: connect.clone() })
    }

    /// Returns the shard map.
    ///
    /// # Errors
    /// Returns an error if there is no map.
    pub fn shard_map(&self) -> Result<&ShardMap, CommandError> {
        let map = self.loaded.map.as_ref().map(|(map, _)| map);
        map.ok_or_else(|| CommandError::with_message(Exit::Error, "no shard map"))
    }

    /// Returns the hosts that may have shards, in the order of the inventory: those of plays that create shards, and
    /// those of the map.
    ///
    /// # Errors
    /// Returns an error if a selector of the playbook selects no host.
    pub fn shard_hosts(&self) -> Result<Vec<&InventoryHost>, CommandError> {
        let inventory = &self.loaded.inventory;
        let mut names = BTreeSet::new();
        for play in &self.plays.playbook.plays {
            if play.steps.iter().any(|step| step.kind.name == "redis_shard") {
                let hosts = inventory
                    .select_hosts(&play.hosts.value)
                    .map_err(|error| CommandError::with_message(Exit::Error, error))?;
                names.extend(hosts.iter().map(|host| host.name.as_str()));
            }
        }
        for entry in &self.shard_map()?.shards {
            names.extend(std::iter::once(&entry.host).chain(&entry.replicas).map(String::as_str));
        }
        Ok(inventory.hosts().iter().filter(|host| names.contains(host.name.as_str())).collect())
    }

    /// Returns the shard hosts and the consumers of the map.
    ///
    /// # Errors
    /// See [`Self::shard_hosts`].
    pub fn involved_hosts(&self) -> Result<Vec<&InventoryHost>, CommandError> {
        let mut names: BTreeSet<&str> = self.shard_hosts()?.iter().map(|host| host.name.as_str()).collect();
        for play in &self.plays.playbook.plays {
            if play.steps.iter().any(|step| step.kind.name == "shard_map") {
                let hosts = self
                    .loaded
                    .inventory
                    .select_hosts(&play.hosts.value)
                    .map_err(|error| CommandError::with_message(Exit::Error, error))?;
                names.extend(hosts.iter().map(|host| host.name.as_str()));
            }
        }
        Ok(self.loaded.inventory.hosts().iter().filter(|host| names.contains(host.name.as_str())).collect())
    }

    /// Builds the fleet of these hosts.
    ///
    /// # Errors
    /// See [`Fleet::new`].
    pub fn build_fleet(&self, common: &CommonArgs) -> Result<Fleet, CommandError> {
        build_fleet(&self.loaded.inventory, &self.involved_hosts()?, &self.connect, common)
    }

    /// Connects to all hosts.
    ///
    /// # Errors
    /// Returns an error if hosts cannot be reached; all of them are reported.
    pub async fn connect_all<'a>(
        &'a self,
        fleet: &'a Fleet,
        common: &CommonArgs,
    ) -> Result<RebalanceContext<'a>, CommandError> {
        let (context, missing) = self.connect_reachable(fleet).await?;
        for (name, error) in &missing {
            common.new_reporter().report_failure(name, &error.to_string(), Some(&error.hint()));
        }
        if !missing.is_empty() {
            let text = format!("{} cannot be reached; no changes were made", format_count(missing.len(), "host"));
            return Err(CommandError::with_message(Exit::Refused, text));
        }
        Ok(context)
    }

    /// Connects to the hosts that can be reached. Returns the others with their errors, in the order of the inventory.
    ///
    /// # Errors
    /// Returns an error if the inventory has no credentials of the instances.
    pub async fn connect_reachable<'a>(
        &'a self,
        fleet: &'a Fleet,
    ) -> Result<(RebalanceContext<'a>, Vec<(String, ConnectError)>), CommandError> {
        let credentials = admin_credentials(&self.loaded.inventory).map_err(|error| {
            CommandError::new(Exit::Error, error).with_hint("copy secrets.toml.example and fill it in")
        })?;
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
                inventory: &self.loaded.inventory,
                credentials,
                generations: BTreeMap::new(),
            },
            map_file: MapFile { path: self.project.inventory.join("shards.toml") },
            templates: InstanceTemplates::new(TemplateSources {
                inventory: &self.loaded.inventory,
                playbook: &self.plays.playbook,
                templates: &self.plays.templates,
                file_folders: self.project.file_folders(self.plays.playbook.file.path()),
            }),
            options: MoveOptions {
                operator: operator_id(),
                throttle: ThrottleOverrides::default(),
                allow_reencoding: false,
            },
        };
        Ok((context, missing))
    }
}
