//! Events and plans for a reader: text on a terminal, or one JSON event a line. stdout carries data, stderr the rest.

mod escape;
mod failover_text;
mod json;
mod plan_text;
mod progress;
mod rebalance_text;
mod reporter;
mod run_id;

pub use failover_text::format_failover;
pub use plan_text::{format_plan, format_summary};
pub use progress::ProgressBars;
pub use rebalance_text::format_rebalance;
pub use reporter::{Reporter, RunSummary, Style};
pub use run_id::RunId;
