//! Checks the recipes of a project without connecting to hosts.

use std::collections::BTreeMap;
use std::path::Path;

use super::artifact::{find_cargo_builds, is_ignored_by_git};
use super::desired::ReleaseSource;
use super::recipe_file::RecipeFile;
use crate::inventory::{Diagnostic, Diagnostics, Inventory};
use crate::playbook::{TemplateRenderer, Templates, debian_facts, load_shard_map};
use crate::project::Project;
use crate::protocol::deploy::{MANIFEST_FORMAT, ReleaseManifest, ReleaseVersion, ServiceName};

/// Checks all `deploy-SERVICE.toml` beside the project's playbook: keys, hosts, sources, templates, and folders that
/// two services would share.
pub fn check_recipes(project: &Project, found: &mut Diagnostics) {
    let recipes = RecipeFile::load_all(project, found);
    check_shared_folders(&recipes, found);
    for checked in &recipes {
        check_sources(checked, &project.root, found);
    }
    // Mistakes in the inventory, the map and the templates are reported by the check of the playbook.
    let mut reported = Diagnostics::new();
    let Some(inventory) = Inventory::load_folder(&project.inventory).inventory else { return };
    let map = load_shard_map(&project.inventory, Some(&inventory), &mut reported);
    let templates = Templates::load_folder(&project.templates, &mut reported);
    let Ok(rendering) = TemplateRenderer::new(&inventory, &templates, map.as_ref().map(|(map, _)| map)) else { return };
    for checked in &recipes {
        check_templates(checked, &inventory, &rendering, found);
    }
}

fn check_shared_folders(recipes: &[RecipeFile], found: &mut Diagnostics) {
    let mut roots: BTreeMap<&Path, &ServiceName> = BTreeMap::new();
    for RecipeFile { recipe, file } in recipes {
        if let Some(other) = roots.insert(&recipe.root, &recipe.service) {
            let message = format!("{} is the root of the service {other} too", recipe.root.display());
            found.push(Diagnostic::error_in_file(file, message).with_help("give each service a root of its own"));
        }
    }
}

/// Sources that a build makes need not be there: those of a recipe with `build` or of Cargo projects, and those that git ignores.
fn check_sources(RecipeFile { recipe, file }: &RecipeFile, root: &Path, found: &mut Diagnostics) {
    let has_build = recipe.build.is_some() || !find_cargo_builds(recipe, root).is_empty();
    for entry in recipe.files.iter().filter(|_| !has_build) {
        let path = root.join(&entry.source);
        if !path.exists() && !is_ignored_by_git(&entry.source, root).unwrap_or_default() {
            let message = format!("{} does not exist", entry.source.display());
            found.push(Diagnostic::error_at_span(file, entry.span.clone(), message));
        }
    }
}

fn check_templates(
    checked: &RecipeFile,
    inventory: &Inventory,
    rendering: &TemplateRenderer<'_>,
    found: &mut Diagnostics,
) {
    let RecipeFile { recipe, file } = checked;
    let hosts = match checked.select_hosts(inventory) {
        Ok(hosts) => hosts,
        Err(error) => return found.push(error),
    };
    // Without secrets.toml, templates with secrets cannot be rendered here.
    let (Ok(version), false) = (ReleaseVersion::new("0"), inventory.secrets().is_empty()) else { return };
    let service = recipe.service.clone();
    let manifest = ReleaseManifest {
        format_version: MANIFEST_FORMAT,
        service,
        version,
        origin: None,
        files: Vec::new(),
        links: Vec::new(),
        folders: Vec::new(),
    };
    let source = ReleaseSource { recipe, file, manifest: &manifest, signature: None, rendering };
    // One host is enough for mistakes in the templates: they are the same for all.
    let failed = hosts.iter().find_map(|host| source.prepare_host(&host.name, &debian_facts(&host.name)).err());
    found.extend(failed.unwrap_or_default());
}
