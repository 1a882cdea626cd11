//! The log of a run in the project: its events, as with `--json`, in a file that only its user can read. Events are kept
//! in memory until the run locks hosts; a command that changes nothing leaves no file.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use super::json::event_to_json;
use super::run_id::RunId;

/// Events that a run may have before it locks hosts; later ones are dropped until then.
const MAX_EARLY_EVENTS: usize = 100_000;
/// Events that say nothing about what was changed, or hold data.
const OMITTED_EVENTS: [&str; 5] = ["output", "progress", "step_started", "host", "facts"];

/// A process is one run.
static RUN_LOG: Mutex<RunLog> = Mutex::new(RunLog { early: Vec::new(), file: None });

struct RunLog {
    early: Vec<String>,
    file: Option<File>,
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
/// The folder or the file cannot be created.
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
    Ok(())
}

impl RunLog {
    /// A full disk of the operator must not stop the run halfway.
    fn write_line(&mut self, line: &str) {
        if let Some(file) = &mut self.file {
            file.write_all(format!("{line}\n").as_bytes()).ok();
        }
    }
}

fn lock_log() -> MutexGuard<'static, RunLog> {
    RUN_LOG.lock().unwrap_or_else(PoisonError::into_inner)
}
