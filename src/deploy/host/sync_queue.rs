//! Makes files durable while further ones arrive: the disk and the network are busy at the same time.

use std::fs::File;
use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};

/// Largest number of files that wait. Each of them is open.
const MAX_WAITING_FILES: usize = 64;

/// Files that a thread makes durable, in their order.
pub(super) struct SyncQueue {
    sender: SyncSender<File>,
    thread: JoinHandle<io::Result<()>>,
}

impl SyncQueue {
    /// Starts the thread.
    ///
    /// # Errors
    /// Returns an error if the system has no thread left.
    pub fn start() -> Result<Self> {
        let (sender, receiver) = sync_channel::<File>(MAX_WAITING_FILES);
        let sync_files = move || receiver.iter().try_for_each(|file| file.sync_all());
        let thread = thread::Builder::new().name("sync".to_owned()).spawn(sync_files).context("starting a thread")?;
        Ok(Self { sender, thread })
    }

    /// Adds a file, or what was written of it so far. [`Self::finish`] reports if it cannot be made durable.
    pub fn add_file(&self, file: File) {
        // A thread that failed has ended.
        self.sender.send(file).ok();
    }

    /// Waits until all files are durable.
    ///
    /// # Errors
    /// Returns an error if a file cannot be made durable.
    pub fn finish(self) -> Result<()> {
        let Self { sender, thread } = self;
        drop(sender);
        let result = thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")));
        result.context("making the files durable")
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;

    #[test]
    fn a_file_that_cannot_be_made_durable_is_reported() {
        let queue = SyncQueue::start().unwrap();
        (0..3 * MAX_WAITING_FILES).for_each(|_| queue.add_file(tempfile::tempfile().unwrap()));
        queue.finish().unwrap();
        // A pipe cannot be made durable, fsync(2).
        let queue = SyncQueue::start().unwrap();
        queue.add_file(File::from(OwnedFd::from(io::pipe().unwrap().1)));
        (0..3 * MAX_WAITING_FILES).for_each(|_| queue.add_file(tempfile::tempfile().unwrap()));
        assert!(queue.finish().is_err());
    }
}
