//! Loads `deploy-SERVICE.toml` next to the project's playbook.

use std::path::Path;

use super::CommonArgs;
use super::command_error::CommandError;
use super::exit::Exit;
use super::host_locks::operator_id;
use super::project::{finish_loading, select_hosts};
use crate::deploy::recipe::Recipe;
use crate::inventory::{
    Diagnostic, Diagnostics, Inventory, InventoryHost, Selector, SourceFile, nearest_words, read_source,
};
use crate::project::Project;
use crate::protocol::deploy::{ServiceName, ServiceRef};

/// A service's recipe with its file.
pub struct LoadedRecipe {
    /// The recipe.
    pub recipe: Recipe,
    /// Its file.
    pub file: SourceFile,
}

impl LoadedRecipe {
    /// Loads the recipe of a service.
    ///
    /// # Errors
    /// Returns an error if there is no recipe of that name, or it has mistakes; all of them are reported.
    pub fn load_recipe(service: &str, project: &Project, common: &CommonArgs) -> Result<Self, CommandError> {
        let name = ServiceName::new(service).map_err(|error| CommandError::with_message(Exit::Usage, error))?;
        let folder = project.playbook.parent().unwrap_or(&project.root);
        let path = folder.join(format!("deploy-{name}.toml"));
        let mut diagnostics = Diagnostics::new();
        let file = match read_source(&path) {
            Ok(Some(file)) => file,
            Ok(None) => return Err(unknown_service_error(service, folder)),
            Err(error) => {
                diagnostics.push(error);
                return Err(CommandError::from_diagnostics(&diagnostics, common.stderr_color()));
            }
        };
        let recipe = parse_recipe(&file, &name, &mut diagnostics);
        finish_loading(recipe.map(|recipe| Self { recipe, file }), &diagnostics, common)
    }

    /// Returns the service's hosts that `--limit` selects, and those that it excludes.
    ///
    /// # Errors
    /// Returns an error if the recipe or the limit has an unknown name, or no host is selected.
    pub fn select_service_hosts<'i>(
        &self,
        inventory: &'i Inventory,
        limit: Option<&str>,
        common: &CommonArgs,
    ) -> Result<(Vec<&'i InventoryHost>, Vec<&'i InventoryHost>), CommandError> {
        let selected = self.recipe.host_selector.parse::<Selector>().map_err(|error| error.to_string());
        let all = selected.and_then(|hosts| inventory.select_hosts(&hosts).map_err(|error| error.to_string()));
        let all = all.map_err(|error| {
            let mut found = Diagnostics::new();
            found.push(Diagnostic::error_at_span(&self.file, self.recipe.host_selector_span.clone(), error));
            CommandError::from_diagnostics(&found, common.stderr_color())
        })?;
        let hosts = select_hosts(inventory, Some(&self.recipe.host_selector), limit)?;
        if hosts.is_empty() {
            let text = format!("--limit selects no host of {} ({})", self.recipe.service, self.recipe.host_selector);
            return Err(CommandError::with_message(Exit::Usage, text));
        }
        let is_in = |host: &&InventoryHost| hosts.iter().any(|chosen| chosen.name == host.name);
        let left_out = all.into_iter().filter(|host| !is_in(host)).collect();
        Ok((hosts, left_out))
    }

    /// Returns the reference to the service in requests to agents.
    pub fn to_scope(&self) -> ServiceRef {
        ServiceRef { service: self.recipe.service.clone(), base_dir: self.recipe.root.clone(), operator: operator_id() }
    }
}

/// Parses a recipe and checks that the service has the name of the file. Adds all errors to `diagnostics`.
pub fn parse_recipe(file: &SourceFile, name: &ServiceName, diagnostics: &mut Diagnostics) -> Option<Recipe> {
    let recipe = match Recipe::parse(file.text()) {
        Ok(recipe) => recipe,
        Err(errors) => {
            for error in errors {
                let at = Diagnostic::error_at_span(file, error.span, error.message);
                diagnostics.push(match error.help {
                    Some(help) => at.with_help(help),
                    None => at,
                });
            }
            return None;
        }
    };
    if recipe.service != *name {
        let message = format!("the recipe of `{}` has the file name of `{name}`", recipe.service);
        diagnostics.push(Diagnostic::error_in_file(file, message));
    }
    Some(recipe)
}

fn unknown_service_error(service: &str, folder: &Path) -> CommandError {
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten().filter_map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        Some(name.strip_prefix("deploy-")?.strip_suffix(".toml")?.to_owned())
    });
    let mut names: Vec<String> = names.collect();
    names.sort();
    let text = format!("no service `{service}`: no deploy-{service}.toml in {}", folder.display());
    let failure = CommandError::with_message(Exit::Usage, text);
    let suggestion = nearest_words(service, names.iter().map(String::as_str)).first().map(|near| (*near).to_owned());
    match suggestion {
        Some(near) => failure.with_hint(format!("did you mean `{near}`?")),
        None if names.is_empty() => failure,
        None => failure.with_hint(format!("known services: {}", names.join(", "))),
    }
}
