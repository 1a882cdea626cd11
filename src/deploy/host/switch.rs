//! Makes a staged state the serving one, and returns by itself to the one before where it does not get healthy.
//!
//! journal → drain → configuration → units → link → restart → health → confirm → hooks behind it. What stands between the first and
//! the last write of the journal may be killed anywhere: the next switch starts from what it finds, restarts, and asks
//! for health again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::activate::{Activation, StepFailure, StepReporter};
use super::command::CommandContext;
use super::layout::ServiceLayout;
use super::observe::observe_service;
use super::releases::{self, StoredRelease};
use super::service_manager::ServiceManager;
use super::state::{DeployState, unix_seconds};
use super::{health, observe};
use crate::deploy::plan;
use crate::protocol::ProgressSink;
use crate::protocol::deploy::{
    CompareWith, DeployFailure, DeployReply, DesiredState, ReleaseTarget, ReleaseVersion, ServiceRef, SwitchOutcome,
    SwitchStep,
};

/// Time limit of a hook.
const HOOK_TIMEOUT: Duration = Duration::from_secs(120);

/// A switch on one host.
pub(super) struct Switch<'a> {
    pub layout: &'a ServiceLayout,
    pub scope: &'a ServiceRef,
    pub service_manager: &'a dyn ServiceManager,
    pub sink: &'a dyn ProgressSink,
}

impl Switch<'_> {
    /// Switches to a release that is kept; without a version to the one before.
    pub fn roll_back(&self, to: Option<&ReleaseVersion>, from: Option<&ReleaseTarget>) -> Result<DeployReply> {
        let (kept, _) = StoredRelease::list_all(self.layout)?;
        match observe::rollback_target(&DeployState::read(self.layout)?, to, &kept) {
            Ok(target) => self.switch_to(&target, from),
            Err(why) => Ok(DeployReply::Refused(why)),
        }
    }

    /// Switches to a staged state.
    pub fn switch_to(&self, target: &ReleaseTarget, from: Option<&ReleaseTarget>) -> Result<DeployReply> {
        let mut state = DeployState::read(self.layout)?;
        if state.confirmed_target() != from && state.confirmed_target() != Some(target) {
            let name = |target: Option<&ReleaseTarget>| {
                target.map_or("nothing".to_owned(), |target| target.version.to_string())
            };
            let (now, planned) = (name(state.confirmed_target()), name(from));
            return Ok(DeployReply::PlanOutdated(vec![format!("{now} serves, where the plan found {planned}")]));
        }
        let Some(desired) = releases::read_desired(self.layout, target)? else {
            return Ok(DeployReply::Refused(format!("release {} is not staged on this host", target.version)));
        };
        let compare_with = CompareWith::Desired(Box::new(desired.clone()));
        let observation = match observe_service(self.layout, self.service_manager, &compare_with)? {
            Ok(seen) => seen,
            Err(reason) => return Ok(DeployReply::Refused(reason)),
        };
        let rows = match plan::plan_rows(&desired, &observation, &|_| None) {
            Ok(rows) => rows,
            Err(why) => return Ok(DeployReply::Refused(why)),
        };
        if observation
            .releases
            .iter()
            .any(|release| release.version == target.version && !release.damaged_files.is_empty())
        {
            return Ok(DeployReply::Refused(format!(
                "release {} is damaged on this host; deploy it again",
                target.version
            )));
        }
        if rows.iter().all(|row| !row.action.is_pending()) {
            return Ok(DeployReply::Switched(SwitchOutcome::Unchanged));
        }
        if self.sink.is_cancelled() {
            return Ok(DeployReply::Cancelled);
        }
        let activation = Activation::from_plan(&desired, &observation, &rows);
        self.apply_switch(&mut state, &desired, &activation).map(DeployReply::Switched)
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
        steps.report_step("journal");
        state.pending_switch = Some(target.clone());
        state.write(self.layout)?;
        steps.report_step("drain");
        if before.is_some()
            && let Err(error) = self.run_hooks(desired, &desired.config.hooks.before)
        {
            return self.abort_before_change(state, desired, &format!("{error:#}"));
        }
        let started = Instant::now();
        match self.activate_and_check(desired, activation, &steps) {
            Ok(()) => {
                let gap_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                steps.report_step("confirm");
                state.confirm_switch(&target, &self.scope.operator);
                state.write(self.layout)?;
                steps.report_step("undrain");
                let hook = self.run_hooks(desired, &desired.config.hooks.after).err().map(|error| format!("{error:#}"));
                let before = before.map(|before| before.version);
                let restarted = activation.restart_units.clone();
                Ok(SwitchOutcome::Healthy {
                    version: target.version,
                    previous: before,
                    restarted,
                    gap_ms,
                    failed_hook: hook,
                })
            }
            Err(failure) => {
                let failed = self.build_failure(desired, failure, since);
                self.revert_switch(state, desired, failed)
            }
        }
    }

    /// Applies a state and waits until it is healthy; else the step that failed, and why.
    fn activate_and_check(
        &self,
        desired: &DesiredState,
        activation: &Activation,
        steps: &StepReporter<'_>,
    ) -> Result<(), StepFailure> {
        activation.apply(self.layout, self.service_manager, desired, steps)?;
        steps.report_step("health");
        self.wait_until_healthy(desired).map_err(|detail| StepFailure { step: SwitchStep::Health, detail })
    }

    /// Waits for the health of a state.
    pub fn wait_until_healthy(&self, desired: &DesiredState) -> Result<(), String> {
        self.with_command_context(desired, |place| {
            health::wait_until_healthy(&desired.config, self.service_manager, place)
        })
    }

    /// Runs something where the state's own commands run.
    pub fn with_command_context<T>(&self, desired: &DesiredState, run: impl FnOnce(&CommandContext<'_>) -> T) -> T {
        let (version, release) = (&desired.manifest.version, self.layout.release_dir(&desired.manifest.version));
        let user = desired.config.user.as_deref();
        run(&CommandContext { scope: self.scope, version: version.as_str(), release_dir: &release, user })
    }

    fn run_hooks(&self, desired: &DesiredState, hooks: &[Vec<String>]) -> Result<()> {
        for argv in hooks {
            let outcome = self.with_command_context(desired, |place| place.run_command(argv, HOOK_TIMEOUT))?;
            ensure!(outcome.is_success(), "the hook `{}` {}", argv.join(" "), outcome.describe());
        }
        Ok(())
    }

    /// A hook refused before anything was touched: what serves goes on.
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
        self.run_hooks(desired, &desired.config.hooks.after).ok();
        let failed = DeployFailure { step: SwitchStep::Drain, detail: detail.to_owned(), journal_lines: Vec::new() };
        Ok(match state.confirmed_target() {
            Some(serving) => SwitchOutcome::RolledBack {
                version,
                failure: failed,
                restored: serving.version.clone(),
                restored_failure: None,
            },
            None => SwitchOutcome::Stopped { version, failure: failed },
        })
    }

    /// The way back: to what served before, or to nothing.
    fn revert_switch(
        &self,
        state: &mut DeployState,
        desired: &DesiredState,
        failed: DeployFailure,
    ) -> Result<SwitchOutcome> {
        let (target, since) = (desired.to_release_target(), unix_seconds());
        let version = target.version.clone();
        state.failures.insert(version.clone(), format!("{}: {}", failed.step, failed.detail));
        let steps = self.step_reporter(&version);
        let Some(serving) = state.confirmed_target().cloned() else {
            steps.report_step("stop");
            self.stop_units(desired)?;
            state.pending_switch = None;
            state.write(self.layout)?;
            return Ok(SwitchOutcome::Stopped { version, failure: failed });
        };
        if serving == target {
            state.pending_switch = None;
            state.write(self.layout)?;
            return Ok(SwitchOutcome::Unhealthy { version, failure: failed });
        }
        steps.report_step("return");
        state.write(self.layout)?;
        let returned = self.restore_release(&serving, &self.step_reporter(&serving.version));
        let unhealthy = match returned {
            Ok(old) => {
                state.pending_switch = None;
                state.write(self.layout)?;
                self.run_hooks(&old, &desired.config.hooks.after).ok();
                None
            }
            // It stays in the journal, so that the next run sees that this host is between the two.
            Err(failure) => {
                let old = releases::read_desired(self.layout, &serving)?;
                Some(self.build_failure(old.as_ref().unwrap_or(desired), failure, since))
            }
        };
        Ok(SwitchOutcome::RolledBack {
            version,
            failure: failed,
            restored: serving.version,
            restored_failure: unhealthy,
        })
    }

    fn restore_release(&self, serving: &ReleaseTarget, steps: &StepReporter<'_>) -> Result<DesiredState, StepFailure> {
        let failed = StepFailure::at(SwitchStep::Return);
        let found = releases::read_desired(self.layout, serving).map_err(&failed)?;
        let old = found.with_context(|| format!("the records of {} are gone", serving.version)).map_err(&failed)?;
        let observation =
            observe_service(self.layout, self.service_manager, &CompareWith::Desired(Box::new(old.clone())))
                .map_err(&failed)?;
        let seen = observation.map_err(|detail| StepFailure { step: SwitchStep::Return, detail })?;
        let activation = Activation::full_restart(&old, &seen);
        self.activate_and_check(&old, &activation, steps)?;
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
