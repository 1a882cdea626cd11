//! The command line without hosts: a cleared environment, a folder of its own, and an `ssh` that records its calls.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test stops at what is missing, and prints what it measured"
)]

mod agent;
mod certificates;
mod confirm;
mod deploy;
mod deployed_service;
mod ended_runs;
mod example;
mod failpoints;
mod files;
mod guide;
mod hostile_hosts;
mod hosts;
mod json;
mod loopback;
mod program;
mod project;
mod rebalance;
mod shards;
#[path = "../support/ssh_master.rs"]
mod ssh_master;
#[path = "../support/terminal.rs"]
mod terminal;
mod words;
