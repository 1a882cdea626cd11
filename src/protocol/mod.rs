//! What controller and agent say to each other, types only: frames, requests, replies, events.
//!
//! One channel, length-prefixed frames both ways. The agent speaks first (`Hello`); then each request of the controller
//! has a number, and replies and events carry the number of the request they answer. Requests run concurrently.

pub mod call;
pub mod deploy;
mod event;
mod facts;
pub mod frame;
pub mod lock;
mod message;
pub mod provision;
pub mod shard;
pub mod throttle;

pub use call::Call;
pub use event::{Event, OutputStream, ProgressSink, TRANSFER_PHASE};
pub use facts::{HostFacts, NetworkInterface, OsFacts, SystemLoad};
pub use message::{
    AgentMessage, ControllerMessage, ExecRequest, ExecResult, Hello, KEEPALIVE_INTERVAL, PROTOCOL_VERSION, Reply,
    Request, SILENCE_TIMEOUT,
};
