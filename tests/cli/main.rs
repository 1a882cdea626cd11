//! The command line without hosts: a cleared environment, a folder of its own, and an `ssh` that tells on itself.

mod files;
mod program;
mod project;
mod rebalance;
mod words;
