//! `service`: whether a systemd unit is enabled, runs, is masked; and, as a handler, its restart or reload.
//!
//! Does not change: the unit's file, and each of the three that the step does not give. A second run is a no-op because
//! all three are compared with systemd's state. `restart` and `reload` always apply: use them in handlers.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::unit::{check_unit_name, is_template};
use super::{ApplyContext, BlobSource, Diff, HostView, Prefetch, ReadOutcome, Resource, UnitState, de_string};
use crate::plan::AttributeChange;
use crate::process::Program;

/// Limit of a job of systemd, for units that have none themselves.
pub(super) const JOB_TIMEOUT: Duration = Duration::from_secs(60 * 60);
/// Run through [`ApplyContext::enable_unit`], which collects several services.
const ENABLE_COMMAND: &str = "enable";
/// A reload after each would be most of the time that many services take: there is one, at the end.
const NO_RELOAD_FLAG: &str = "--no-reload";

/// Desired state of a service.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceResource {
    /// The unit: `redis-server`, `app@1.service`, `backup.timer`; `.service` where it has no suffix.
    pub name: String,
    /// Start the unit at boot.
    #[serde(default, deserialize_with = "de_string::optional")]
    pub enabled: Option<bool>,
    /// The unit is active.
    #[serde(default, deserialize_with = "de_string::optional")]
    pub running: Option<bool>,
    /// Forbid every start of the unit.
    #[serde(default, deserialize_with = "de_string::optional")]
    pub masked: Option<bool>,
    /// Restart it (start it, if it does not run).
    #[serde(default, deserialize_with = "de_string::required")]
    pub restart: bool,
    /// Let it read its configuration again (restart it, if it cannot).
    #[serde(default, deserialize_with = "de_string::required")]
    pub reload: bool,
}

impl Resource for ServiceResource {
    const KIND: &'static str = "service";
    type Observed = UnitState;

    fn started_unit(&self) -> Option<String> {
        (self.running == Some(true)).then(|| self.unit_name())
    }

    fn enabled_unit(&self) -> Option<String> {
        (self.enabled == Some(true)).then(|| self.started_unit())?
    }

    fn restarted_unit(&self) -> Option<String> {
        self.restart.then(|| self.unit_name())
    }

    fn key(&self) -> String {
        self.unit_name()
    }

    fn exclusive_claims(&self) -> Vec<String> {
        if self.is_action() { Vec::new() } else { vec![format!("service {}", self.unit_name())] }
    }

    fn validate(&self) -> Result<(), String> {
        let unit = self.unit_name();
        check_unit_name(&unit)?;
        if is_template(&unit) {
            return Err(format!("{unit} is a template; name an instance of it, as in \"{}\"", unit.replace('@', "@1")));
        }
        let states = [self.enabled, self.running, self.masked];
        if self.restart && self.reload {
            return Err("a restart reads the configuration too: leave out `reload`".to_owned());
        }
        if self.is_action() && states.iter().any(Option::is_some) {
            return Err("`restart` and `reload` belong in a handler, without other keys".to_owned());
        }
        if !self.is_action() && states.iter().all(Option::is_none) {
            return Err("no state: set `enabled`, `running`, `masked`, `restart` or `reload`".to_owned());
        }
        if self.masked == Some(true) && (self.enabled == Some(true) || self.running == Some(true)) {
            return Err("a masked unit can be neither enabled nor started".to_owned());
        }
        Ok(())
    }

    fn collect_prefetch(&self, wants: &mut Prefetch) {
        wants.units.insert(self.unit_name());
    }

    fn read(&self, view: &mut HostView) -> Result<ReadOutcome<UnitState>> {
        let unit = self.unit_name();
        let state = view.unit_state(&unit)?;
        if state.found {
            return Ok(ReadOutcome::Known(state));
        }
        if let Some(arrival) = view.provided_by(&format!("unit {unit}")) {
            return Ok(ReadOutcome::UnknownUntilApply(format!("the unit comes with package {}", arrival.package)));
        }
        if let Some(surprise) = view.unknown_until_apply() {
            return Ok(ReadOutcome::UnknownUntilApply(format!("the unit may come with {surprise}")));
        }
        if self.enabled == Some(true) || self.running == Some(true) || self.is_action() {
            bail!("there is no such unit; a `unit` or a `package` step before this one can provide it");
        }
        Ok(ReadOutcome::Known(state))
    }

    fn diff(&self, observed: &UnitState, _blobs: &dyn BlobSource) -> Result<Diff> {
        if self.is_action() {
            return Ok(Diff::run(if self.restart { "restart" } else { "reload" }));
        }
        if observed.masked && self.masked.is_none() && (self.enabled == Some(true) || self.running == Some(true)) {
            bail!("the unit is masked; `masked = false` lifts that");
        }
        let mut changes = Vec::new();
        if let Some(masked) = self.masked.filter(|masked| *masked != observed.masked) {
            changes.push(AttributeChange::new("masked", observed.masked, masked));
        }
        if let Some(enabled) = self.enabled_change(observed)? {
            let from = if observed.enabled.is_empty() { "disabled" } else { &observed.enabled };
            changes.push(AttributeChange::new("enabled", from, if enabled { "enabled" } else { "disabled" }));
        }
        if let Some(running) = self.running_change(observed) {
            changes.push(AttributeChange::new(
                "running",
                &observed.active,
                if running { "active" } else { "inactive" },
            ));
        }
        Ok(Diff::change(changes))
    }

    fn predict_state(&self, view: &mut HostView) {
        let unit = self.unit_name();
        // Where systemd does not answer, the step's own read has said so already.
        let Ok(mut state) = view.unit_state(&unit) else { return };
        let enabled = |enabled| if enabled { "enabled" } else { "disabled" };
        if !self.is_action() {
            // A unit that comes with a package is not known before; what this step makes of it is.
            state.found = true;
            state.masked = self.masked.unwrap_or(state.masked);
            state.enabled = self.enabled.map_or(state.enabled, |value| enabled(value).to_owned());
            if state.masked {
                state.enabled = "masked".to_owned();
            } else if state.enabled == "masked" {
                state.enabled = "disabled".to_owned();
            }
        }
        if let Some(running) = self.running.or(self.is_action().then_some(true)) {
            state.active = if running { "active" } else { "inactive" }.to_owned();
        }
        view.predict_unit(&unit, state);
    }

    fn apply(&self, observed: &UnitState, context: &mut ApplyContext) -> Result<()> {
        let unit = self.unit_name();
        let calls = self.systemctl_calls(observed)?;
        for call in &calls {
            if *call == [ENABLE_COMMAND] {
                context.enable_unit(&unit)?;
                continue;
            }
            let is_fresh = context.flush_unit_changes()?;
            // systemd enforces the limits of the unit; a unit may have none.
            let ran = Program::new("systemctl").args(call).arg("--").arg(&unit).timeout(JOB_TIMEOUT).run();
            ran.with_context(|| format!("systemctl {} {unit}{}", call.join(" "), last_journal_lines(&unit)))?;
            if call.contains(&NO_RELOAD_FLAG) && !is_fresh {
                context.require_refresh();
            }
        }
        if calls.iter().any(|call| is_start_call(call)) { ensure_stays_up(&unit) } else { Ok(()) }
    }
}

impl ServiceResource {
    /// Returns the unit's name with its suffix.
    fn unit_name(&self) -> String {
        if check_unit_name(&self.name).is_ok() { self.name.clone() } else { format!("{}.service", self.name) }
    }

    fn is_action(&self) -> bool {
        self.restart || self.reload
    }

    /// Returns the new value of `enabled`; `None` if it has this value already or the unit is masked.
    fn enabled_change(&self, observed: &UnitState) -> Result<Option<bool>> {
        let Some(wanted) = self.enabled else { return Ok(None) };
        let due = match observed.enabled.as_str() {
            "enabled" => !wanted,
            "enabled-runtime" | "linked" | "linked-runtime" => true,
            // Nothing to enable or disable: others start it, or a generator made it.
            "static" | "indirect" | "generated" | "transient" if wanted => {
                bail!("the unit is {}: it has no [Install] section, so it cannot be enabled", observed.enabled)
            }
            "static" | "indirect" | "generated" | "transient" | "alias" => false,
            _ => wanted,
        };
        Ok(due.then_some(wanted))
    }

    fn running_change(&self, observed: &UnitState) -> Option<bool> {
        let runs = matches!(observed.active.as_str(), "active" | "reloading" | "activating");
        self.running.filter(|wanted| *wanted != runs)
    }

    /// Returns the necessary calls of systemctl, without the unit's name.
    fn systemctl_calls(&self, observed: &UnitState) -> Result<Vec<Vec<&'static str>>> {
        if self.restart {
            return Ok(vec![vec!["restart"]]);
        }
        if self.reload {
            return Ok(vec![vec!["reload-or-restart"]]);
        }
        let (enabled, running) = (self.enabled_change(observed)?, self.running_change(observed));
        let mut calls = Vec::new();
        if self.masked == Some(false) && observed.masked {
            calls.push(vec!["unmask"]);
        }
        match (enabled, running) {
            (Some(false), Some(false)) => calls.push(vec!["disable", NO_RELOAD_FLAG, "--now"]),
            (enabled, running) => {
                calls.extend(
                    enabled.map(|enabled| if enabled { vec![ENABLE_COMMAND] } else { vec!["disable", NO_RELOAD_FLAG] }),
                );
                calls.extend(running.map(|running| vec![if running { "start" } else { "stop" }]));
            }
        }
        if self.masked == Some(true) && !observed.masked {
            calls.push(vec!["mask"]);
        }
        Ok(calls)
    }
}

fn is_start_call(call: &[&str]) -> bool {
    matches!(call.first(), Some(&"start" | &"restart" | &"reload-or-restart"))
}

/// Returns an error if the unit has failed: a start can succeed and the program fail right after it, which is this
/// step's failure, not the next one's.
fn ensure_stays_up(unit: &str) -> Result<()> {
    let shown = Program::short("systemctl").args(["show", "--property=ActiveState,SubState", "--", unit]).run()?;
    let shown = String::from_utf8_lossy(&shown);
    if is_failing(&shown) {
        bail!(
            "{unit} was started and failed at once ({}){}",
            shown.trim().replace('\n', ", "),
            last_journal_lines(unit)
        );
    }
    Ok(())
}

/// Returns whether the unit has failed, or systemd restarts it again and again.
fn is_failing(shown: &str) -> bool {
    shown.lines().any(|line| matches!(line, "ActiveState=failed" | "SubState=auto-restart"))
}

/// Returns the unit's last lines in the journal for an error message; empty if there are none.
fn last_journal_lines(unit: &str) -> String {
    let asked =
        Program::short("journalctl").args(["--no-pager", "--quiet", "--lines=12", "--output=cat", "--unit", unit]);
    let text = asked.run().map(|said| String::from_utf8_lossy(&said).trim().to_owned()).unwrap_or_default();
    if text.is_empty() { String::new() } else { format!("\n{text}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service_calls(desired: &str, observed: &UnitState) -> String {
        let service: ServiceResource = serde_json::from_str(desired).unwrap();
        service.validate().unwrap();
        let calls = service.systemctl_calls(observed).unwrap();
        calls.iter().map(|call| call.join(" ")).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn enabling_precedes_starting() {
        let fresh = UnitState::new_disabled();
        assert_eq!(service_calls(r#"{"name":"a","enabled":true,"running":"true"}"#, &fresh), "enable; start");
        assert_eq!(service_calls(r#"{"name":"a","enabled":true,"running":false}"#, &fresh), "enable");
        assert_eq!(service_calls(r#"{"name":"a","restart":true}"#, &fresh), "restart");
    }

    #[test]
    fn units_are_unmasked_first_and_masked_last() {
        let masked = UnitState { masked: true, enabled: "masked".to_owned(), ..UnitState::new_disabled() };
        assert_eq!(service_calls(r#"{"name":"a","masked":false,"running":true}"#, &masked), "unmask; start");
        let up = UnitState { enabled: "enabled".to_owned(), active: "active".to_owned(), ..UnitState::new_disabled() };
        let away = r#"{"name":"a","masked":true,"enabled":false,"running":false}"#;
        assert_eq!(service_calls(away, &up), "disable --no-reload --now; mask");
    }

    #[test]
    fn restarting_services_count_as_failing() {
        assert!(is_failing("ActiveState=failed\nSubState=failed\n"));
        assert!(is_failing("ActiveState=activating\nSubState=auto-restart\n"));
        assert!(!is_failing("ActiveState=inactive\nSubState=dead\n"));
    }
}
