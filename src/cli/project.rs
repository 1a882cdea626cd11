//! Loads the files of a project for commands.

use std::path::Path;

use super::CommonArgs;
use super::command_error::CommandError;
use super::connect_args::InventoryArgs;
use super::exit::Exit;
use crate::inventory::{Diagnostics, Inventory, InventoryHost, Selector};
use crate::playbook::{Compiler, CompilerInput, StepSelection, Templates};
pub use crate::playbook::{Environment, PlaybookFiles};
use crate::project::{Project, load_digest_key};

/// Finds the project in the current folder or above it. `--inventory` replaces the inventory of `dunlin.toml`.
///
/// # Errors
/// Returns an error if `dunlin.toml` cannot be read or has mistakes.
pub fn find_project(inventory: &InventoryArgs, common: &CommonArgs) -> Result<Project, CommandError> {
    let mut found = Diagnostics::new();
    let project = find_project_into(inventory, &mut found)?;
    finish_loading(project, &found, common)
}

/// Finds the project as [`find_project`] does, and collects the mistakes in `dunlin.toml`.
///
/// # Errors
/// Returns an error if the current folder does not exist.
pub fn find_project_into(inventory: &InventoryArgs, found: &mut Diagnostics) -> Result<Option<Project>, CommandError> {
    let here = std::env::current_dir().map_err(|error| {
        CommandError::new(Exit::Error, anyhow::Error::from(error).context("cannot open the current folder"))
    })?;
    let project = Project::find(&here, found);
    Ok(project.map(|project| match &inventory.inventory {
        Some(folder) => Project { inventory: here.join(folder), ..project },
        None => project,
    }))
}

/// Loads the inventory and the shard map; prints warnings.
///
/// # Errors
/// Returns an error if files have mistakes; all of them are reported, with their positions.
pub fn load_environment(project: &Project, common: &CommonArgs) -> Result<Environment, CommandError> {
    let mut found = Diagnostics::new();
    let loaded = Environment::load(project, &mut found);
    finish_loading(loaded, &found, common)
}

/// Loads a playbook (by default the project's) and the templates.
///
/// # Errors
/// Returns an error if files have mistakes; all of them are reported, with their positions.
pub fn load_plays(
    project: &Project,
    playbook: Option<&Path>,
    common: &CommonArgs,
) -> Result<PlaybookFiles, CommandError> {
    let mut found = Diagnostics::new();
    let plays = PlaybookFiles::load(project, playbook, &mut found);
    finish_loading(plays, &found, common)
}

/// Loads the templates.
///
/// # Errors
/// Returns an error if files have mistakes; all of them are reported, with their positions.
pub fn load_templates(project: &Project, common: &CommonArgs) -> Result<Templates, CommandError> {
    let mut found = Diagnostics::new();
    let templates = Templates::load_folder(&project.templates, &mut found);
    finish_loading(Some(templates), &found, common)
}

/// Creates the compiler of plays.
///
/// # Errors
/// Returns an error if the playbook does not fit the inventory.
pub fn new_compiler<'a>(
    project: &Project,
    loaded: &'a Environment,
    plays: &'a PlaybookFiles,
    selection: StepSelection,
    common: &CommonArgs,
) -> Result<Compiler<'a>, CommandError> {
    let parts = CompilerInput {
        inventory: &loaded.inventory,
        playbook: &plays.playbook,
        templates: &plays.templates,
        shard_map: loaded.map.as_ref().map(|(map, _)| map),
        file_folders: project.file_folders(plays.playbook.file.path()),
        secrets: None,
        selection,
        digest_key: match loaded.inventory.secrets().is_empty() {
            true => None,
            false => Some(load_digest_key(project)?),
        },
    };
    Compiler::new(parts).map_err(|found| CommandError::from_diagnostics(&found, common.stderr_color()))
}

/// Returns the loaded value, and prints warnings.
///
/// # Errors
/// Returns an error if errors were found; all of them are reported.
pub fn finish_loading<T>(value: Option<T>, diagnostics: &Diagnostics, common: &CommonArgs) -> Result<T, CommandError> {
    match value {
        Some(value) if !diagnostics.has_errors() => {
            if !diagnostics.is_empty() {
                common.new_reporter().print_painted_status(&diagnostics.render(common.stderr_color()));
            }
            Ok(value)
        }
        _ => Err(CommandError::from_diagnostics(diagnostics, common.stderr_color())),
    }
}

/// Returns the hosts of a selector (default: all) that `--limit` also selects.
///
/// # Errors
/// Returns an error if a name is unknown, or no host is selected.
pub fn select_hosts<'i>(
    inventory: &'i Inventory,
    selector: Option<&str>,
    limit: Option<&str>,
) -> Result<Vec<&'i InventoryHost>, CommandError> {
    let parse = |text: &str| text.parse::<Selector>().map_err(|error| CommandError::with_message(Exit::Usage, error));
    let pick = |selector: &Selector| {
        inventory.select_hosts(selector).map_err(|error| CommandError::with_message(Exit::Usage, error))
    };
    let hosts = match selector {
        Some(text) => pick(&parse(text)?)?,
        None => inventory.hosts().iter().collect(),
    };
    let Some(limit) = limit else { return Ok(hosts) };
    let within = pick(&parse(limit)?)?;
    let common: Vec<_> = hosts.into_iter().filter(|host| within.iter().any(|other| other.name == host.name)).collect();
    if common.is_empty() {
        let all = selector.map_or("the inventory".to_owned(), |selector| format!("`{selector}`"));
        return Err(CommandError::with_message(Exit::Usage, format!("--limit `{limit}` selects no host of {all}")));
    }
    Ok(common)
}
