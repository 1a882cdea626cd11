//! A watch over the agent: a small process that outlives it, and acts if the agent ends without releasing it.
//!
//! The watch is this binary again. It gets its input over a pipe that the agent keeps open: the kernel closes it when the
//! agent is gone, however it ended.

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};

use super::guarded::own_program;

/// Ends the input; the agent is watched from then on.
const END_OF_INPUT: u8 = 0;
/// Releases the watch, which then does nothing.
const RELEASE: u8 = b'r';

/// The agent's side of a watch.
pub struct DeathWatch {
    process: Child,
    link: ChildStdin,
}

impl DeathWatch {
    /// Starts a watch: this binary with the hidden command `name`, and an input without zero bytes. Returns `None` in a
    /// process that is not dunlin itself.
    ///
    /// # Errors
    /// Returns an error if the process cannot be started, or ends at once.
    pub fn start(name: &str, input: &[u8]) -> io::Result<Option<Self>> {
        let Some(program) = own_program() else { return Ok(None) };
        let mut command = Command::new(program);
        command.arg(name).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // A signal to the agent's group, such as Ctrl-C, does not end it.
        let mut process = command.process_group(0).spawn()?;
        let mut link = process.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        link.write_all(input)?;
        link.write_all(&[END_OF_INPUT])?;
        Ok(Some(Self { process, link }))
    }

    /// Ends the watch.
    ///
    /// # Errors
    /// Returns an error if the process was killed before.
    pub fn release(mut self) -> io::Result<()> {
        let released = self.link.write_all(&[RELEASE]);
        drop(self.link);
        self.process.wait()?;
        released
    }
}

/// Waits, in the process of the watch, until the agent releases it or is gone. Returns the input if the agent is gone.
///
/// # Errors
/// Returns an error if the standard input cannot be read.
pub fn wait_for_agent_death() -> io::Result<Option<Vec<u8>>> {
    let mut received = Vec::new();
    io::stdin().lock().read_to_end(&mut received)?;
    // An agent that ended before its input was complete had not begun what the watch is for.
    let end = received.iter().position(|byte| *byte == END_OF_INPUT);
    Ok(end.filter(|end| received.get(end + 1) != Some(&RELEASE)).map(|end| received[..end].to_vec()))
}
