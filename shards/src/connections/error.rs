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
    /// The server answered with an error that no retry cures (a wrong type, out of memory, no permission). Not applied,
    /// except where a script or function raised the error: what it wrote before stays.
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
            ShardError::Refused { source, .. } if is_raised_in_script(source) => AppliedState::Unknown,
            ShardError::Unavailable { .. } | ShardError::Refused { .. } => AppliedState::No,
            ShardError::Unknown { .. } => AppliedState::Unknown,
            ShardError::UnexpectedReply { .. } => AppliedState::Yes,
        }
    }

    /// Returns the shard concerned.
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
#[derive(Debug)]
pub(super) enum AttemptOutcome {
    /// A reply.
    Replied(redis::Value),
    /// Refused in a way that may pass: by the wrong node, or at the wrong moment. Not applied.
    NotApplied(RedisError),
    /// Refused for lack of rights. Not applied. A retry helps only at another node.
    NoPermission(RedisError),
    /// Refused for good. Not applied, except where [`is_raised_in_script`].
    Refused(RedisError),
    /// Handed over, and nothing was heard. Perhaps applied.
    Unknown(RedisError),
}

impl AttemptOutcome {
    pub(super) fn from_reply(result: Result<redis::Value, RedisError>) -> AttemptOutcome {
        let error = match result.and_then(redis::Value::extract_error) {
            Ok(value) => return AttemptOutcome::Replied(value),
            Err(error) => error,
        };
        match error.code() {
            // The server rejected the command before it ran. UNBLOCKED: a blocked command took no element.
            Some(
                "READONLY" | "NOREPLICAS" | "MASTERDOWN" | "CLUSTERDOWN" | "LOADING" | "BUSY" | "UNBLOCKED" | "NOAUTH",
            ) => AttemptOutcome::NotApplied(error),
            Some("NOPERM") if !is_raised_in_script(&error) => AttemptOutcome::NoPermission(error),
            // OOM and MISCONF last longer than retries. EXECABORT: the whole transaction has to be sent again, and
            // EXEC alone is not that.
            Some(_) => AttemptOutcome::Refused(error),
            None => AttemptOutcome::Unknown(error),
        }
    }
}

/// Returns true if a script or function raised the error; it may have written before. The server rejects the first
/// write of a script, and so all of it, with the codes that it also uses outside of scripts.
fn is_raised_in_script(error: &RedisError) -> bool {
    let is_before_first_write = matches!(error.code(), Some("OOM" | "MISCONF" | "NOSCRIPT" | "EXECABORT"));
    !is_before_first_write && error.detail().is_some_and(|detail| detail.contains("script: "))
}

#[cfg(test)]
mod tests {
    use super::{AppliedState, AttemptOutcome, ShardError};
    use crate::map::ShardId;

    /// Reads an error reply as the connection does.
    fn outcome_of(reply: &str) -> AttemptOutcome {
        AttemptOutcome::from_reply(redis::parse_redis_value(format!("-{reply}\r\n").as_bytes()))
    }

    #[test]
    fn errors_that_pass_are_retried() {
        for reply in [
            "READONLY You can't write against a read only replica.",
            "NOREPLICAS Not enough good replicas to write.",
            "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
            "CLUSTERDOWN The cluster is down",
            "LOADING Redis is loading the dataset in memory",
            "BUSY Redis is busy running a script.",
            "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
            "NOAUTH Authentication required.",
        ] {
            assert!(matches!(outcome_of(reply), AttemptOutcome::NotApplied(_)), "{reply}");
        }
    }

    #[test]
    fn errors_that_stay_are_returned_with_their_effect() {
        for (reply, effect) in [
            ("OOM command not allowed when used memory > 'maxmemory'.", AppliedState::No),
            (
                "OOM command not allowed when used memory > 'maxmemory'. script: 5a, on @user_script:1.",
                AppliedState::No,
            ),
            ("MISCONF Errors writing to the AOF file: No space left on device", AppliedState::No),
            ("EXECABORT Transaction discarded because of: READONLY You can't write", AppliedState::No),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", AppliedState::No),
            ("BUSYGROUP Consumer Group name already exists", AppliedState::No),
            ("NOSCRIPT No matching script.", AppliedState::No),
            ("WRONGTYPE Operation against a key script: 5a, on @user_script:1.", AppliedState::Unknown),
            ("ERR ACL failure in script: User s000 has no permissions", AppliedState::Unknown),
        ] {
            let AttemptOutcome::Refused(source) = outcome_of(reply) else { panic!("{reply}") };
            let error = ShardError::Refused { shard: ShardId(3), source };
            assert_eq!(error.applied_state(), effect, "{reply}");
        }
        assert!(matches!(outcome_of("NOPERM User s000 has no permissions"), AttemptOutcome::NoPermission(_)));
    }
}
