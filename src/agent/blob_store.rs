//! Stores contents sent by the controller and requests missing ones.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};

use super::frame_sender::FrameSender;
use crate::plan::Digest;
use crate::protocol::AgentMessage;
use crate::protocol::frame::PackedBlob;
use crate::resources::BlobSource;

/// Interval at which a waiting request checks that the controller is connected.
const BLOB_POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Holds all contents of this channel.
#[derive(Default)]
pub struct BlobStore {
    blobs: Mutex<HashMap<Digest, Arc<Vec<u8>>>>,
    arrived: Condvar,
    /// Number of copies of each content that were asked for and have not arrived: several requests may need the same.
    requested: Mutex<HashMap<Digest, u32>>,
}

impl BlobStore {
    /// Decompresses and stores a received content, if a request asked for it.
    ///
    /// # Errors
    /// Returns an error if no request asked for it, or if the content is broken.
    pub fn accept_blob(&self, blob: &PackedBlob) -> io::Result<()> {
        let not_requested =
            || io::Error::new(io::ErrorKind::InvalidData, "the controller sent content that no request asked for");
        let digest = self.find_requested(blob.claimed_digest()).ok_or_else(not_requested)?;
        if !self.lock_blobs().contains_key(&digest) {
            let (_, bytes) = blob.unpack()?;
            self.lock_blobs().insert(digest.clone(), Arc::new(bytes));
        }
        // Only now: a content that is neither here nor expected is requested again.
        self.remove_requested(&digest);
        self.arrived.notify_all();
        Ok(())
    }

    /// Returns the digest with these digits if a copy of its content is expected.
    fn find_requested(&self, digits: &[u8]) -> Option<Digest> {
        let digits = std::str::from_utf8(digits).ok()?;
        self.lock_requested().get_key_value(digits).map(|(digest, _)| digest.clone())
    }

    fn is_requested(&self, digest: &Digest) -> bool {
        self.lock_requested().contains_key(digest)
    }

    /// Expects one copy of a content fewer.
    fn remove_requested(&self, digest: &Digest) {
        let mut requested = self.lock_requested();
        match requested.get_mut(digest) {
            Some(copies) if *copies > 1 => *copies -= 1,
            _ => drop(requested.remove(digest)),
        }
    }

    fn expect_blobs(&self, digests: &[Digest]) {
        let mut requested = self.lock_requested();
        for digest in digests {
            *requested.entry(digest.clone()).or_default() += 1;
        }
    }

    fn lock_requested(&self) -> MutexGuard<'_, HashMap<Digest, u32>> {
        self.requested.lock().unwrap_or_else(PoisonError::into_inner)
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
        self.request_blobs(digests);
        digests.iter().try_for_each(|digest| self.wait_for_blob(digest).map(drop))
    }

    fn request_blobs(&self, digests: &[Digest]) {
        let mut seen = HashSet::new();
        let blobs = self.store.lock_blobs();
        let is_missing = |digest: &&Digest| !blobs.contains_key(*digest) && seen.insert((*digest).clone());
        let missing: Vec<Digest> = digests.iter().filter(is_missing).cloned().collect();
        drop(blobs);
        if !missing.is_empty() {
            self.store.expect_blobs(&missing);
            self.sender.send_message(&AgentMessage::NeedBlobs { id: self.request_id, digests: missing });
        }
    }

    fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        self.wait_for_blob(digest).map(|bytes| bytes.as_ref().clone())
    }

    fn discard_blob(&self, digest: &Digest) {
        self.store.lock_blobs().remove(digest);
    }
}

impl BlobFetcher<'_> {
    /// Waits for a content. Requests it if no other request did, or if another request discarded it.
    fn wait_for_blob(&self, digest: &Digest) -> Result<Arc<Vec<u8>>> {
        loop {
            let blobs = self.store.lock_blobs();
            if let Some(bytes) = blobs.get(digest) {
                return Ok(Arc::clone(bytes));
            }
            if !self.store.is_requested(digest) {
                drop(blobs);
                self.request_blobs(std::slice::from_ref(digest));
                continue;
            }
            if self.sender.is_closed() {
                bail!("the controller disconnected before it sent all contents");
            }
            drop(self.store.arrived.wait_timeout(blobs, BLOB_POLL_INTERVAL));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::frame::{Frame, Receiver, encode_blob, read_frame};

    #[test]
    fn only_requested_contents_are_stored() {
        let digest = Digest::of_bytes(b"content");
        let frame = encode_blob(&digest, b"content").unwrap();
        let Some(Frame::Blob(blob)) = read_frame(&mut frame.as_slice(), Receiver::Agent).unwrap() else {
            panic!("not a content")
        };
        let store = BlobStore::default();
        let error = store.accept_blob(&blob).unwrap_err().to_string();
        assert!(error.contains("no request asked for"), "{error}");
        // Two requests that need the same content get two copies of it.
        store.expect_blobs(std::slice::from_ref(&digest));
        store.expect_blobs(std::slice::from_ref(&digest));
        store.accept_blob(&blob).unwrap();
        assert!(store.lock_blobs().contains_key(&digest));
        store.accept_blob(&blob).unwrap();
        assert!(store.accept_blob(&blob).is_err());
    }
}
