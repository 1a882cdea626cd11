//! Plans and events as text, or as one JSON event per line. Results go to stdout, everything else to stderr.

mod capacity_text;
mod escape;
mod failover_text;
mod json;
mod moves_text;
mod open_moves_text;
mod plan_text;
mod progress;
mod provision_text;
mod rebalance_text;
mod repair_text;
mod reporter;
mod rollout_text;
mod run_id;
mod run_log;
mod service_text;
mod status_text;
mod style;
mod verify_text;

pub use capacity_text::format_forecast;
pub use escape::{escape_line, escape_text};
pub use failover_text::{report_failover_event, report_failover_plan};
pub use moves_text::{report_host_event, report_moved, report_moves_run, report_preflight_event};
pub use open_moves_text::{
    report_actions, report_interruption, report_missing_hosts, report_open_move_event, report_open_moves,
    report_pending_moves, report_planned_moves, report_restart_plan, report_unreachable_hosts,
};
pub use plan_text::{format_plan, format_summary};
pub use progress::ProgressBars;
pub use provision_text::{report_host_facts, report_host_outcomes, report_host_plans};
pub use rebalance_text::format_rebalance;
pub use repair_text::{
    report_archived_instance, report_repair_blocker, report_repair_event, report_repair_plan, report_replica_health,
    report_unchecked_replicas,
};
pub use reporter::{Reporter, RunSummary, stdout_error};
pub use rollout_text::{
    describe_holder, report_change_outcome, report_maintenance, report_plan_errors, report_rollout_event,
    report_rollout_outcome, report_rollout_problems,
};
pub use run_id::RunId;
pub use run_log::{keep_run_log, record_event};
pub use service_text::{report_active_release, report_health, report_history, report_releases};
pub use status_text::{report_status_details, report_status_hosts};
pub use style::Style;
pub use verify_text::report_verified_pair;
