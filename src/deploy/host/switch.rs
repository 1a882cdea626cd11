//! Makes a staged state the serving one, and returns by itself to the one before where it does not get healthy.
//!
//! journal → drain → configuration → units → link → restart → health → confirm → rotation. The run may be killed
//! anywhere between the first and the last write of the journal: the next switch starts from what it finds, restarts,
//! checks the health again, and returns the host into rotation.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Answer;
use super::activate::{Activation, StepFailure, StepReporter, TouchedUnits};
use super::command::CommandContext;
use super::health::HealthyService;
use super::layout::ServiceLayout;
use super::observe::observe_service;
use super::releases::{self, StoredRelease};
use super::service_manager::ServiceManager;
use super::state::{DeployState, Direction, unix_seconds};
use super::{health, observe};
use crate::deploy::plan::{self, ChangedByRun};
use crate::protocol::ProgressSink;
use crate::protocol::deploy::{
    CompareWith, DeployFailure, DesiredState, HealthCheck, Rejection, ReleaseTarget, ReleaseVersion, RollBack,
    ServiceRef, SwitchOutcome, SwitchPurpose, SwitchRecord, SwitchRelease, SwitchStep,
};

/// Age of the oldest log line that a failed check of an active release reports, in seconds.
const LOG_SECONDS: u64 = 60;

/// A switch on one host.
pub(super) struct Switch<'a> {
    pub layout: &'a ServiceLayout,
    pub scope: &'a ServiceRef,
    pub service_manager: &'a dyn ServiceManager,
    pub sink: &'a dyn ProgressSink,
    pub direction: Direction,
}

impl Switch<'_> {
    /// Switches back to a release that was healthy on this host, by default the one before. It gets the sensitive
    /// configuration of today: a secret that was replaced meanwhile is no longer valid.
    pub fn roll_back(&self, request: &RollBack) -> Answer<SwitchOutcome> {
        let (stored, _) = StoredRelease::list_all(self.layout)?;
        let state = DeployState::read(self.layout)?;
        let target = match observe::rollback_target(&state, request.version.as_ref(), &stored) {
            Ok(target) => target,
            Err(why) => return Ok(Err(Rejection::Refused(why))),
        };
        let Some(desired) = releases::read_with_current_secrets(self.layout, &state, &target)? else {
            return Ok(Err(Rejection::Refused(format!("release {} is not staged on this host", target.version))));
        };
        releases::store_known_setup(self.layout, &desired, &stored)?;
        let serving = request.expected_current.as_ref();
        self.switch_to(&desired.to_release_target(), serving, &request.purpose, ChangedByRun::Nothing)
    }

    /// Switches to a state that this run has staged.
    pub fn switch_to_staged(&self, request: &SwitchRelease) -> Answer<SwitchOutcome> {
        let serving = request.expected_current.as_ref();
        self.switch_to(&request.target, serving, &request.purpose, ChangedByRun::Staged(serving))
    }

    fn switch_to(
        &self,
        target: &ReleaseTarget,
        from: Option<&ReleaseTarget>,
        purpose: &SwitchPurpose,
        changed: ChangedByRun<'_>,
    ) -> Answer<SwitchOutcome> {
        let mut state = DeployState::read(self.layout)?;
        // The plan of the run that adopted the service found no release.
        let is_adopted = from.is_none() && state.confirmed_target().is_some_and(|now| now.version.is_adopted());
        let is_expected = state.confirmed_target() == from || is_adopted || state.extends(from);
        if !is_expected && state.confirmed_target() != Some(target) {
            let name = |target: Option<&ReleaseTarget>| {
                target.map_or("nothing".to_owned(), |target| target.version.to_string())
            };
            let (now, planned) = (name(state.confirmed_target()), name(from));
            return Ok(Err(Rejection::PlanOutdated(vec![format!("{now} is active, but the plan expected {planned}")])));
        }
        let Some(desired) = releases::read_desired(self.layout, target)? else {
            return Ok(Err(Rejection::Refused(format!("release {} is not staged on this host", target.version))));
        };
        let compare_with = CompareWith::Desired(Box::new(desired.clone()));
        let mut observation = match observe_service(self.layout, self.service_manager, &compare_with)? {
            Ok(seen) => seen,
            Err(reason) => return Ok(Err(Rejection::Refused(reason))),
        };
        if self.direction == Direction::Back {
            // As in the plan of a rollback: it has no --adopt, and shows what it replaces.
            observation.unmanaged_paths.clear();
        }
        let rows = match plan::plan_rows(&desired, &observation, &|_| None) {
            Ok(rows) => rows,
            Err(why) => return Ok(Err(Rejection::Refused(why))),
        };
        if observation
            .releases
            .iter()
            .any(|release| release.version == target.version && !release.damaged_files.is_empty())
        {
            return Ok(Err(Rejection::Refused(format!(
                "release {} is damaged on this host; deploy it again",
                target.version
            ))));
        }
        if let SwitchPurpose::Plan { expected_changes } = purpose {
            let unplanned = plan::find_unplanned_changes(&rows, expected_changes, &observation, changed);
            if !unplanned.is_empty() {
                return Ok(Err(Rejection::PlanOutdated(unplanned)));
            }
        }
        if rows.iter().all(|row| !row.action.is_pending()) {
            return Ok(Ok(SwitchOutcome::Unchanged));
        }
        if self.sink.is_cancelled() {
            return Ok(Err(Rejection::Cancelled));
        }
        let activation = Activation::from_plan(&desired, &observation, &rows);
        let (from, started_at, clock) = (state.confirmed_target().cloned(), unix_seconds(), Instant::now());
        let outcome = self.apply_switch(&mut state, &desired, &activation)?;
        if let Some((result, failure)) = outcome.to_result() {
            state.record_switch(SwitchRecord {
                operator: self.scope.operator.clone(),
                run: self.scope.run.clone(),
                started_at,
                duration_ms: u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX),
                from: from.map(|from| from.version),
                to: target.version.clone(),
                revision: read_revision(&desired),
                result,
                failure,
            });
            state.write(self.layout)?;
        }
        Ok(Ok(outcome))
    }

    /// Stops the active release on a host that served nothing before it: the rollout failed on other hosts. A failed hook
    /// does not keep a release in service that the fleet does not serve.
    pub fn deactivate(&self, target: &ReleaseTarget) -> Answer<SwitchOutcome> {
        let mut state = DeployState::read(self.layout)?;
        if state.confirmed_target() != Some(target) || state.previous_target().is_some() {
            return Ok(Err(Rejection::PlanOutdated(vec![format!(
                "release {} is not the only one that served on this host",
                target.version
            )])));
        }
        let desired = releases::read_desired(self.layout, target)?
            .with_context(|| format!("the records of release {} are missing", target.version))?;
        let detail = "the rollout failed on other hosts".to_owned();
        let (started_at, clock) = (unix_seconds(), Instant::now());
        let steps = self.step_reporter(&target.version);
        state.begin_deactivation(target, &detail);
        state.write(self.layout)?;
        steps.report_step("drain");
        let drained = self.run_hooks(&desired, &desired.config.hooks.before);
        steps.report_step("stop");
        self.stop_units(&desired)?;
        let drain_failure = drained.err().map(|error| format!("; {error:#}")).unwrap_or_default();
        let failure = plain_failure(SwitchStep::Return, format!("{detail}{drain_failure}"));
        let outcome = SwitchOutcome::Stopped { version: target.version.clone(), failure };
        state.pending_switch = None;
        state.out_of_rotation = false;
        if let Some((result, failure)) = outcome.to_result() {
            state.record_switch(SwitchRecord {
                operator: self.scope.operator.clone(),
                run: self.scope.run.clone(),
                started_at,
                duration_ms: u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX),
                from: Some(target.version.clone()),
                to: target.version.clone(),
                revision: read_revision(&desired),
                result,
                failure,
            });
        }
        state.write(self.layout)?;
        Ok(Ok(outcome))
    }

    fn step_reporter(&self, version: &ReleaseVersion) -> StepReporter<'_> {
        StepReporter::new(self.sink, version)
    }

    fn apply_switch(
        &self,
        state: &mut DeployState,
        desired: &DesiredState,
        activation: &Activation,
    ) -> Result<SwitchOutcome> {
        let (target, since) = (desired.to_release_target(), unix_seconds());
        let steps = self.step_reporter(&target.version);
        let before = state.confirmed_target().cloned();
        let mut touched = if state.pending_switch.is_some() { TouchedUnits::All } else { TouchedUnits::None };
        steps.report_step("journal");
        state.pending_switch = Some(target.clone());
        state.out_of_rotation |= activation.changes_service;
        state.write(self.layout)?;
        let is_drained = state.maintenance.as_ref().is_some_and(|maintenance| maintenance.is_drained);
        if before.is_some() && activation.changes_service && !is_drained {
            steps.report_step("drain");
            if let Err(error) = self.run_hooks(desired, &desired.config.hooks.before) {
                let detail = format!("{error:#}");
                // An earlier run that did not finish may have changed anything.
                return match touched {
                    TouchedUnits::All => {
                        let failure = plain_failure(SwitchStep::Drain, detail);
                        self.revert_switch(state, desired, failure, &touched)
                    }
                    _ => self.abort_before_change(state, desired, &detail),
                };
            }
        }
        let started = Instant::now();
        match self.activate_and_check(desired, activation, &steps, &mut touched) {
            Ok(healthy) => {
                let gap_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                steps.report_step("confirm");
                state.confirm_switch(&target, &self.scope.operator, self.direction);
                state.write(self.layout)?;
                let rotation_failure = self.return_to_rotation(state, desired, &desired.config.hooks.after)?;
                Ok(SwitchOutcome::Healthy {
                    version: target.version,
                    previous: before.map(|before| before.version),
                    restarted: activation.restart_units.clone(),
                    gap_ms,
                    main_pids: healthy.pids,
                    rotation_failure,
                    in_maintenance: state.maintenance.is_some(),
                })
            }
            Err(failure) => {
                let failed = self.build_failure(desired, failure, since);
                self.revert_switch(state, desired, failed, &touched)
            }
        }
    }

    /// Runs the hooks that return the host into rotation; returns why one failed. The journal records the success:
    /// until then every run of a deploy tries again. A host in maintenance stays out of rotation.
    pub fn return_to_rotation(
        &self,
        state: &mut DeployState,
        desired: &DesiredState,
        hooks: &[Vec<String>],
    ) -> Result<Option<String>> {
        if !state.out_of_rotation || state.maintenance.is_some() {
            return Ok(None);
        }
        self.step_reporter(&desired.manifest.version).report_step("rotation");
        if let Err(error) = self.run_hooks(desired, hooks) {
            return Ok(Some(format!("{error:#}")));
        }
        state.out_of_rotation = false;
        state.write(self.layout)?;
        Ok(None)
    }

    /// Applies a state and waits until it is healthy for its steady time; else returns the step that failed.
    fn activate_and_check(
        &self,
        desired: &DesiredState,
        activation: &Activation,
        steps: &StepReporter<'_>,
        touched: &mut TouchedUnits,
    ) -> Result<HealthyService, StepFailure> {
        if activation.changes_service {
            activation.apply(self.layout, self.service_manager, desired, steps, touched)?;
        }
        steps.report_step("health");
        // A release that was steady when it was deployed is not waited for again: a rollback is urgent.
        let steady_ms = if self.direction == Direction::Back { 0 } else { desired.config.health.steady_ms };
        self.wait_until_healthy(desired, &HealthCheck { steady_ms, ..desired.config.health.clone() })
    }

    fn wait_until_healthy(&self, desired: &DesiredState, check: &HealthCheck) -> Result<HealthyService, StepFailure> {
        let result = self.with_command_context(desired, |place| {
            health::wait_until_healthy(check, &desired.config, self.service_manager, place)
        });
        result.map_err(|detail| StepFailure { step: SwitchStep::Health, detail })
    }

    /// Checks the health of a state that was healthy before; returns the failure.
    pub fn check_again(&self, desired: &DesiredState, expected_pids: Option<&[u32]>) -> Option<DeployFailure> {
        let result = self.with_command_context(desired, |place| {
            health::check_again(&desired.config, self.service_manager, place, expected_pids)
        });
        let since = unix_seconds().saturating_sub(LOG_SECONDS);
        result.err().map(|detail| self.build_failure(desired, StepFailure { step: SwitchStep::Health, detail }, since))
    }

    /// Runs something where the state's own commands run.
    pub fn with_command_context<T>(&self, desired: &DesiredState, run: impl FnOnce(&CommandContext<'_>) -> T) -> T {
        let (version, release) = (&desired.manifest.version, self.layout.release_dir(&desired.manifest.version));
        let user = desired.config.user.as_deref();
        run(&CommandContext { scope: self.scope, version: version.as_str(), release_dir: &release, user })
    }

    pub fn run_hooks(&self, desired: &DesiredState, hooks: &[Vec<String>]) -> Result<()> {
        let timeout = Duration::from_millis(desired.config.hooks.timeout_ms);
        for argv in hooks {
            let outcome = self.with_command_context(desired, |place| place.run_command(argv, timeout))?;
            ensure!(outcome.is_success(), "the hook `{}` {}", argv.join(" "), outcome.describe());
        }
        Ok(())
    }

    /// Ends a switch whose drain failed: nothing was changed, and the active release returns into rotation.
    fn abort_before_change(
        &self,
        state: &mut DeployState,
        desired: &DesiredState,
        detail: &str,
    ) -> Result<SwitchOutcome> {
        let version = desired.manifest.version.clone();
        state.pending_switch = None;
        state.failures.insert(version.clone(), detail.to_owned());
        state.write(self.layout)?;
        let rotation = self.return_to_rotation(state, desired, &desired.config.hooks.after)?;
        let failure = plain_failure(SwitchStep::Drain, detail.to_owned());
        Ok(match state.confirmed_target() {
            Some(serving) => SwitchOutcome::RolledBack {
                version,
                failure,
                restored: serving.version.clone(),
                restored_failure: rotation.map(|detail| plain_failure(SwitchStep::Rotation, detail)),
            },
            None => SwitchOutcome::Stopped { version, failure },
        })
    }

    /// Returns to the release that served before, or stops the units if there is none.
    fn revert_switch(
        &self,
        state: &mut DeployState,
        desired: &DesiredState,
        failure: DeployFailure,
        touched: &TouchedUnits,
    ) -> Result<SwitchOutcome> {
        let (target, since) = (desired.to_release_target(), unix_seconds());
        let version = target.version.clone();
        state.failures.insert(version.clone(), format!("{}: {}", failure.step, failure.detail));
        let steps = self.step_reporter(&version);
        let Some(serving) = state.confirmed_target().cloned() else {
            steps.report_step("stop");
            self.stop_units(desired)?;
            state.pending_switch = None;
            state.out_of_rotation = false;
            state.write(self.layout)?;
            return Ok(SwitchOutcome::Stopped { version, failure });
        };
        if serving == target {
            // It stays out of rotation, since it is not healthy; the next run checks it again.
            state.pending_switch = None;
            state.write(self.layout)?;
            return Ok(SwitchOutcome::Unhealthy { version, failure });
        }
        steps.report_step("return");
        state.write(self.layout)?;
        let restored_failure = match self.restore_release(&serving, touched) {
            Ok(old) => {
                state.pending_switch = None;
                state.write(self.layout)?;
                // A service that dunlin did not deploy has no folder with the programs of the hooks.
                let hook_state = if old.config.adopted.is_some() { desired } else { &old };
                let rotation = self.return_to_rotation(state, hook_state, &desired.config.hooks.after)?;
                rotation.map(|detail| plain_failure(SwitchStep::Rotation, detail))
            }
            // It stays in the journal, so that the next run sees that this host is between the two.
            Err(failure) => {
                let old = releases::read_desired(self.layout, &serving)?;
                Some(self.build_failure(old.as_ref().unwrap_or(desired), failure, since))
            }
        };
        Ok(SwitchOutcome::RolledBack { version, failure, restored: serving.version, restored_failure })
    }

    /// Restores the release that served before; restarts only what the failed switch touched.
    fn restore_release(&self, serving: &ReleaseTarget, touched: &TouchedUnits) -> Result<DesiredState, StepFailure> {
        let failed = StepFailure::at(SwitchStep::Return);
        let found = releases::read_desired(self.layout, serving).map_err(&failed)?;
        let old = found.with_context(|| format!("the records of {} are gone", serving.version)).map_err(&failed)?;
        let observation =
            observe_service(self.layout, self.service_manager, &CompareWith::Desired(Box::new(old.clone())))
                .map_err(&failed)?;
        let seen = observation.map_err(|detail| StepFailure { step: SwitchStep::Return, detail })?;
        let activation = Activation::restore(&old, &seen, touched);
        let steps = self.step_reporter(&serving.version);
        activation.apply(self.layout, self.service_manager, &old, &steps, &mut TouchedUnits::None)?;
        steps.report_step("health");
        // It was steady when it was deployed: the clients should not wait for that again.
        self.wait_until_healthy(&old, &HealthCheck { steady_ms: 0, ..old.config.health.clone() })?;
        Ok(old)
    }

    fn stop_units(&self, desired: &DesiredState) -> Result<()> {
        for unit in desired.config.units.iter().rev() {
            self.service_manager.stop_unit(&unit.name)?;
            if unit.start_at_boot {
                self.service_manager.set_enabled(&unit.name, false)?;
            }
        }
        self.layout.set_current_link(None)
    }

    fn build_failure(&self, desired: &DesiredState, failure: StepFailure, since: u64) -> DeployFailure {
        let units: Vec<&str> = desired.config.units.iter().map(|unit| unit.name.as_str()).collect();
        let log = if units.is_empty() { Vec::new() } else { self.service_manager.read_log(&units, since) };
        DeployFailure { step: failure.step, detail: failure.detail, journal_lines: log }
    }
}

fn read_revision(desired: &DesiredState) -> Option<String> {
    desired.manifest.origin.as_ref()?.revision.clone()
}

/// A failure without the journal of the units.
pub(super) fn plain_failure(step: SwitchStep, detail: String) -> DeployFailure {
    DeployFailure { step, detail, journal_lines: Vec::new() }
}
