//! Stores contents sent by the controller and requests missing ones.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};

use super::frame_sender::FrameSender;
use crate::plan::Digest;
use crate::protocol::AgentMessage;
use crate::resources::BlobSource;

/// Interval at which a waiting request checks that the controller is connected.
const BLOB_POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Holds all contents of this channel.
#[derive(Default)]
pub struct BlobStore {
    blobs: Mutex<HashMap<Digest, Arc<Vec<u8>>>>,
    arrived: Condvar,
}

impl BlobStore {
    /// Stores a received content.
    pub fn insert_blob(&self, digest: Digest, bytes: Vec<u8>) {
        self.lock_blobs().insert(digest, Arc::new(bytes));
        self.arrived.notify_all();
    }

    fn lock_blobs(&self) -> MutexGuard<'_, HashMap<Digest, Arc<Vec<u8>>>> {
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives one request access to the contents.
pub struct BlobFetcher<'a> {
    /// The request's number.
    pub request_id: u64,
    /// Contents of the channel.
    pub store: &'a BlobStore,
    /// Sender to the controller.
    pub sender: &'a FrameSender,
}

impl BlobSource for BlobFetcher<'_> {
    fn fetch_blobs(&self, digests: &[Digest]) -> Result<()> {
        let mut blobs = self.store.lock_blobs();
        let mut missing: Vec<Digest> = digests.iter().filter(|digest| !blobs.contains_key(digest)).cloned().collect();
        missing.sort_unstable();
        missing.dedup();
        if missing.is_empty() {
            return Ok(());
        }
        drop(blobs);
        self.sender.send_message(&AgentMessage::NeedBlobs { id: self.request_id, digests: missing.clone() });
        blobs = self.store.lock_blobs();
        while !missing.iter().all(|digest| blobs.contains_key(digest)) {
            if self.sender.is_closed() {
                bail!("the controller disconnected before it sent the contents");
            }
            blobs =
                self.store.arrived.wait_timeout(blobs, BLOB_POLL_INTERVAL).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        self.fetch_blobs(std::slice::from_ref(digest))?;
        match self.store.lock_blobs().get(digest) {
            Some(bytes) => Ok(bytes.as_ref().clone()),
            None => bail!("content {} is missing", digest.short_hex()),
        }
    }
}
