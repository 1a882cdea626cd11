//! Changes of a service on a host other than a deploy.

use serde::{Deserialize, Serialize};

/// A change of a service on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceChange {
    /// Take the host out of rotation by the hooks before a switch; it stays out of rotation after a deploy.
    StartMaintenance,
    /// Return the host into rotation by the hooks after a switch.
    EndMaintenance,
    /// Remove the service: its units, configuration files, releases and records.
    Undeploy {
        /// True to remove the shared files and folders too.
        delete_shared: bool,
    },
}

/// A host's maintenance of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaintenanceRecord {
    /// Operator who started it: `alice@laptop`.
    pub operator: String,
    /// Time of the start, in seconds since 1970.
    pub since: u64,
    /// True if the hooks before a switch have succeeded since the start.
    pub is_drained: bool,
}

impl ServiceChange {
    /// Returns the name of the change in the audit log.
    pub fn action(self) -> &'static str {
        match self {
            Self::StartMaintenance => "start_maintenance",
            Self::EndMaintenance => "end_maintenance",
            Self::Undeploy { .. } => "undeploy",
        }
    }
}
