//! An advisory lock (`flock`) on an open file. The kernel releases it when the last descriptor is closed, so also when
//! the process is killed.

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::poll::poll_until;

/// Interval between attempts to take a lock that another process holds.
const LOCK_POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Distinguishes shared and exclusive locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// With others that share it.
    Shared,
    /// Alone.
    Exclusive,
}

/// Tries to lock the file; `false` means that another open file has the lock.
///
/// # Errors
/// Returns an error if the file system does not support locks, or on exhausted lock memory.
pub fn try_lock(file: &File, access: Access) -> io::Result<bool> {
    let operation = match access {
        Access::Shared => FlockOperation::NonBlockingLockShared,
        Access::Exclusive => FlockOperation::NonBlockingLockExclusive,
    };
    match flock(file, operation) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Locks the file, and waits up to `timeout` while another open file has the lock; `false` means that it still has.
///
/// # Errors
/// Returns an error under the same conditions as [`try_lock`].
pub fn lock_within(file: &File, access: Access, timeout: Duration) -> io::Result<bool> {
    let attempt = || Ok::<_, io::Error>(try_lock(file, access)?.then_some(()));
    Ok(poll_until(Instant::now() + timeout, LOCK_POLL_INTERVAL, attempt)?.is_some())
}
