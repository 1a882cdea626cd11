//! The controller's half of a rollout: observe all hosts → plan → stage all → switch batch by batch → prune.
//!
//! `observe` and `plan` change nothing. [`Rollout::run`] stops where a batch fails: hosts behind it keep what they serve.
//! The sessions stay open from the first question to the last step, since a host's lock lives as long as its agent.

mod observe;
mod run;

pub use observe::{Goal, Planned, Refused, Seen, look, observe, plan};
pub use run::{Ended, Fresh, Rollout, Tell, Told, Trouble};

use crate::fleet::{Fleet, Session};
use crate::wire::{self, Event, deploy};

/// Asks one host.
async fn ask(
    fleet: &Fleet,
    session: &Session,
    request: deploy::Request,
    on_event: &(dyn Fn(Event) + Send + Sync),
) -> Result<deploy::Reply, String> {
    match session.request(wire::Request::Deploy(request), on_event, &fleet.stop).await {
        Ok(wire::Reply::Deploy(reply)) => Ok(reply),
        Ok(_) => Err("an answer that does not fit".to_owned()),
        Err(error) => Err(error.error),
    }
}
