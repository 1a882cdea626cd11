//! The wish to stop: asked for once (Ctrl-C), seen by every request.

use tokio::sync::watch;

/// A flag that can be awaited; clones share it.
#[derive(Clone, Debug)]
pub struct Stop {
    sender: watch::Sender<bool>,
}

impl Default for Stop {
    fn default() -> Self {
        Self { sender: watch::Sender::new(false) }
    }
}

impl Stop {
    /// Asks everything to stop where nothing is left half done.
    pub fn ask(&self) {
        self.sender.send_replace(true);
    }

    /// Was it asked?
    pub fn is_asked(&self) -> bool {
        *self.sender.borrow()
    }

    /// Returns when it is asked.
    pub async fn asked(&self) {
        // The sender lives as long as `self`, so this ends with the value only.
        let _ = self.sender.subscribe().wait_for(|stop| *stop).await;
    }
}
