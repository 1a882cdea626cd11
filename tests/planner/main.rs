//! The planner: against recorded optima, against its own rules, and as procedures that an operator can read.
mod deviation;
mod generate;
mod optimality;
mod rules;
mod saved;
mod transcripts;
