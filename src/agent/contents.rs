//! Contents that the controller sent, and asking for those that are lacking.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};

use super::line::Line;
use crate::plan::Digest;
use crate::resources::Blobs;
use crate::wire::FromAgent;

/// How long a request waits for contents before it looks whether the controller is still there.
const BLOB_POLL_INTERVAL: Duration = Duration::from_millis(500);

/// All contents of this channel.
#[derive(Default)]
pub struct Contents {
    held: Mutex<HashMap<Digest, Arc<Vec<u8>>>>,
    arrived: Condvar,
}

impl Contents {
    /// Keeps a content that arrived.
    pub fn put(&self, digest: Digest, bytes: Vec<u8>) {
        self.lock().insert(digest, Arc::new(bytes));
        self.arrived.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Arc<Vec<u8>>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The contents as one request sees them.
pub struct Asking<'a> {
    /// The request's number.
    pub id: u64,
    /// All contents.
    pub contents: &'a Contents,
    /// The way to the controller.
    pub line: &'a Line,
}

impl Blobs for Asking<'_> {
    fn prefetch(&self, digests: &[Digest]) -> Result<()> {
        let mut held = self.contents.lock();
        let mut lacking: Vec<Digest> = digests.iter().filter(|digest| !held.contains_key(digest)).cloned().collect();
        lacking.sort_unstable();
        lacking.dedup();
        if lacking.is_empty() {
            return Ok(());
        }
        drop(held);
        self.line.send(&FromAgent::Need { id: self.id, digests: lacking.clone() });
        held = self.contents.lock();
        while !lacking.iter().all(|digest| held.contains_key(digest)) {
            if self.line.is_closed() {
                bail!("the controller went away before it sent the contents");
            }
            held =
                self.contents.arrived.wait_timeout(held, BLOB_POLL_INTERVAL).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    fn get(&self, digest: &Digest) -> Result<Vec<u8>> {
        self.prefetch(std::slice::from_ref(digest))?;
        match self.contents.lock().get(digest) {
            Some(bytes) => Ok(bytes.as_ref().clone()),
            None => bail!("content {} is not there", digest.short()),
        }
    }
}
