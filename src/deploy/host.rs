//! The agent side of a deploy: observe, stage, switch, check health, roll back, prune.
//!
//! Idempotent and resumable: every request may be repeated after a kill at any moment. The host decides by itself to
//! return to the previous release and reports it to the controller.

mod activate;
mod adopt;
mod command;
mod contents;
mod health;
mod layout;
mod maintenance;
mod observe;
mod ownership;
mod preflight;
mod prune;
mod releases;
mod service_manager;
mod shared;
mod stage;
mod state;
mod switch;
mod sync_queue;
mod tasks;
mod undeploy;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};

use self::layout::ServiceLayout;
use self::preflight::Preflight;
use self::state::{DeployState, Direction};
use self::switch::Switch;
use crate::deploy::plan;
use crate::deploy::signature::check_signature;
use crate::lock::HostLock;
use crate::plan::{Digest, ResourceChange};
use crate::protocol::ProgressSink;
use crate::protocol::deploy::{CompareWith, DeployReply, DeployRequest, DesiredState, ServiceChange};
use crate::protocol::lock::{LockHolder, LockRequest, LockResult};
use crate::resources::BlobSource;

pub use service_manager::{ServiceManager, Systemd, UnitStatus};

/// The deploys of one host, as one agent process does them.
///
/// The first request that changes something takes the service's lock and keeps it for as long as this value lives, so
/// that nobody else gets between the steps of one rollout. Requests for one service run one after another.
pub struct DeployAgent {
    service_manager: Box<dyn ServiceManager>,
    lock_table: Mutex<BTreeMap<PathBuf, Arc<ServiceLock>>>,
}

/// A service's lock, held, and the turn of the requests of this process.
struct ServiceLock {
    _lock: HostLock,
    request_order: Mutex<()>,
}

impl Default for DeployAgent {
    fn default() -> Self {
        Self::new(Box::new(Systemd))
    }
}

impl DeployAgent {
    /// A host with that service manager.
    pub fn new(service_manager: Box<dyn ServiceManager>) -> Self {
        Self { service_manager, lock_table: Mutex::default() }
    }

    /// Returns the contents that a request needs and this host does not have in any release. [`Self::handle_request`]
    /// asks its source of contents for them, and for those whose bytes turn out to be damaged. Changes nothing.
    ///
    /// # Errors
    /// Returns an error if the service's folder cannot be read.
    pub fn missing_blobs(&self, request: &DeployRequest) -> Result<Vec<Digest>> {
        match request {
            DeployRequest::Stage { scope, desired, .. } => {
                contents::missing_contents(&ServiceLayout::from_scope(scope)?, desired)
            }
            DeployRequest::Preflight { scope, desired, .. } => {
                preflight::missing_unit_texts(&ServiceLayout::from_scope(scope)?, desired)
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Handles a request. `blobs` must have the contents that [`Self::missing_blobs`] returned.
    ///
    /// # Errors
    /// Returns an error with the path if an operation fails; the next run finishes or rolls back the started steps.
    pub fn handle_request(
        &self,
        request: &DeployRequest,
        blobs: &dyn BlobSource,
        sink: &dyn ProgressSink,
    ) -> Result<DeployReply> {
        let layout = ServiceLayout::from_scope(request.scope())?;
        let services = self.service_manager.as_ref();
        match request {
            DeployRequest::Observe { compare_with: about, .. } => {
                Ok(match observe::observe_service(&layout, services, about)? {
                    Ok(mut seen) => {
                        // Its own lock is none that stands in the controller's way.
                        seen.lock_holder = seen.lock_holder.filter(|_| !self.holds_lock(&layout));
                        DeployReply::Observed(Box::new(seen))
                    }
                    Err(why) => DeployReply::Refused(why),
                })
            }
            DeployRequest::PlanChange { change, .. } => Ok(match plan_change(&layout, services, *change)? {
                Ok(rows) => DeployReply::ChangePlanned(rows),
                Err(reason) => DeployReply::Refused(reason),
            }),
            DeployRequest::CheckHealth { scope, expected_pids } => {
                let (layout, direction) = (&layout, Direction::Forward);
                let switch = Switch { layout, scope, service_manager: services, sink, direction };
                check_health(&switch, expected_pids.as_deref())
            }
            _ => {
                let held = match self.acquire_lock(&layout, &request.scope().operator)? {
                    Ok(held) => held,
                    Err(holder) => return Ok(DeployReply::Locked(holder)),
                };
                // A request that panicked left the journal as a kill would; that is what the next one is made for.
                let _turn = held.request_order.lock().unwrap_or_else(PoisonError::into_inner);
                self.handle_change(&layout, request, blobs, sink)
            }
        }
    }

    fn handle_change(
        &self,
        layout: &ServiceLayout,
        request: &DeployRequest,
        blobs: &dyn BlobSource,
        sink: &dyn ProgressSink,
    ) -> Result<DeployReply> {
        let direction = match request {
            DeployRequest::Rollback { .. } | DeployRequest::Switch { is_return: true, .. } => Direction::Back,
            _ => Direction::Forward,
        };
        let service_manager = self.service_manager.as_ref();
        let switch = Switch { layout, scope: request.scope(), service_manager, sink, direction };
        match request {
            DeployRequest::Stage { desired, expected_changes: expected, adopt, .. } => {
                if let Err(error) = check_signature(&desired.manifest, &desired.signature_check) {
                    return Ok(DeployReply::Refused(error.to_string()));
                }
                if let Some(reply) = self.check_plan(layout, desired, expected)? {
                    return Ok(reply);
                }
                layout.create_dirs()?;
                let unmanaged = observe::find_unmanaged(layout, service_manager, desired)?;
                match (unmanaged.is_empty(), *adopt) {
                    (true, _) => {}
                    (false, true) => adopt::adopt_service(&switch, desired)?,
                    (false, false) => {
                        let serving = DeployState::read(layout)?.confirmed_target().map(|now| now.version.clone());
                        return Ok(DeployReply::Refused(plan::describe_unmanaged(&unmanaged, serving.as_ref())));
                    }
                }
                stage::stage_release(layout, desired, blobs, sink)
            }
            DeployRequest::Switch { target, expected_current: from, .. } => switch.switch_to(target, from.as_ref()),
            DeployRequest::Deactivate { target, .. } => switch.deactivate(target),
            DeployRequest::Rollback { version: to, expected_current: from, .. } => {
                switch.roll_back(to.as_ref(), from.as_ref())
            }
            DeployRequest::Preflight { desired, listen_ports, .. } => {
                let preflight = Preflight { layout, services: service_manager, desired, listen_ports, blobs };
                Ok(DeployReply::PreflightDone(preflight.find_problems()?))
            }
            DeployRequest::LockService { .. } => {
                Ok(DeployReply::ServiceLocked { tasks: DeployState::read(layout)?.task_records })
            }
            DeployRequest::RecordTask { record, .. } => tasks::record_task(layout, record),
            DeployRequest::RunTask { target, task, run, .. } => tasks::run_task(&switch, target, task, run),
            DeployRequest::ApplyChange { change, expected_changes, .. } => {
                apply_change(&switch, *change, expected_changes)
            }
            DeployRequest::Prune { keep_releases: keep, .. } => prune::prune_releases(layout, *keep, sink),
            DeployRequest::Observe { .. } | DeployRequest::CheckHealth { .. } | DeployRequest::PlanChange { .. } => {
                anyhow::bail!("a read-only request cannot be applied")
            }
        }
    }

    /// Compares the host with the plan's rows; returns the reply if it differs.
    fn check_plan(
        &self,
        layout: &ServiceLayout,
        desired: &DesiredState,
        expected: &[(String, Digest)],
    ) -> Result<Option<DeployReply>> {
        if expected.is_empty() {
            return Ok(None);
        }
        let about = CompareWith::Desired(Box::new(desired.clone()));
        let rows = match observe::observe_service(layout, self.service_manager.as_ref(), &about)? {
            Ok(seen) => plan::plan_rows(desired, &seen, &|_| None),
            Err(why) => Err(why),
        };
        let rows = match rows {
            Ok(rows) => rows,
            Err(why) => return Ok(Some(DeployReply::Refused(why))),
        };
        let stale = find_stale_rows(&rows, expected);
        Ok((!stale.is_empty()).then_some(DeployReply::PlanOutdated(stale)))
    }

    fn locks(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Arc<ServiceLock>>> {
        self.lock_table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn holds_lock(&self, layout: &ServiceLayout) -> bool {
        self.locks().contains_key(layout.root())
    }

    fn acquire_lock(&self, layout: &ServiceLayout, operator: &str) -> Result<Result<Arc<ServiceLock>, LockHolder>> {
        let mut locks = self.locks();
        if let Some(held) = locks.get(layout.root()) {
            return Ok(Ok(held.clone()));
        }
        layout.create_dirs()?;
        let lock = layout.service_lock();
        // The run is not named: the holder of the host's lock has it.
        let take = LockRequest {
            operator: operator.to_owned(),
            command: "deploy".to_owned(),
            run: String::new(),
            shared: false,
        };
        if let LockResult::HeldBy(holders) = lock.acquire(&take)? {
            return Ok(Err(holders.into_iter().next().unwrap_or_else(LockHolder::unknown)));
        }
        let held = Arc::new(ServiceLock { _lock: lock, request_order: Mutex::new(()) });
        locks.insert(layout.root().to_owned(), held.clone());
        Ok(Ok(held))
    }
}

/// Returns a line for each row that differs from the plan's rows.
fn find_stale_rows(rows: &[ResourceChange], expected: &[(String, Digest)]) -> Vec<String> {
    let now: BTreeMap<&str, &Digest> = rows.iter().map(|row| (row.resource.as_str(), &row.fingerprint)).collect();
    let mut stale = Vec::new();
    for (resource, digest) in expected {
        if now.get(resource.as_str()) != Some(&digest) {
            stale.push(format!("{resource} changed after the plan was made"));
        }
    }
    let unplanned = now.keys().filter(|resource| expected.iter().all(|(planned, _)| planned != *resource));
    stale.extend(unplanned.map(|resource| format!("{resource} is not in the plan")));
    stale
}

/// Returns the rows of a change of the service; `Err` inside: the reason for which it is not possible.
fn plan_change(
    layout: &ServiceLayout,
    services: &dyn ServiceManager,
    change: ServiceChange,
) -> Result<Result<Vec<ResourceChange>, String>> {
    match change {
        ServiceChange::StartMaintenance => maintenance::plan_maintenance(layout, true),
        ServiceChange::EndMaintenance => maintenance::plan_maintenance(layout, false),
        ServiceChange::Undeploy { delete_shared } => {
            Ok(undeploy::InstalledService::observe(layout, services, delete_shared)?.map(|installed| installed.rows))
        }
    }
}

/// Compares the host with the plan's rows, and applies the change.
fn apply_change(switch: &Switch<'_>, change: ServiceChange, expected: &[(String, Digest)]) -> Result<DeployReply> {
    let rows = match plan_change(switch.layout, switch.service_manager, change)? {
        Ok(rows) => rows,
        Err(reason) => return Ok(DeployReply::Refused(reason)),
    };
    let stale = find_stale_rows(&rows, expected);
    if !stale.is_empty() {
        return Ok(DeployReply::PlanOutdated(stale));
    }
    if switch.sink.is_cancelled() {
        return Ok(DeployReply::Cancelled);
    }
    match change {
        ServiceChange::StartMaintenance => maintenance::start_maintenance(switch),
        ServiceChange::EndMaintenance => maintenance::end_maintenance(switch),
        ServiceChange::Undeploy { delete_shared } => undeploy::undeploy_service(switch, delete_shared),
    }
}

/// Checks the health of the active release.
fn check_health(switch: &Switch<'_>, expected_pids: Option<&[u32]>) -> Result<DeployReply> {
    let state = DeployState::read(switch.layout)?;
    let Some(target) = state.confirmed_target() else {
        return Ok(DeployReply::Refused(format!("no release of {} serves on this host", switch.scope.service)));
    };
    let desired = releases::read_desired(switch.layout, target)?
        .with_context(|| format!("the records of release {} are missing", target.version))?;
    Ok(DeployReply::HealthChecked(switch.check_again(&desired, expected_pids)))
}
