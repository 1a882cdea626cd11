//! `dunlin deploy`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::Common;
use super::exit::Exit;
use super::failure::Failure;
use super::outcome::CommandOutcome;
use super::project::{find_project, load_environment, load_templates};
use super::recipe::Loaded;
use super::rollout::{How, Service};
use crate::deploy::artifact::Artifact;
use crate::deploy::desired::Source;
use crate::deploy::rollout::{Fresh, Goal};
use crate::fleet::Supply;
use crate::playbook::Rendering;
use crate::project::Project;
use crate::wire::deploy::{Once, When};

/// What the name of an artefact ends with.
const SUFFIX: &str = ".tar.zst";

/// Roll a release out: plan, show, confirm, stage everywhere, switch batch by batch
#[derive(Debug, Args)]
pub struct Deploy {
    /// The service: `deploy-SERVICE.toml` beside the playbook
    service: String,
    /// Which release: a version in the folder of artefacts, or a file (default: the one packaged last)
    #[arg(long, value_name = "V|FILE")]
    release: Option<String>,
    #[command(flatten)]
    how: How,
}

impl Deploy {
    /// observe → plan → show → confirm → stage → switch → prune. A host where the release does not get healthy returns
    /// to what it served, and the rollout stops behind its batch.
    ///
    /// # Errors
    /// Broken files, no such release, hosts that cannot be planned, somebody else at it, not confirmed.
    pub async fn run(self, common: &Common) -> Result<CommandOutcome, Failure> {
        let project = find_project(common)?;
        let loaded = Loaded::of(&self.service, &project, common)?;
        let artifact = artifact(&project, &self.service, self.release.as_deref())?;
        let environment = load_environment(&project, common)?;
        let templates = load_templates(&project, common)?;
        let map = environment.map.as_ref().map(|(map, _)| map);
        let rendering = Rendering::new(&environment.inventory, &templates, map)
            .map_err(|found| Failure::findings(&found, common.stderr_colour()))?;
        let manifest = artifact.manifest.clone();
        let files: Supply =
            artifact.into_blobs().into_iter().map(|(digest, bytes)| (digest, Arc::from(bytes))).collect();
        let source = Source { recipe: &loaded.recipe, file: &loaded.file, manifest: &manifest, rendering: &rendering };
        let goal = Goal::Release { source: &source, files: &files };
        let service = Service::new(&loaded, &environment.inventory, &self.how, common)?;
        // What is to run behind the last host has to wait for a rollout that has it.
        let fits = |step: &&Once| step.when == When::Before || service.left_out.is_empty();
        let once: Vec<Once> = loaded.recipe.once.iter().filter(fits).cloned().collect();
        for step in loaded.recipe.once.iter().filter(|step| !fits(step)) {
            common.reporter().say(&format!("once {}: not with --limit, which leaves hosts out", step.name));
        }
        let once = service.undone(&once, &manifest.version).await;
        service.run("deploy", &goal, Some(Fresh { once: &once, keep: loaded.recipe.keep })).await
    }
}

/// The artefact that was asked for, opened and checked.
fn artifact(project: &Project, service: &str, release: Option<&str>) -> Result<Artifact, Failure> {
    let hint = format!("dunlin package {service}");
    let artifact = match release {
        Some(text) if text.contains('/') || text.ends_with(SUFFIX) => open(Path::new(text))?,
        Some(version) => {
            let path = project.dist.join(format!("{service}-{version}{SUFFIX}"));
            if !path.is_file() {
                let text = format!("there is no release {version} of {service}: no {}", path.display());
                let back = format!("dunlin rollback {service} --to {version}, where the hosts keep it");
                return Err(Failure::say(Exit::Error, text).hint(format!("{hint} --version {version}")).hint(back));
            }
            open(&path)?
        }
        None => newest(project, service)?.ok_or_else(|| {
            let text = format!("there is no release of {service} in {}", project.dist.display());
            Failure::say(Exit::Error, text).hint(hint)
        })?,
    };
    let of = artifact.manifest.service.as_str();
    if of != service {
        let text = format!("{} is a release of {of}, not of {service}", artifact.path.display());
        return Err(Failure::say(Exit::Error, text));
    }
    Ok(artifact)
}

fn open(path: &Path) -> Result<Artifact, Failure> {
    let opened = Artifact::open(path).map_err(anyhow::Error::from);
    Ok(opened.map_err(|error| error.context(path.display().to_string()))?)
}

/// The artefact of the service that was written last.
fn newest(project: &Project, service: &str) -> Result<Option<Artifact>, Failure> {
    let mut found: Vec<(std::time::SystemTime, PathBuf)> = Vec::new();
    let unreadable = |error: std::io::Error| {
        Failure::new(Exit::Error, anyhow::Error::from(error).context(project.dist.display().to_string()))
    };
    let entries = match std::fs::read_dir(&project.dist) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    for entry in entries {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(&format!("{service}-")) && name.ends_with(SUFFIX) {
            let changed = entry.metadata().and_then(|meta| meta.modified()).map_err(unreadable)?;
            found.push((changed, entry.path()));
        }
    }
    found.sort();
    for (_, path) in found.into_iter().rev() {
        // Names do not tell `app-1` of the service `app` from `app-1` of a service `app-1`: the manifest does.
        let artifact = open(&path)?;
        if artifact.manifest.service.as_str() == service {
            return Ok(Some(artifact));
        }
    }
    Ok(None)
}
