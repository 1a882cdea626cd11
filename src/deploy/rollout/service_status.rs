//! Observes a service on its hosts: its releases and records, and its health now.

use super::redact::{redact_health, redact_observation, redact_plan_error};
use super::{DeployPlanError, ServiceHealth, observe_service};
use crate::fleet::Fleet;
use crate::playbook::SecretRedactor;
use crate::protocol::deploy::{ServiceObservation, ServiceRef};

/// Observed state of a service on one host, without secrets.
pub struct HostStatus {
    /// Name of the host.
    pub name: String,
    /// The releases and records.
    pub observation: ServiceObservation,
    /// Health of the active release now.
    pub health: ServiceHealth,
}

/// Observed hosts of a service.
#[derive(Default)]
pub struct ServiceStatus {
    /// The hosts that answered.
    pub hosts: Vec<HostStatus>,
    /// The hosts that did not, with the cause.
    pub failed: Vec<(String, DeployPlanError)>,
}

impl ServiceStatus {
    /// Observes the hosts at the same time. The texts of the hosts are without secrets: a hook, a task or a health command
    /// may have printed one.
    pub async fn observe_hosts(
        fleet: &Fleet,
        names: Vec<String>,
        scope: &ServiceRef,
        secrets: &SecretRedactor,
    ) -> Self {
        let results = fleet.map_parallel(&names, |host| observe_service(fleet, host, scope)).await;
        let mut status = Self::default();
        for (name, result) in names.into_iter().zip(results) {
            match result {
                Ok((mut observation, mut health)) => {
                    redact_observation(&mut observation, secrets);
                    redact_health(&mut health, secrets);
                    status.hosts.push(HostStatus { name, observation, health });
                }
                Err(mut error) => {
                    redact_plan_error(&mut error, secrets);
                    status.failed.push((name, error));
                }
            }
        }
        status
    }

    /// Returns the width of the longest host name.
    pub fn name_width(&self) -> usize {
        self.hosts.iter().map(|host| host.name.len()).max().unwrap_or(0)
    }
}

impl HostStatus {
    /// Returns whether the host serves its active release: it is healthy and in rotation, and no switch is unfinished.
    pub fn is_serving(&self) -> bool {
        let is_healthy = matches!(self.health, ServiceHealth::Healthy);
        is_healthy && !self.observation.out_of_rotation && self.observation.unfinished_switch.is_none()
    }
}
