//! The planner: against an oracle, against its own rules, and as procedures that an operator can read.
mod ask;
mod generate;
mod oracle;
mod record;
mod rules;
mod saved;
mod transcripts;
mod versus;
