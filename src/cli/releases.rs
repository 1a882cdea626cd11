//! `dunlin releases`.

use clap::Args;
use serde_json::json;

use super::CommonArgs;
use super::command_error::CommandError;
use super::connect_args::ConnectArgs;
use super::outcome::CommandOutcome;
use super::rollout_text::{describe_holder, describe_maintenance};
use super::service_status::ServiceHosts;
use crate::protocol::deploy::{ObservedRelease, ServiceObservation};
use crate::report::{Reporter, escape_line};

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
        let service = ServiceHosts { service: &self.service, limit: self.limit.as_deref(), connect: &self.connect };
        let status = service.observe_hosts(common).await?;
        let reporter = common.new_reporter();
        for host in &status.hosts {
            print_releases(&host.name, status.name_width(), &host.observation, &reporter);
            host.print_health(&reporter);
        }
        Ok(CommandOutcome::of_hosts(status.failed, status.is_interrupted))
    }
}

fn print_releases(host: &str, width: usize, observation: &ServiceObservation, reporter: &Reporter) {
    if observation.releases.is_empty() {
        reporter.print_data(&format!("{host:width$}  no releases"));
    }
    for release in &observation.releases {
        let state = describe_state(release, observation);
        let staged = i64::try_from(release.staged_at).ok().and_then(|at| jiff::Timestamp::from_second(at).ok());
        let staged = staged.map(|at| at.to_string()).unwrap_or_default();
        reporter.print_json(
            "release",
            json!({
                "host": host, "version": release.version, "state": state,
                "staged_at": staged, "bytes": release.bytes, "damaged_files": release.damaged_files,
                "last_failure": release.last_failure,
            }),
        );
        let mut notes = Vec::new();
        notes.extend(state.map(str::to_owned));
        notes.extend(
            release
                .last_failure
                .as_ref()
                .map(|reason| format!("failed: {}", reason.lines().next().unwrap_or_default())),
        );
        notes.extend(
            (!release.damaged_files.is_empty()).then(|| format!("damaged: {}", release.damaged_files.join(", "))),
        );
        let text = format!("{host:width$}  {:<24}  {staged}  {}", release.version, notes.join("; "));
        reporter.print_data(&escape_line(text.trim_end()));
    }
    for version in &observation.incomplete_releases {
        reporter.print_status(&format!("{host}: {version} is staged incompletely; the next deploy removes it"));
    }
    if let Some(record) = &observation.maintenance {
        reporter.print_json(
            "maintenance",
            json!({"host": host, "operator": record.operator, "since": record.since, "is_drained": record.is_drained}),
        );
        reporter.print_status(&format!("{host}: {}", describe_maintenance(record)));
    } else if observation.out_of_rotation {
        reporter.print_json("out_of_rotation", json!({"host": host}));
        reporter
            .print_status(&format!("{host}: out of rotation; the next deploy runs the hooks after the switch again"));
    }
    if let Some(holder) = &observation.lock_holder {
        reporter.print_status(&format!("{host}: {}", describe_holder(holder)));
    }
}

fn describe_state(release: &ObservedRelease, observation: &ServiceObservation) -> Option<&'static str> {
    let is_release = |target: &Option<crate::protocol::deploy::ReleaseTarget>| {
        target.as_ref().is_some_and(|target| target.version == release.version)
    };
    if is_release(&observation.unfinished_switch) {
        Some("switch unfinished")
    } else if is_release(&observation.confirmed) {
        Some("active")
    } else if is_release(&observation.previous) {
        Some("previous")
    } else {
        None
    }
}
