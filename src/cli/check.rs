//! `dunlin check`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::Common;
use super::exit::Exit;
use super::failure::{Failure, count};
use super::project::Project;
use crate::inventory::Diagnostics;
use crate::playbook;

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
    /// `dunlin.toml` is broken.
    pub fn run(self, common: &Common) -> Result<Exit, Failure> {
        let mut projects = vec![Project::find(common)?];
        let playbooks: Vec<&PathBuf> = self.paths.iter().filter(|path| !path.is_dir()).collect();
        let folders: Vec<&PathBuf> = self.paths.iter().filter(|path| path.is_dir()).collect();
        if let Some(first) = playbooks.first() {
            projects[0].playbook.clone_from(first);
        }
        if !folders.is_empty() {
            projects =
                folders.iter().map(|folder| Project { inventory: (*folder).clone(), ..projects[0].clone() }).collect();
        }
        let mut found = Diagnostics::new();
        for project in &projects {
            found.extend(playbook::check(&project.sources(), &project.inventory));
        }
        found.sort();
        let reporter = common.reporter();
        for finding in found.iter() {
            let mut line = finding.to_json();
            line["event"] = json!("finding");
            reporter.line(&line);
        }
        if !found.is_empty() {
            reporter.data(&found.render(common.colour()));
        }
        reporter.say(&if found.is_empty() {
            "check: nothing found".to_owned()
        } else {
            format!("check: {}", count(&found))
        });
        Ok(if found.is_empty() { Exit::Done } else { Exit::Error })
    }
}
