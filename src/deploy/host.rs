//! The half of a deploy that runs on the host: observe, stage, switch, health, rollback, prune.
//!
//! Idempotent and resumable: every request may be repeated after a kill at any moment. The host decides by itself to
//! return to the previous release; the controller is told.

mod activate;
mod command;
mod health;
mod layout;
mod observe;
mod prune;
mod releases;
mod services;
mod stage;
mod state;
mod switch;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

use self::layout::Layout;
use self::state::State;
use self::switch::Switch;
use crate::deploy::plan;
use crate::lock::Lock;
use crate::plan::Digest;
use crate::resources::Blobs;
use crate::wire::Sink;
use crate::wire::deploy::{About, Desired, Failure, Once, Reply, Request, Scope, Target};
use crate::wire::lock::{Holder, Take, Taken};

pub use services::{ServiceState, Services, Systemd};

/// The deploys of one host, as one agent process does them.
///
/// The first request that changes something takes the service's lock and keeps it for as long as this value lives, so
/// that nobody else gets between the steps of one rollout. Requests for one service run one after another.
pub struct Host {
    services: Box<dyn Services>,
    locks: Mutex<BTreeMap<PathBuf, Arc<Held>>>,
}

/// A service's lock, held, and the turn of the requests of this process.
struct Held {
    _lock: Lock,
    turn: Mutex<()>,
}

impl Default for Host {
    fn default() -> Self {
        Self::new(Box::new(Systemd))
    }
}

impl Host {
    /// A host with that service manager.
    pub fn new(services: Box<dyn Services>) -> Self {
        Self { services, locks: Mutex::default() }
    }

    /// The contents that a request needs and this host does not have in any release, checked byte by byte: what the
    /// agent asks the controller for before it calls [`Self::handle`]. Changes nothing.
    ///
    /// # Errors
    /// The service's folder cannot be read.
    pub fn missing(&self, request: &Request) -> Result<Vec<Digest>> {
        match request {
            Request::Stage { scope, desired, .. } => stage::missing(&Layout::of(scope)?, desired),
            _ => Ok(Vec::new()),
        }
    }

    /// Does what a request asks. `blobs` must have what [`Self::missing`] told.
    ///
    /// # Errors
    /// What the system said, with the path; what was begun is found and finished, or taken back, by the next run.
    pub fn handle(&self, request: &Request, blobs: &dyn Blobs, sink: &dyn Sink) -> Result<Reply> {
        let layout = Layout::of(request.scope())?;
        let services = self.services.as_ref();
        match request {
            Request::Observe { about, .. } => Ok(match observe::observe(&layout, services, about)? {
                Ok(mut seen) => {
                    // Its own lock is none that stands in the controller's way.
                    seen.locked = seen.locked.filter(|_| !self.holds(&layout));
                    Reply::Observed(Box::new(seen))
                }
                Err(why) => Reply::Refused(why),
            }),
            Request::Health { scope } => self.health(&layout, scope, sink),
            _ => {
                let held = match self.lock(&layout, &request.scope().by)? {
                    Ok(held) => held,
                    Err(holder) => return Ok(Reply::Locked(holder)),
                };
                // A request that panicked left the journal as a kill would; that is what the next one is made for.
                let _turn = held.turn.lock().unwrap_or_else(PoisonError::into_inner);
                self.change(&layout, request, blobs, sink)
            }
        }
    }

    fn change(&self, layout: &Layout, request: &Request, blobs: &dyn Blobs, sink: &dyn Sink) -> Result<Reply> {
        let switch = Switch { layout, scope: request.scope(), services: self.services.as_ref(), sink };
        match request {
            Request::Stage { desired, expected, .. } => self.stage(layout, (desired, expected), blobs, sink),
            Request::Switch { target, from, .. } => switch.run(target, from.as_ref()),
            Request::Rollback { to, from, .. } => switch.rollback(to.as_ref(), from.as_ref()),
            Request::Once { target, step, .. } => once(&switch, target, step),
            Request::Prune { keep, .. } => prune::prune(layout, *keep, sink),
            Request::Observe { .. } | Request::Health { .. } => anyhow::bail!("a question is no change"),
        }
    }

    fn stage(
        &self,
        layout: &Layout,
        (desired, expected): (&Desired, &[(String, Digest)]),
        blobs: &dyn Blobs,
        sink: &dyn Sink,
    ) -> Result<Reply> {
        if !expected.is_empty() {
            let about = About::Desired(Box::new(desired.clone()));
            let rows = match observe::observe(layout, self.services.as_ref(), &about)? {
                Ok(seen) => plan::rows(desired, &seen, &|_| None),
                Err(why) => Err(why),
            };
            let rows = match rows {
                Ok(rows) => rows,
                Err(why) => return Ok(Reply::Refused(why)),
            };
            let now: BTreeMap<&str, &Digest> =
                rows.iter().map(|row| (row.resource.as_str(), &row.fingerprint)).collect();
            let mut stale = Vec::new();
            for (resource, digest) in expected {
                if now.get(resource.as_str()) != Some(&digest) {
                    stale.push(format!("{resource} is not as it was when the plan was made"));
                }
            }
            let unplanned = now.keys().filter(|resource| expected.iter().all(|(planned, _)| planned != *resource));
            stale.extend(unplanned.map(|resource| format!("{resource} is not in the plan")));
            if !stale.is_empty() {
                return Ok(Reply::Stale(stale));
            }
        }
        layout.prepare()?;
        stage::stage(layout, desired, blobs, sink)
    }

    fn health(&self, layout: &Layout, scope: &Scope, sink: &dyn Sink) -> Result<Reply> {
        let state = State::read(layout)?;
        let Some(target) = state.confirmed() else {
            return Ok(Reply::Refused(format!("no release of {} serves on this host", scope.service)));
        };
        let desired = releases::desired(layout, target)?
            .with_context(|| format!("the records of release {} are gone", target.version))?;
        let switch = Switch { layout, scope, services: self.services.as_ref(), sink };
        let failed = |detail| Failure { step: "health".to_owned(), detail, log: Vec::new() };
        Ok(Reply::Health(switch.healthy(&desired).err().map(failed)))
    }

    fn locks(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Arc<Held>>> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn holds(&self, layout: &Layout) -> bool {
        self.locks().contains_key(layout.root())
    }

    fn lock(&self, layout: &Layout, by: &str) -> Result<Result<Arc<Held>, Holder>> {
        let mut locks = self.locks();
        if let Some(held) = locks.get(layout.root()) {
            return Ok(Ok(held.clone()));
        }
        layout.prepare()?;
        let lock = layout.service_lock();
        // The run is not named: the holder of the host's lock has it.
        let take = Take { by: by.to_owned(), command: "deploy".to_owned(), run: String::new(), shared: false };
        if let Taken::By(holders) = lock.take(&take)? {
            return Ok(Err(holders.into_iter().next().unwrap_or_else(Holder::unknown)));
        }
        let held = Arc::new(Held { _lock: lock, turn: Mutex::new(()) });
        locks.insert(layout.root().to_owned(), held.clone());
        Ok(Ok(held))
    }
}

/// Runs a once-step, unless the journal says that it was done.
fn once(switch: &Switch<'_>, target: &Target, step: &Once) -> Result<Reply> {
    let mut state = State::read(switch.layout)?;
    let done = (step.name.clone(), target.version.clone());
    if state.once.contains(&done) {
        return Ok(Reply::Once { ran: false, failed: None });
    }
    let Some(desired) = releases::desired(switch.layout, target)? else {
        return Ok(Reply::Refused(format!("release {} is not staged on this host", target.version)));
    };
    if switch.sink.cancelled() {
        return Ok(Reply::Cancelled);
    }
    let limit = Duration::from_millis(step.timeout_ms);
    let ended = switch.place(&desired, |place| place.run(&step.argv, limit))?;
    if !ended.is_success() {
        return Ok(Reply::Once { ran: true, failed: Some(ended.describe()) });
    }
    state.once.push(done);
    state.write(switch.layout)?;
    Ok(Reply::Once { ran: true, failed: None })
}
