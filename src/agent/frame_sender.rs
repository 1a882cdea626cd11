//! Sends frames to the controller: one writer for all threads, which discards frames once the controller is gone.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::protocol::{AgentMessage, frame};

/// A shared writer of frames.
pub struct FrameSender {
    output: Mutex<Box<dyn Write + Send>>,
    closed: AtomicBool,
}

impl FrameSender {
    /// Returns a sender that writes to the stream.
    pub fn new(output: impl Write + Send + 'static) -> Self {
        Self { output: Mutex::new(Box::new(output)), closed: AtomicBool::new(false) }
    }

    /// Sends a message; closes the sender if the controller no longer reads.
    pub fn send_message(&self, message: &AgentMessage) {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.is_closed() && frame::write_message(&mut *output, message).is_err() {
            self.mark_closed();
        }
    }

    /// Records that the controller is gone.
    pub fn mark_closed(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Returns whether the controller is gone.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }
}
