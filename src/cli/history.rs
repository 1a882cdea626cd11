//! `dunlin history`.

use clap::Args;

use super::CommonArgs;
use super::command_error::CommandError;
use super::connect_args::ConnectArgs;
use super::outcome::CommandOutcome;
use super::service_status::StatusCommand;
use crate::deploy::rollout::HostStatus;
use crate::report::{Reporter, report_history};

/// List the switches of a service on its hosts
#[derive(Debug, Args)]
pub struct HistoryCommand {
    /// Service name
    service: String,
    /// Only list hosts of the service that match this selector
    #[arg(long, value_name = "SELECTOR")]
    limit: Option<String>,
    #[command(flatten)]
    connect: ConnectArgs,
}

impl HistoryCommand {
    /// Prints one line per host and switch, oldest first: when, from which release to which, result, duration,
    /// operator.
    ///
    /// # Errors
    /// Returns an error if files have mistakes, or no host is selected.
    pub async fn run(self, common: &CommonArgs) -> Result<CommandOutcome, CommandError> {
        let command = StatusCommand { service: &self.service, limit: self.limit.as_deref(), connect: &self.connect };
        let report = |host: &HostStatus, width: usize, reporter: &Reporter| {
            report_history(host, width, reporter);
            true
        };
        command.run(common, report).await
    }
}
