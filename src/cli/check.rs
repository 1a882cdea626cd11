//! `dunlin check`.

use std::path::PathBuf;

use clap::Args;

use super::CommonArgs;
use super::command_error::{CommandError, count_findings};
use super::exit::Exit;
use super::project::find_project_into;
use crate::inventory::Diagnostics;
use crate::playbook;
use crate::project::Project;

/// Lint inventory, shard map, playbook and templates; opens no connection
#[derive(Debug, Args)]
pub struct CheckCommand {
    /// Inventory folders or playbooks to check instead of those of dunlin.toml
    #[arg(value_name = "PATHS")]
    paths: Vec<PathBuf>,
}

impl CheckCommand {
    /// Prints every finding with its place.
    ///
    /// # Errors
    /// The current folder does not exist any more.
    pub fn run(self, common: &CommonArgs) -> Result<Exit, CommandError> {
        let mut diagnostics = Diagnostics::new();
        let project = find_project_into(common, &mut diagnostics)?;
        for project in project.iter().flat_map(|project| self.projects(project)) {
            diagnostics.extend(playbook::check_project(&project));
        }
        diagnostics.sort();
        let reporter = common.new_reporter();
        for finding in diagnostics.iter() {
            reporter.print_json("finding", finding.to_json());
        }
        if !diagnostics.is_empty() {
            reporter.print_data(&diagnostics.render(common.stdout_colour()));
        }
        reporter.print_status(&if diagnostics.is_empty() {
            "check: nothing found".to_owned()
        } else {
            format!("check: {}", count_findings(&diagnostics))
        });
        Ok(if diagnostics.is_empty() { Exit::Done } else { Exit::Error })
    }

    /// Returns every playbook that is to be checked with every inventory; the project's own where none is named.
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
