//! Makes a staged state the serving one, and returns by itself to the one before where it does not get healthy.
//!
//! journal → drain → configuration → units → link → restart → health → confirm → hooks behind it. What stands between the first and
//! the last write of the journal may be killed anywhere: the next switch starts from what it finds, restarts, and asks
//! for health again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::activate::{Activation, Steps};
use super::command::Place;
use super::layout::Layout;
use super::observe::observe;
use super::releases::{self, Kept};
use super::services::Services;
use super::state::{State, now};
use super::{health, observe};
use crate::deploy::plan;
use crate::wire::Sink;
use crate::wire::deploy::{About, Desired, Failure, Outcome, Reply, Scope, Target, Version};

/// How long a hook may take.
const HOOK: Duration = Duration::from_secs(120);

/// A switch on one host.
pub(super) struct Switch<'a> {
    pub layout: &'a Layout,
    pub scope: &'a Scope,
    pub services: &'a dyn Services,
    pub sink: &'a dyn Sink,
}

impl Switch<'_> {
    /// Switches to a release that is kept; without a version to the one before.
    pub fn rollback(&self, to: Option<&Version>, from: Option<&Target>) -> Result<Reply> {
        let (kept, _) = Kept::all(self.layout)?;
        match observe::kept_target(&State::read(self.layout)?, to, &kept) {
            Ok(target) => self.run(&target, from),
            Err(why) => Ok(Reply::Refused(why)),
        }
    }

    /// Switches to a staged state.
    pub fn run(&self, target: &Target, from: Option<&Target>) -> Result<Reply> {
        let mut state = State::read(self.layout)?;
        if state.confirmed() != from && state.confirmed() != Some(target) {
            let name =
                |target: Option<&Target>| target.map_or("nothing".to_owned(), |target| target.version.to_string());
            let (now, then) = (name(state.confirmed()), name(from));
            return Ok(Reply::Stale(vec![format!("{now} serves, where the plan found {then}")]));
        }
        let Some(desired) = releases::desired(self.layout, target)? else {
            return Ok(Reply::Refused(format!("release {} is not staged on this host", target.version)));
        };
        let about = About::Desired(Box::new(desired.clone()));
        let seen = match observe(self.layout, self.services, &about)? {
            Ok(seen) => seen,
            Err(why) => return Ok(Reply::Refused(why)),
        };
        let rows = match plan::rows(&desired, &seen, &|_| None) {
            Ok(rows) => rows,
            Err(why) => return Ok(Reply::Refused(why)),
        };
        if seen.releases.iter().any(|release| release.version == target.version && !release.damage.is_empty()) {
            return Ok(Reply::Refused(format!("release {} is damaged on this host; deploy it again", target.version)));
        }
        if rows.iter().all(|row| !row.action.is_pending()) {
            return Ok(Reply::Switched(Outcome::Unchanged));
        }
        if self.sink.cancelled() {
            return Ok(Reply::Cancelled);
        }
        let activation = Activation::due(&desired, &seen, &rows);
        self.forward(&mut state, &desired, &activation).map(Reply::Switched)
    }

    fn steps(&self, version: &Version) -> Steps<'_> {
        Steps::new(self.sink, version)
    }

    fn forward(&self, state: &mut State, desired: &Desired, activation: &Activation) -> Result<Outcome> {
        let (target, since) = (desired.target(), now());
        let steps = self.steps(&target.version);
        let before = state.confirmed().cloned();
        steps.at("journal");
        state.switching = Some(target.clone());
        state.write(self.layout)?;
        steps.at("drain");
        if before.is_some()
            && let Err(error) = self.hooks(desired, &desired.setup.drain.before)
        {
            return self.not_begun(state, desired, &format!("{error:#}"));
        }
        let started = Instant::now();
        match self.activate(desired, activation, &steps) {
            Ok(()) => {
                let gap_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                steps.at("confirm");
                state.confirm(&target, &self.scope.by);
                state.write(self.layout)?;
                steps.at("undrain");
                let hook = self.hooks(desired, &desired.setup.drain.after).err().map(|error| format!("{error:#}"));
                let before = before.map(|before| before.version);
                let restarted = activation.restart.clone();
                Ok(Outcome::Healthy { version: target.version, before, restarted, gap_ms, hook })
            }
            Err((step, detail)) => {
                let failed = self.failure(desired, step, detail, since);
                self.back(state, desired, failed)
            }
        }
    }

    /// Applies a state and waits until it is healthy; else the step that failed, and why.
    fn activate(&self, desired: &Desired, activation: &Activation, steps: &Steps<'_>) -> Result<(), (String, String)> {
        activation
            .apply(self.layout, self.services, desired, steps)
            .map_err(|(step, error)| (step.to_owned(), format!("{error:#}")))?;
        steps.at("health");
        self.healthy(desired).map_err(|why| ("health".to_owned(), why))
    }

    /// Waits for the health of a state.
    pub fn healthy(&self, desired: &Desired) -> Result<(), String> {
        self.place(desired, |place| health::wait(&desired.setup, self.services, place))
    }

    /// Runs something where the state's own commands run.
    pub fn place<T>(&self, desired: &Desired, run: impl FnOnce(&Place<'_>) -> T) -> T {
        let (version, release) = (&desired.manifest.version, self.layout.release(&desired.manifest.version));
        let user = desired.setup.user.as_deref();
        run(&Place { scope: self.scope, version: version.as_str(), release: &release, user })
    }

    fn hooks(&self, desired: &Desired, hooks: &[Vec<String>]) -> Result<()> {
        for argv in hooks {
            let ended = self.place(desired, |place| place.run(argv, HOOK))?;
            ensure!(ended.is_success(), "the hook `{}` {}", argv.join(" "), ended.describe());
        }
        Ok(())
    }

    /// A hook refused before anything was touched: what serves goes on.
    fn not_begun(&self, state: &mut State, desired: &Desired, detail: &str) -> Result<Outcome> {
        let version = desired.manifest.version.clone();
        state.switching = None;
        state.failed.insert(version.clone(), detail.to_owned());
        state.write(self.layout)?;
        self.hooks(desired, &desired.setup.drain.after).ok();
        let failed = Failure { step: "drain".to_owned(), detail: detail.to_owned(), log: Vec::new() };
        Ok(match state.confirmed() {
            Some(serving) => Outcome::Returned { version, failed, to: serving.version.clone(), unhealthy: None },
            None => Outcome::Stopped { version, failed },
        })
    }

    /// The way back: to what served before, or to nothing.
    fn back(&self, state: &mut State, desired: &Desired, failed: Failure) -> Result<Outcome> {
        let (target, since) = (desired.target(), now());
        let version = target.version.clone();
        state.failed.insert(version.clone(), format!("{}: {}", failed.step, failed.detail));
        let steps = self.steps(&version);
        let Some(serving) = state.confirmed().cloned() else {
            steps.at("stop");
            self.stop_all(desired)?;
            state.switching = None;
            state.write(self.layout)?;
            return Ok(Outcome::Stopped { version, failed });
        };
        if serving == target {
            state.switching = None;
            state.write(self.layout)?;
            return Ok(Outcome::Unhealthy { version, failed });
        }
        steps.at("return");
        state.write(self.layout)?;
        let returned = self.return_to(&serving, &self.steps(&serving.version));
        let unhealthy = match returned {
            Ok(old) => {
                state.switching = None;
                state.write(self.layout)?;
                self.hooks(&old, &desired.setup.drain.after).ok();
                None
            }
            // It stays in the journal, so that the next run sees that this host is half way between the two.
            Err((step, detail)) => {
                let old = releases::desired(self.layout, &serving)?;
                Some(self.failure(old.as_ref().unwrap_or(desired), step, detail, since))
            }
        };
        Ok(Outcome::Returned { version, failed, to: serving.version, unhealthy })
    }

    fn return_to(&self, serving: &Target, steps: &Steps<'_>) -> Result<Desired, (String, String)> {
        let failed = |error: anyhow::Error| ("return".to_owned(), format!("{error:#}"));
        let found = releases::desired(self.layout, serving).map_err(failed)?;
        let old = found.with_context(|| format!("the records of {} are gone", serving.version)).map_err(failed)?;
        let seen = observe(self.layout, self.services, &About::Desired(Box::new(old.clone()))).map_err(failed)?;
        let seen = seen.map_err(|why| ("return".to_owned(), why))?;
        let activation = Activation::whole(&old, &seen);
        self.activate(&old, &activation, steps)?;
        Ok(old)
    }

    fn stop_all(&self, desired: &Desired) -> Result<()> {
        for unit in desired.setup.units.iter().rev() {
            self.services.stop(&unit.name)?;
            if unit.enable {
                self.services.enable(&unit.name, false)?;
            }
        }
        self.layout.point_to(None)
    }

    fn failure(&self, desired: &Desired, step: String, detail: String, since: u64) -> Failure {
        let units: Vec<&str> = desired.setup.units.iter().map(|unit| unit.name.as_str()).collect();
        let log = if units.is_empty() { Vec::new() } else { self.services.log(&units, since) };
        Failure { step, detail, log }
    }
}
