//! Events and plans for a reader: text on a terminal, or one JSON event a line. stdout carries data, stderr the rest.

mod bars;
mod failover_text;
mod json;
mod plan_text;
mod rebalance_text;
mod reporter;
mod run_id;

pub use bars::Bars;
pub use failover_text::failover_text;
pub use plan_text::{plan_text, summary_line};
pub use rebalance_text::rebalance_text;
pub use reporter::{Reporter, Style, Summary};
pub use run_id::RunId;
