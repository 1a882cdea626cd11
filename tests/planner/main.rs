//! The planner: against an oracle, against its own rules, and as procedures that an operator can read.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test stops at what is missing, and prints what it measured"
)]
mod ask;
mod generate;
mod oracle;
mod record;
mod rules;
mod saved;
mod transcripts;
mod versus;
