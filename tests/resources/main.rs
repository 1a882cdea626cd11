//! Resource types from outside, through the register: data cases, apply on a real folder, and sequences of steps whose
//! plan must be what apply does.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test stops at what is missing, and prints what it measured"
)]

mod cases;
#[path = "../support/messages.rs"]
mod messages;
mod owner;
mod paths;
mod postgres;
mod sequences;
mod support;
