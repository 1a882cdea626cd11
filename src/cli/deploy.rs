//! `dunlin deploy`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::CommonArgs;
use super::command_error::CommandError;
use super::exit::Exit;
use super::outcome::CommandOutcome;
use super::project::{find_project, load_environment, load_templates};
use super::recipe::LoadedRecipe;
use super::rollout::{RolloutArgs, ServiceRollout};
use crate::deploy::artifact::{Artifact, ArtifactError};
use crate::deploy::desired::ReleaseSource;
use crate::deploy::rollout::{Goal, NewRelease};
use crate::fleet::BlobMap;
use crate::playbook::TemplateRenderer;
use crate::project::Project;
use crate::protocol::deploy::{ReleaseTask, TaskPhase};

/// The suffix of an artifact's file name.
const ARTIFACT_SUFFIX: &str = ".tar.zst";

/// Deploy a release of a service in batches
#[derive(Debug, Args)]
pub struct DeployCommand {
    /// Service name; its recipe is `deploy-SERVICE.toml` next to the playbook
    service: String,
    /// Release to deploy: a version in the artifact folder, or an artifact file (default: the latest packaged)
    #[arg(long, value_name = "VERSION|FILE")]
    release: Option<String>,
    #[command(flatten)]
    args: RolloutArgs,
}

impl DeployCommand {
    /// Plans, confirms and runs the rollout. A host whose release does not become healthy is rolled back, and the rollout
    /// stops after its batch.
    ///
    /// # Errors
    /// Files have mistakes, there is no such release, a host cannot be planned or is locked, or the plan is not confirmed.
    pub async fn run(self, common: &CommonArgs) -> Result<CommandOutcome, CommandError> {
        let project = find_project(&self.args.connect.inventory, common)?;
        let loaded = LoadedRecipe::load_recipe(&self.service, &project, common)?;
        let artifact = find_artifact(&project, &self.service, self.release.as_deref())?;
        let environment = load_environment(&project, common)?;
        let templates = load_templates(&project, common)?;
        let map = environment.map.as_ref().map(|(map, _)| map);
        let rendering = TemplateRenderer::new(&environment.inventory, &templates, map)
            .map_err(|found| CommandError::from_diagnostics(&found, common.stderr_colour()))?;
        let manifest = artifact.manifest.clone();
        let files: BlobMap =
            artifact.into_blobs().into_iter().map(|(digest, bytes)| (digest, Arc::from(bytes))).collect();
        let source =
            ReleaseSource { recipe: &loaded.recipe, file: &loaded.file, manifest: &manifest, rendering: &rendering };
        let goal = Goal::Release { source: &source, files: &files };
        let service = ServiceRollout::new(&loaded, &environment.inventory, &self.args, common)?;
        // A task after the switch of all hosts waits for a rollout that has all hosts.
        let can_run = |step: &&ReleaseTask| step.phase == TaskPhase::BeforeSwitch || service.excluded_hosts.is_empty();
        let tasks: Vec<ReleaseTask> = loaded.recipe.tasks.iter().filter(can_run).cloned().collect();
        for step in loaded.recipe.tasks.iter().filter(|step| !can_run(step)) {
            common.new_reporter().print_status(&format!("task {}: skipped, because --limit excludes hosts", step.name));
        }
        let once = service.pending_tasks(&tasks, &manifest.version).await;
        service
            .run_rollout("deploy", &goal, Some(NewRelease { tasks: &once, keep_releases: loaded.recipe.keep_releases }))
            .await
    }
}

/// Opens and checks the requested artifact.
fn find_artifact(project: &Project, service: &str, release: Option<&str>) -> Result<Artifact, CommandError> {
    let hint = format!("dunlin package {service}");
    let artifact = match release {
        Some(text) if text.contains('/') || text.ends_with(ARTIFACT_SUFFIX) => open_artifact(Path::new(text))?,
        Some(version) => {
            let path = project.dist.join(format!("{service}-{version}{ARTIFACT_SUFFIX}"));
            if !path.is_file() {
                let text = format!("no release {version} of {service}: {} does not exist", path.display());
                let rollback_hint = format!("dunlin rollback {service} --to {version}, if the hosts still have it");
                return Err(CommandError::with_message(Exit::Error, text)
                    .with_hint(format!("{hint} --version {version}"))
                    .with_hint(rollback_hint));
            }
            open_artifact(&path)?
        }
        None => find_newest_artifact(project, service)?.ok_or_else(|| {
            let text = format!("no release of {service} in {}", project.dist.display());
            CommandError::with_message(Exit::Error, text).with_hint(hint)
        })?,
    };
    let artifact_service = artifact.manifest.service.as_str();
    if artifact_service != service {
        let text = format!("{} is a release of {artifact_service}, not of {service}", artifact.path.display());
        return Err(CommandError::with_message(Exit::Error, text));
    }
    Ok(artifact)
}

fn open_artifact(path: &Path) -> Result<Artifact, CommandError> {
    Artifact::open(path).map_err(|error| match error {
        // This error has the path itself.
        ArtifactError::Unreadable { .. } => anyhow::Error::from(error).into(),
        other => anyhow::Error::from(other).context(path.display().to_string()).into(),
    })
}

/// Returns the newest artifact of the service.
fn find_newest_artifact(project: &Project, service: &str) -> Result<Option<Artifact>, CommandError> {
    let mut found: Vec<(std::time::SystemTime, PathBuf)> = Vec::new();
    let unreadable = |error: std::io::Error| {
        CommandError::new(Exit::Error, anyhow::Error::from(error).context(project.dist.display().to_string()))
    };
    let entries = match std::fs::read_dir(&project.dist) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    for entry in entries {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(&format!("{service}-")) && name.ends_with(ARTIFACT_SUFFIX) {
            let changed = entry.metadata().and_then(|meta| meta.modified()).map_err(unreadable)?;
            found.push((changed, entry.path()));
        }
    }
    found.sort();
    for (_, path) in found.into_iter().rev() {
        // `app-1-2.tar.zst` may be of the service `app` or `app-1`; the manifest has its name.
        let artifact = open_artifact(&path)?;
        if artifact.manifest.service.as_str() == service {
            return Ok(Some(artifact));
        }
    }
    Ok(None)
}
