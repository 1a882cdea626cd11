//! `dunlin history`.

use clap::Args;
use serde_json::json;

use super::CommonArgs;
use super::command_error::CommandError;
use super::connect_args::ConnectArgs;
use super::outcome::CommandOutcome;
use super::service_status::ServiceHosts;
use crate::protocol::deploy::SwitchRecord;
use crate::report::{Reporter, escape_line};

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
        let service = ServiceHosts { service: &self.service, limit: self.limit.as_deref(), connect: &self.connect };
        let status = service.observe_hosts(common).await?;
        let (reporter, width) = (common.new_reporter(), status.name_width());
        for host in &status.hosts {
            let records = &host.observation.switch_records;
            if records.is_empty() {
                reporter.print_data(&format!("{:width$}  no switches", host.name));
            }
            records.iter().for_each(|record| print_record(&host.name, width, record, &reporter));
        }
        Ok(CommandOutcome::of_hosts(status.failed, status.is_interrupted))
    }
}

fn print_record(host: &str, width: usize, record: &SwitchRecord, reporter: &Reporter) {
    let started = i64::try_from(record.started_at).ok().and_then(|at| jiff::Timestamp::from_second(at).ok());
    let started = started.map(|at| at.to_string()).unwrap_or_default();
    reporter.print_json(
        "switch_record",
        json!({
            "host": host, "started_at": started, "from": record.from, "to": record.to, "result": record.result,
            "duration_ms": record.duration_ms, "operator": record.operator, "failure": record.failure,
        }),
    );
    let from = record.from.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
    let releases = format!("{from} → {}", record.to);
    let mut text = format!(
        "{host:width$}  {started}  {releases:<32}  {:<15}  {}.{} s  by {}",
        record.result,
        record.duration_ms / 1000,
        record.duration_ms % 1000 / 100,
        record.operator
    );
    if let Some(failure) = &record.failure {
        text.push_str(&format!("  {failure}"));
    }
    reporter.print_data(&escape_line(&text));
}
