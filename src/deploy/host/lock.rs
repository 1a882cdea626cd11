//! One deploy of a service at a time on a host: an flock that lives as long as the process that holds it, with a note
//! who that is. Nothing is left to clean up after a kill.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::layout::Layout;
use super::state::now;
use crate::wire::deploy::Holder;

/// Takes the lock, or tells who has it.
pub(super) fn take(layout: &Layout, by: &str) -> Result<Result<File, Holder>> {
    let path = layout.lock();
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = file.with_context(|| format!("opening {}", path.display()))?;
    if !try_lock(&file, FlockOperation::NonBlockingLockExclusive, &path)? {
        return Ok(Err(note(&mut file)));
    }
    let holder = Holder { by: by.to_owned(), since: now(), pid: std::process::id() };
    let text = serde_json::to_vec(&holder).context("the lock's note")?;
    let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(&text));
    written.with_context(|| format!("writing {}", path.display()))?;
    Ok(Ok(file))
}

/// Who has the lock, if anybody.
pub(super) fn holder(layout: &Layout) -> Result<Option<Holder>> {
    let path = layout.lock();
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("opening {}", path.display())),
    };
    let free = try_lock(&file, FlockOperation::NonBlockingLockShared, &path)?;
    Ok((!free).then(|| note(&mut file)))
}

fn try_lock(file: &File, operation: FlockOperation, path: &Path) -> Result<bool> {
    match flock(file, operation) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error).with_context(|| format!("locking {}", path.display())),
    }
}

/// The note in the lock's file; it may be a moment behind the lock itself.
fn note(file: &mut File) -> Holder {
    let mut text = Vec::new();
    let read = file.rewind().and_then(|()| file.read_to_end(&mut text));
    read.ok().and_then(|_| serde_json::from_slice(&text).ok()).unwrap_or(Holder {
        by: "somebody".to_owned(),
        since: now(),
        pid: 0,
    })
}
