//! Locks many hosts: all of them, or none.

use super::{Fleet, Session};
use crate::protocol::lock::{ListLocks, LockHolder, LockRequest, LockResult};

/// Describes why the hosts could not be locked. Locks already taken are released when the run's sessions end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockError {
    /// Other runs hold locks: host and holder.
    HeldByOthers(Vec<(String, LockHolder)>),
    /// Hosts could not be asked: host and error.
    RequestsFailed(Vec<(String, String)>),
}

impl Fleet {
    /// Takes the lock of each host, in order, for as long as its session lives.
    ///
    /// # Errors
    /// Returns an error if any host cannot be locked.
    pub async fn lock_hosts(&self, sessions: &[&Session], request: &LockRequest) -> Result<(), LockError> {
        let lock = |session| request_lock(self, session, request);
        let replies = self.lock_in_order(sessions, lock, |reply| matches!(reply, Ok(LockResult::Acquired))).await;
        let (mut held, mut failed) = (Vec::new(), Vec::new());
        for (session, reply) in replies {
            match reply {
                Ok(LockResult::Acquired) => {}
                Ok(LockResult::HeldBy(holders)) if holders.is_empty() => {
                    failed.push((session.host.clone(), "another process holds its lock without a note".to_owned()));
                }
                Ok(LockResult::HeldBy(holders)) => {
                    held.extend(holders.into_iter().map(|holder| (session.host.clone(), holder)));
                }
                Err(error) => failed.push((session.host.clone(), error)),
            }
        }
        if !held.is_empty() {
            return Err(LockError::HeldByOthers(held));
        }
        if failed.is_empty() { Ok(()) } else { Err(LockError::RequestsFailed(failed)) }
    }

    /// Takes a lock on the first host by name, alone, and only then on the others, in parallel: of runs that want the
    /// same hosts, one always gets all of them. Returns the replies of the hosts that were asked.
    pub async fn lock_in_order<'s, R, F>(
        &self,
        sessions: &[&'s Session],
        lock: impl Fn(&'s Session) -> F,
        is_locked: impl Fn(&R) -> bool,
    ) -> Vec<(&'s Session, R)>
    where
        F: Future<Output = R>,
    {
        let mut sessions = sessions.to_vec();
        sessions.sort_unstable_by(|a, b| a.host.cmp(&b.host));
        let mut replies = Vec::new();
        for batch in [&sessions[..sessions.len().min(1)], sessions.get(1..).unwrap_or_default()] {
            let results = self.map_parallel(batch, |session| lock(session)).await;
            replies.extend(batch.iter().copied().zip(results));
            if !replies.iter().all(|(_, reply)| is_locked(reply)) {
                break;
            }
        }
        replies
    }

    /// Returns the holders of a host's lock.
    ///
    /// # Errors
    /// Returns an error if the host cannot be asked.
    pub async fn list_lock_holders(&self, session: &Session) -> Result<Vec<LockHolder>, String> {
        session.call(ListLocks, &|_| {}, &self.cancellation).await.map_err(|error| error.message)
    }
}

async fn request_lock(fleet: &Fleet, session: &Session, request: &LockRequest) -> Result<LockResult, String> {
    session.call(request.clone(), &|_| {}, &fleet.cancellation).await.map_err(|error| error.message)
}
