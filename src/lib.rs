//! dunlin: provision hosts, deploy releases, and move Redis shards while they are written to.
//!
//! Three jobs share one shape: observe → plan → show → confirm → apply → verify. The plan is a value; planning is
//! pure, applying decides nothing. `tests/architecture.rs` holds which module may use which.

pub mod agent;
pub mod atomic_file;
pub mod certificates;
pub mod cli;
pub mod deploy;
pub mod duration;
pub mod fleet;
pub mod host_fs;
pub mod http;
pub mod inventory;
pub mod journal;
pub mod lock;
pub mod plan;
pub mod playbook;
pub mod poll;
pub mod private_file;
pub mod process;
pub mod project;
pub mod protocol;
pub mod provision;
pub mod rebalance;
pub mod report;
pub mod resources;
pub mod token_bucket;
pub mod transport;

/// Snapshots of messages, for unit tests.
#[cfg(test)]
#[path = "../tests/support/messages.rs"]
mod messages;
