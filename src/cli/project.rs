//! Loads the files of a project for the commands, and turns what is wrong with them into a failed command.

use std::path::Path;

use dunlin_shards::ShardMap;

use super::Common;
use super::exit::Exit;
use super::failure::Failure;
use crate::inventory::{Diagnostics, Host, Inventory, Selector, SourceFile};
use crate::playbook::{Compiler, Parts, Playbook, Selection, Templates, load_shard_map};
use crate::project::Project;

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

/// Finds the project from the current folder upwards; `--inventory` goes before the inventory of `dunlin.toml`.
///
/// # Errors
/// `dunlin.toml` cannot be read or has mistakes.
pub fn find_project(common: &Common) -> Result<Project, Failure> {
    let mut found = Diagnostics::new();
    let project = find_project_into(common, &mut found)?;
    finish(project, &found, common)
}

/// Finds the project as [`find_project`] does, and collects the mistakes in `dunlin.toml`.
///
/// # Errors
/// The current folder does not exist any more.
pub fn find_project_into(common: &Common, found: &mut Diagnostics) -> Result<Option<Project>, Failure> {
    let here = std::env::current_dir()
        .map_err(|error| Failure::new(Exit::Error, anyhow::Error::from(error).context("the current folder")))?;
    let project = Project::find(&here, found);
    Ok(project.map(|project| match &common.inventory {
        Some(folder) => Project { inventory: here.join(folder), ..project },
        None => project,
    }))
}

/// Loads the inventory and the shard map; prints warnings.
///
/// # Errors
/// All mistakes at once, with their places.
pub fn load_environment(project: &Project, common: &Common) -> Result<Loaded, Failure> {
    let mut found = Diagnostics::new();
    let loaded = Inventory::load(&project.inventory);
    found.extend(loaded.diagnostics);
    let map = load_shard_map(&project.inventory, loaded.inventory.as_ref(), &mut found);
    finish(loaded.inventory.map(|inventory| Loaded { inventory, map }), &found, common)
}

/// Loads a playbook (by default the project's) and the templates.
///
/// # Errors
/// All mistakes at once, with their places.
pub fn load_plays(project: &Project, playbook: Option<&Path>, common: &Common) -> Result<Plays, Failure> {
    let mut found = Diagnostics::new();
    let templates = Templates::load(&project.templates, &mut found);
    let playbook = Playbook::load(playbook.unwrap_or(&project.playbook), &mut found);
    finish(playbook.map(|playbook| Plays { playbook, templates }), &found, common)
}

/// Loads the templates alone.
///
/// # Errors
/// All mistakes at once, with their places.
pub fn load_templates(project: &Project, common: &Common) -> Result<Templates, Failure> {
    let mut found = Diagnostics::new();
    let templates = Templates::load(&project.templates, &mut found);
    finish(Some(templates), &found, common)
}

/// Makes the compiler of plays.
///
/// # Errors
/// Mistakes that show once inventory and playbook meet.
pub fn new_compiler<'a>(
    project: &Project,
    loaded: &'a Loaded,
    plays: &'a Plays,
    selection: Selection,
    common: &Common,
) -> Result<Compiler<'a>, Failure> {
    let parts = Parts {
        inventory: &loaded.inventory,
        playbook: &plays.playbook,
        templates: &plays.templates,
        shard_map: loaded.map.as_ref().map(|(map, _)| map),
        folders: project.file_folders(plays.playbook.file.path()),
        secrets: None,
        selection,
    };
    Compiler::new(parts).map_err(|found| Failure::findings(&found, common.stderr_colour()))
}

/// Prints warnings and returns the value; errors are a failure.
///
/// # Errors
/// All mistakes at once.
pub fn finish<T>(value: Option<T>, found: &Diagnostics, common: &Common) -> Result<T, Failure> {
    match value {
        Some(value) if !found.has_errors() => {
            if !found.is_empty() {
                common.reporter().say(&found.render(common.stderr_colour()));
            }
            Ok(value)
        }
        _ => Err(Failure::findings(found, common.stderr_colour())),
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
