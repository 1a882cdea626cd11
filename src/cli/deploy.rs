//! `dunlin deploy`.

use std::path::Path;
use std::sync::Arc;

use clap::Args;

use super::CommonArgs;
use super::command_error::CommandError;
use super::exit::Exit;
use super::outcome::CommandOutcome;
use super::project::{find_project, load_environment, load_templates};
use super::recipe::LoadedRecipe;
use super::rollout::{ReleaseSettings, RolloutArgs, ServiceRollout};
use super::service_status::ServiceHosts;
use super::throttle_args::parse_bandwidth;
use crate::deploy::artifact::{
    ARTIFACT_SUFFIX, Artifact, ArtifactError, FindPackagedError, UnpackedArtifact, artifact_path, find_last_packaged,
    manifest_path,
};
use crate::deploy::desired::ReleaseSource;
use crate::deploy::recipe::Recipe;
use crate::deploy::rollout::{Goal, TaskSelection};
use crate::deploy::signature::check_signature;
use crate::playbook::TemplateRenderer;
use crate::project::Project;
use crate::protocol::deploy::{ReleaseTask, ServiceName, SignatureCheck, TaskPhase};

/// Deploy a release of a service in batches
#[derive(Debug, Args)]
pub struct DeployCommand {
    /// Service name; its recipe is `deploy-SERVICE.toml` next to the playbook
    service: String,
    /// Release to deploy: a version in the artifact folder, or an artifact file (default: the one packaged last)
    #[arg(long, value_name = "VERSION|FILE")]
    release: Option<String>,
    /// Mark a task whose result is unknown as done
    #[arg(long, value_name = "NAME")]
    task_done: Vec<String>,
    /// Run a task whose result is unknown again
    #[arg(long, value_name = "NAME")]
    task_again: Vec<String>,
    /// Show the active release of each host and its health now, without a deploy
    #[arg(long, conflicts_with_all = ["release", "task_done", "task_again", "adopt", "override_freeze", "dry_run", "yes", "bandwidth"])]
    health: bool,
    /// Adopt a service or units that dunlin did not deploy: keep them as release `before-dunlin`, or with the active
    /// release, so that a rollback restores them
    #[arg(long)]
    adopt: bool,
    /// Limit the total bandwidth of the transfer to all hosts (bytes per second, e.g. 10MiB)
    #[arg(long, value_name = "BYTES", value_parser = parse_bandwidth, default_value_t = 0, hide_default_value = true)]
    bandwidth: u64,
    /// Deploy although the recipe has a freeze at this time
    #[arg(long)]
    override_freeze: bool,
    #[command(flatten)]
    pub args: RolloutArgs,
}

impl DeployCommand {
    /// Plans, confirms and runs the rollout. A host whose release does not become healthy is rolled back, and the
    /// rollout stops after its batch.
    ///
    /// # Errors
    /// Returns an error if files have mistakes, there is no such release, a host cannot be planned or is locked, or the
    /// plan is not confirmed.
    pub async fn run(self, common: &CommonArgs) -> Result<CommandOutcome, CommandError> {
        if self.health {
            return self.show_health(common).await;
        }
        let project = find_project(&self.args.connect.inventory, common)?;
        let loaded = LoadedRecipe::load_recipe(&self.service, &project, common)?;
        self.check_task_names(&loaded.recipe.tasks)?;
        self.check_freezes(&loaded.recipe, common)?;
        let UnpackedArtifact { artifact, contents } =
            find_artifact(&project, &loaded.recipe.service, self.release.as_deref())?;
        refuse_unsigned_artifact(&artifact, &loaded.recipe)?;
        let environment = load_environment(&project, common)?;
        let templates = load_templates(&project, common)?;
        let map = environment.map.as_ref().map(|(map, _)| map);
        let rendering = TemplateRenderer::new(&environment.inventory, &templates, map)
            .map_err(|found| CommandError::from_diagnostics(&found, common.stderr_color()))?;
        let (manifest, signature) = (artifact.manifest.clone(), artifact.signature.clone());
        let source = ReleaseSource {
            recipe: &loaded.recipe,
            file: &loaded.file,
            manifest: &manifest,
            signature: signature.as_deref(),
            rendering: &rendering,
        };
        contents.bandwidth.set_rate(self.bandwidth);
        let contents = Arc::new(contents);
        let goal = Goal::Release { source: &source, contents: &contents };
        let service = ServiceRollout::new(&loaded, &environment.inventory, &self.args, common)?;
        // A task behind the switch of all hosts waits for a rollout that has all hosts.
        let tasks = &loaded.recipe.tasks;
        let waits = |task: &&ReleaseTask| task.phase == TaskPhase::AfterSwitch && !service.excluded_hosts.is_empty();
        for task in tasks.iter().filter(waits) {
            common.new_reporter().print_status(&format!("task {}: skipped, because --limit excludes hosts", task.name));
        }
        let (operator, run) = (loaded.to_scope().operator, common.run.to_string());
        let selection = TaskSelection {
            tasks,
            version: &manifest.version,
            assume_done: &self.task_done,
            run_again: &self.task_again,
            operator: &operator,
            run: &run,
        };
        let settings = ReleaseSettings { selection, keep_releases: loaded.recipe.keep_releases, adopt: self.adopt };
        service.run_rollout("deploy", &goal, Some(settings)).await
    }

    /// Prints the active release of each host and its health. A host that does not serve its release counts as failed.
    async fn show_health(&self, common: &CommonArgs) -> Result<CommandOutcome, CommandError> {
        let (limit, connect) = (self.args.limit.as_deref(), &self.args.connect);
        let status = ServiceHosts { service: &self.service, limit, connect }.observe_hosts(common).await?;
        let (reporter, width) = (common.new_reporter(), status.name_width());
        let mut failed = status.failed;
        for host in &status.hosts {
            failed += usize::from(!host.print_active_release(width, &reporter));
        }
        Ok(CommandOutcome::of_hosts(failed, status.is_interrupted))
    }

    /// Refuses a deploy in a freeze of the recipe. A dry run only says so.
    fn check_freezes(&self, recipe: &Recipe, common: &CommonArgs) -> Result<(), CommandError> {
        let now = jiff::Timestamp::now();
        let Some(window) = recipe.freezes.iter().find(|window| window.contains(now)) else { return Ok(()) };
        let reason = window.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        let text = format!("deploys of {} are frozen {}{reason}", recipe.service, window.text);
        if self.args.dry_run || self.override_freeze {
            common.new_reporter().print_status(&text);
            return Ok(());
        }
        Err(CommandError::with_message(Exit::Refused, text)
            .with_hint("--override-freeze deploys nevertheless".to_owned()))
    }

    /// Checks that `--task-done` and `--task-again` name tasks of the recipe, each task once.
    fn check_task_names(&self, tasks: &[ReleaseTask]) -> Result<(), CommandError> {
        let named = self.task_done.iter().chain(&self.task_again);
        for name in named {
            if tasks.iter().all(|task| task.name != *name) {
                let known: Vec<&str> = tasks.iter().map(|task| task.name.as_str()).collect();
                let text = format!("the recipe has no task `{name}`");
                let hint = format!("tasks: {}", if known.is_empty() { "none".to_owned() } else { known.join(", ") });
                return Err(CommandError::with_message(Exit::Usage, text).with_hint(hint));
            }
        }
        match self.task_done.iter().find(|name| self.task_again.contains(name)) {
            Some(name) => {
                let text = format!("--task-done and --task-again both name task `{name}`");
                Err(CommandError::with_message(Exit::Usage, text))
            }
            None => Ok(()),
        }
    }
}

/// Opens and checks the requested artifact.
fn find_artifact(
    project: &Project,
    service: &ServiceName,
    release: Option<&str>,
) -> Result<UnpackedArtifact, CommandError> {
    let hint = format!("dunlin package {service}");
    let unpacked = match release {
        Some(text) if text.contains('/') || text.ends_with(ARTIFACT_SUFFIX) => open_artifact(Path::new(text))?,
        Some(version) => {
            let path = artifact_path(&project.dist, service.as_str(), version);
            if !path.is_file() {
                let text = format!("no release {version} of {service}: {} does not exist", path.display());
                let rollback_hint = format!("dunlin rollback {service} --to {version}, if the hosts still have it");
                return Err(CommandError::with_message(Exit::Error, text)
                    .with_hint(format!("{hint} --version {version}"))
                    .with_hint(rollback_hint));
            }
            open_artifact(&path)?
        }
        None => {
            let found = find_last_packaged(&project.dist, service).map_err(|error| {
                let is_ambiguous = matches!(error, FindPackagedError::Ambiguous(_));
                let error = CommandError::new(Exit::Error, error);
                if is_ambiguous { error.with_hint("choose one with --release".to_owned()) } else { error }
            })?;
            let path = found.ok_or_else(|| {
                let text = format!("no release of {service} in {}", project.dist.display());
                CommandError::with_message(Exit::Error, text).with_hint(hint)
            })?;
            open_artifact(&path)?
        }
    };
    let artifact = &unpacked.artifact;
    let artifact_service = &artifact.manifest.service;
    if artifact_service != service {
        let text = format!("{} is a release of {artifact_service}, not of {service}", artifact.path.display());
        return Err(CommandError::with_message(Exit::Error, text));
    }
    Ok(unpacked)
}

/// Refuses an artifact that the hosts would refuse.
fn refuse_unsigned_artifact(artifact: &Artifact, recipe: &Recipe) -> Result<(), CommandError> {
    let check = SignatureCheck { public_keys: recipe.public_keys.clone(), signature: artifact.signature.clone() };
    check_signature(&artifact.manifest, &check).map_err(|error| {
        let manifest = &artifact.manifest;
        let text = format!("{}: {error}", artifact.path.display());
        let package = format!("dunlin package {} --version {} --sign-key FILE", manifest.service, manifest.version);
        CommandError::with_message(Exit::Refused, text)
            .with_hint(package)
            .with_hint(format!("minisign -S -s FILE -m {}", manifest_path(&artifact.path).display()))
    })
}

fn open_artifact(path: &Path) -> Result<UnpackedArtifact, CommandError> {
    Artifact::open(path).map_err(|error| match error {
        // This error has the path itself.
        ArtifactError::Unreadable { .. } => anyhow::Error::from(error).into(),
        other => anyhow::Error::from(other).context(path.display().to_string()).into(),
    })
}
