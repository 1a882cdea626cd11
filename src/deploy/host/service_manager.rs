//! The service manager, as far as a deploy needs it: systemd, or in tests a recorded one.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::command;
use crate::atomic_file::{Attributes, write_atomically};
use crate::process::{Completed, Program};

/// Time limit for calls of systemctl that neither start nor stop a unit.
const SYSTEMCTL_TIMEOUT: Duration = Duration::from_secs(300);
/// Program that verifies units.
const VERIFY_PROGRAM: &str = "systemd-analyze";
/// Time limit for the check of units.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(60);
/// Time that a start or stop may take in addition to the limits of its unit.
const JOB_MARGIN: Duration = Duration::from_secs(60);
/// Time limit for a start or stop whose unit has none.
const UNLIMITED_JOB_TIMEOUT: Duration = Duration::from_secs(3600);
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

    /// Returns the file from which the service manager loads a unit, in whichever folder; `None` if there is no such
    /// unit.
    ///
    /// # Errors
    /// Returns an error if the service manager does not answer.
    fn find_unit_file(&self, unit: &str) -> Result<Option<PathBuf>>;

    /// Returns whether the host has the program that [`Self::verify_units`] needs.
    fn can_verify_units(&self) -> bool;

    /// Checks units, given with their texts, beside those of the host; returns the messages of the service manager.
    /// Empty if it accepts them, or has no such check.
    ///
    /// # Errors
    /// Returns an error if the check cannot be run.
    fn verify_units(&self, units: &[(&str, String)]) -> Result<Vec<String>>;

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

    /// Lets a running unit read its files again, without a stop.
    ///
    /// # Errors
    /// See [`Self::reload_units`].
    fn reload_unit(&self, unit: &str) -> Result<()>;

    /// Stops a unit; succeeds if the unit does not exist.
    ///
    /// # Errors
    /// See [`Self::reload_units`].
    fn stop_unit(&self, unit: &str) -> Result<()>;

    /// Makes the service manager forget that a unit failed; succeeds if the unit does not exist.
    ///
    /// # Errors
    /// Returns an error if the service manager cannot be asked.
    fn forget_failure(&self, unit: &str) -> Result<()>;

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
    /// Set if the unit, as loaded, has a command to reload it.
    pub can_reload: bool,
}

/// systemd, by systemctl and journalctl.
#[derive(Debug, Default)]
pub struct Systemd;

impl Systemd {
    fn run_systemctl(verb: &[&str], unit: &str, timeout: Duration) -> Result<()> {
        let argv: Vec<String> =
            ["systemctl"].iter().chain(verb).chain(&["--", unit]).map(ToString::to_string).collect();
        ensure_success(&argv, &command::run_system_command(&argv, timeout)?)
    }

    /// Returns the time limit of a restart or stop: systemd enforces the unit's own limits, so ours is a little longer.
    fn job_timeout(unit: &str) -> Result<Duration> {
        let properties = "--property=TimeoutStartUSec,TimeoutStopUSec";
        let shown = Program::short("systemctl").args(["show", properties, "--", unit]).run()?;
        Ok(parse_job_timeout(&String::from_utf8_lossy(&shown)))
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
        let properties = "--property=Id,Type,ActiveState,Result,UnitFileState,MainPID,CanReload,\
             ExecMainExitTimestampMonotonic";
        let shown = Program::short("systemctl").args(["show", properties, "--"]).args(units).run()?;
        let states = parse_unit_properties(&String::from_utf8_lossy(&shown));
        ensure!(states.len() == units.len(), "systemctl returned {} units instead of {}", states.len(), units.len());
        Ok(states)
    }

    fn find_unit_file(&self, unit: &str) -> Result<Option<PathBuf>> {
        let shown =
            Program::short("systemctl").args(["show", "--property=FragmentPath", "--value", "--", unit]).run()?;
        let path = String::from_utf8_lossy(&shown).trim().to_owned();
        Ok((!path.is_empty()).then(|| PathBuf::from(path)))
    }

    fn can_verify_units(&self) -> bool {
        std::env::var_os("PATH").is_some_and(|folders| is_installed(VERIFY_PROGRAM, &folders))
    }

    fn verify_units(&self, units: &[(&str, String)]) -> Result<Vec<String>> {
        if units.is_empty() {
            return Ok(Vec::new());
        }
        let folder = tempfile::tempdir().context("creating a folder for the units")?;
        let mut program = Program::new(VERIFY_PROGRAM).args(["verify", "--man=no", "--"]).timeout(VERIFY_TIMEOUT);
        for (name, text) in units {
            let path = folder.path().join(name);
            write_atomically(&path, text.as_bytes(), &Attributes::with_mode(0o600))?;
            program = program.arg(path);
        }
        let checked = match program.output() {
            Err(error) if is_missing_program(&error) => return Ok(Vec::new()),
            checked => checked?,
        };
        let messages = String::from_utf8_lossy(&checked.stderr).lines().map(str::to_owned).collect();
        Ok(if checked.status.success() { Vec::new() } else { messages })
    }

    fn reload_units(&self) -> Result<()> {
        let argv = ["systemctl", "daemon-reload"].map(str::to_owned);
        ensure_success(&argv, &command::run_system_command(&argv, SYSTEMCTL_TIMEOUT)?)
    }

    fn set_enabled(&self, unit: &str, on: bool) -> Result<()> {
        Self::run_systemctl(&["--quiet", if on { "enable" } else { "disable" }], unit, SYSTEMCTL_TIMEOUT)
    }

    fn restart_unit(&self, unit: &str) -> Result<()> {
        self.forget_failure(unit)?;
        Self::run_systemctl(&["restart"], unit, Self::job_timeout(unit)?)
    }

    fn reload_unit(&self, unit: &str) -> Result<()> {
        Self::run_systemctl(&["reload"], unit, Self::job_timeout(unit)?)
    }

    fn stop_unit(&self, unit: &str) -> Result<()> {
        let argv = ["systemctl", "stop", "--", unit].map(str::to_owned);
        let done = command::run_system_command(&argv, Self::job_timeout(unit)?)?;
        // 5: the unit is not loaded, systemctl(1).
        if done.code() == Some(5) { Ok(()) } else { ensure_success(&argv, &done) }
    }

    fn forget_failure(&self, unit: &str) -> Result<()> {
        // Of a unit that systemd does not hold in memory it says so with an error.
        Program::short("systemctl").args(["reset-failed", "--", unit]).succeeds().map(drop)
    }

    fn read_log(&self, units: &[&str], since: u64) -> Vec<String> {
        let units = units.iter().flat_map(|unit| ["--unit", unit]);
        let since = format!("--since=@{since}");
        let asked = Program::short("journalctl").args([
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

/// Returns whether one of the folders, separated by colons, has a program.
fn is_installed(program: &str, folders: &OsStr) -> bool {
    std::env::split_paths(folders).any(|folder| folder.join(program).is_file())
}

fn is_missing_program(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).any(|io| io.kind() == io::ErrorKind::NotFound)
}

/// Returns the time limit of a job from the limits of its unit, both of which a restart may use up.
fn parse_job_timeout(shown: &str) -> Duration {
    let mut limits = shown.lines().filter_map(|line| line.split_once('=')).map(|(_, span)| parse_time_span(span));
    limits.try_fold(JOB_MARGIN, |sum, limit| sum.checked_add(limit?)).unwrap_or(UNLIMITED_JOB_TIMEOUT)
}

/// Parses a time span as systemctl shows it, such as `1min 30s`; `None` for `infinity`.
fn parse_time_span(span: &str) -> Option<Duration> {
    let part = |text: &str| {
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, unit) = text.split_at(digits);
        let seconds = match unit {
            "us" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "min" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            "w" => 604_800.0,
            _ => return None,
        };
        Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()
    };
    span.split_whitespace().try_fold(Duration::ZERO, |sum, text| sum.checked_add(part(text)?))
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
            can_reload: value("CanReload") == "yes",
        }
    };
    shown.split("\n\n").filter(|block| !block.trim().is_empty()).map(state).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_a_job_follows_its_unit() {
        let limit = |start: &str, stop: &str| {
            parse_job_timeout(&format!("TimeoutStartUSec={start}\nTimeoutStopUSec={stop}\n")).as_secs_f64()
        };
        assert_eq!(limit("1min 30s", "10min"), 60.0 + 90.0 + 600.0);
        assert_eq!(limit("500ms", "2h"), 60.0 + 0.5 + 7200.0);
        assert_eq!(limit("infinity", "1min"), 3600.0);
    }

    #[test]
    fn unit_statuses_are_parsed_from_systemctl_show() {
        let shown = "Type=notify\nMainPID=71\nResult=success\nExecMainExitTimestampMonotonic=0\nId=a.service\nActiveState=active\nCanReload=yes\nUnitFileState=enabled\n\n\
            Type=oneshot\nMainPID=0\nResult=success\nExecMainExitTimestampMonotonic=55\nId=b.service\nActiveState=inactive\nUnitFileState=static\n\n\
            Id=c.socket\nActiveState=inactive\nUnitFileState=\n";
        let states = parse_unit_properties(shown);
        assert_eq!(states[0], UnitStatus { active: "active".to_owned(), enabled: true, pid: 71, can_reload: true });
        assert_eq!(states[1], UnitStatus { active: "exited".to_owned(), enabled: false, pid: 0, can_reload: false });
        assert_eq!(states[2], UnitStatus { active: "inactive".to_owned(), enabled: false, pid: 0, can_reload: false });
    }
}
