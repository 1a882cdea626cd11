//! How bytes reach an agent: over ssh. Imports no other module but the lock of a file.

mod bootstrap;
mod control_dir;
mod error;
mod ssh;
mod ssh_config;
mod stderr;
mod target;

use tokio::io::{AsyncRead, AsyncWrite};

pub use bootstrap::AgentBinary;
pub use control_dir::remove_control_dir;
pub use error::{ConnectError, ConnectErrorKind};
pub use ssh::SshTransport;
pub use stderr::StderrCallback;
pub use target::{JumpHost, SshTarget};

/// A started agent: what is written reaches its standard input, what it says can be read.
pub struct Channel {
    /// The agent's standard output.
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
    /// The agent's standard input; dropping it ends the agent.
    pub writer: Box<dyn AsyncWrite + Send + Unpin>,
    /// Owns the resources that must live as long as the channel: the ssh session, the child process.
    pub guard: Box<dyn Send>,
    /// Was the binary sent first?
    pub agent_pushed: bool,
}
