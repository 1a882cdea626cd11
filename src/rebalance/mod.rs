//! Moving shards between hosts: what was observed, which moves make a fleet even, and whether a plan keeps its rules.
//!
//! Planning is pure: [`plan::plan`] takes a value and returns a value. `check` shares no code with it. The controller
//! ([`RebalanceContext`], [`observe`], [`apply`], [`resume`]) plans, supervises and publishes the map; what may not be
//! interrupted happens in `host`, the half that runs on the target's host.

pub mod abort_run;
pub mod apply;
pub mod capacity;
pub mod check;
pub mod choice_run;
pub mod choose_instance;
pub mod cluster_files;
pub mod cluster_status;
pub mod connected_hosts;
pub mod context;
pub mod describe_status;
pub mod failover;
pub mod finish;
pub mod finish_moves;
pub mod host;
pub mod instance_templates;
pub mod map_file;
pub mod move_action;
pub mod move_back;
pub mod needs;
pub mod observation;
pub mod observe;
pub mod open_moves;
pub mod plan;
pub mod plan_file;
pub mod planning;
pub mod publish;
pub mod repair;
pub mod repair_run;
pub mod replica;
pub mod replica_health;
pub mod restart;
pub mod resume;
pub mod resume_run;
pub mod run_end;
pub mod run_error;
pub mod run_moves;
pub mod start_check;
pub mod state_files;
pub mod usage;
pub mod verify;

pub use context::RebalanceContext;
