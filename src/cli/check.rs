//! `dunlin check`.

use std::path::PathBuf;

use clap::Args;

use super::Common;
use super::exit::Exit;
use super::failure::{Failure, count};
use super::project::find_project_into;
use crate::inventory::Diagnostics;
use crate::playbook;
use crate::project::Project;

/// Lint inventory, shard map, playbook and templates; opens no connection
#[derive(Debug, Args)]
pub struct Check {
    /// Inventory folders or playbooks to check instead of those of dunlin.toml
    #[arg(value_name = "PATHS")]
    paths: Vec<PathBuf>,
}

impl Check {
    /// Prints every finding with its place.
    ///
    /// # Errors
    /// The current folder does not exist any more.
    pub fn run(self, common: &Common) -> Result<Exit, Failure> {
        let mut found = Diagnostics::new();
        let project = find_project_into(common, &mut found)?;
        for project in project.iter().flat_map(|project| self.projects(project)) {
            found.extend(playbook::check(&project));
        }
        found.sort();
        let reporter = common.reporter();
        for finding in found.iter() {
            reporter.line("finding", finding.to_json());
        }
        if !found.is_empty() {
            reporter.data(&found.render(common.stdout_colour()));
        }
        reporter.say(&if found.is_empty() {
            "check: nothing found".to_owned()
        } else {
            format!("check: {}", count(&found))
        });
        Ok(if found.is_empty() { Exit::Done } else { Exit::Error })
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
