//! The service manager, as far as a deploy needs it: systemd, or in tests a recorded one.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::command;
use crate::process::{Completed, Program};

/// Longest time for one call of systemctl: a unit's own start and stop limits are shorter in any sane unit.
const SYSTEMCTL_TIMEOUT: Duration = Duration::from_secs(300);
/// Lines of the journal that a failure carries.
const JOURNAL_LINES: &str = "20";

/// Defines the operations that a deploy needs from the service manager.
pub trait ServiceManager: Send + Sync {
    /// Returns the folder for unit files.
    fn unit_dir(&self) -> &Path;

    /// Returns the status of the units, in the order given.
    ///
    /// # Errors
    /// Returns an error if the service manager does not answer.
    fn read_unit_statuses(&self, units: &[&str]) -> Result<Vec<UnitStatus>>;

    /// Reads all unit files again.
    ///
    /// # Errors
    /// Returns an error if the service manager rejects the operation.
    fn reload_units(&self) -> Result<()>;

    /// Enables or disables a unit at boot.
    ///
    /// # Errors
    /// See [`Self::reload_units`].
    fn set_enabled(&self, unit: &str, on: bool) -> Result<()>;

    /// Restarts or starts a unit, also after too many failures.
    ///
    /// # Errors
    /// See [`Self::reload_units`].
    fn restart_unit(&self, unit: &str) -> Result<()>;

    /// Stops a unit; succeeds if the unit does not exist.
    ///
    /// # Errors
    /// See [`Self::reload_units`].
    fn stop_unit(&self, unit: &str) -> Result<()>;

    /// Returns the last lines that the units logged since a time (seconds since 1970); empty if unavailable.
    fn read_log(&self, units: &[&str], since: u64) -> Vec<String>;
}

/// Status of a unit according to the service manager.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnitStatus {
    /// `active`, `inactive`, `failed`, `activating` …; `exited` for a one-shot unit that succeeded.
    pub active: String,
    /// Set if the unit starts at boot.
    pub enabled: bool,
    /// Main process; 0 if there is none.
    pub pid: u32,
}

/// systemd, by systemctl and journalctl.
#[derive(Debug, Default)]
pub struct Systemd;

impl Systemd {
    fn run_systemctl(verb: &[&str], unit: &str) -> Result<()> {
        let argv: Vec<String> =
            ["systemctl"].iter().chain(verb).chain(&["--", unit]).map(ToString::to_string).collect();
        ensure_success(&argv, &command::run_system_command(&argv, SYSTEMCTL_TIMEOUT)?)
    }
}

fn ensure_success(argv: &[String], completed: &Completed) -> Result<()> {
    ensure!(completed.is_success(), "`{}` {}", argv.join(" "), completed.describe());
    Ok(())
}

impl ServiceManager for Systemd {
    fn unit_dir(&self) -> &Path {
        Path::new("/etc/systemd/system")
    }

    fn read_unit_statuses(&self, units: &[&str]) -> Result<Vec<UnitStatus>> {
        if units.is_empty() {
            return Ok(Vec::new());
        }
        let properties = "--property=Id,Type,ActiveState,Result,UnitFileState,MainPID,ExecMainExitTimestampMonotonic";
        let shown = Program::new("systemctl").args(["show", properties, "--"]).args(units).run()?;
        let states = parse_unit_properties(&String::from_utf8_lossy(&shown));
        ensure!(states.len() == units.len(), "systemctl returned {} units instead of {}", states.len(), units.len());
        Ok(states)
    }

    fn reload_units(&self) -> Result<()> {
        let argv = ["systemctl", "daemon-reload"].map(str::to_owned);
        ensure_success(&argv, &command::run_system_command(&argv, SYSTEMCTL_TIMEOUT)?)
    }

    fn set_enabled(&self, unit: &str, on: bool) -> Result<()> {
        Self::run_systemctl(&["--quiet", if on { "enable" } else { "disable" }], unit)
    }

    fn restart_unit(&self, unit: &str) -> Result<()> {
        // Clears the count of failures; of a unit that systemd does not hold in memory it says so with an error.
        Program::new("systemctl").args(["reset-failed", "--", unit]).succeeds()?;
        Self::run_systemctl(&["restart"], unit)
    }

    fn stop_unit(&self, unit: &str) -> Result<()> {
        let argv = ["systemctl", "stop", "--", unit].map(str::to_owned);
        let done = command::run_system_command(&argv, SYSTEMCTL_TIMEOUT)?;
        // 5: the unit is not loaded, systemctl(1).
        if done.code() == Some(5) { Ok(()) } else { ensure_success(&argv, &done) }
    }

    fn read_log(&self, units: &[&str], since: u64) -> Vec<String> {
        let units = units.iter().flat_map(|unit| ["--unit", unit]);
        let since = format!("--since=@{since}");
        let asked = Program::new("journalctl").args([
            "--no-pager",
            "--quiet",
            "--output=short",
            "--lines",
            JOURNAL_LINES,
            &since,
        ]);
        let said = asked.args(units).output().map(|output| output.stdout).unwrap_or_default();
        String::from_utf8_lossy(&said).lines().map(str::to_owned).collect()
    }
}

/// Parses one status per paragraph of `systemctl show`.
fn parse_unit_properties(shown: &str) -> Vec<UnitStatus> {
    let state = |block: &str| {
        let value = |key: &str| {
            let line = block.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            line.unwrap_or_default()
        };
        let exited = value("ExecMainExitTimestampMonotonic") != "0" && value("Result") == "success";
        let active = match value("ActiveState") {
            "inactive" if value("Type") == "oneshot" && exited => "exited",
            other => other,
        };
        UnitStatus {
            active: active.to_owned(),
            enabled: matches!(value("UnitFileState"), "enabled" | "enabled-runtime" | "alias"),
            pid: value("MainPID").parse().unwrap_or(0),
        }
    };
    shown.split("\n\n").filter(|block| !block.trim().is_empty()).map(state).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_statuses_are_parsed_from_systemctl_show() {
        let shown = "Type=notify\nMainPID=71\nResult=success\nExecMainExitTimestampMonotonic=0\nId=a.service\nActiveState=active\nUnitFileState=enabled\n\n\
            Type=oneshot\nMainPID=0\nResult=success\nExecMainExitTimestampMonotonic=55\nId=b.service\nActiveState=inactive\nUnitFileState=static\n\n\
            Id=c.socket\nActiveState=inactive\nUnitFileState=\n";
        let states = parse_unit_properties(shown);
        assert_eq!(states[0], UnitStatus { active: "active".to_owned(), enabled: true, pid: 71 });
        assert_eq!(states[1], UnitStatus { active: "exited".to_owned(), enabled: false, pid: 0 });
        assert_eq!(states[2], UnitStatus { active: "inactive".to_owned(), enabled: false, pid: 0 });
    }
}
