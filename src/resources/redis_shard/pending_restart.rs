//! Reasons why a running instance needs a restart: its files, its unit or its server program changed after it started.
//!
//! A primary with data is not restarted by provisioning. So the changes that wait for a restart must stay visible: when
//! its files are written, a comment in the configuration names them and the process that has not read them. Redis keeps
//! comments.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

use super::RedisShard;
use super::process::RunningProcess;

/// Start of the comment.
const MARK: &str = "# dunlin-restart:";
/// Folder of the units that dunlin writes.
const UNIT_DIR: &str = "/etc/systemd/system";
/// Precision of the time at which a process started.
pub const START_TOLERANCE: Duration = Duration::from_secs(2);

/// The names of the changes that a process has not read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestartMark {
    process: String,
    names: BTreeSet<String>,
}

impl RestartMark {
    /// Returns a mark for a process, with the names of an earlier mark for the same process.
    pub fn new(process: &RunningProcess, names: impl IntoIterator<Item = String>, earlier: Option<Self>) -> Self {
        let process = process.identity();
        let earlier = earlier.filter(|mark| mark.process == process).map(|mark| mark.names).unwrap_or_default();
        Self { names: names.into_iter().map(|name| name.replace([',', '\n'], " ")).chain(earlier).collect(), process }
    }

    /// Returns the line in the configuration.
    pub fn line(&self) -> String {
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        format!("{MARK} {} {}\n", self.process, names.join(","))
    }

    /// Returns the mark without a name; `None` if no other is left.
    pub fn without(mut self, name: &str) -> Option<Self> {
        self.names.remove(name);
        (!self.names.is_empty()).then_some(self)
    }

    /// Reads the mark of a configuration file; `None` if it has none.
    pub fn read(conf: &str) -> Option<Self> {
        let line = conf.lines().find_map(|line| line.strip_prefix(MARK))?;
        let (process, names) = line.trim().split_once(' ')?;
        Some(Self { process: process.to_owned(), names: names.split(',').map(str::to_owned).collect() })
    }

    /// Returns the names if the process still runs.
    fn names_for(self, process: &RunningProcess) -> BTreeSet<String> {
        if self.process == process.identity() { self.names } else { BTreeSet::new() }
    }
}

impl RedisShard {
    /// Returns the changes in the files that the running process has not read; none if it does not run.
    ///
    /// # Errors
    /// Returns an error if the configuration file cannot be read.
    pub fn list_pending_changes(&self) -> Result<Vec<String>> {
        let Some(process) = RunningProcess::of_instance(&self.data_dir) else { return Ok(Vec::new()) };
        let mark = RestartMark::read(&self.read_file(&self.conf_path())?);
        Ok(mark.map(|mark| mark.names_for(&process).into_iter().collect()).unwrap_or_default())
    }

    /// Returns the reasons why the running process needs a restart, such as `maxclients` or `server program`.
    ///
    /// # Errors
    /// Returns an error if the process or the unit file cannot be read.
    pub(super) fn restart_reasons(&self, conf: &str, process: &RunningProcess) -> Result<Vec<String>> {
        let mut reasons = RestartMark::read(conf).map(|mark| mark.names_for(process)).unwrap_or_default();
        if self.is_program_replaced(process)? {
            reasons.insert("server program".to_owned());
        }
        if let Some(unit) = &self.unit
            && is_unit_newer(unit, process.started_at()?)?
        {
            reasons.insert("unit file".to_owned());
        }
        Ok(reasons.into_iter().collect())
    }

    /// Returns whether the process runs another file than the one that is installed as the server program.
    fn is_program_replaced(&self, process: &RunningProcess) -> Result<bool> {
        let Some(program) = self.find_program() else { return Ok(false) };
        let Some(running) = process.program_file() else { return Ok(false) };
        let installed = fs::metadata(&program).with_context(|| program.display().to_string())?;
        Ok((installed.dev(), installed.ino()) != running)
    }

    /// Returns the path of the server program; `None` if it is not installed.
    fn find_program(&self) -> Option<PathBuf> {
        let server = Path::new(&self.server);
        if server.is_absolute() {
            return server.exists().then(|| server.to_owned());
        }
        let folders = std::env::var_os("PATH")?;
        std::env::split_paths(&folders).map(|folder| folder.join(server)).find(|path| path.exists())
    }
}

/// Returns whether the file of a unit, or of its template, was written after this time.
fn is_unit_newer(unit: &str, started_at: SystemTime) -> Result<bool> {
    let template =
        unit.split_once('@').zip(unit.rsplit_once('.')).map(|((name, _), (_, kind))| format!("{name}@.{kind}"));
    for name in std::iter::once(unit.to_owned()).chain(template) {
        let path = Path::new(UNIT_DIR).join(name);
        let Ok(written) = fs::metadata(&path).and_then(|meta| meta.modified()) else { continue };
        if written > started_at + START_TOLERANCE {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_counts_for_its_process_only() {
        let process = RunningProcess::find(std::process::id().cast_signed()).unwrap();
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let first = RestartMark::new(&process, names(&["maxclients"]), None);
        let both = RestartMark::new(&process, names(&["ACL user s001", "maxclients"]), Some(first));
        let read = RestartMark::read(&format!("# dunlin: a b\n{}port 1\n", both.line()));
        assert_eq!(read.as_ref(), Some(&both));
        let found: Vec<String> = both.clone().names_for(&process).into_iter().collect();
        assert_eq!(found, ["ACL user s001", "maxclients"]);
        let other = RestartMark { process: "1/2".to_owned(), ..both };
        assert_eq!(other.names_for(&process), BTreeSet::new());
        assert_eq!(RestartMark::read("port 1\n"), None);
    }

    #[test]
    fn a_process_started_before_now() {
        let process = RunningProcess::find(std::process::id().cast_signed()).unwrap();
        let started = process.started_at().unwrap();
        assert!(started <= SystemTime::now() + START_TOLERANCE, "{started:?}");
        assert!(started > SystemTime::now() - Duration::from_secs(3600), "{started:?}");
    }
}
