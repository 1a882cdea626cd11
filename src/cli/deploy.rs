//! `dunlin deploy`.

use std::sync::Arc;

use clap::Args;

use super::CommonArgs;
use super::command_error::CommandError;
use super::exit::Exit;
use super::outcome::CommandOutcome;
use super::project::{find_project, load_environment, load_templates};
use super::recipe::load_recipe;
use super::rollout::{RolloutArgs, RolloutCommand};
use super::service_status::StatusCommand;
use super::throttle_args::parse_bandwidth;
use crate::deploy::artifact::{OpenReleaseError, UnpackedArtifact, open_release};
use crate::deploy::desired::ReleaseSource;
use crate::deploy::recipe::Recipe;
use crate::deploy::rollout::{Goal, HostStatus, ReleaseSettings, TaskNameError, TaskSelection, check_task_names};
use crate::playbook::TemplateRenderer;
use crate::protocol::deploy::{ReleaseTask, TaskPhase};
use crate::report::{Reporter, report_active_release};

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
        let loaded = load_recipe(&self.service, &project, common)?;
        let tasks = &loaded.recipe.tasks;
        check_task_names(tasks, &self.task_done, &self.task_again)?;
        self.check_freezes(&loaded.recipe, common)?;
        let UnpackedArtifact { artifact, contents } =
            open_release(&loaded.recipe, &project.dist, self.release.as_deref())?;
        let environment = load_environment(&project, common)?;
        let templates = load_templates(&project, common)?;
        let map = environment.map.as_ref().map(|(map, _)| map);
        let rendering = TemplateRenderer::new(&environment.inventory, &templates, map)
            .map_err(|found| CommandError::from_diagnostics(&found, common.stderr_color()))?;
        let source = ReleaseSource {
            recipe: &loaded.recipe,
            file: &loaded.file,
            manifest: &artifact.manifest,
            signature: artifact.signature.as_deref(),
            rendering: &rendering,
        };
        contents.bandwidth.set_rate(self.bandwidth);
        let contents = Arc::new(contents);
        let goal = Goal::Release { source: &source, contents: &contents };
        let command = RolloutCommand { command: "deploy", project: &project, args: &self.args, common };
        let service = command.select_hosts(&loaded, &environment.inventory)?;
        // A task behind the switch of all hosts waits for a rollout that has all hosts.
        let waits = |task: &&ReleaseTask| task.phase == TaskPhase::AfterSwitch && !service.excluded_hosts.is_empty();
        for task in tasks.iter().filter(waits) {
            common.new_reporter().print_status(&format!("task {}: skipped, because --limit excludes hosts", task.name));
        }
        let run = common.run.to_string();
        let selection = TaskSelection {
            tasks,
            version: &artifact.manifest.version,
            assume_done: &self.task_done,
            run_again: &self.task_again,
            operator: &service.scope.operator,
            run: &run,
        };
        command.run(&service, &goal, Some(ReleaseSettings { selection, adopt: self.adopt })).await
    }

    /// Prints the active release of each host and its health. A host that does not serve its release counts as failed.
    async fn show_health(&self, common: &CommonArgs) -> Result<CommandOutcome, CommandError> {
        let (limit, connect) = (self.args.limit.as_deref(), &self.args.connect);
        let report = |host: &HostStatus, width: usize, reporter: &Reporter| {
            report_active_release(host, width, reporter);
            host.is_serving()
        };
        StatusCommand { service: &self.service, limit, connect }.run(common, report).await
    }

    /// Refuses a deploy in a freeze of the recipe. A dry run only says so.
    fn check_freezes(&self, recipe: &Recipe, common: &CommonArgs) -> Result<(), CommandError> {
        let Some(text) = recipe.describe_freeze(jiff::Timestamp::now()) else { return Ok(()) };
        if self.args.dry_run || self.override_freeze {
            common.new_reporter().print_status(&text);
            return Ok(());
        }
        Err(CommandError::with_message(Exit::Refused, text)
            .with_hint("--override-freeze deploys nevertheless".to_owned()))
    }
}

impl From<OpenReleaseError> for CommandError {
    fn from(error: OpenReleaseError) -> Self {
        let exit = if matches!(error, OpenReleaseError::Unsigned { .. }) { Exit::Refused } else { Exit::Error };
        let hints = error.hints();
        hints.into_iter().fold(Self::new(exit, error), Self::with_hint)
    }
}

impl From<TaskNameError> for CommandError {
    fn from(error: TaskNameError) -> Self {
        match &error {
            TaskNameError::Unknown { known, .. } => {
                let hint = format!("tasks: {}", if known.is_empty() { "none".to_owned() } else { known.join(", ") });
                Self::new(Exit::Usage, error).with_hint(hint)
            }
            TaskNameError::Contradiction(name) => {
                Self::with_message(Exit::Usage, format!("--task-done and --task-again both name task `{name}`"))
            }
        }
    }
}
