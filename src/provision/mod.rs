//! Provisioning: applies a playbook to hosts.
//!
//! On the controller, `plan` compiles the catalogs and requests a plan from every host; `apply` applies the plans, play
//! by play and batch by batch. `host` contains the part that runs on the host.

mod apply;
pub mod host;
mod host_key_scan;
mod new_host;
mod plan;
mod saved_plan;
mod selection;

pub use apply::{HostEventFn, HostOutcome, apply_plans};
pub use host_key_scan::scan_host_key;
pub use new_host::{IneligibleHostError, NewHostChange, ensure_eligible};
pub use plan::{
    OutdatedPlanError, PlanHostError, PlannedHost, PlannedHosts, diff_plans, ensure_unchanged_since_plan, plan_hosts,
};
pub use saved_plan::{SavedPlanError, SavedProvisionPlan};
pub use selection::{UnknownTagError, ensure_tags_exist, keep_planned_hosts};
