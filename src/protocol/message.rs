//! The messages: the agent's hello, the controller's requests, the agent's replies.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Event, HostFacts, SystemLoad, deploy, lock, provision, shard};
use crate::plan::Digest;

/// The protocol's number; controller and agent are the same binary, so it only guards against a stale one.
pub const PROTOCOL_VERSION: u32 = 3;

/// Interval of the keep-alive messages that both sides send.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// Time after which a side that sends nothing counts as disconnected.
pub const SILENCE_TIMEOUT: Duration = KEEPALIVE_INTERVAL.saturating_mul(6);

/// The agent's first message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`] of the agent.
    pub protocol_version: u32,
    /// dunlin's version.
    pub version: String,
    /// SHA-256 of the agent's own binary, read from the file that it runs from.
    pub binary_digest: Digest,
    /// The effective user's number; 0 where `become` worked.
    pub uid: u32,
    /// Facts about the host.
    pub facts: HostFacts,
    /// Load of the host.
    pub load: SystemLoad,
}

/// From controller to agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControllerMessage {
    /// A request; its replies carry the number.
    Request {
        /// Chosen by the controller, unique on this channel.
        id: u64,
        /// The request itself.
        request: Request,
    },
    /// Stop the request at its next safe point.
    Cancel {
        /// The request's number.
        id: u64,
    },
    /// The controller is still there; sent every [`KEEPALIVE_INTERVAL`].
    KeepAlive,
}

/// From agent to controller.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentMessage {
    /// First of all.
    Hello(Hello),
    /// Contents that a request lacks; the controller answers with blob frames.
    NeedBlobs {
        /// The request that waits for them.
        id: u64,
        /// SHA-256 digests of the contents.
        digests: Vec<Digest>,
    },
    /// An event of a request.
    Event {
        /// The request.
        id: u64,
        /// The event.
        event: Event,
    },
    /// The request's end.
    Reply {
        /// The request.
        id: u64,
        /// Its result.
        reply: Reply,
    },
    /// The agent is still there; sent every [`KEEPALIVE_INTERVAL`].
    KeepAlive,
}

/// Requests to a host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Plan a catalog; the agent keeps it for [`Request::Apply`].
    Plan(provision::Catalog),
    /// Apply one play of the planned catalog.
    Apply(provision::ApplyPlay),
    /// Run one command.
    Exec(ExecRequest),
    /// Take the host's lock.
    Lock(lock::LockRequest),
    /// List the holders of the host's lock.
    ListLocks(lock::ListLocks),
    /// A step of a deploy.
    Deploy(deploy::DeployRequest),
    /// A step of a shard's move.
    Shard(shard::ShardRequest),
}

/// Result of a request; of the same name as the request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The plan.
    Plan(provision::CatalogPlan),
    /// A play was applied.
    Apply(provision::PlayResult),
    /// A command ended.
    Exec(ExecResult),
    /// Result of taking the lock.
    Lock(lock::LockResult),
    /// Holders of the host's lock.
    ListLocks(Vec<lock::LockHolder>),
    /// A deploy's step ended.
    Deploy(deploy::DeployReply),
    /// A shard's step ended.
    Shard(shard::ShardReply),
    /// The request failed.
    Failed {
        /// Text of the error, outermost context first.
        error: String,
    },
}

/// Describes a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Time limit, in milliseconds: at it, the program and what it started are ended.
    pub timeout_ms: u64,
    /// Operator that requests it, for the audit log: `user@machine`.
    pub operator: String,
    /// The run.
    pub run: String,
}

/// A command's end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecResult {
    /// Its exit status; 128 + n where signal n ended it.
    pub status: i32,
}
