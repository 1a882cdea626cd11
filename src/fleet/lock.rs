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
    /// Takes the lock of each host for as long as its session lives. The first host by name comes first, alone: of runs
    /// that want the same hosts, one always gets it and continues, independent of the others.
    ///
    /// # Errors
    /// Returns an error if any host cannot be locked.
    pub async fn lock_hosts(&self, sessions: &[&Session], request: &LockRequest) -> Result<(), LockError> {
        let mut sessions = sessions.to_vec();
        sessions.sort_unstable_by(|a, b| a.host.cmp(&b.host));
        let first = sessions.len().min(1);
        for batch in [&sessions[..first], &sessions[first..]] {
            let replies = self.map_parallel(batch, |session| request_lock(self, session, request)).await;
            let (mut held, mut failed) = (Vec::new(), Vec::new());
            for (session, reply) in batch.iter().zip(replies) {
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
            if !failed.is_empty() {
                return Err(LockError::RequestsFailed(failed));
            }
        }
        Ok(())
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
