//! `dunlin check`.

use std::path::PathBuf;

use clap::Args;

use super::CommonArgs;
use super::command_error::{CommandError, count_findings};
use super::connect_args::InventoryArgs;
use super::exit::Exit;
use super::project::find_project_into;
use crate::deploy::recipe_check::check_recipes;
use crate::inventory::Diagnostics;
use crate::playbook;
use crate::project::Project;

/// Check inventories, shard maps, playbooks, recipes and templates for mistakes, without connecting to hosts
#[derive(Debug, Args)]
pub struct CheckCommand {
    /// Inventory folders and playbooks to check (default: those in dunlin.toml)
    #[arg(value_name = "PATHS")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    inventory: InventoryArgs,
}

impl CheckCommand {
    /// Prints every finding with its position.
    ///
    /// # Errors
    /// Returns an error if the current folder does not exist.
    pub fn run(self, common: &CommonArgs) -> Result<Exit, CommandError> {
        let mut diagnostics = Diagnostics::new();
        let project = find_project_into(&self.inventory, &mut diagnostics)?;
        for project in project.iter().flat_map(|project| self.projects(project)) {
            diagnostics.extend(playbook::check_project(&project));
        }
        if self.paths.is_empty()
            && let Some(project) = &project
        {
            check_recipes(project, &mut diagnostics);
        }
        diagnostics.sort();
        let reporter = common.new_reporter();
        for finding in diagnostics.iter() {
            reporter.print_json("finding", finding.to_json());
        }
        if !diagnostics.is_empty() {
            reporter.print_painted_data(&diagnostics.render(common.stdout_color()));
        }
        reporter.print_status(&if diagnostics.is_empty() {
            "check: no problems found".to_owned()
        } else {
            format!("check: {}", count_findings(&diagnostics))
        });
        Ok(if diagnostics.is_empty() { Exit::Done } else { Exit::Error })
    }

    /// Returns each playbook with each inventory to check; those of the project if none is named.
    fn projects(&self, project: &Project) -> Vec<Project> {
        let (inventories, playbooks): (Vec<PathBuf>, Vec<PathBuf>) =
            self.paths.iter().cloned().partition(|path| path.is_dir());
        let or_default =
            |paths: Vec<PathBuf>, usual: &PathBuf| if paths.is_empty() { vec![usual.clone()] } else { paths };
        let playbooks = or_default(playbooks, &project.playbook);
        let with_playbooks = |inventory: PathBuf| {
            playbooks.iter().map(move |playbook| (inventory.clone(), playbook.clone())).collect::<Vec<_>>()
        };
        let pairs = or_default(inventories, &project.inventory).into_iter().flat_map(with_playbooks);
        pairs.map(|(inventory, playbook)| Project { inventory, playbook, ..project.clone() }).collect()
    }
}
