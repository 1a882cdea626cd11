//! The files of a project that commands read together: inventory and shard map, playbook and templates.

use std::path::Path;

use dunlin_shards::ShardMap;

use super::{Playbook, Templates, load_shard_map};
use crate::inventory::{Diagnostics, Inventory, SourceFile};
use crate::project::Project;

/// A loaded environment: inventory and shard map.
pub struct Environment {
    /// The hosts.
    pub inventory: Inventory,
    /// The shard map and its text, if the inventory has one.
    pub map: Option<(ShardMap, SourceFile)>,
}

/// The plays of a playbook and the templates.
pub struct PlaybookFiles {
    /// The playbook.
    pub playbook: Playbook,
    /// The templates.
    pub templates: Templates,
}

impl Environment {
    /// Loads the inventory and the shard map, and collects their mistakes; `None` if there is no inventory to use.
    pub fn load(project: &Project, found: &mut Diagnostics) -> Option<Self> {
        let loaded = Inventory::load_folder(&project.inventory);
        found.extend(loaded.diagnostics);
        let map = load_shard_map(&project.inventory, loaded.inventory.as_ref(), found);
        loaded.inventory.map(|inventory| Self { inventory, map })
    }
}

impl PlaybookFiles {
    /// Loads a playbook (by default the project's) and the templates, and collects their mistakes; `None` if there is no
    /// playbook to use.
    pub fn load(project: &Project, playbook: Option<&Path>, found: &mut Diagnostics) -> Option<Self> {
        let templates = Templates::load_folder(&project.templates, found);
        let playbook = Playbook::load_file(playbook.unwrap_or(&project.playbook), found);
        playbook.map(|playbook| Self { playbook, templates })
    }
}
