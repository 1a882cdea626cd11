//! What an unprivileged user of a host can try against root: planted links, swapped paths, files of absurd sizes. The
//! user is real (`nobody`), and so is root: these tests fail without it.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test stops at what is missing, and prints what it measured"
)]

mod full_disk;
#[path = "../support/messages.rs"]
mod messages;
mod paths;
mod races;
mod reading;
mod secrets;
#[path = "../resources/support.rs"]
mod support;
mod user;
