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

/// Returns whether a text has the form of a run's ID.
pub fn is_run_id(text: &str) -> bool {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let Some((started, process)) = text.split_once('-') else { return false };
    let Some((date, time)) = started.split_once('T') else { return false };
    date.len() == 8 && time.len() == 6 && [date, time, process].into_iter().all(is_number)
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
