//! Loads `deploy-SERVICE.toml` next to the project's playbook.

use std::path::{Path, PathBuf};

use super::recipe::Recipe;
use crate::inventory::{
    Diagnostic, Diagnostics, Inventory, InventoryHost, Selector, SourceFile, nearest_words, read_source,
};
use crate::project::Project;
use crate::protocol::deploy::{ServiceName, ServiceRef};

/// A service's recipe with its file.
pub struct RecipeFile {
    /// The recipe.
    pub recipe: Recipe,
    /// Its file.
    pub file: SourceFile,
}

/// Describes why a recipe cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadRecipeError {
    /// The text is no name of a service.
    #[error("{0}")]
    InvalidName(String),
    /// There is no recipe of that name.
    #[error("no service `{service}`: no deploy-{service}.toml in {}", folder.display())]
    UnknownService {
        /// The service.
        service: String,
        /// The folder of the recipes.
        folder: PathBuf,
        /// The services of the project, sorted.
        known: Vec<String>,
    },
}

impl LoadRecipeError {
    /// Returns the next step, if there is one.
    pub fn hint(&self) -> Option<String> {
        let Self::UnknownService { service, known, .. } = self else { return None };
        match nearest_words(service, known.iter().map(String::as_str)).first() {
            Some(near) => Some(format!("did you mean `{near}`?")),
            None if known.is_empty() => None,
            None => Some(format!("known services: {}", known.join(", "))),
        }
    }
}

impl RecipeFile {
    /// Loads the recipe of a service; `None` if it has mistakes, which are added to `found`.
    ///
    /// # Errors
    /// There is no recipe of that name.
    pub fn load(service: &str, project: &Project, found: &mut Diagnostics) -> Result<Option<Self>, LoadRecipeError> {
        let name = ServiceName::new(service).map_err(LoadRecipeError::InvalidName)?;
        let folder = recipe_folder(project);
        match read_source(&folder.join(format!("deploy-{name}.toml"))) {
            Ok(Some(file)) => Ok(Self::parse(file, &name, found)),
            Ok(None) => Err(LoadRecipeError::UnknownService {
                service: service.to_owned(),
                folder: folder.to_owned(),
                known: list_services(folder),
            }),
            Err(error) => {
                found.push(error);
                Ok(None)
            }
        }
    }

    /// Loads all recipes of a project; mistakes are added to `found`.
    pub fn load_all(project: &Project, found: &mut Diagnostics) -> Vec<Self> {
        let folder = recipe_folder(project);
        let names = list_services(folder).into_iter().filter_map(|name| ServiceName::new(name).ok());
        let mut recipes = Vec::new();
        for name in names {
            match read_source(&folder.join(format!("deploy-{name}.toml"))) {
                Ok(Some(file)) => recipes.extend(Self::parse(file, &name, found)),
                Ok(None) => {}
                Err(error) => found.push(error),
            }
        }
        recipes
    }

    /// Parses a recipe and checks that the service has the name of the file.
    fn parse(file: SourceFile, name: &ServiceName, found: &mut Diagnostics) -> Option<Self> {
        let recipe = match Recipe::parse(file.text()) {
            Ok(recipe) => recipe,
            Err(errors) => {
                for error in errors {
                    let at = Diagnostic::error_at_span(&file, error.span, error.message);
                    found.push(match error.help {
                        Some(help) => at.with_help(help),
                        None => at,
                    });
                }
                return None;
            }
        };
        if recipe.service != *name {
            let message = format!("the recipe of `{}` has the file name of `{name}`", recipe.service);
            found.push(Diagnostic::error_in_file(&file, message));
        }
        Some(Self { recipe, file })
    }

    /// Returns the hosts of the service.
    ///
    /// # Errors
    /// Returns an error if the selector of the recipe is invalid, or has an unknown name.
    pub fn select_hosts<'i>(&self, inventory: &'i Inventory) -> Result<Vec<&'i InventoryHost>, Diagnostic> {
        let selected = self.recipe.host_selector.parse::<Selector>().map_err(|error| error.to_string());
        let hosts = selected.and_then(|hosts| inventory.select_hosts(&hosts).map_err(|error| error.to_string()));
        hosts.map_err(|error| Diagnostic::error_at_span(&self.file, self.recipe.host_selector_span.clone(), error))
    }

    /// Returns the reference to the service in requests to agents.
    pub fn to_scope(&self, operator: String, run: String) -> ServiceRef {
        ServiceRef { service: self.recipe.service.clone(), base_dir: self.recipe.root.clone(), operator, run }
    }
}

fn recipe_folder(project: &Project) -> &Path {
    project.playbook.parent().unwrap_or(&project.root)
}

/// Returns the names of the services that have a recipe in the folder, sorted.
fn list_services(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten().filter_map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        Some(name.strip_prefix("deploy-")?.strip_suffix(".toml")?.to_owned())
    });
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}
