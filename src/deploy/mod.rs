//! Deploying a service: recipe → artefact → plan → stage, switch, health on each host → rollback where it fails.
//!
//! `recipe`, `artifact` and `plan` are the controller's half and reach no host; `host` is the half that runs on the
//! hosts, behind the requests of `wire::deploy`.

pub mod artifact;
pub mod host;
pub mod plan;
pub mod recipe;
pub mod values;
