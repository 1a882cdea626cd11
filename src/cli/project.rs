//! The project: the folder with `dunlin.toml`, and what the other commands read from it.

use std::path::{Path, PathBuf};

use dunlin_shards::ShardMap;
use serde::Deserialize;

use super::Common;
use super::exit::Exit;
use super::failure::Failure;
use crate::inventory::{Diagnostics, Host, Inventory, Selector, SourceFile};
use crate::playbook::{self, Compiler, Parts, Playbook, Selection, Templates, load_shard_map};

/// `dunlin.toml`: where things are, relative to the folder it is in.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    inventory: Option<PathBuf>,
    playbook: Option<PathBuf>,
    templates: Option<PathBuf>,
    dist: Option<PathBuf>,
}

/// Where the parts of a project are.
#[derive(Clone, Debug)]
pub struct Project {
    /// The folder of `dunlin.toml`, or the current one.
    pub root: PathBuf,
    /// The inventory's folder.
    pub inventory: PathBuf,
    /// The playbook.
    pub playbook: PathBuf,
    /// The folder of templates.
    pub templates: PathBuf,
    /// Where release artefacts are put.
    pub dist: PathBuf,
}

/// An environment, loaded: inventory and shard map.
pub struct Loaded {
    /// The hosts.
    pub inventory: Inventory,
    /// The shard map and its text, where the inventory has one.
    pub map: Option<(ShardMap, SourceFile)>,
}

/// The plays of a playbook and the templates.
pub struct Plays {
    /// The playbook.
    pub playbook: Playbook,
    /// The templates.
    pub templates: Templates,
}

impl Project {
    /// Finds the project from the current folder upwards.
    ///
    /// # Errors
    /// `dunlin.toml` is broken.
    pub fn find(common: &Common) -> Result<Self, Failure> {
        let here = std::env::current_dir()?;
        let root = here.ancestors().find(|folder| folder.join("dunlin.toml").is_file()).unwrap_or(&here).to_owned();
        let settings = settings(&root.join("dunlin.toml"))?;
        let default = |own: Option<PathBuf>, usual: &str| root.join(own.unwrap_or_else(|| usual.into()));
        let inventory = match &common.inventory {
            Some(folder) => here.join(folder),
            None => default(settings.inventory, "inventories/example"),
        };
        Ok(Self {
            inventory,
            playbook: default(settings.playbook, "playbooks/site.toml"),
            templates: default(settings.templates, "templates"),
            dist: default(settings.dist, "dist"),
            root,
        })
    }

    /// The same as the playbook room knows it.
    pub fn sources(&self) -> playbook::Project {
        playbook::Project {
            root: self.root.clone(),
            inventory: Some(self.inventory.clone()),
            playbook: self.playbook.clone(),
            templates: self.templates.clone(),
            dist: self.dist.clone(),
        }
    }

    /// Loads inventory and shard map; warnings go to stderr.
    ///
    /// # Errors
    /// All mistakes at once, with their places.
    pub fn load(&self, common: &Common) -> Result<Loaded, Failure> {
        let mut found = Diagnostics::new();
        let loaded = self.load_into(&mut found);
        finish(loaded, &found, common)
    }

    /// Loads inventory and shard map, collecting findings.
    pub fn load_into(&self, found: &mut Diagnostics) -> Option<Loaded> {
        let loaded = Inventory::load(&self.inventory);
        found.extend(loaded.diagnostics);
        let map = load_shard_map(&self.inventory, loaded.inventory.as_ref(), found);
        Some(Loaded { inventory: loaded.inventory?, map })
    }

    /// Loads the playbook and the templates.
    ///
    /// # Errors
    /// All mistakes at once, with their places.
    pub fn plays(&self, playbook: Option<&Path>, common: &Common) -> Result<Plays, Failure> {
        let mut found = Diagnostics::new();
        let path = playbook.map_or_else(|| self.playbook.clone(), Path::to_owned);
        let templates = Templates::load(&self.templates, &mut found);
        let plays = Playbook::load(&path, &mut found).map(|playbook| Plays { playbook, templates });
        finish(plays, &found, common)
    }

    /// Loads the templates alone.
    ///
    /// # Errors
    /// All mistakes at once, with their places.
    pub fn templates(&self, common: &Common) -> Result<Templates, Failure> {
        let mut found = Diagnostics::new();
        let templates = Templates::load(&self.templates, &mut found);
        finish(Some(templates), &found, common)
    }

    /// A compiler for them.
    ///
    /// # Errors
    /// Mistakes that show once inventory and playbook meet.
    pub fn compiler<'a>(
        &self,
        loaded: &'a Loaded,
        map: Option<&'a ShardMap>,
        plays: &'a Plays,
        selection: Selection,
        common: &Common,
    ) -> Result<Compiler<'a>, Failure> {
        let folder = plays.playbook.file.path().parent().map(Path::to_owned);
        let parts = Parts {
            inventory: &loaded.inventory,
            playbook: &plays.playbook,
            templates: &plays.templates,
            shard_map: map,
            folders: [Some(self.root.join("files")), folder].into_iter().flatten().collect(),
            secrets: None,
            selection,
        };
        Compiler::new(parts).map_err(|found| Failure::findings(&found, common.colour()))
    }
}

fn settings(path: &Path) -> Result<Settings, Failure> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            toml::from_str(&text).map_err(|error| Failure::say(Exit::Error, format!("{}: {error}", path.display())))
        }
        Err(_) => Ok(Settings::default()),
    }
}

/// Prints warnings and gives the value; errors are a failure.
///
/// # Errors
/// All mistakes at once.
pub fn finish<T>(value: Option<T>, found: &Diagnostics, common: &Common) -> Result<T, Failure> {
    match value {
        Some(value) if !found.has_errors() => {
            if !found.is_empty() {
                eprintln!("{}", found.render(common.colour()));
            }
            Ok(value)
        }
        _ => Err(Failure::findings(found, common.colour())),
    }
}

/// The hosts of a selector; `all` where none is given, narrowed by `--limit`.
///
/// # Errors
/// An unknown name, with those that are near; or no host at all.
pub fn select<'i>(
    inventory: &'i Inventory,
    selector: Option<&str>,
    limit: Option<&str>,
) -> Result<Vec<&'i Host>, Failure> {
    let parse = |text: &str| text.parse::<Selector>().map_err(|error| Failure::say(Exit::Usage, error));
    let pick = |selector: &Selector| inventory.select(selector).map_err(|error| Failure::say(Exit::Usage, error));
    let hosts = match selector {
        Some(text) => pick(&parse(text)?)?,
        None => inventory.hosts().iter().collect(),
    };
    let Some(limit) = limit else { return Ok(hosts) };
    let within = pick(&parse(limit)?)?;
    Ok(hosts.into_iter().filter(|host| within.iter().any(|other| other.name == host.name)).collect())
}
