//! `dunlin undeploy`.

use clap::Args;

use super::CommonArgs;
use super::command_error::CommandError;
use super::outcome::CommandOutcome;
use super::rollout::RolloutArgs;
use super::service_change::ServiceChangeCommand;
use crate::protocol::deploy::ServiceChange;

/// Remove a service from its hosts
///
/// Takes each host out of rotation, and removes the units, configuration files, releases and state of the service.
/// Shared files and folders stay, unless --delete-shared is given.
#[derive(Debug, Args)]
pub struct UndeployCommand {
    /// Service name
    service: String,
    /// Also delete the shared files and folders of the service
    #[arg(long)]
    delete_shared: bool,
    /// Confirm the deletion of shared files by repeating the name of the service; required with --yes
    #[arg(long, value_name = "SERVICE", requires = "delete_shared")]
    confirm: Option<String>,
    #[command(flatten)]
    pub args: RolloutArgs,
}

impl UndeployCommand {
    /// Removes the service from its hosts.
    ///
    /// # Errors
    /// See [`ServiceChangeCommand::run`].
    pub async fn run(self, common: &CommonArgs) -> Result<CommandOutcome, CommandError> {
        let change = ServiceChange::Undeploy { delete_shared: self.delete_shared };
        let (service, confirmed_name) = (&self.service, self.confirm.as_deref());
        let command = ServiceChangeCommand { command: "undeploy", service, change, confirmed_name, args: &self.args };
        command.run(common).await
    }
}
