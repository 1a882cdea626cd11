//! Deploys on one host, with real folders, links, locks and journals; the service manager is a small model of systemd
//! that reads the same unit files. Real systemd is for the tests on the fleet.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test stops at what is missing, and prints what it measured"
)]

mod adopt;
mod converge;
mod examples;
mod files;
mod fixture;
mod fleet_rollout;
mod instances;
mod maintenance;
#[path = "../support/messages.rs"]
mod messages;
mod model;
mod rejections;
mod reload;
mod rollout;
mod shared;
mod tasks;
mod undeploy;
