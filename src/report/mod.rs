//! Events and plans for a reader: text on a terminal, or one JSON event a line. stdout carries data, stderr the rest.

mod json;
mod plan_text;
mod reporter;

pub use plan_text::{plan_text, summary_line};
pub use reporter::{Reporter, Style, Summary};
