//! `deploy-SERVICE.toml` beside the project's playbook, with its mistakes at their places.

use std::path::Path;

use super::Common;
use super::exit::Exit;
use super::failure::Failure;
use super::locked::who;
use super::project::{finish, select};
use crate::deploy::recipe::Recipe;
use crate::inventory::{Diagnostic, Diagnostics, Host, Inventory, Selector, SourceFile, nearest, read_source};
use crate::project::Project;
use crate::wire::deploy::{Scope, Service};

/// A service's recipe with its file.
pub struct Loaded {
    /// The recipe.
    pub recipe: Recipe,
    /// Its file.
    pub file: SourceFile,
}

impl Loaded {
    /// Loads the recipe of a service.
    ///
    /// # Errors
    /// There is none, with those that there are; all mistakes in it at once.
    pub fn of(service: &str, project: &Project, common: &Common) -> Result<Self, Failure> {
        let name = Service::new(service).map_err(|error| Failure::say(Exit::Usage, error))?;
        let folder = project.playbook.parent().unwrap_or(&project.root);
        let path = folder.join(format!("deploy-{name}.toml"));
        let mut found = Diagnostics::new();
        let file = match read_source(&path) {
            Ok(Some(file)) => file,
            Ok(None) => return Err(unknown(service, folder)),
            Err(error) => {
                found.push(error);
                return Err(Failure::findings(&found, common.stderr_colour()));
            }
        };
        let recipe = match Recipe::parse(file.text()) {
            Ok(recipe) => Some(recipe),
            Err(errors) => {
                for error in errors {
                    let at = Diagnostic::at(&file, error.span, error.message);
                    found.push(match error.help {
                        Some(help) => at.help(help),
                        None => at,
                    });
                }
                None
            }
        };
        if let Some(recipe) = recipe.as_ref().filter(|recipe| recipe.service != name) {
            let message = format!("this is the recipe of `{}`, and its name says `{name}`", recipe.service);
            found.push(Diagnostic::file(&file, message));
        }
        finish(recipe.map(|recipe| Self { recipe, file }), &found, common)
    }

    /// The service's hosts, narrowed by `--limit`, and those that were left out by that.
    ///
    /// # Errors
    /// An unknown name in the recipe, at its place, or in the limit; or no host at all.
    pub fn hosts<'i>(
        &self,
        inventory: &'i Inventory,
        limit: Option<&str>,
        common: &Common,
    ) -> Result<(Vec<&'i Host>, Vec<&'i Host>), Failure> {
        let selected = self.recipe.hosts.parse::<Selector>().map_err(|error| error.to_string());
        let all = selected.and_then(|hosts| inventory.select(&hosts).map_err(|error| error.to_string()));
        let all = all.map_err(|error| {
            let mut found = Diagnostics::new();
            found.push(Diagnostic::at(&self.file, self.recipe.hosts_span.clone(), error));
            Failure::findings(&found, common.stderr_colour())
        })?;
        let hosts = select(inventory, Some(&self.recipe.hosts), limit)?;
        if hosts.is_empty() {
            let text = format!("--limit leaves none of the hosts of {} ({})", self.recipe.service, self.recipe.hosts);
            return Err(Failure::say(Exit::Usage, text));
        }
        let is_in = |host: &&Host| hosts.iter().any(|chosen| chosen.name == host.name);
        let left_out = all.into_iter().filter(|host| !is_in(host)).collect();
        Ok((hosts, left_out))
    }

    /// The service on a host, on behalf of whoever runs this.
    pub fn scope(&self) -> Scope {
        Scope { service: self.recipe.service.clone(), root: self.recipe.root.clone(), by: who() }
    }
}

fn unknown(service: &str, folder: &Path) -> Failure {
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten().filter_map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        Some(name.strip_prefix("deploy-")?.strip_suffix(".toml")?.to_owned())
    });
    let mut names: Vec<String> = names.collect();
    names.sort();
    let text = format!("there is no service `{service}`: no deploy-{service}.toml in {}", folder.display());
    let failure = Failure::say(Exit::Usage, text);
    let near = nearest(service, names.iter().map(String::as_str)).first().map(|near| (*near).to_owned());
    match near {
        Some(near) => failure.hint(format!("did you mean `{near}`?")),
        None if names.is_empty() => failure,
        None => failure.hint(format!("services here: {}", names.join(", "))),
    }
}
