//! The log of a run in the project: its events, as with `--json`, in a file that only its user can read. Events are
//! kept in memory until the run locks hosts; a command that changes nothing leaves no file. The logs of the oldest runs
//! are removed when a run begins: see [`MAX_RUNS`] and [`MAX_FOLDER_BYTES`].

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use super::json::event_to_json;
use super::run_id::{RunId, is_run_id};

/// Events that a run may have before it locks hosts; later ones are dropped until then.
const MAX_EARLY_EVENTS: usize = 100_000;
/// Events that say nothing about what was changed, or hold data.
const OMITTED_EVENTS: [&str; 5] = ["output", "progress", "step_started", "host", "facts"];

/// Number of runs whose logs stay; older ones are removed.
pub const MAX_RUNS: usize = 1000;
/// Number of bytes of all logs together; the oldest are removed beyond it.
pub const MAX_FOLDER_BYTES: u64 = 256 << 20;

/// A process is one run.
static RUN_LOG: Mutex<RunLog> = Mutex::new(RunLog { early: Vec::new(), file: None, is_torn: false });

struct RunLog {
    early: Vec<String>,
    file: Option<File>,
    /// Set if a failed write may have left part of a line.
    is_torn: bool,
}

/// Records an event.
pub fn record_event(event: &str, run: RunId, fields: Value) {
    if OMITTED_EVENTS.contains(&event) {
        return;
    }
    let line = event_to_json(event, run, fields);
    let mut log = lock_log();
    if log.file.is_some() {
        log.write_line(&line);
    } else if log.early.len() < MAX_EARLY_EVENTS {
        log.early.push(line);
    }
}

/// Creates the file of a run, `RUN.jsonl` in the folder, and writes the events so far.
///
/// # Errors
/// Returns an error if the folder or the file cannot be created.
pub fn keep_run_log(folder: &Path, run: RunId) -> io::Result<()> {
    let mut log = lock_log();
    if log.file.is_some() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let path = folder.join(format!("{run}.jsonl"));
    log.file = Some(OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)?);
    for line in std::mem::take(&mut log.early) {
        log.write_line(&line);
    }
    // A log that stays too long is no reason to stop the run.
    prune_run_logs(folder, MAX_RUNS, MAX_FOLDER_BYTES).ok();
    Ok(())
}

/// Removes the logs of the oldest runs until at most `max_runs` with `max_bytes` together remain. The newest one stays
/// whatever its size. Other files in the folder are left alone.
fn prune_run_logs(folder: &Path, max_runs: usize, max_bytes: u64) -> io::Result<()> {
    let mut logs: Vec<(PathBuf, u64)> = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        let is_log = entry.file_name().to_str().and_then(|name| name.strip_suffix(".jsonl")).is_some_and(is_run_id);
        if is_log && metadata.is_file() {
            logs.push((entry.path(), metadata.len()));
        }
    }
    // IDs begin with the time of the start.
    logs.sort();
    let mut bytes = 0;
    for (index, (path, size)) in logs.iter().rev().enumerate() {
        bytes += size;
        if index > 0 && (index >= max_runs || bytes > max_bytes) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

impl RunLog {
    /// Writes a line if it can: a full disk of the operator must not stop the run halfway.
    fn write_line(&mut self, line: &str) {
        if let Some(file) = &mut self.file {
            // The rest of an event that did not fit must not take the next one with it.
            let begin = if self.is_torn { "\n" } else { "" };
            self.is_torn = file.write_all(format!("{begin}{line}\n").as_bytes()).is_err();
        }
    }
}

fn lock_log() -> MutexGuard<'static, RunLog> {
    RUN_LOG.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_after_a_full_disk_is_not_lost() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        let open = || OpenOptions::new().create(true).append(true).open(&path).unwrap();
        let mut log = RunLog { early: Vec::new(), file: Some(open()), is_torn: false };
        log.write_line("1");
        // A full disk takes a part of the line.
        open().write_all(b"{\"ev").unwrap();
        log.file = Some(OpenOptions::new().write(true).open("/dev/full").unwrap());
        log.write_line("2");
        log.file = Some(open());
        log.write_line("3");
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n{\"ev\n3\n");
    }

    #[test]
    fn the_oldest_runs_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: usize| fs::write(folder.path().join(name), vec![b'x'; bytes]).unwrap();
        let names = || {
            let mut names: Vec<_> = fs::read_dir(folder.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names.join(" ")
        };
        for day in 1..=5 {
            write(&format!("2026110{day}T101500-7.jsonl"), 100);
        }
        write("00-notes.jsonl", 1000);
        prune_run_logs(folder.path(), 5, 500).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 6, "all of them are within the limits");
        prune_run_logs(folder.path(), 3, 500).unwrap();
        assert_eq!(names(), "00-notes.jsonl 20261103T101500-7.jsonl 20261104T101500-7.jsonl 20261105T101500-7.jsonl");
        prune_run_logs(folder.path(), 3, 250).unwrap();
        assert_eq!(names(), "00-notes.jsonl 20261104T101500-7.jsonl 20261105T101500-7.jsonl");
        prune_run_logs(folder.path(), 3, 50).unwrap();
        assert_eq!(names(), "00-notes.jsonl 20261105T101500-7.jsonl", "the newest one stays");
    }
}
