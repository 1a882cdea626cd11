//! What a move leaves to the clients of its source: a cap on bytes, and limits past which the source counts as strained.

use serde::{Deserialize, Serialize};

/// Nothing of it is asked for by default: a copy then goes from source to target as fast as Redis sends it. With any
/// of it, the copy goes through a relay on the target's host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sparing {
    /// Bytes per second that all copies which arrive at one host may take together; 0: no cap.
    pub bandwidth: u64,
    /// Longest wait of the source's clients, in milliseconds, for 99 of 100 commands; 0: not looked at.
    pub p99_ms: u64,
    /// How far, in bytes, a replica of the source may be behind; 0: not looked at.
    pub lag_bytes: u64,
    /// How much memory writes at the source may take while it has forked.
    pub cow: Option<Cow>,
    /// Longest time, in seconds, that a copy or a switch waits for a source that is over a limit.
    pub hold_s: u64,
}

/// An amount of copy-on-write memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cow {
    /// So many bytes.
    Bytes(u64),
    /// That part, in percent, of the memory that the source uses.
    Percent(u64),
}

impl Default for Sparing {
    fn default() -> Self {
        Self { bandwidth: 0, p99_ms: 0, lag_bytes: 0, cow: None, hold_s: 300 }
    }
}

impl Sparing {
    /// Is there anything to be kept? The copy goes through a relay then.
    pub fn is_asked(&self) -> bool {
        self.bandwidth > 0 || self.is_guarded()
    }

    /// Is the source to be watched?
    pub fn is_guarded(&self) -> bool {
        self.p99_ms > 0 || self.lag_bytes > 0 || self.cow.is_some()
    }
}

impl From<Sparing> for Asked {
    fn from(sparing: Sparing) -> Self {
        Self {
            bandwidth: Some(sparing.bandwidth),
            p99_ms: Some(sparing.p99_ms),
            lag_bytes: Some(sparing.lag_bytes),
            cow: Some(sparing.cow.unwrap_or(Cow::Bytes(0))),
        }
    }
}

/// What a person says about it; what is not said stays as it was. 0 lifts a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Bytes per second and receiving host.
    pub bandwidth: Option<u64>,
    /// Milliseconds.
    pub p99_ms: Option<u64>,
    /// Bytes.
    pub lag_bytes: Option<u64>,
    /// Copy-on-write memory.
    pub cow: Option<Cow>,
}

impl Asked {
    /// The limits that hold then.
    pub fn over(self, before: Sparing) -> Sparing {
        Sparing {
            bandwidth: self.bandwidth.unwrap_or(before.bandwidth),
            p99_ms: self.p99_ms.unwrap_or(before.p99_ms),
            lag_bytes: self.lag_bytes.unwrap_or(before.lag_bytes),
            cow: match self.cow {
                Some(Cow::Bytes(0) | Cow::Percent(0)) => None,
                Some(cow) => Some(cow),
                None => before.cow,
            },
            hold_s: before.hold_s,
        }
    }
}
