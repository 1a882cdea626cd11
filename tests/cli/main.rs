//! The command line without hosts: a cleared environment, a folder of its own, and an `ssh` that tells on itself.

mod failpoints;
mod files;
mod program;
mod rebalance;
mod words;
