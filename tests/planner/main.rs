//! The planner: against recorded optima, against its own rules, and as procedures that an operator can read.
mod generate;
mod optimality;
mod oracle;
mod rules;
mod saved;
mod transcripts;
