//! Loads the recipe of a service for commands, and selects its hosts.

use super::CommonArgs;
use super::command_error::CommandError;
use super::exit::Exit;
use super::project::{finish_loading, select_hosts};
use crate::deploy::recipe_file::RecipeFile;
use crate::inventory::{Diagnostics, Inventory, InventoryHost};
use crate::project::Project;

/// The hosts of a service.
pub struct ServiceHosts<'i> {
    /// The hosts that `--limit` selects.
    pub selected: Vec<&'i InventoryHost>,
    /// The hosts that it excludes.
    pub excluded: Vec<&'i InventoryHost>,
}

/// Loads the recipe of a service.
///
/// # Errors
/// There is no recipe of that name, or it has mistakes; all of them are reported.
pub fn load_recipe(service: &str, project: &Project, common: &CommonArgs) -> Result<RecipeFile, CommandError> {
    let mut found = Diagnostics::new();
    let recipe = RecipeFile::load(service, project, &mut found).map_err(|error| {
        let hint = error.hint();
        hint.into_iter().fold(CommandError::new(Exit::Usage, error), CommandError::with_hint)
    })?;
    finish_loading(recipe, &found, common)
}

/// Selects the hosts of a service.
///
/// # Errors
/// Returns an error if the recipe or the limit has an unknown name, or no host is selected.
pub fn select_service_hosts<'i>(
    loaded: &RecipeFile,
    inventory: &'i Inventory,
    limit: Option<&str>,
    common: &CommonArgs,
) -> Result<ServiceHosts<'i>, CommandError> {
    let all = loaded.select_hosts(inventory).map_err(|error| {
        let mut found = Diagnostics::new();
        found.push(error);
        CommandError::from_diagnostics(&found, common.stderr_color())
    })?;
    let selected = select_hosts(inventory, Some(&loaded.recipe.host_selector), limit)?;
    if selected.is_empty() {
        let recipe = &loaded.recipe;
        let text = format!("--limit selects no host of {} ({})", recipe.service, recipe.host_selector);
        return Err(CommandError::with_message(Exit::Usage, text));
    }
    let is_selected = |host: &&InventoryHost| selected.iter().any(|chosen| chosen.name == host.name);
    let excluded = all.into_iter().filter(|host| !is_selected(host)).collect();
    Ok(ServiceHosts { selected, excluded })
}
