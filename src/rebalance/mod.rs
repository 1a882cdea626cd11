//! Moving shards between hosts: what was observed, which moves make a fleet even, and whether a plan keeps its rules.
//!
//! Planning is pure: [`plan::plan`] takes a value and returns a value. [`check::check`] shares no code with it.

pub mod check;
pub mod host;
pub mod observation;
pub mod plan;
