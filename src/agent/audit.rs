//! The audit log of a host: who changed what, when, and how it ended. JSON lines in a root-owned file, and one line per
//! run in the system log.
//!
//! A run begins with `run_started`, which is on disk before anything changes, and ends with `run_ended`; a run without
//! an end was killed. Runs of several agents share the file: each line is one write at its end.

mod changes;
mod peer;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Value, json};

use crate::atomic_file::sync_folder;
use crate::lock;
use crate::plan::format_count;
pub use changes::{AuditSink, change_of_deploy, change_of_shard, describe_failure, record_reply};
use peer::SshPeer;

/// A log of this size is moved aside, in place of the one before.
const MAX_BYTES: u64 = 64 << 20;
/// `authpriv.info`, as in syslog(3).
const SYSLOG_PRIORITY: u32 = 10 * 8 + 6;

/// The log, and the run that this agent is part of.
pub struct AuditLog {
    path: PathBuf,
    syslog: PathBuf,
    run: Mutex<Option<AuditRun>>,
}

/// The origin of a run, as its controller states it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RunOrigin {
    /// The run.
    pub run: String,
    /// The command: `provision`.
    pub command: String,
    /// `user@machine` of the controller.
    pub operator: String,
}

/// A run that has begun.
struct AuditRun {
    file: File,
    origin: RunOrigin,
    /// Looks for the other end of the connection, which takes sshd's log a while, and notes it.
    login: Option<JoinHandle<Option<SshPeer>>>,
    change_count: usize,
    failure: Option<String>,
}

impl Default for AuditLog {
    /// Returns the log next to the host's lock; agents of users other than root have logs of their own.
    fn default() -> Self {
        Self::new(&lock::state_folder(), Path::new("/dev/log"))
    }
}

impl AuditLog {
    /// Returns the log of a folder. `syslog` is the socket of the system's log.
    pub fn new(folder: &Path, syslog: &Path) -> Self {
        Self { path: folder.join("audit.jsonl"), syslog: syslog.to_owned(), run: Mutex::default() }
    }

    /// Records that a run begins; durable when it returns. A run that has begun continues.
    ///
    /// # Errors
    /// Returns an error if the log cannot be written. Nothing may be changed then.
    pub fn begin_run(&self, origin: &RunOrigin) -> Result<()> {
        let mut run = self.lock_run();
        if run.as_ref().is_some_and(|run| run.origin.run == origin.run) {
            return Ok(());
        }
        let file = open_log(&self.path).with_context(|| format!("the audit log {}", self.path.display()))?;
        let writing = "writing the audit log";
        let start = json!({ "command": origin.command, "operator": origin.operator });
        append_entry(&file, &origin.run, "run_started", start).context(writing)?;
        file.sync_data().context(writing)?;
        let (log, id) = (file.try_clone().context(writing)?, origin.run.clone());
        let login = thread::Builder::new().spawn(move || {
            let peer = SshPeer::find()?;
            append_entry(&log, &id, "login", json!(peer)).ok();
            Some(peer)
        });
        *run = Some(AuditRun { file, origin: origin.clone(), login: login.ok(), change_count: 0, failure: None });
        Ok(())
    }

    /// Notes a change, or the attempt.
    pub fn record_change(&self, resource: &str, action: &str, failure: Option<&str>) {
        if let Some(run) = self.lock_run().as_mut() {
            run.change_count += usize::from(failure.is_none());
            if let Some(failure) = failure {
                run.failure.get_or_insert_with(|| format!("{resource}: {failure}"));
            }
            // The change is made; a full disk must not stop the run halfway.
            let change = json!({ "resource": resource, "action": action, "failure": failure });
            append_entry(&run.file, &run.origin.run, "change", change).ok();
        }
    }

    /// Notes how the run ended, here and in the system's log.
    pub fn end_run(&self, is_interrupted: bool) {
        let Some(mut run) = self.lock_run().take() else { return };
        let outcome = match (is_interrupted, &run.failure) {
            (true, _) => "interrupted",
            (false, Some(_)) => "failed",
            (false, None) => "done",
        };
        let peer = run.login.take().and_then(|login| login.join().ok().flatten());
        let end = json!({ "outcome": outcome, "changes": run.change_count, "failure": run.failure });
        append_entry(&run.file, &run.origin.run, "run_ended", end).ok();
        run.file.sync_data().ok();
        self.write_syslog(&run.describe(peer.as_ref(), outcome));
    }

    fn write_syslog(&self, text: &str) {
        let line = format!("<{SYSLOG_PRIORITY}>dunlin[{}]: {text}", std::process::id());
        // A host without a system log has the file.
        if let Ok(socket) = UnixDatagram::unbound() {
            socket.send_to(line.as_bytes(), &self.syslog).ok();
        }
    }

    fn lock_run(&self) -> MutexGuard<'_, Option<AuditRun>> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AuditRun {
    fn describe(&self, peer: Option<&SshPeer>, outcome: &str) -> String {
        let RunOrigin { run, command, operator } = &self.origin;
        let from = peer.map(|ssh| format!(" from {ssh}")).unwrap_or_default();
        let changes = format_count(self.change_count, "change");
        let text = format!("run {run}: {command} by {operator}{from}: {outcome}, {changes}");
        // What a controller states must not begin another line.
        text.chars().filter(|char| !char.is_control()).collect()
    }
}

fn append_entry(mut file: &File, run: &str, event: &str, fields: Value) -> std::io::Result<()> {
    let at = format!("{:.3}", jiff::Timestamp::now());
    end_torn_line(file)?;
    let mut entry = json!({ "at": at, "run": run, "event": event });
    if let (Some(entry), Value::Object(fields)) = (entry.as_object_mut(), fields) {
        entry.extend(fields.into_iter().filter(|(_, value)| !value.is_null()));
    }
    file.write_all(format!("{entry}\n").as_bytes())
}

/// Ends the last line if a full disk or a crash tore it, so that no reader takes the next one for a part of it.
fn end_torn_line(mut file: &File) -> std::io::Result<()> {
    let length = file.metadata()?.len();
    let mut last = [b'\n'];
    if length > 0 {
        file.read_exact_at(&mut last, length - 1)?;
    }
    if last == *b"\n" { Ok(()) } else { file.write_all(b"\n") }
}

/// Opens the log at its end, and creates it where it is missing.
fn open_log(path: &Path) -> Result<File> {
    let folder = path.parent().context("it has no folder")?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    if fs::symlink_metadata(path).is_ok_and(|stat| stat.len() > MAX_BYTES) {
        fs::rename(path, path.with_extension("jsonl.1"))?;
    }
    let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits();
    let flags = i32::try_from(flags)?;
    let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).custom_flags(flags).open(path)?;
    if file.metadata()?.len() == 0 {
        sync_folder(folder)?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn origin(run: &str) -> RunOrigin {
        RunOrigin { run: run.to_owned(), command: "provision".to_owned(), operator: "a@b\nc".to_owned() }
    }

    fn entries(folder: &Path) -> Vec<Value> {
        let text = fs::read_to_string(folder.join("audit.jsonl")).unwrap();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    #[test]
    fn a_run_is_logged_from_start_to_end() {
        let folder = tempfile::tempdir().unwrap();
        let (state, socket) = (folder.path().join("state"), folder.path().join("log"));
        let system = UnixDatagram::bind(&socket).unwrap();
        let log = AuditLog::new(&state, &socket);
        log.record_change("file /early", "add", None);
        for _ in 0..2 {
            log.begin_run(&origin("1")).unwrap();
        }
        log.record_change("file /a", "add", None);
        log.record_change("file /b", "change", Some("no space"));
        log.end_run(false);
        log.end_run(true);
        let events: Vec<String> = entries(&state).iter().map(|entry| entry["event"].to_string()).collect();
        assert_eq!(events.join(" "), r#""run_started" "change" "change" "run_ended""#);
        assert_eq!(entries(&state)[3]["outcome"], "failed");
        assert_eq!(entries(&state)[3]["failure"], "file /b: no space");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&state), mode(&state.join("audit.jsonl"))), (0o700, 0o600));
        let mut line = [0; 512];
        let length = system.recv(&mut line).unwrap();
        let line = String::from_utf8_lossy(&line[..length]);
        assert!(line.starts_with("<86>dunlin["), "{line}");
        assert!(line.contains("run 1: provision by a@bc") && line.ends_with(": failed, 1 change"), "{line}");
        system.set_nonblocking(true).unwrap();
        assert!(system.recv(&mut [0; 8]).is_err(), "one line a run");
    }

    #[test]
    fn a_torn_line_hides_no_later_one() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("audit.jsonl"), "{\"event\":\"ch").unwrap();
        let log = AuditLog::new(folder.path(), Path::new("/none"));
        log.begin_run(&origin("2")).unwrap();
        assert_eq!(entries(folder.path())[0]["event"], "run_started");
        // A write of this very run, or of another agent, that a full disk cut.
        let path = folder.path().join("audit.jsonl");
        OpenOptions::new().append(true).open(path).unwrap().write_all(b"{\"at\":").unwrap();
        log.record_change("file /a", "add", None);
        log.end_run(false);
        let events: Vec<Value> = entries(folder.path()).iter().map(|entry| entry["event"].clone()).collect();
        assert_eq!(events, ["run_started", "change", "run_ended"]);
    }

    #[test]
    fn a_planted_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("other"), "").unwrap();
        std::os::unix::fs::symlink("other", folder.path().join("audit.jsonl")).unwrap();
        let log = AuditLog::new(folder.path(), Path::new("/none"));
        assert!(log.begin_run(&origin("3")).is_err());
        assert_eq!(fs::read_to_string(folder.path().join("other")).unwrap(), "");
    }
}
