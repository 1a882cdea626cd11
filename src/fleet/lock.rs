//! Taking the locks of many hosts: all of them, or none.

use super::{Fleet, Session};
use crate::wire::lock::{Holder, Take, Taken};
use crate::wire::{Reply, Request};

/// Why the hosts could not be locked; those that were are free again once the run's sessions end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Others hold some: host and holder.
    Held(Vec<(String, Holder)>),
    /// Hosts could not be asked: what each said.
    Failed(Vec<(String, String)>),
}

impl Fleet {
    /// Takes the lock of each host for as long as its session lives. The first host by name comes first, alone: of runs
    /// that want the same hosts, one gets that and goes on, whatever the others do.
    ///
    /// # Errors
    /// Not all of them are to be had.
    pub async fn lock(&self, sessions: &[&Session], take: &Take) -> Result<(), Denied> {
        let mut sessions = sessions.to_vec();
        sessions.sort_unstable_by(|a, b| a.host.cmp(&b.host));
        let first = sessions.len().min(1);
        for part in [&sessions[..first], &sessions[first..]] {
            let replies = self.each(part, |session| ask(self, session, take)).await;
            let (mut held, mut failed) = (Vec::new(), Vec::new());
            for (session, reply) in part.iter().zip(replies) {
                match reply {
                    Ok(Taken::Held) => {}
                    Ok(Taken::By(holders)) if holders.is_empty() => {
                        failed.push((session.host.clone(), "somebody holds its lock without a note".to_owned()));
                    }
                    Ok(Taken::By(holders)) => {
                        held.extend(holders.into_iter().map(|holder| (session.host.clone(), holder)));
                    }
                    Err(error) => failed.push((session.host.clone(), error)),
                }
            }
            if !held.is_empty() {
                return Err(Denied::Held(held));
            }
            if !failed.is_empty() {
                return Err(Denied::Failed(failed));
            }
        }
        Ok(())
    }

    /// Who holds a host's lock.
    ///
    /// # Errors
    /// The host could not be asked.
    pub async fn holders(&self, session: &Session) -> Result<Vec<Holder>, String> {
        match session.request(Request::Locks, &|_| {}, &self.stop).await {
            Ok(Reply::Locks(holders)) => Ok(holders),
            Ok(_) => Err("an answer that does not fit".to_owned()),
            Err(error) => Err(error.error),
        }
    }
}

async fn ask(fleet: &Fleet, session: &Session, take: &Take) -> Result<Taken, String> {
    match session.request(Request::Lock(take.clone()), &|_| {}, &fleet.stop).await {
        Ok(Reply::Lock(taken)) => Ok(taken),
        Ok(_) => Err("an answer that does not fit".to_owned()),
        Err(error) => Err(error.error),
    }
}
