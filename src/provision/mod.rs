//! Provisioning: hosts are brought to the state of a playbook.
//!
//! On the controller: `plan` compiles and asks every host what would change; `apply` lets them do it, play by play and
//! batch by batch. `host` is the half that runs on the host.

mod apply;
pub mod host;
mod plan;

pub use apply::{HostEventFn, HostOutcome, apply_plans};
pub use plan::{PlanHostError, PlannedHost, diff_plans, plan_hosts, replan_host};
