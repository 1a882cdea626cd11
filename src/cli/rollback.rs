//! `dunlin rollback`.

use clap::Args;

use super::CommonArgs;
use super::command_error::CommandError;
use super::exit::Exit;
use super::outcome::CommandOutcome;
use super::project::{find_project, load_environment};
use super::recipe::load_recipe;
use super::rollout::{RolloutArgs, RolloutCommand};
use crate::deploy::rollout::Goal;
use crate::protocol::deploy::ReleaseVersion;

/// Roll back to a release already on the hosts
#[derive(Debug, Args)]
pub struct RollbackCommand {
    /// Service name
    service: String,
    /// Release to roll back to (default: the previous one)
    #[arg(long, value_name = "VERSION")]
    to: Option<String>,
    /// Return each host to the release that was active before this run; `dunlin history` shows the runs
    #[arg(long = "run", value_name = "ID", conflicts_with = "to")]
    undone_run: Option<String>,
    #[command(flatten)]
    pub args: RolloutArgs,
}

impl RollbackCommand {
    /// Plans, confirms and runs the rollback.
    ///
    /// # Errors
    /// Returns an error if files have mistakes, a host does not have the release, hosts would roll back to different
    /// releases, or the plan is not confirmed.
    pub async fn run(self, common: &CommonArgs) -> Result<CommandOutcome, CommandError> {
        let project = find_project(&self.args.connect.inventory, common)?;
        let loaded = load_recipe(&self.service, &project, common)?;
        let to = self
            .to
            .map(ReleaseVersion::new)
            .transpose()
            .map_err(|error| CommandError::with_message(Exit::Usage, error))?;
        let environment = load_environment(&project, common)?;
        let command = RolloutCommand { command: "rollback", project: &project, args: &self.args, common };
        let service = command.select_hosts(&loaded, &environment.inventory)?;
        let goal = self.undone_run.map_or(Goal::Stored(to), Goal::BeforeRun);
        command.run(&service, &goal, None).await
    }
}
