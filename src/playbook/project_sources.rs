//! Reads the input of catalogs from the files of a project.

use std::path::PathBuf;

use dunlin_shards::ShardMap;
use serde_json::Value as Json;

use super::compile::{CompilerInput, StepSelection};
use super::model::Playbook;
use super::shard_map_file::load_shard_map;
use super::templates::Templates;
use crate::inventory::{Diagnostics, Inventory, SourceFile};
use crate::project::Project;

/// The files of a project, read. What could not be read is absent, and was reported.
pub struct ProjectSources {
    /// The hosts.
    pub inventory: Option<Inventory>,
    /// The plays.
    pub playbook: Option<Playbook>,
    /// The templates.
    pub templates: Templates,
    /// The shard map and its file, where the inventory has one.
    pub shard_map: Option<(ShardMap, SourceFile)>,
    file_folders: Vec<PathBuf>,
}

impl ProjectSources {
    /// Reads the project's playbook and templates, and its inventory with the shard map. With errors in `found`,
    /// nothing of it may be applied.
    pub fn load_project(project: &Project, found: &mut Diagnostics) -> Self {
        let loaded = Inventory::load_folder(&project.inventory);
        found.extend(loaded.diagnostics);
        let templates = Templates::load_folder(&project.templates, found);
        let playbook = Playbook::load_file(&project.playbook, found);
        let shard_map = load_shard_map(&project.inventory, loaded.inventory.as_ref(), found);
        Self {
            inventory: loaded.inventory,
            playbook,
            templates,
            shard_map,
            file_folders: project.file_folders(&project.playbook),
        }
    }

    /// Returns the input of a [`super::Compiler`]; `None` if the inventory or the playbook is missing.
    pub fn compiler_input(&self, selection: StepSelection, secrets: Option<Json>) -> Option<CompilerInput<'_, '_>> {
        Some(CompilerInput {
            inventory: self.inventory.as_ref()?,
            playbook: self.playbook.as_ref()?,
            templates: &self.templates,
            shard_map: self.shard_map.as_ref().map(|(map, _)| map),
            file_folders: self.file_folders.clone(),
            secrets,
            selection,
            digest_key: None,
        })
    }
}
