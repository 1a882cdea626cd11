//! What a host reports while it works on a request.

use serde::{Deserialize, Serialize};

use crate::plan::{Action, StepRef};

/// Which of a command's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputStream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// Something that happened on a host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A step is being applied.
    StepStarted {
        /// Which.
        step: StepRef,
    },
    /// A step was applied.
    StepDone {
        /// Which.
        step: StepRef,
        /// What was done.
        action: Action,
        /// Seconds it took.
        seconds: f64,
    },
    /// A step failed.
    StepFailed {
        /// Which.
        step: StepRef,
        /// What the system said.
        error: String,
    },
    /// A command wrote something.
    Output {
        /// Where to.
        stream: OutputStream,
        /// What, as text.
        text: String,
    },
    /// A long job goes on: a shard's copy, an upload.
    Progress {
        /// The job: `shard 17`.
        job: String,
        /// What it is doing: `copy`, `verify`, `switch`.
        phase: String,
        /// Units done (bytes, keys).
        done: u64,
        /// Units in all, as far as known.
        total: u64,
    },
    /// A line for the person who watches.
    Note {
        /// The line.
        text: String,
    },
}

/// Where a host half reports to, and asks whether it is to go on.
pub trait ProgressSink: Send + Sync {
    /// Reports an event; never fails: where nobody listens any more, the event is dropped.
    fn emit(&self, event: Event);

    /// Is the run being cancelled, or has the controller gone? Asked at points where stopping leaves nothing half done.
    fn is_cancelled(&self) -> bool;
}
