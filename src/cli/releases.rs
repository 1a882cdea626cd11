//! `dunlin releases`.

use clap::Args;

use super::CommonArgs;
use super::command_error::CommandError;
use super::connect_args::ConnectArgs;
use super::outcome::CommandOutcome;
use super::service_status::StatusCommand;
use crate::deploy::rollout::HostStatus;
use crate::report::{Reporter, report_health, report_releases};

/// List the releases on the hosts of a service
#[derive(Debug, Args)]
pub struct ReleasesCommand {
    /// Service name
    service: String,
    /// Only list hosts of the service that match this selector
    #[arg(long, value_name = "SELECTOR")]
    limit: Option<String>,
    #[command(flatten)]
    connect: ConnectArgs,
}

impl ReleasesCommand {
    /// Prints one line per host and release, oldest first, and the health of the active release now.
    ///
    /// # Errors
    /// Returns an error if files have mistakes, or no host is selected.
    pub async fn run(self, common: &CommonArgs) -> Result<CommandOutcome, CommandError> {
        let command = StatusCommand { service: &self.service, limit: self.limit.as_deref(), connect: &self.connect };
        let report = |host: &HostStatus, width: usize, reporter: &Reporter| {
            report_releases(&host.name, width, &host.observation, reporter);
            report_health(host, reporter);
            true
        };
        command.run(common, report).await
    }
}
