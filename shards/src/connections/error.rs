//! Errors of requests, and whether a failed request may have been applied.

use redis::{ParsingError, RedisError};

use crate::map::ShardId;

/// Effect of a failed request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppliedState {
    /// The request changed nothing: repeating it is safe, even for a counter.
    No,
    /// The request may have changed something.
    Unknown,
    /// The request has changed something.
    Yes,
}

/// Error of a request without a result.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ShardError {
    /// The shard did not accept the request within the time for retries. Not applied.
    #[error("shard {shard} is not available")]
    Unavailable {
        /// The shard.
        shard: ShardId,
        /// The last refusal.
        #[source]
        source: RedisError,
    },
    /// The connection broke, or no reply came in time, after the request had been handed over. Perhaps applied.
    #[error("shard {shard} gave no reply")]
    Unknown {
        /// The shard.
        shard: ShardId,
        /// The last failure.
        #[source]
        source: RedisError,
    },
    /// The server answered with an error that no retry cures (a wrong type, out of memory). Not applied.
    #[error("shard {shard} answered with an error")]
    Refused {
        /// The shard.
        shard: ShardId,
        /// The server's answer.
        #[source]
        source: RedisError,
    },
    /// The reply is not of the type that the caller wants. Applied.
    #[error("shard {shard} gave a reply of another type")]
    UnexpectedReply {
        /// The shard.
        shard: ShardId,
        /// Error of the conversion.
        #[source]
        source: ParsingError,
    },
}

impl ShardError {
    /// Returns whether the request has changed something.
    pub fn applied_state(&self) -> AppliedState {
        match self {
            ShardError::Unavailable { .. } | ShardError::Refused { .. } => AppliedState::No,
            ShardError::Unknown { .. } => AppliedState::Unknown,
            ShardError::UnexpectedReply { .. } => AppliedState::Yes,
        }
    }

    /// The shard concerned.
    pub fn shard_id(&self) -> ShardId {
        match self {
            ShardError::Unavailable { shard, .. }
            | ShardError::Unknown { shard, .. }
            | ShardError::Refused { shard, .. }
            | ShardError::UnexpectedReply { shard, .. } => *shard,
        }
    }
}

/// Outcome of one attempt at one command.
pub(super) enum AttemptOutcome {
    /// A reply.
    Replied(redis::Value),
    /// Refused in a way that may pass: by the wrong node, or at the wrong moment. Not applied.
    NotApplied(RedisError),
    /// Refused for good. Not applied.
    Refused(RedisError),
    /// Handed over, and nothing was heard. Perhaps applied.
    Unknown(RedisError),
}

impl AttemptOutcome {
    pub(super) fn from_reply(result: Result<redis::Value, RedisError>) -> AttemptOutcome {
        match result.and_then(redis::Value::extract_error) {
            Ok(value) => AttemptOutcome::Replied(value),
            Err(error) => match error.code() {
                Some("READONLY" | "NOPERM" | "NOREPLICAS" | "MASTERDOWN" | "LOADING" | "NOAUTH") => {
                    AttemptOutcome::NotApplied(error)
                }
                Some(_) => AttemptOutcome::Refused(error),
                None => AttemptOutcome::Unknown(error),
            },
        }
    }
}
