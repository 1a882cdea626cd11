//! The messages: the agent's hello, the controller's requests, the agent's replies.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Event, Facts, Pressure, deploy, lock, provision, shard};
use crate::plan::Digest;

/// The protocol's number; controller and agent are the same binary, so it only guards against a stale one.
pub const PROTOCOL: u32 = 2;

/// How often a controller says that it is there. One that was not heard for a few times as long is gone.
pub const ALIVE: Duration = Duration::from_secs(5);

/// The agent's first message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL`] of the agent.
    pub protocol: u32,
    /// dunlin's version.
    pub version: String,
    /// SHA-256 of the agent's own binary, read from the file that it runs from.
    pub binary: Digest,
    /// The effective user's number; 0 where `become` worked.
    pub uid: u32,
    /// What the host is.
    pub facts: Facts,
    /// How busy it is.
    pub pressure: Pressure,
}

/// From controller to agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToAgent {
    /// Do this; answers carry the number.
    Request {
        /// Chosen by the controller, unique on this channel.
        id: u64,
        /// What to do.
        request: Request,
    },
    /// Stop that request at the next point where nothing is left half done.
    Cancel {
        /// The request's number.
        id: u64,
    },
    /// The controller is still there; said every [`ALIVE`].
    Alive,
}

/// From agent to controller.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromAgent {
    /// First of all.
    Hello(Hello),
    /// Contents that a request lacks; the controller answers with blob frames.
    Need {
        /// The request that waits for them.
        id: u64,
        /// Which.
        digests: Vec<Digest>,
    },
    /// Something happened.
    Event {
        /// The request.
        id: u64,
        /// What.
        event: Event,
    },
    /// The request's end.
    Reply {
        /// The request.
        id: u64,
        /// Its result.
        reply: Reply,
    },
}

/// What a host can be asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Plan a catalogue; the agent keeps it for [`Request::Apply`].
    Plan(provision::Catalogue),
    /// Apply one play of the planned catalogue.
    Apply(provision::Apply),
    /// Run one command.
    Exec(Exec),
    /// Take the host's lock.
    Lock(lock::Take),
    /// Who holds the host's lock.
    Locks,
    /// A step of a deploy.
    Deploy(deploy::Request),
    /// A step of a shard's move.
    Shard(shard::Request),
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The plan.
    Planned(provision::Planned),
    /// A play was applied.
    Applied(provision::Applied),
    /// A command ended.
    Exec(ExecDone),
    /// Whether the lock is held now.
    Lock(lock::Taken),
    /// Those who hold the host's lock.
    Locks(Vec<lock::Holder>),
    /// A deploy's step ended.
    Deploy(deploy::Reply),
    /// A shard's step ended.
    Shard(shard::Reply),
    /// It failed; nothing more is known.
    Failed {
        /// What the system said, outermost context first.
        error: String,
    },
}

/// One command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// Program and arguments.
    pub argv: Vec<String>,
}

/// A command's end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecDone {
    /// Its exit status; 128 + n where signal n ended it.
    pub status: i32,
}
