//! The planner: against an oracle, against its own rules, and as procedures that an operator can read.
mod generate;
mod oracle;
mod rules;
mod saved;
mod transcripts;
