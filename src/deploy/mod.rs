//! Deploying a service: recipe → artefact → plan → stage, switch, health on each host → rollback where it fails.
//!
//! `recipe`, `artifact` and `plan` are the controller's half and reach no host; `host` is the half that runs on the
//! hosts, behind the requests of `wire::deploy`, which tell the order of a rollout. `plan` is pure and runs on both sides.

pub mod artifact;
pub mod host;
pub mod plan;
pub mod recipe;
pub mod values;
