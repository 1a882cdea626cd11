//! The lock of a host: who may change it now. One for deploys, provisioning and shard moves.

use serde::{Deserialize, Serialize};

/// Take the lock for as long as this channel's agent lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockRequest {
    /// Operator that requests it: `user@machine`.
    pub operator: String,
    /// The command, in its own words: `provision`, `shard-rebalance`.
    pub command: String,
    /// The run.
    pub run: String,
    /// True for a shared lock, false for an exclusive one.
    pub shared: bool,
}

/// List the holders of the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListLocks;

/// Describes a holder of a host's lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockHolder {
    /// Operator that holds it.
    pub operator: String,
    /// The command.
    pub command: String,
    /// The run.
    pub run: String,
    /// Since when, RFC 3339.
    pub since: String,
    /// The agent's process on the host.
    pub pid: u32,
    /// True if the lock is shared.
    pub shared: bool,
    /// True if the controller disconnected; the agent then only finishes its running steps.
    pub controller_is_gone: bool,
}

impl LockHolder {
    /// Returns the holder of a lock that has not written yet who it is.
    pub fn unknown() -> Self {
        Self {
            operator: "another dunlin".to_owned(),
            command: "an unknown command".to_owned(),
            run: String::new(),
            since: "just now".to_owned(),
            pid: 0,
            shared: false,
            controller_is_gone: false,
        }
    }

    /// Describes the holder, the start and the command in one line.
    pub fn describe_lock(&self) -> String {
        let suffix = if self.controller_is_gone {
            "; its controller disconnected, and it is finishing its running steps"
        } else {
            ""
        };
        format!(
            "{} holds it for {} since {} (process {} on the host{suffix})",
            self.operator, self.command, self.since, self.pid
        )
    }
}

/// Result of taking the lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockResult {
    /// The lock is taken.
    Acquired,
    /// Others hold it.
    HeldBy(Vec<LockHolder>),
}
