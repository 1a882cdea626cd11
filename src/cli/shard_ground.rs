//! The ground of the shard commands: files loaded, every host of the map and every consumer connected.

use std::collections::{BTreeMap, BTreeSet};

use dunlin_shards::ShardMap;

use super::Common;
use super::exit::Exit;
use super::failure::Failure;
use super::locked::who;
use super::project::{Loaded, Plays, find_project, load_environment, load_plays};
use super::run::fleet;
use crate::fleet::Fleet;
use crate::inventory::Host;
use crate::project::Project;
use crate::rebalance::state_files::StateFiles;
use crate::rebalance::{Ground, ground};
use crate::transport::ConnectError;
use crate::wire::sparing::Asked;

/// What the shard commands load before they connect.
pub struct Files {
    /// The project.
    pub project: Project,
    /// Inventory and map.
    pub loaded: Loaded,
    /// Playbook and templates.
    pub plays: Plays,
    /// What earlier commands left for this one.
    pub state: StateFiles,
}

impl Files {
    /// Loads them.
    ///
    /// # Errors
    /// Mistakes in files, or there is no shard map.
    pub fn load(common: &Common) -> Result<Self, Failure> {
        let project = find_project(common)?;
        let loaded = load_environment(&project, common)?;
        let plays = load_plays(&project, None, common)?;
        if loaded.map.is_none() {
            return Err(Failure::say(Exit::Error, format!("no shards.toml in {}", project.inventory.display())));
        }
        let state = StateFiles::new(&project.root, &project.inventory);
        Ok(Self { project, loaded, plays, state })
    }

    /// The shard map.
    ///
    /// # Errors
    /// There is none.
    pub fn map(&self) -> Result<&ShardMap, Failure> {
        let map = self.loaded.map.as_ref().map(|(map, _)| map);
        map.ok_or_else(|| Failure::say(Exit::Error, "no shard map"))
    }

    /// The hosts that shards may stand on: those of the plays that make shards, in the order of the inventory.
    ///
    /// # Errors
    /// A selector of the playbook fits no host.
    pub fn shard_hosts(&self) -> Result<Vec<&Host>, Failure> {
        let inventory = &self.loaded.inventory;
        let mut names = BTreeSet::new();
        for play in &self.plays.playbook.plays {
            if play.steps.iter().any(|step| step.kind.name == "redis_shard") {
                let hosts = inventory.select(&play.hosts.value).map_err(|error| Failure::say(Exit::Error, error))?;
                names.extend(hosts.iter().map(|host| host.name.as_str()));
            }
        }
        for entry in &self.map()?.shards {
            names.extend(std::iter::once(&entry.host).chain(&entry.replicas).map(String::as_str));
        }
        Ok(inventory.hosts().iter().filter(|host| names.contains(host.name.as_str())).collect())
    }

    /// All hosts that a move concerns: shard hosts and consumers.
    ///
    /// # Errors
    /// As for the shard hosts.
    pub fn hosts(&self) -> Result<Vec<&Host>, Failure> {
        let mut names: BTreeSet<&str> = self.shard_hosts()?.iter().map(|host| host.name.as_str()).collect();
        for play in &self.plays.playbook.plays {
            if play.steps.iter().any(|step| step.kind.name == "shard_map") {
                let hosts = self
                    .loaded
                    .inventory
                    .select(&play.hosts.value)
                    .map_err(|error| Failure::say(Exit::Error, error))?;
                names.extend(hosts.iter().map(|host| host.name.as_str()));
            }
        }
        Ok(self.loaded.inventory.hosts().iter().filter(|host| names.contains(host.name.as_str())).collect())
    }

    /// A fleet of them.
    ///
    /// # Errors
    /// See [`Fleet::new`].
    pub fn fleet(&self, common: &Common) -> Result<Fleet, Failure> {
        fleet(&self.loaded.inventory, &self.hosts()?, common)
    }

    /// Connects all of them.
    ///
    /// # Errors
    /// One cannot be reached: nothing is begun then. All of those are reported.
    pub async fn ground<'a>(&'a self, fleet: &'a Fleet, common: &Common) -> Result<Ground<'a>, Failure> {
        let (ground, missing) = self.living(fleet).await?;
        for (name, error) in &missing {
            common.reporter().failed(name, &error.to_string(), Some(&error.hint()));
        }
        if !missing.is_empty() {
            let text = format!("{} hosts cannot be reached; nothing was begun", missing.len());
            return Err(Failure::say(Exit::Refused, text));
        }
        Ok(ground)
    }

    /// Connects all that can be reached, and says which cannot, in the order of the inventory.
    ///
    /// # Errors
    /// There is no password for the instances.
    pub async fn living<'a>(&'a self, fleet: &'a Fleet) -> Result<(Ground<'a>, Vec<(String, ConnectError)>), Failure> {
        let credentials = ground::credentials(&self.loaded.inventory)
            .map_err(|error| Failure::new(Exit::Error, error).hint("copy secrets.toml.example and fill it in"))?;
        let names: Vec<String> = self.hosts()?.iter().map(|host| host.name.clone()).collect();
        let (mut sessions, mut missing) = (BTreeMap::new(), Vec::new());
        for (name, session) in names.iter().zip(fleet.connect_all(&names).await) {
            match session {
                Ok(session) => drop(sessions.insert(name.clone(), session)),
                Err(error) => missing.push((name.clone(), error)),
            }
        }
        let ground = Ground {
            fleet,
            sessions,
            absent: missing.iter().map(|(name, _)| name.clone()).collect(),
            inventory: &self.loaded.inventory,
            playbook: &self.plays.playbook,
            templates: &self.plays.templates,
            folders: self.project.file_folders(self.plays.playbook.file.path()),
            map_file: self.project.inventory.join("shards.toml"),
            credentials,
            by: who(),
            fences: BTreeMap::new(),
            sparing: Asked::default(),
            allow_reencoding: false,
        };
        Ok((ground, missing))
    }
}
