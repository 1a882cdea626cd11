//! Moves of shards between real redis-server or valkey-server processes on loopback addresses, written to all the
//! while.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test stops at what is missing, and prints what it measured"
)]

mod access;
mod agent_process;
mod big_keys;
mod chosen_instance;
mod commands;
mod compare_files;
mod dead_links;
mod failed_copy;
mod failover;
mod fault_injection;
mod fixture;
mod invariants;
mod key_load;
mod lossy_proxy;
#[path = "../support/messages.rs"]
mod messages;
mod mixed_load;
mod move_back;
mod moves;
mod preflight;
#[allow(dead_code, reason = "the tests of the command line use the rest")]
#[path = "../cli/program.rs"]
mod program;
mod provision;
mod repl_timeout;
mod replica;
mod restart_kills;
mod restarts;
mod servers;
#[allow(dead_code, reason = "the tests of the command line use the rest")]
#[path = "../support/ssh_master.rs"]
mod ssh_master;
mod throttle;
mod tls;
mod upgrade;
mod verification;
mod writers;
