//! Observes a service on its hosts for `releases`, `history` and `deploy --health`.

use super::CommonArgs;
use super::command_error::CommandError;
use super::connect_args::ConnectArgs;
use super::host_locks::operator_id;
use super::outcome::CommandOutcome;
use super::project::{find_project, load_environment};
use super::recipe::{load_recipe, select_service_hosts};
use super::runtime::build_fleet;
use crate::deploy::rollout::{HostStatus, ServiceStatus};
use crate::playbook::SecretRedactor;
use crate::report::{Reporter, report_plan_errors};

/// A command that observes the hosts of a service.
pub struct StatusCommand<'a> {
    /// The service.
    pub service: &'a str,
    /// Selector of its hosts; without it all.
    pub limit: Option<&'a str>,
    /// Flags of the connections.
    pub connect: &'a ConnectArgs,
}

impl StatusCommand<'_> {
    /// Observes the hosts at the same time, prints the errors of those that cannot be observed, and hands the others to
    /// `report`, with the width of the longest host name. A host counts as failed if `report` returns `false`.
    ///
    /// # Errors
    /// Files have mistakes, or no host is selected.
    pub async fn run(
        &self,
        common: &CommonArgs,
        report: impl Fn(&HostStatus, usize, &Reporter) -> bool,
    ) -> Result<CommandOutcome, CommandError> {
        let project = find_project(&self.connect.inventory, common)?;
        let loaded = load_recipe(self.service, &project, common)?;
        let inventory = load_environment(&project, common)?.inventory;
        let hosts = select_service_hosts(&loaded, &inventory, self.limit, common)?.selected;
        let fleet = build_fleet(&inventory, &hosts, self.connect, common)?;
        let names = hosts.iter().map(|host| host.name.clone()).collect();
        let secrets = SecretRedactor::from_secrets(&inventory.secrets().expose_json());
        let status = ServiceStatus::observe_hosts(
            &fleet,
            names,
            &loaded.to_scope(operator_id(), common.run.to_string()),
            &secrets,
        )
        .await;
        let (reporter, width) = (common.new_reporter(), status.name_width());
        report_plan_errors(&status.failed, &reporter);
        let reported = status.hosts.iter().map(|host| report(host, width, &reporter));
        let failed = status.failed.len() + reported.filter(|is_ok| !is_ok).count();
        Ok(CommandOutcome::of_hosts(failed, fleet.cancellation.is_cancelled()))
    }
}
