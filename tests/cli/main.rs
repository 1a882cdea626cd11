//! The command line without hosts: a cleared environment, a folder of its own, and an `ssh` that tells on itself.

mod deploy;
mod example;
mod files;
mod hosts;
mod loopback;
mod program;
mod rebalance;
mod shards;
mod words;
