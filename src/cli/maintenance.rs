//! `dunlin maintenance`.

use clap::{Args, ValueEnum};

use super::CommonArgs;
use super::command_error::CommandError;
use super::outcome::CommandOutcome;
use super::rollout::RolloutArgs;
use super::service_change::ServiceChangeCommand;
use crate::protocol::deploy::ServiceChange;

/// Take the hosts of a service out of rotation for maintenance, or return them
///
/// The hooks of the active release take a host out of rotation (`before_switch`) and return it (`after_switch`). A host
/// in maintenance stays out of rotation after a deploy.
#[derive(Debug, Args)]
pub struct MaintenanceCommand {
    /// Service name
    service: String,
    /// Start or end the maintenance
    #[arg(value_enum)]
    mode: MaintenanceMode,
    #[command(flatten)]
    pub args: RolloutArgs,
}

/// State of the maintenance after the command.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum MaintenanceMode {
    On,
    Off,
}

impl MaintenanceCommand {
    /// Takes the hosts out of rotation, or returns them.
    ///
    /// # Errors
    /// See [`ServiceChangeCommand::run`].
    pub async fn run(self, common: &CommonArgs) -> Result<CommandOutcome, CommandError> {
        let change = match self.mode {
            MaintenanceMode::On => ServiceChange::StartMaintenance,
            MaintenanceMode::Off => ServiceChange::EndMaintenance,
        };
        let (service, args) = (&self.service, &self.args);
        let command = ServiceChangeCommand { command: "maintenance", service, change, confirmed_name: None, args };
        command.run(common).await
    }
}
