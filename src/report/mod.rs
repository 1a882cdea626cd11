//! Plans and events as text, or as one JSON event per line. Results go to stdout, everything else to stderr.

mod escape;
mod failover_text;
mod json;
mod plan_text;
mod progress;
mod rebalance_text;
mod reporter;
mod run_id;
mod run_log;
mod style;

pub use escape::{escape_line, escape_text};
pub use failover_text::format_failover;
pub use plan_text::{format_plan, format_summary};
pub use progress::ProgressBars;
pub use rebalance_text::format_rebalance;
pub use reporter::{Reporter, RunSummary, stdout_error};
pub use run_id::RunId;
pub use run_log::{keep_run_log, record_event};
pub use style::Style;
