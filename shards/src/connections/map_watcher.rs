//! Watches the published map: checks the file's stamp at an interval, and immediately after a rejected request.

use std::{
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Arc, Weak},
    time::Duration,
};

use super::state::SharedState;
use crate::routing::{Routing, RoutingError};

/// Identifies a version of the file: inode, modification time (s, ns), length. An atomic rename changes the inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileStamp(u64, i64, i64, u64);

/// Reads the map, with the stamp it had before: a change in between is seen as one at the next look.
pub(super) fn load_with_stamp(path: &Path) -> Result<(Routing, FileStamp), RoutingError> {
    let stamp = read_stamp(path).map_err(|source| RoutingError::Read { path: path.display().to_string(), source })?;
    Ok((Routing::load_file(path)?, stamp))
}

fn read_stamp(path: &Path) -> std::io::Result<FileStamp> {
    let metadata = std::fs::metadata(path)?;
    Ok(FileStamp(metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.len()))
}

/// Watches until the last clone of the connection set is dropped.
pub(super) fn spawn_watcher(inner: &Arc<SharedState>, stamp: FileStamp, interval: Duration) {
    let (weak, map_check) = (Arc::downgrade(inner), inner.map_check.clone());
    tokio::spawn(async move {
        let mut watch = MapWatcher { stamp: Some(stamp), failure: None };
        while weak.strong_count() > 0 {
            // either way it is time to look
            let _ = tokio::time::timeout(interval, map_check.notified()).await;
            let weak = weak.clone();
            let checked = tokio::task::spawn_blocking(move || {
                watch.check_file(&weak);
                watch
            });
            match checked.await {
                Ok(after) => watch = after,
                Err(_) => return,
            }
        }
    });
}

struct MapWatcher {
    stamp: Option<FileStamp>,
    /// Last error of reading the file. It is counted once, not at every check.
    failure: Option<String>,
}

impl MapWatcher {
    fn check_file(&mut self, inner: &Weak<SharedState>) {
        let Some(inner) = inner.upgrade() else { return };
        if self.stamp.is_some() && read_stamp(&inner.path).ok() == self.stamp {
            return;
        }
        match load_with_stamp(&inner.path) {
            Ok((routing, stamp)) => {
                (self.stamp, self.failure) = (Some(stamp), None);
                inner.adopt_map(routing);
            }
            Err(error) => {
                let why = error.to_string();
                self.stamp = None;
                if self.failure.as_ref() != Some(&why) {
                    inner.reject_map(why.clone());
                    self.failure = Some(why);
                }
            }
        }
    }
}
