//! Moves of shards between real redis-server processes on loopback addresses, written to all the while.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test stops at what is missing, and prints what it measured"
)]

mod access;
mod child;
mod directed;
mod failover;
mod links;
mod moves;
mod places;
mod preflight;
mod provision;
mod received;
mod relay;
mod replica;
mod restarts;
mod reverse;
mod sparing;
mod torture;
mod verification;
mod writers;
