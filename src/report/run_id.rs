//! The ID of a run. JSON events, journals and locks name it.

use std::fmt;

use jiff::Timestamp;
use serde::{Serialize, Serializer};

/// The ID of a run: the time of its start (UTC) and its process, such as `20261123T101500-4711`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunId {
    started: Timestamp,
    process: u32,
}

impl RunId {
    /// Returns the ID of a run that starts now in this process.
    pub fn new() -> Self {
        Self { started: Timestamp::now(), process: std::process::id() }
    }
}

impl Default for RunId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.started.strftime("%Y%m%dT%H%M%S"), self.process)
    }
}

impl Serialize for RunId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
