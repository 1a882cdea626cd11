//! Against real redis-servers on loopback: the slot function, and the connection set through switches and failures.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test stops at what is missing, and prints what it measured"
)]

mod follow;
mod keyslot;
mod server;
