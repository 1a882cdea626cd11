//! How bytes reach an agent: over ssh, or on this machine. No other room of dunlin is known here.

mod bootstrap;
mod error;
mod local;
mod ssh;
mod ssh_config;
mod target;

use tokio::io::{AsyncRead, AsyncWrite};

pub use bootstrap::Binary;
pub use error::{Cause, ConnectError};
pub use local::local;
pub use ssh::Ssh;
pub use target::{Target, Via};

/// A started agent: what is written reaches its standard input, what it says can be read.
pub struct Channel {
    /// The agent's standard output.
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
    /// The agent's standard input; dropping it ends the agent.
    pub writer: Box<dyn AsyncWrite + Send + Unpin>,
    /// What must live as long as the channel: the ssh session, the child process.
    pub guard: Box<dyn Send>,
    /// Was the binary sent first?
    pub pushed: bool,
}
