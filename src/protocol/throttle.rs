//! Throttling of a move: a bandwidth cap, and limits above which the source counts as overloaded.

use serde::{Deserialize, Serialize};

/// Holds the limits that protect the source's clients. By default there are none, and Redis copies from source to
/// target at full speed. With any limit, the copy goes through a proxy on the target's host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ThrottleLimits {
    /// Bytes per second for all copies to one host together; 0: unlimited.
    pub bandwidth: u64,
    /// Maximum 99th-percentile latency at the source, in milliseconds; 0: not checked.
    pub max_p99_ms: u64,
    /// Maximum lag of a replica of the source, in bytes; 0: not checked.
    pub max_lag_bytes: u64,
    /// Maximum copy-on-write memory of the source during a fork.
    pub max_cow_memory: Option<MemoryLimit>,
    /// Maximum time, in seconds, that a copy or a cutover waits for an overloaded source.
    pub overload_timeout_s: u64,
}

/// Limit for copy-on-write memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryLimit {
    /// Absolute limit, in bytes.
    Bytes(u64),
    /// Percentage of the memory that the source uses.
    Percent(u64),
}

impl Default for ThrottleLimits {
    fn default() -> Self {
        Self { bandwidth: 0, max_p99_ms: 0, max_lag_bytes: 0, max_cow_memory: None, overload_timeout_s: 300 }
    }
}

impl ThrottleLimits {
    /// Returns true if any limit is set; the copy then goes through the proxy.
    pub fn is_enabled(&self) -> bool {
        self.bandwidth > 0 || self.has_source_limits()
    }

    /// Returns true if a limit requires monitoring the source.
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

/// Holds the limits set by the operator; an unset limit keeps its value, and 0 removes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThrottleOverrides {
    /// Bytes per second per receiving host.
    pub bandwidth: Option<u64>,
    /// Milliseconds.
    pub max_p99_ms: Option<u64>,
    /// Bytes.
    pub max_lag_bytes: Option<u64>,
    /// Copy-on-write memory.
    pub max_cow_memory: Option<MemoryLimit>,
}

impl ThrottleOverrides {
    /// Returns the limits with these overrides applied.
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
