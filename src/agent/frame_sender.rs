//! Sends frames to the controller: one writer for all threads, which discards frames once the controller is gone.
//!
//! A controller that reads slowly slows down the requests that write. One that is gone must not: a write to a full pipe
//! waits for the pipe in short intervals, and ends when the sender is closed.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::protocol::frame::{self, MAX_EVENT_BYTES};
use crate::protocol::{AgentMessage, Event, Reply};

/// Interval at which a write to a full pipe checks that the sender is still open.
const CLOSED_POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Number of bytes that a pipe or socket takes without blocking once it is writable (`PIPE_BUF` on Linux).
const MAX_WRITE_BYTES: usize = 4096;

/// A shared writer of frames.
pub struct FrameSender {
    output: Mutex<File>,
    closed: AtomicBool,
}

impl FrameSender {
    /// Returns a sender that writes to a pipe or socket.
    pub fn new(output: File) -> Self {
        Self { output: Mutex::new(output), closed: AtomicBool::new(false) }
    }

    /// Sends a message; closes the sender if the controller no longer reads. Instead of a message that exceeds the
    /// limit, the controller gets one that says so.
    pub fn send_message(&self, message: &AgentMessage) {
        let encoded = encode_within_limit(message)
            .or_else(|error| frame::encode_message(&describe_oversized(message, &error.to_string())));
        let Ok(frame) = encoded else { return self.mark_closed() };
        let output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.is_closed() && self.write_bytes(&output, &frame).is_err() {
            self.mark_closed();
        }
    }

    /// Records that the controller is gone. A write in progress ends.
    pub fn mark_closed(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Returns whether the controller is gone.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    fn write_bytes(&self, output: &File, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.is_closed() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            if !is_writable(output)? {
                continue;
            }
            match rustix::io::write(output, &bytes[..bytes.len().min(MAX_WRITE_BYTES)]) {
                Ok(written) => bytes = &bytes[written..],
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn encode_within_limit(message: &AgentMessage) -> io::Result<Vec<u8>> {
    let frame = frame::encode_message(message)?;
    if matches!(message, AgentMessage::Event { .. }) && frame.len() > MAX_EVENT_BYTES {
        let text = format!("{} bytes exceed the limit of {MAX_EVENT_BYTES} bytes", frame.len());
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(frame)
}

/// Waits for a short time until the stream takes bytes, or until a write would return an error.
fn is_writable(output: &impl AsFd) -> io::Result<bool> {
    let timeout = Timespec::try_from(CLOSED_POLL_INTERVAL).map_err(io::Error::other)?;
    match poll(&mut [PollFd::new(output, PollFlags::OUT)], Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Returns what to send in place of a message that cannot be sent.
fn describe_oversized(message: &AgentMessage, error: &str) -> AgentMessage {
    match message {
        AgentMessage::Reply { id, .. } => AgentMessage::Reply {
            id: *id,
            reply: Reply::Failed { error: format!("the reply cannot be sent: {error}") },
        },
        AgentMessage::Event { id, .. } => {
            let text = format!("an event of this request cannot be sent: {error}");
            AgentMessage::Event { id: *id, event: Event::Note { text } }
        }
        AgentMessage::NeedBlobs { id, .. } => {
            let error = format!("the list of required contents cannot be sent: {error}");
            AgentMessage::Reply { id: *id, reply: Reply::Failed { error } }
        }
        AgentMessage::Hello(_) | AgentMessage::KeepAlive => AgentMessage::KeepAlive,
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;
    use crate::protocol::ExecResult;
    use crate::protocol::frame::{Receiver, read_frame};

    fn output_event(length: usize) -> AgentMessage {
        let text = "x".repeat(length);
        AgentMessage::Event { id: 1, event: Event::Output { stream: crate::protocol::OutputStream::Out, text } }
    }

    #[test]
    fn a_full_pipe_blocks_the_writer_until_the_controller_is_gone() {
        let (_reader, writer) = io::pipe().unwrap();
        let sender = Arc::new(FrameSender::new(File::from(OwnedFd::from(writer))));
        let writing = std::thread::spawn({
            let sender = Arc::clone(&sender);
            move || sender.send_message(&output_event(MAX_EVENT_BYTES / 2))
        });
        std::thread::sleep(CLOSED_POLL_INTERVAL * 2);
        assert!(!writing.is_finished(), "a pipe took half a megabyte");
        let begin = Instant::now();
        sender.mark_closed();
        writing.join().unwrap();
        assert!(begin.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn an_oversized_message_is_replaced_by_one_that_says_so() {
        let (mut reader, writer) = io::pipe().unwrap();
        let sender = FrameSender::new(File::from(OwnedFd::from(writer)));
        sender.send_message(&output_event(MAX_EVENT_BYTES));
        sender.send_message(&AgentMessage::Reply { id: 1, reply: Reply::Exec(ExecResult { status: 0 }) });
        let mut next =
            || read_frame(&mut reader, Receiver::Controller).unwrap().unwrap().parse_message::<AgentMessage>().unwrap();
        let AgentMessage::Event { id: 1, event: Event::Note { text } } = next() else { panic!("not a note") };
        assert!(text.contains("exceed the limit"), "{text}");
        assert!(matches!(next(), AgentMessage::Reply { id: 1, .. }));
    }
}
