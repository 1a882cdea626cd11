//! What a move leaves to the clients of its source: a cap on bytes, and limits past which the source counts as strained.

use serde::{Deserialize, Serialize};

/// Nothing of it is asked for by default: a copy then goes from source to target as fast as Redis sends it. With any
/// of it, the copy goes through a relay on the target's host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ThrottleLimits {
    /// Bytes per second that all copies which arrive at one host may take together; 0: no cap.
    pub bandwidth: u64,
    /// Longest wait of the source's clients, in milliseconds, for 99 of 100 commands; 0: not looked at.
    pub max_p99_ms: u64,
    /// How far, in bytes, a replica of the source may be behind; 0: not looked at.
    pub max_lag_bytes: u64,
    /// How much memory writes at the source may take while it has forked.
    pub max_cow_memory: Option<MemoryLimit>,
    /// Longest time, in seconds, that a copy or a switch waits for a source that is over a limit.
    pub overload_timeout_s: u64,
}

/// An amount of copy-on-write memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryLimit {
    /// So many bytes.
    Bytes(u64),
    /// That part, in percent, of the memory that the source uses.
    Percent(u64),
}

impl Default for ThrottleLimits {
    fn default() -> Self {
        Self { bandwidth: 0, max_p99_ms: 0, max_lag_bytes: 0, max_cow_memory: None, overload_timeout_s: 300 }
    }
}

impl ThrottleLimits {
    /// Is there anything to be kept? The copy goes through a relay then.
    pub fn is_enabled(&self) -> bool {
        self.bandwidth > 0 || self.has_source_limits()
    }

    /// Is the source to be watched?
    pub fn has_source_limits(&self) -> bool {
        self.max_p99_ms > 0 || self.max_lag_bytes > 0 || self.max_cow_memory.is_some()
    }
}

impl From<ThrottleLimits> for ThrottleOverrides {
    fn from(sparing: ThrottleLimits) -> Self {
        Self {
            bandwidth: Some(sparing.bandwidth),
            max_p99_ms: Some(sparing.max_p99_ms),
            max_lag_bytes: Some(sparing.max_lag_bytes),
            max_cow_memory: Some(sparing.max_cow_memory.unwrap_or(MemoryLimit::Bytes(0))),
        }
    }
}

/// What a person says about it; what is not said stays as it was. 0 lifts a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThrottleOverrides {
    /// Bytes per second and receiving host.
    pub bandwidth: Option<u64>,
    /// Milliseconds.
    pub max_p99_ms: Option<u64>,
    /// Bytes.
    pub max_lag_bytes: Option<u64>,
    /// Copy-on-write memory.
    pub max_cow_memory: Option<MemoryLimit>,
}

impl ThrottleOverrides {
    /// The limits that hold then.
    pub fn apply_to(self, before: ThrottleLimits) -> ThrottleLimits {
        ThrottleLimits {
            bandwidth: self.bandwidth.unwrap_or(before.bandwidth),
            max_p99_ms: self.max_p99_ms.unwrap_or(before.max_p99_ms),
            max_lag_bytes: self.max_lag_bytes.unwrap_or(before.max_lag_bytes),
            max_cow_memory: match self.max_cow_memory {
                Some(MemoryLimit::Bytes(0) | MemoryLimit::Percent(0)) => None,
                Some(cow) => Some(cow),
                None => before.max_cow_memory,
            },
            overload_timeout_s: before.overload_timeout_s,
        }
    }
}
