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
use crate::plan::{Digest, PlannedRow, ResourceChange};
use crate::protocol::ProgressSink;
use crate::protocol::deploy::{
    ApplyChange, CheckHealth, CheckRelease, CompareWith, DeactivateRelease, DeployFailure, DeployReply, DeployRequest,
    DesiredState, LockService, ObserveService, PlanChange, PruneReleases, RecordTask, Rejection, RollBack, RunTask,
    ServiceChange, ServiceObservation, StageRelease, StagedRelease, SwitchPurpose, SwitchRelease,
};
use crate::protocol::lock::{LockHolder, LockRequest, LockResult};
use crate::resources::BlobSource;

pub use service_manager::{ServiceManager, Systemd, UnitStatus};

/// The answer to a request, or the rejection of it; an error if an operation failed.
type Answer<T> = Result<Result<T, Rejection>>;

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

    /// Returns the contents that staging a release needs and this host does not have in any release.
    /// [`Self::handle_request`] asks its source of contents for them, and for those whose bytes turn out to be damaged.
    /// Changes nothing.
    ///
    /// # Errors
    /// Returns an error if the service's folder cannot be read.
    pub fn missing_blobs(&self, stage: &StageRelease) -> Result<Vec<Digest>> {
        contents::missing_contents(&ServiceLayout::from_scope(&stage.scope)?, &stage.desired)
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
        let layout = &ServiceLayout::from_scope(request.scope())?;
        let (scope, service_manager) = (request.scope(), self.service_manager.as_ref());
        let switch = Switch { layout, scope, service_manager, sink, direction: Direction::Forward };
        match request {
            DeployRequest::ObserveService(observe) => {
                Ok(ObserveService::to_reply(self.observe_service(layout, &observe.compare_with)?))
            }
            DeployRequest::PlanChange(plan) => {
                let rows = plan_change(layout, service_manager, plan.change)?;
                Ok(PlanChange::to_reply(rows.map_err(Rejection::Refused)))
            }
            DeployRequest::CheckHealth(check) => {
                Ok(CheckHealth::to_reply(check_health(&switch, check.expected_pids.as_deref())?))
            }
            _ => {
                let held = match self.acquire_lock(layout, &scope.operator)? {
                    Ok(held) => held,
                    Err(holder) => return Ok(DeployReply::Rejected(Rejection::Locked(holder))),
                };
                // A request that panicked left the journal as a kill would; that is what the next one is made for.
                let _turn = held.request_order.lock().unwrap_or_else(PoisonError::into_inner);
                self.handle_change(switch, request, blobs)
            }
        }
    }

    fn handle_change(
        &self,
        switch: Switch<'_>,
        request: &DeployRequest,
        blobs: &dyn BlobSource,
    ) -> Result<DeployReply> {
        let (layout, services) = (switch.layout, switch.service_manager);
        Ok(match request {
            DeployRequest::StageRelease(stage) => StageRelease::to_reply(self.stage_release(&switch, stage, blobs)?),
            DeployRequest::SwitchRelease(request) => {
                let is_return = request.purpose == SwitchPurpose::Return;
                let direction = if is_return { Direction::Back } else { Direction::Forward };
                SwitchRelease::to_reply(Switch { direction, ..switch }.switch_to_staged(request)?)
            }
            DeployRequest::DeactivateRelease(request) => {
                DeactivateRelease::to_reply(switch.deactivate(&request.target)?)
            }
            DeployRequest::RollBack(request) => {
                let switch = Switch { direction: Direction::Back, ..switch };
                RollBack::to_reply(switch.roll_back(request)?)
            }
            DeployRequest::CheckRelease(CheckRelease { desired, listen_ports, .. }) => {
                let preflight = Preflight { layout, services, desired, listen_ports, blobs };
                CheckRelease::to_reply(Ok(preflight.find_problems()?))
            }
            DeployRequest::LockService(_) => LockService::to_reply(Ok(DeployState::read(layout)?.task_records)),
            DeployRequest::RecordTask(request) => RecordTask::to_reply(tasks::record_task(layout, &request.record)?),
            DeployRequest::RunTask(RunTask { target, task, run, .. }) => {
                RunTask::to_reply(tasks::run_task(&switch, target, task, run)?)
            }
            DeployRequest::ApplyChange(apply) => {
                ApplyChange::to_reply(apply_change(&switch, apply.change, &apply.expected_changes)?)
            }
            DeployRequest::PruneReleases(prune) => {
                PruneReleases::to_reply(Ok(prune::prune_releases(layout, prune.keep_releases, switch.sink)?))
            }
            DeployRequest::ObserveService(_) | DeployRequest::CheckHealth(_) | DeployRequest::PlanChange(_) => {
                anyhow::bail!("a read-only request cannot be applied")
            }
        })
    }

    fn observe_service(&self, layout: &ServiceLayout, about: &CompareWith) -> Answer<Box<ServiceObservation>> {
        let observed = observe::observe_service(layout, self.service_manager.as_ref(), about)?;
        Ok(observed.map_err(Rejection::Refused).map(|mut seen| {
            // Its own lock is none that stands in the controller's way.
            seen.lock_holder = seen.lock_holder.filter(|_| !self.holds_lock(layout));
            Box::new(seen)
        }))
    }

    fn stage_release(
        &self,
        switch: &Switch<'_>,
        stage: &StageRelease,
        blobs: &dyn BlobSource,
    ) -> Answer<StagedRelease> {
        let (layout, desired) = (switch.layout, &stage.desired);
        if let Err(error) = check_signature(&desired.manifest, &desired.signature_check) {
            return Ok(Err(Rejection::Refused(error.to_string())));
        }
        if let Err(rejection) = self.check_plan(layout, desired, &stage.expected_changes)? {
            return Ok(Err(rejection));
        }
        layout.create_dirs()?;
        let unmanaged = observe::find_unmanaged(layout, switch.service_manager, desired)?;
        match (unmanaged.is_empty(), stage.adopt) {
            (true, _) => {}
            (false, true) => adopt::adopt_service(switch, desired)?,
            (false, false) => {
                let serving = DeployState::read(layout)?.confirmed_target().map(|now| now.version.clone());
                return Ok(Err(Rejection::Refused(plan::describe_unmanaged(&unmanaged, serving.as_ref()))));
            }
        }
        stage::stage_release(layout, desired, blobs, switch.sink)
    }

    /// Compares the host with the plan's rows.
    fn check_plan(&self, layout: &ServiceLayout, desired: &DesiredState, expected: &[PlannedRow]) -> Answer<()> {
        if expected.is_empty() {
            return Ok(Ok(()));
        }
        let about = CompareWith::Desired(Box::new(desired.clone()));
        let rows = match observe::observe_service(layout, self.service_manager.as_ref(), &about)? {
            Ok(seen) => plan::plan_rows(desired, &seen, &|_| None),
            Err(why) => Err(why),
        };
        let rows = match rows {
            Ok(rows) => rows,
            Err(why) => return Ok(Err(Rejection::Refused(why))),
        };
        let stale = plan::find_stale_rows(&rows, expected);
        Ok(if stale.is_empty() { Ok(()) } else { Err(Rejection::PlanOutdated(stale)) })
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
fn apply_change(switch: &Switch<'_>, change: ServiceChange, expected: &[PlannedRow]) -> Answer<Option<DeployFailure>> {
    let rows = match plan_change(switch.layout, switch.service_manager, change)? {
        Ok(rows) => rows,
        Err(reason) => return Ok(Err(Rejection::Refused(reason))),
    };
    let stale = plan::find_stale_rows(&rows, expected);
    if !stale.is_empty() {
        return Ok(Err(Rejection::PlanOutdated(stale)));
    }
    if switch.sink.is_cancelled() {
        return Ok(Err(Rejection::Cancelled));
    }
    match change {
        ServiceChange::StartMaintenance => maintenance::start_maintenance(switch),
        ServiceChange::EndMaintenance => maintenance::end_maintenance(switch),
        ServiceChange::Undeploy { delete_shared } => undeploy::undeploy_service(switch, delete_shared),
    }
}

/// Checks the health of the active release.
fn check_health(switch: &Switch<'_>, expected_pids: Option<&[u32]>) -> Answer<Option<DeployFailure>> {
    let state = DeployState::read(switch.layout)?;
    let Some(target) = state.confirmed_target() else {
        let reason = format!("no release of {} serves on this host", switch.scope.service);
        return Ok(Err(Rejection::Refused(reason)));
    };
    let desired = releases::read_desired(switch.layout, target)?
        .with_context(|| format!("the records of release {} are missing", target.version))?;
    Ok(Ok(switch.check_again(&desired, expected_pids)))
}
