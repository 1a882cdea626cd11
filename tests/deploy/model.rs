//! A model of systemd: units are loaded from files at a reload, a start reads what the unit, the link, the
//! configuration say at that moment, and a release whose program says so fails.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Result, bail, ensure};
use dunlin::deploy::host::{ServiceManager, UnitStatus};
use dunlin::protocol::{Event, ProgressSink};

/// Ends the run at a point, as a kill would: no code of the run goes on but the release of what it holds.
#[derive(Default)]
pub struct CrashPoint {
    passed: AtomicUsize,
    at: Option<usize>,
}

impl CrashPoint {
    /// Blows at the point of that number.
    pub fn crash_at(point: usize) -> Arc<Self> {
        Arc::new(Self { passed: AtomicUsize::new(0), at: Some(point) })
    }

    /// Never blows.
    pub fn never() -> Arc<Self> {
        Arc::default()
    }

    fn check_point(&self) {
        if Some(self.passed.fetch_add(1, Ordering::SeqCst)) == self.at {
            std::panic::resume_unwind(Box::new(SimulatedCrash));
        }
    }
}

/// What a blown fuse unwinds with.
pub struct SimulatedCrash;

/// Drops events, passes the fuse at each.
pub struct CrashingSink(pub Arc<CrashPoint>);

impl ProgressSink for CrashingSink {
    fn emit(&self, _event: Event) {
        self.0.check_point();
    }

    fn is_cancelled(&self) -> bool {
        false
    }
}

/// The machine: outlives the runs.
#[derive(Default)]
pub struct FakeMachine {
    loaded: BTreeMap<String, String>,
    enabled: BTreeSet<String>,
    running: BTreeMap<String, FakeProcess>,
    pub calls: Vec<String>,
    next_pid: u32,
    /// Nothing stays up: a database that all releases need is gone.
    pub barren: bool,
    /// systemd-analyze is not installed.
    pub lacks_verification: bool,
}

/// What a running unit was started from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FakeProcess {
    pid: u32,
    failed: bool,
    /// Text of the unit as loaded.
    pub unit: String,
    /// Bytes of the program behind the link.
    pub program: String,
    /// Bytes of the configuration.
    pub config: String,
}

/// The service manager of a machine.
pub struct FakeServices {
    pub machine: Arc<Mutex<FakeMachine>>,
    pub folder: PathBuf,
    pub fuse: Arc<CrashPoint>,
}

impl FakeMachine {
    /// The unit as it runs; absent where it does not.
    pub fn find_process(&self, unit: &str) -> Option<&FakeProcess> {
        self.running.get(unit).filter(|process| !process.failed)
    }

    /// Returns whether the service manager still knows the unit, running or failed.
    pub fn is_known(&self, unit: &str) -> bool {
        self.running.contains_key(unit)
    }

    pub fn is_enabled(&self, unit: &str) -> bool {
        self.enabled.contains(unit)
    }

    /// The unit dies.
    pub fn crash_process(&mut self, unit: &str) {
        self.running.get_mut(unit).expect("it runs").failed = true;
    }
}

impl FakeServices {
    fn apply_change<T>(&self, call: String, change: impl FnOnce(&mut FakeMachine) -> Result<T>) -> Result<T> {
        self.fuse.check_point();
        let result = {
            let mut machine = self.machine.lock().unwrap();
            machine.calls.push(call);
            change(&mut machine)
        };
        self.fuse.check_point();
        result
    }
}

/// The name of the template of an instance, else that of the unit.
fn template_of(unit: &str) -> String {
    match (unit.split_once('@'), unit.rsplit_once('.')) {
        (Some((stem, _)), Some((_, kind))) => format!("{stem}@.{kind}"),
        _ => unit.to_owned(),
    }
}

impl ServiceManager for FakeServices {
    fn unit_dir(&self) -> &Path {
        &self.folder
    }

    fn read_unit_statuses(&self, units: &[&str]) -> Result<Vec<UnitStatus>> {
        let machine = self.machine.lock().unwrap();
        let state = |unit: &&str| {
            let process = machine.running.get(*unit);
            UnitStatus {
                active: process
                    .map_or("inactive", |process| if process.failed { "failed" } else { "active" })
                    .to_owned(),
                enabled: machine.enabled.contains(*unit),
                pid: process.map_or(0, |process| process.pid),
                can_reload: process.is_some_and(|process| process.unit.contains("ExecReload=")),
            }
        };
        Ok(units.iter().map(state).collect())
    }

    fn find_unit_file(&self, unit: &str) -> Result<Option<PathBuf>> {
        Ok([unit, &template_of(unit)].map(|name| self.folder.join(name)).into_iter().find(|path| path.exists()))
    }

    fn can_verify_units(&self) -> bool {
        !self.machine.lock().unwrap().lacks_verification
    }

    fn verify_units(&self, units: &[(&str, String)]) -> Result<Vec<String>> {
        let has_no_start = |(_, text): &&(&str, String)| !text.contains("ExecStart=/");
        Ok(units.iter().filter(has_no_start).map(|(name, _)| format!("/tmp/x/{name}:1: no absolute path")).collect())
    }

    fn reload_units(&self) -> Result<()> {
        self.apply_change("reload".to_owned(), |machine| {
            machine.loaded.clear();
            for entry in fs::read_dir(&self.folder)? {
                let path = entry?.path();
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                if !name.starts_with('.') {
                    machine.loaded.insert(name, fs::read_to_string(&path)?);
                }
            }
            Ok(())
        })
    }

    fn set_enabled(&self, unit: &str, on: bool) -> Result<()> {
        self.apply_change(format!("enable {unit} {on}"), |machine| {
            if on {
                ensure!(self.find_unit_file(unit)?.is_some(), "{unit} does not exist");
                machine.enabled.insert(unit.to_owned());
            } else {
                machine.enabled.remove(unit);
            }
            Ok(())
        })
    }

    fn restart_unit(&self, unit: &str) -> Result<()> {
        self.apply_change(format!("restart {unit}"), |machine| {
            let loaded = machine.loaded.get(unit).or_else(|| machine.loaded.get(&template_of(unit)));
            let Some(text) = loaded.cloned() else { bail!("Unit {unit} not found.") };
            let read = |key: &str| {
                let path = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("/nothing");
                fs::read_to_string(path).unwrap_or_default()
            };
            let (program, config) = (read("ExecStart="), read("EnvironmentFile="));
            let failed = machine.barren || program.contains("broken") || config.contains("broken");
            machine.next_pid += 1;
            let pid = machine.next_pid;
            machine.running.insert(unit.to_owned(), FakeProcess { pid, failed, unit: text, program, config });
            Ok(())
        })
    }

    fn reload_unit(&self, unit: &str) -> Result<()> {
        self.apply_change(format!("reload {unit}"), |machine| {
            let Some(process) = machine.running.get_mut(unit) else { bail!("Unit {unit} is not active.") };
            let read = |key: &str| {
                let path = process.unit.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("/nothing");
                fs::read_to_string(path).unwrap_or_default()
            };
            (process.program, process.config) = (read("ExecStart="), read("EnvironmentFile="));
            process.failed = machine.barren || process.program.contains("broken");
            Ok(())
        })
    }

    fn stop_unit(&self, unit: &str) -> Result<()> {
        self.apply_change(format!("stop {unit}"), |machine| {
            // As with systemd, a unit that failed stays so.
            if machine.find_process(unit).is_some() {
                machine.running.remove(unit);
            }
            Ok(())
        })
    }

    fn forget_failure(&self, unit: &str) -> Result<()> {
        self.apply_change(format!("forget failure of {unit}"), |machine| {
            if machine.find_process(unit).is_none() {
                machine.running.remove(unit);
            }
            Ok(())
        })
    }

    fn read_log(&self, units: &[&str], _since: u64) -> Vec<String> {
        let machine = self.machine.lock().unwrap();
        units
            .iter()
            .filter_map(|unit| machine.running.get(*unit))
            .map(|process| format!("I am {}", process.program))
            .collect()
    }
}
