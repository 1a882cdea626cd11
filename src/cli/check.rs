//! `dunlin check`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::Common;
use super::exit::Exit;
use super::failure::{Failure, count};
use super::project::{Plays, Project};
use crate::inventory::Diagnostics;
use crate::playbook::{Playbook, Selection, Templates};
use crate::wire::{Facts, Os};

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
            findings(project, &mut found, common);
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

fn findings(project: &Project, found: &mut Diagnostics, common: &Common) {
    let loaded = project.load_into(found);
    let templates = Templates::load(&project.templates, found);
    let playbook = Playbook::load(&project.playbook, found);
    let (Some(loaded), Some(playbook)) = (loaded, playbook) else { return };
    let plays = Plays { playbook, templates };
    let map = loaded.map.as_ref().map(|(map, _)| map);
    let Ok(compiler) = project.compiler(&loaded, map, &plays, Selection::default(), common) else { return };
    for host in loaded.inventory.hosts() {
        if let Err(more) = compiler.compile(&host.name, &debian()) {
            found.extend(more);
        }
    }
}

/// The facts that are assumed where no host is asked.
fn debian() -> Facts {
    let os = Os {
        family: "debian".to_owned(),
        id: "debian".to_owned(),
        version: "12".to_owned(),
        codename: "bookworm".to_owned(),
        kernel: "6.1.0".to_owned(),
        arch: "x86_64".to_owned(),
    };
    Facts {
        hostname: "host".to_owned(),
        os,
        cpus: 4,
        memory_bytes: 16 << 30,
        disk_free_bytes: 100 << 30,
        systemd: true,
    }
}
