//! Deploying a service: recipe → artifact → plan → stage, switch, health on each host → rollback where it fails.
//!
//! `recipe`, `recipe_file`, `artifact`, `package`, `desired`, `programs` and `plan` reach no host; `rollout` is the
//! controller side, and `host` the side that runs on the hosts, behind the requests of `protocol::deploy`, which tell
//! the order of a rollout. `plan` is pure and runs on both sides.

pub mod artifact;
pub mod batches;
pub mod desired;
pub mod host;
pub mod host_selection;
pub mod package;
pub mod plan;
pub mod programs;
pub mod recipe;
pub mod recipe_check;
pub mod recipe_file;
pub mod rollout;
pub mod signature;
