//! Events that a host reports while it handles a request.

use dunlin_shards::ShardId;
use serde::{Deserialize, Serialize};

use crate::plan::{Action, StepRef};

/// Phase of a release's progress while its contents arrive on the host; the units are bytes.
pub const TRANSFER_PHASE: &str = "transfer";

/// Output stream of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputStream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// Describes an event on a host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A step is being applied.
    StepStarted {
        /// Name of the step.
        step: StepRef,
    },
    /// A step was applied.
    StepDone {
        /// Name of the step.
        step: StepRef,
        /// Description of the change.
        action: Action,
        /// Seconds it took.
        seconds: f64,
    },
    /// A step failed.
    StepFailed {
        /// Name of the step.
        step: StepRef,
        /// Text of the error.
        error: String,
    },
    /// A command wrote something.
    Output {
        /// Stream of the output.
        stream: OutputStream,
        /// Text of the output.
        text: String,
    },
    /// A long job made progress: a shard's copy, an upload.
    Progress {
        /// The job: `shard 17`.
        job: String,
        /// Phase of the job, such as `copy` or `verify`.
        phase: String,
        /// Units done (bytes, keys).
        done: u64,
        /// Total units, as far as known.
        total: u64,
    },
    /// A message for the operator.
    Note {
        /// The line.
        text: String,
    },
}

impl Event {
    /// Returns the progress of a phase of a shard's move.
    pub fn shard_progress(shard: ShardId, phase: &str, done: u64, total: u64) -> Self {
        Self::Progress { job: format!("shard {shard}"), phase: phase.to_owned(), done, total }
    }
}

/// Receives the events of a request and reports cancellation.
pub trait ProgressSink: Send + Sync {
    /// Reports an event; never fails: an event without a receiver is dropped.
    fn emit(&self, event: Event);

    /// Returns true if the run is canceled or the controller disconnected. Called only where stopping is safe.
    fn is_cancelled(&self) -> bool;
}
