//! A model of systemd: units are loaded from files at a reload, a start reads what the unit, the link, the configuration
//! say at that moment, and a release whose program says so fails.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Result, bail, ensure};
use dunlin::deploy::host::{ServiceState, Services};
use dunlin::wire::{Event, Sink};

/// Ends the run at a point, as a kill would: no code of the run goes on but the release of what it holds.
#[derive(Default)]
pub struct Fuse {
    passed: AtomicUsize,
    at: Option<usize>,
}

impl Fuse {
    /// Blows at the point of that number.
    pub fn at(point: usize) -> Arc<Self> {
        Arc::new(Self { passed: AtomicUsize::new(0), at: Some(point) })
    }

    /// Never blows.
    pub fn none() -> Arc<Self> {
        Arc::default()
    }

    fn pass(&self) {
        if Some(self.passed.fetch_add(1, Ordering::SeqCst)) == self.at {
            std::panic::resume_unwind(Box::new(Killed));
        }
    }
}

/// What a blown fuse unwinds with.
pub struct Killed;

/// Drops events, passes the fuse at each.
pub struct Quiet(pub Arc<Fuse>);

impl Sink for Quiet {
    fn emit(&self, _event: Event) {
        self.0.pass();
    }

    fn cancelled(&self) -> bool {
        false
    }
}

/// The machine: outlives the runs.
#[derive(Default)]
pub struct Machine {
    loaded: BTreeMap<String, String>,
    enabled: BTreeSet<String>,
    running: BTreeMap<String, Process>,
    pub calls: Vec<String>,
    next_pid: u32,
    /// Nothing stays up: a database that all releases need is gone.
    pub barren: bool,
}

/// What a running unit was started from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
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
pub struct Model {
    pub machine: Arc<Mutex<Machine>>,
    pub folder: PathBuf,
    pub fuse: Arc<Fuse>,
}

impl Machine {
    /// The unit as it runs; absent where it does not.
    pub fn process(&self, unit: &str) -> Option<&Process> {
        self.running.get(unit).filter(|process| !process.failed)
    }

    pub fn is_enabled(&self, unit: &str) -> bool {
        self.enabled.contains(unit)
    }

    /// The unit dies.
    pub fn crash(&mut self, unit: &str) {
        self.running.get_mut(unit).expect("it runs").failed = true;
    }
}

impl Model {
    fn change<T>(&self, call: String, change: impl FnOnce(&mut Machine) -> Result<T>) -> Result<T> {
        self.fuse.pass();
        let result = {
            let mut machine = self.machine.lock().unwrap();
            machine.calls.push(call);
            change(&mut machine)
        };
        self.fuse.pass();
        result
    }
}

impl Services for Model {
    fn unit_folder(&self) -> &Path {
        &self.folder
    }

    fn states(&self, units: &[&str]) -> Result<Vec<ServiceState>> {
        let machine = self.machine.lock().unwrap();
        let state = |unit: &&str| {
            let process = machine.running.get(*unit);
            ServiceState {
                active: process
                    .map_or("inactive", |process| if process.failed { "failed" } else { "active" })
                    .to_owned(),
                enabled: machine.enabled.contains(*unit),
                pid: process.map_or(0, |process| process.pid),
            }
        };
        Ok(units.iter().map(state).collect())
    }

    fn reload(&self) -> Result<()> {
        self.change("reload".to_owned(), |machine| {
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

    fn enable(&self, unit: &str, on: bool) -> Result<()> {
        self.change(format!("enable {unit} {on}"), |machine| {
            if on {
                ensure!(self.folder.join(unit).exists(), "{unit} does not exist");
                machine.enabled.insert(unit.to_owned());
            } else {
                machine.enabled.remove(unit);
            }
            Ok(())
        })
    }

    fn restart(&self, unit: &str) -> Result<()> {
        self.change(format!("restart {unit}"), |machine| {
            let Some(text) = machine.loaded.get(unit).cloned() else { bail!("Unit {unit} not found.") };
            let read = |key: &str| {
                let path = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("/nothing");
                fs::read_to_string(path).unwrap_or_default()
            };
            let (program, config) = (read("ExecStart="), read("EnvironmentFile="));
            let failed = machine.barren || program.contains("broken") || config.contains("broken");
            machine.next_pid += 1;
            let pid = machine.next_pid;
            machine.running.insert(unit.to_owned(), Process { pid, failed, unit: text, program, config });
            Ok(())
        })
    }

    fn stop(&self, unit: &str) -> Result<()> {
        self.change(format!("stop {unit}"), |machine| {
            machine.running.remove(unit);
            Ok(())
        })
    }

    fn log(&self, units: &[&str], _since: u64) -> Vec<String> {
        let machine = self.machine.lock().unwrap();
        units
            .iter()
            .filter_map(|unit| machine.running.get(*unit))
            .map(|process| format!("I am {}", process.program))
            .collect()
    }
}
