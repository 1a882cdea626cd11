//! The lock of a host, on the host: an flock that lives as long as the agent that holds it. When the agent ends,
//! however it ends (its controller gone, killed, the host rebooted), nothing is left to clean up.
//!
//! Beside the lock each holder has a note, held by its own lock: a note whose lock is free has no holder.

pub mod file_lock;

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use self::file_lock::{Access, try_lock};
use crate::poll::poll_until;
use crate::protocol::lock::{LockHolder, LockRequest, LockResult};
use anyhow::{Context, Result};

/// Time to wait for a holder whose controller is gone: longer than a cutover of a shard may take to finish or to
/// roll back.
const ENDING_TIMEOUT: Duration = Duration::from_secs(60);
/// Time to wait for any other holder: one that is ending, or that has just started and has not written its note.
const HOLDER_TIMEOUT: Duration = Duration::from_millis(500);
/// Modes of what only the owner may open: with a file of the lock open, any user could hold it.
const PRIVATE_FOLDER: u32 = 0o700;
const PRIVATE_FILE: u32 = 0o600;
const LOCK_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// State of the lock in one agent.
#[derive(Debug)]
pub struct HostLock {
    folder: PathBuf,
    /// Of the lock's file, and the beginning of its notes' names.
    name: &'static str,
    /// Waits for holders that are about to end if set.
    waits: bool,
    state: Mutex<Option<HeldLock>>,
}

#[derive(Debug)]
struct HeldLock {
    lock_file: File,
    note_file: File,
    note_path: PathBuf,
    holder: LockHolder,
}

impl Default for HostLock {
    /// Returns the lock in root's own folder. The agent of another user has separate locks, because it may change only
    /// that user's files.
    fn default() -> Self {
        Self::new(&state_folder().join("locks"))
    }
}

/// Returns the folder of the agent's own files on a host: root's, or one in the home of another user.
pub fn state_folder() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
    let cache = || std::env::var_os("XDG_CACHE_HOME").map_or_else(|| home().join(".cache"), PathBuf::from);
    let is_root = rustix::process::geteuid().is_root();
    if is_root { PathBuf::from("/var/lib/dunlin") } else { cache().join("dunlin") }
}

impl HostLock {
    /// Returns the lock in a folder.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), name: "host", waits: true, state: Mutex::default() }
    }

    /// Returns a lock of that name in a folder; acquiring it does not wait for another holder.
    pub fn without_wait(folder: &Path, name: &'static str) -> Self {
        Self { folder: folder.to_owned(), name, waits: false, state: Mutex::default() }
    }

    /// Takes the lock until this value is dropped, or returns its holders. A lock already held stays held; one that
    /// was shared is not made exclusive.
    ///
    /// # Errors
    /// Returns an error with the path if the lock or its note cannot be created.
    pub fn acquire(&self, request: &LockRequest) -> Result<LockResult> {
        let mut held = self.held();
        if let Some(held) = held.as_ref().filter(|held| !held.holder.shared || request.shared) {
            return Ok(if held.holder.run == request.run {
                LockResult::Acquired
            } else {
                LockResult::HeldBy(vec![held.holder.clone()])
            });
        }
        make_private_folder(&self.folder)?;
        let path = self.folder.join(self.name);
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(PRIVATE_FILE).open(&path);
        let file = file.with_context(|| format!("opening {}", path.display()))?;
        // A file of an earlier version: every user who can open it can hold the lock.
        file.set_permissions(Permissions::from_mode(PRIVATE_FILE))
            .with_context(|| format!("setting the mode of {}", path.display()))?;
        let access = if request.shared { Access::Shared } else { Access::Exclusive };
        let started = Instant::now();
        let attempt = || -> Result<Option<LockResult>> {
            if try_lock(&file, access).with_context(|| format!("locking {}", path.display()))? {
                return Ok(Some(LockResult::Acquired));
            }
            let holders = self.list_holders()?;
            let timeout = match holders[..] {
                // Without a note, the holder is ending or has just started.
                [] => HOLDER_TIMEOUT,
                _ if !self.waits => Duration::ZERO,
                _ if holders.iter().all(is_ending) => ENDING_TIMEOUT,
                _ => HOLDER_TIMEOUT,
            };
            Ok((started.elapsed() >= timeout).then_some(LockResult::HeldBy(holders)))
        };
        match poll_until(started + ENDING_TIMEOUT, LOCK_POLL_INTERVAL, attempt)? {
            Some(LockResult::Acquired) => {}
            Some(taken) => return Ok(taken),
            None => return Ok(LockResult::HeldBy(self.list_holders()?)),
        }
        *held = Some(self.write_holder_note(file, request)?);
        Ok(LockResult::Acquired)
    }

    fn write_holder_note(&self, lock_file: File, request: &LockRequest) -> Result<HeldLock> {
        let holder = LockHolder {
            operator: request.operator.clone(),
            command: request.command.clone(),
            run: request.run.clone(),
            since: format!("{:.0}", jiff::Timestamp::now()),
            pid: std::process::id(),
            shared: request.shared,
            controller_is_gone: false,
        };
        let path = self.folder.join(format!("{}.{}.json", self.name, holder.pid));
        // Locked before it has its name, so that no other run takes it for a leftover.
        let mut note =
            tempfile::Builder::new().prefix(".note-").tempfile_in(&self.folder).context("the lock's note")?;
        try_lock(note.as_file(), Access::Exclusive).with_context(|| format!("locking {}", path.display()))?;
        note.write_all(&serde_json::to_vec(&holder)?).with_context(|| format!("writing {}", path.display()))?;
        let note = note.persist(&path).with_context(|| format!("writing {}", path.display()))?;
        Ok(HeldLock { lock_file, note_file: note, note_path: path, holder })
    }

    /// Returns the open files of the held lock: as long as one of them is open in any process, the lock is held and has
    /// its note.
    ///
    /// # Errors
    /// Returns an error if this process cannot open further files.
    pub fn clone_files(&self) -> Result<Vec<File>> {
        let held = self.held();
        let files = held.iter().flat_map(|held| [&held.lock_file, &held.note_file]);
        files.map(|file| file.try_clone().context("sharing the host's lock")).collect()
    }

    /// Returns whether this process is the only holder.
    pub fn is_exclusive(&self) -> bool {
        self.held().as_ref().is_some_and(|held| !held.holder.shared)
    }

    /// Notes that the controller is gone.
    pub fn mark_controller_gone(&self) {
        if let Some(held) = self.held().as_mut() {
            held.holder.controller_is_gone = true;
            let text = serde_json::to_vec(&held.holder).unwrap_or_default();
            let written = held
                .note_file
                .set_len(0)
                .and_then(|()| held.note_file.rewind())
                .and_then(|()| held.note_file.write_all(&text));
            // A waiting run then sees an active holder, which is the safe result.
            written.ok();
        }
    }

    /// Returns all current holders, including those in other processes.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be read.
    pub fn list_holders(&self) -> Result<Vec<LockHolder>> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(error).with_context(|| format!("reading {}", self.folder.display())),
        };
        let mut holders = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.strip_prefix(self.name).is_some_and(|rest| rest.starts_with('.') && rest.ends_with(".json")) {
                holders.extend(read_holder(&path)?);
            }
        }
        holders.sort_unstable_by(|a, b| (&a.since, a.pid).cmp(&(&b.since, b.pid)));
        Ok(holders)
    }

    fn held(&self) -> MutexGuard<'_, Option<HeldLock>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for HostLock {
    fn drop(&mut self) {
        if let Some(held) = self.held().take() {
            // A remaining note has no holder: it is skipped, and removed by the next reader.
            fs::remove_file(&held.note_path).ok();
        }
    }
}

/// Returns whether a holder is about to release the lock. Of an agent that was killed, the guards of its programs hold
/// it until these have ended.
fn is_ending(holder: &LockHolder) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", holder.pid)).unwrap_or_default();
    // The state follows the name in parentheses; one that has ended and whose parent has not noticed is a zombie.
    let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
    holder.controller_is_gone || state.is_empty() || state.starts_with(['Z', 'X'])
}

/// Returns the holder that a note describes; removes a note without a holder.
fn read_holder(path: &Path) -> Result<Option<LockHolder>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("opening {}", path.display())),
    };
    if try_lock(&file, Access::Shared).with_context(|| format!("locking {}", path.display()))? {
        fs::remove_file(path).ok();
        return Ok(None);
    }
    let mut text = Vec::new();
    file.read_to_end(&mut text).with_context(|| format!("reading {}", path.display()))?;
    // It is being written: the next read finds it.
    Ok(serde_json::from_slice(&text).ok())
}

/// Creates a folder that only its owner can enter, and corrects the mode of one that others could.
///
/// # Errors
/// Returns an error with the path if the folder cannot be created or changed.
pub fn make_private_folder(folder: &Path) -> Result<()> {
    let mut builder = DirBuilder::new();
    builder
        .recursive(true)
        .mode(PRIVATE_FOLDER)
        .create(folder)
        .with_context(|| format!("making {}", folder.display()))?;
    let opened = File::open(folder).with_context(|| format!("opening {}", folder.display()))?;
    opened
        .set_permissions(Permissions::from_mode(PRIVATE_FOLDER))
        .with_context(|| format!("setting the mode of {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock_request(run: &str, shared: bool) -> LockRequest {
        LockRequest { operator: "a@b".to_owned(), command: "deploy".to_owned(), run: run.to_owned(), shared }
    }

    #[test]
    fn the_lock_is_exclusive_or_shared() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (HostLock::new(folder.path()), HostLock::new(folder.path()));
        assert_eq!(first.acquire(&lock_request("1", false)).unwrap(), LockResult::Acquired);
        assert!(first.is_exclusive());
        assert_eq!(first.acquire(&lock_request("1", false)).unwrap(), LockResult::Acquired);
        let LockResult::HeldBy(holders) = second.acquire(&lock_request("2", true)).unwrap() else {
            panic!("two hold it")
        };
        assert_eq!(holders.iter().map(|holder| holder.run.as_str()).collect::<Vec<_>>(), ["1"]);
        drop(first);
        assert_eq!(second.acquire(&lock_request("2", true)).unwrap(), LockResult::Acquired);
        assert!(!second.is_exclusive());
        let third = HostLock::new(folder.path());
        assert_eq!(third.acquire(&lock_request("3", true)).unwrap(), LockResult::Acquired);
        assert!(matches!(
            HostLock::new(folder.path()).acquire(&lock_request("4", false)).unwrap(),
            LockResult::HeldBy(_)
        ));
        drop((second, third));
        assert_eq!(HostLock::new(folder.path()).list_holders().unwrap(), []);
    }

    #[test]
    fn a_holder_that_is_finishing_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (HostLock::new(folder.path()), HostLock::new(folder.path()));
        first.acquire(&lock_request("1", false)).unwrap();
        first.mark_controller_gone();
        assert!(second.list_holders().unwrap()[0].controller_is_gone);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| second.acquire(&lock_request("2", false)).unwrap());
            std::thread::sleep(HOLDER_TIMEOUT * 2);
            drop(first);
            assert_eq!(waiting.join().unwrap(), LockResult::Acquired);
        });
    }

    #[test]
    fn programs_of_a_killed_agent_are_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (HostLock::new(folder.path()), HostLock::new(folder.path()));
        first.acquire(&lock_request("1", false)).unwrap();
        // What a guard keeps open.
        let files = first.clone_files().unwrap();
        assert_eq!(files.len(), 2);
        let note = first.held().take().unwrap();
        let text = fs::read_to_string(&note.note_path).unwrap();
        let no_process = LockHolder { pid: u32::MAX, ..serde_json::from_str(&text).unwrap() };
        fs::write(&note.note_path, serde_json::to_vec(&no_process).unwrap()).unwrap();
        drop(note);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| second.acquire(&lock_request("2", false)).unwrap());
            std::thread::sleep(HOLDER_TIMEOUT * 2);
            assert!(!waiting.is_finished(), "the lock is free while a program runs");
            drop(files);
            assert_eq!(waiting.join().unwrap(), LockResult::Acquired);
        });
    }

    #[test]
    fn a_stale_note_has_no_holder() {
        let folder = tempfile::tempdir().unwrap();
        let lock = HostLock::new(folder.path());
        fs::write(folder.path().join("host.1.json"), "{}").unwrap();
        assert_eq!(lock.list_holders().unwrap(), []);
        assert_eq!(lock.acquire(&lock_request("1", false)).unwrap(), LockResult::Acquired);
    }

    #[test]
    fn only_the_owner_can_open_what_holds_the_lock() {
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join("locks");
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
        fs::write(folder.join("host"), "").unwrap();
        fs::set_permissions(folder.join("host"), Permissions::from_mode(0o644)).unwrap();
        let lock = HostLock::new(&folder);
        assert_eq!(lock.acquire(&lock_request("1", false)).unwrap(), LockResult::Acquired);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder), 0o700);
        for entry in fs::read_dir(&folder).unwrap() {
            assert_eq!(mode(&entry.unwrap().path()), 0o600);
        }
    }
}
