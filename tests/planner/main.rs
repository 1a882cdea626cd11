//! The planner: against recorded optima, against its own rules, and as procedures that an operator can read.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test stops at what is missing, and prints what it measured"
)]

mod deviation;
mod generate;
mod optimality;
mod rules;
mod saved;
mod shards_per_host;
mod transcripts;
