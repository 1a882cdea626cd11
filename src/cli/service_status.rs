//! Observes a service on its hosts for `releases`, `history` and `deploy --health`.

use serde_json::json;

use super::CommonArgs;
use super::command_error::CommandError;
use super::connect_args::ConnectArgs;
use super::project::{find_project, load_environment};
use super::recipe::LoadedRecipe;
use super::rollout_secrets::{redact_health, redact_observation};
use super::rollout_text::{describe_maintenance, report_plan_error};
use super::runtime::build_fleet;
use crate::deploy::rollout::{ServiceHealth, observe_service};
use crate::playbook::SecretRedactor;
use crate::protocol::deploy::ServiceObservation;
use crate::report::{Reporter, escape_line};

/// Names the hosts of a service.
pub struct ServiceHosts<'a> {
    /// The service.
    pub service: &'a str,
    /// Selector of its hosts; without it all.
    pub limit: Option<&'a str>,
    /// Flags of the connections.
    pub connect: &'a ConnectArgs,
}

/// Observed hosts of a service.
pub struct ServiceStatus {
    /// The hosts that answered.
    pub hosts: Vec<HostStatus>,
    /// Number of hosts that did not; their errors were printed.
    pub failed: usize,
    /// Set if the command was interrupted.
    pub is_interrupted: bool,
}

/// Observed state of a service on one host.
pub struct HostStatus {
    /// Name of the host.
    pub name: String,
    /// The releases and records.
    pub observation: ServiceObservation,
    /// Health of the active release now.
    pub health: ServiceHealth,
}

impl ServiceHosts<'_> {
    /// Observes the hosts at the same time, and prints the errors of those that cannot be observed. The texts of the
    /// hosts are without secrets: a hook, a task or a health command may have printed one.
    ///
    /// # Errors
    /// Returns an error if files have mistakes, or no host is selected.
    pub async fn observe_hosts(&self, common: &CommonArgs) -> Result<ServiceStatus, CommandError> {
        let project = find_project(&self.connect.inventory, common)?;
        let loaded = LoadedRecipe::load_recipe(self.service, &project, common)?;
        let environment = load_environment(&project, common)?;
        let (hosts, _) = loaded.select_service_hosts(&environment.inventory, self.limit, common)?;
        let fleet = build_fleet(&environment.inventory, &hosts, self.connect, common)?;
        let names: Vec<String> = hosts.iter().map(|host| host.name.clone()).collect();
        let secrets = SecretRedactor::from_secrets(&environment.inventory.secrets().expose_json());
        let scope = loaded.to_scope();
        let results = fleet.map_parallel(&names, |host| observe_service(&fleet, host, &scope)).await;
        let mut status = ServiceStatus { hosts: Vec::new(), failed: 0, is_interrupted: false };
        for (name, result) in names.into_iter().zip(results) {
            match result {
                Ok((mut observation, mut health)) => {
                    redact_observation(&mut observation, &secrets);
                    redact_health(&mut health, &secrets);
                    status.hosts.push(HostStatus { name, observation, health });
                }
                Err(error) => {
                    report_plan_error(&name, &error, &secrets, common);
                    status.failed += 1;
                }
            }
        }
        status.is_interrupted = fleet.cancellation.is_cancelled();
        Ok(status)
    }
}

impl ServiceStatus {
    /// Returns the width of the longest host name.
    pub fn name_width(&self) -> usize {
        self.hosts.iter().map(|host| host.name.len()).max().unwrap_or(0)
    }
}

impl HostStatus {
    /// Prints the health of the active release, if there is one.
    pub fn print_health(&self, reporter: &Reporter) {
        let failure = match &self.health {
            ServiceHealth::Inactive => return,
            ServiceHealth::Healthy => None,
            ServiceHealth::Unhealthy(failure) => Some(&failure.detail),
        };
        let host = &self.name;
        reporter.print_json("health", json!({"host": host, "healthy": failure.is_none(), "failure": failure}));
        match failure {
            None => reporter.print_data(&format!("{host}: healthy")),
            Some(detail) => reporter.print_data(&escape_line(&format!("{host}: not healthy: {detail}"))),
        }
    }

    /// Prints the active release with its health in one line; returns whether the host serves it: it is healthy and in
    /// rotation.
    pub fn print_active_release(&self, width: usize, reporter: &Reporter) -> bool {
        let (host, observation) = (&self.name, &self.observation);
        let version = observation.confirmed.as_ref().map(|active| &active.version);
        let failure = match &self.health {
            ServiceHealth::Unhealthy(failure) => Some(&failure.detail),
            ServiceHealth::Inactive | ServiceHealth::Healthy => None,
        };
        let is_healthy = matches!(self.health, ServiceHealth::Healthy);
        let fields = json!({
            "host": host, "version": version, "healthy": is_healthy, "failure": failure,
            "in_rotation": !observation.out_of_rotation, "in_maintenance": observation.maintenance.is_some(),
            "unfinished_switch": observation.unfinished_switch,
        });
        reporter.print_json("active_release", fields);
        let mut notes = Vec::new();
        match (version, failure) {
            (None, _) => notes.push("no active release".to_owned()),
            (Some(_), None) => notes.push("healthy".to_owned()),
            (Some(_), Some(detail)) => notes.push(format!("not healthy: {detail}")),
        }
        notes.extend(observation.unfinished_switch.as_ref().map(|to| format!("switch to {} unfinished", to.version)));
        notes.extend(observation.out_of_rotation.then(|| "out of rotation".to_owned()));
        notes.extend(observation.maintenance.as_ref().map(describe_maintenance));
        let version = version.map_or_else(|| "-".to_owned(), ToString::to_string);
        reporter.print_data(&escape_line(&format!("{host:width$}  {version:<24}  {}", notes.join("; "))));
        is_healthy && !observation.out_of_rotation && observation.unfinished_switch.is_none()
    }
}
