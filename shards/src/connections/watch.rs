//! Watching the published map: a look at the file's stamp now and then, and at once after a refusal.

use std::{
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Arc, Weak},
    time::Duration,
};

use super::state::Inner;
use crate::routing::{Routing, RoutingError};

/// What tells one version of the file from another: inode, modification time (s, ns), length. An atomic rename brings
/// a new inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp(u64, i64, i64, u64);

/// Reads the map, with the stamp it had before: a change in between is seen as one at the next look.
pub(super) fn load(path: &Path) -> Result<(Routing, Stamp), RoutingError> {
    let stamp = stamp(path).map_err(|source| RoutingError::Read { path: path.display().to_string(), source })?;
    Ok((Routing::load(path)?, stamp))
}

fn stamp(path: &Path) -> std::io::Result<Stamp> {
    let metadata = std::fs::metadata(path)?;
    Ok(Stamp(metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.len()))
}

/// Watches until the last user of the connection set is gone.
pub(super) fn spawn(inner: &Arc<Inner>, stamp: Stamp, interval: Duration) {
    let (weak, look) = (Arc::downgrade(inner), inner.look.clone());
    tokio::spawn(async move {
        let mut watch = Watch { stamp: Some(stamp), failure: None };
        while weak.strong_count() > 0 {
            // either way it is time to look
            let _ = tokio::time::timeout(interval, look.notified()).await;
            let weak = weak.clone();
            let looked = tokio::task::spawn_blocking(move || {
                watch.look(&weak);
                watch
            });
            match looked.await {
                Ok(after) => watch = after,
                Err(_) => return,
            }
        }
    });
}

struct Watch {
    stamp: Option<Stamp>,
    /// Why the file could not be read the last time: it is counted once, not at each look.
    failure: Option<String>,
}

impl Watch {
    fn look(&mut self, inner: &Weak<Inner>) {
        let Some(inner) = inner.upgrade() else { return };
        if self.stamp.is_some() && stamp(&inner.path).ok() == self.stamp {
            return;
        }
        match load(&inner.path) {
            Ok((routing, stamp)) => {
                (self.stamp, self.failure) = (Some(stamp), None);
                inner.offer(routing);
            }
            Err(error) => {
                let why = error.to_string();
                self.stamp = None;
                if self.failure.as_ref() != Some(&why) {
                    inner.reject(why.clone());
                    self.failure = Some(why);
                }
            }
        }
    }
}
