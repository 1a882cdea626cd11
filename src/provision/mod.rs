//! Provisioning: applies a playbook to hosts.
//!
//! On the controller, `plan` compiles the catalogs and requests a plan from every host; `apply` applies the plans, play
//! by play and batch by batch. `host` contains the part that runs on the host.

mod apply;
pub mod host;
mod host_key_scan;
mod plan;
mod saved_plan;

pub use apply::{HostEventFn, HostOutcome, apply_plans};
pub use host_key_scan::scan_host_key;
pub use plan::{PlanHostError, PlannedHost, PlannedHosts, diff_plans, find_changes_since_plan, plan_hosts};
pub use saved_plan::{SavedPlanError, SavedProvisionPlan};
