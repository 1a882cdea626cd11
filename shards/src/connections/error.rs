//! Why a request has no result, and whether it may have been applied all the same.

use redis::{ParsingError, RedisError};

use crate::map::ShardId;

/// Whether a failed request has changed something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It has not: doing it again is safe, even for a counter.
    No,
    /// It may have.
    Unknown,
    /// It has.
    Yes,
}

/// Why a request has no result.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
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
    Reply {
        /// The shard.
        shard: ShardId,
        /// What did not fit.
        #[source]
        source: ParsingError,
    },
}

impl Error {
    /// Whether the request has changed something.
    pub fn applied(&self) -> Applied {
        match self {
            Error::Unavailable { .. } | Error::Refused { .. } => Applied::No,
            Error::Unknown { .. } => Applied::Unknown,
            Error::Reply { .. } => Applied::Yes,
        }
    }

    /// The shard concerned.
    pub fn shard(&self) -> ShardId {
        match self {
            Error::Unavailable { shard, .. }
            | Error::Unknown { shard, .. }
            | Error::Refused { shard, .. }
            | Error::Reply { shard, .. } => *shard,
        }
    }
}

/// What one attempt at one command came to.
pub(super) enum Outcome {
    /// A reply.
    Done(redis::Value),
    /// Refused in a way that may pass: by the wrong node, or at the wrong moment. Not applied.
    NotApplied(RedisError),
    /// Refused for good. Not applied.
    Refused(RedisError),
    /// Handed over, and nothing was heard. Perhaps applied.
    Unknown(RedisError),
}

impl Outcome {
    pub(super) fn of(result: Result<redis::Value, RedisError>) -> Outcome {
        match result.and_then(redis::Value::extract_error) {
            Ok(value) => Outcome::Done(value),
            Err(error) => match error.code() {
                Some("READONLY" | "NOPERM" | "NOREPLICAS" | "MASTERDOWN" | "LOADING" | "NOAUTH") => {
                    Outcome::NotApplied(error)
                }
                Some(_) => Outcome::Refused(error),
                None => Outcome::Unknown(error),
            },
        }
    }
}
