//! The agent's side of a guard: starts it, and gives it its orders (see [`super::guard`]).

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};

use super::guard::{GUARD_COMMAND, MAX_DESCRIPTORS, OnAgentDeath, REPORT_BYTES, message};

/// Time limit for a guard to start its program.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// The program of guards and watches. Another program than dunlin, such as a test, cannot be one itself.
static OWN_PROGRAM: OnceLock<PathBuf> = OnceLock::new();
/// Set when the programs of this agent must end with it.
static IS_ENDING: AtomicBool = AtomicBool::new(false);
/// Files that every guard keeps open.
static SHARED_FILES: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// Enables the guards and watches of this process, which run this program: dunlin, or its own `/proc/self/exe`.
pub fn enable_guards(program: impl Into<PathBuf>) {
    OWN_PROGRAM.get_or_init(|| program.into());
}

/// Returns whether programs can get a guard.
pub(super) fn has_guards() -> bool {
    own_program().is_some()
}

/// Returns the program of guards and watches; `None` if they are not enabled.
pub(super) fn own_program() -> Option<&'static Path> {
    OWN_PROGRAM.get().map(PathBuf::as_path)
}

/// Ends all guarded programs of this process, those that start later too.
pub fn end_guarded_programs() {
    IS_ENDING.store(true, Ordering::SeqCst);
}

/// Returns whether all guarded programs must end.
pub(super) fn is_ending() -> bool {
    IS_ENDING.load(Ordering::SeqCst)
}

/// Gives files to every guard that starts from now on, which keeps them open as long as its program runs: a lock stays
/// held while a program runs under it, even if the agent is killed. Replaces the files of an earlier call.
pub fn share_files_with_guards(files: Vec<File>) {
    *lock_shared_files() = files;
}

fn lock_shared_files() -> MutexGuard<'static, Vec<File>> {
    SHARED_FILES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A program under a guard.
pub(super) struct GuardedProcess {
    guard: Child,
    link: UnixStream,
    program: Pid,
    pidfd: Option<OwnedFd>,
    status: Option<ExitStatus>,
}

impl GuardedProcess {
    /// Starts a guard and its program, with the streams of the guard; the program has no standard input. The guard
    /// keeps `open_file` open besides the shared files.
    ///
    /// # Errors
    /// Returns the error of the program's start, or of the guard's.
    pub fn start(
        command: &Command,
        clear_env: bool,
        on_death: OnAgentDeath,
        open_file: Option<&File>,
    ) -> io::Result<Self> {
        let own_program = own_program().ok_or(io::ErrorKind::Unsupported)?;
        let (link, guard_link) = UnixStream::pair()?;
        let mut guard =
            build_guard_command(own_program, command, clear_env, on_death).stdin(OwnedFd::from(guard_link)).spawn()?;
        match start_program(&link, open_file) {
            Ok(program) => {
                let pidfd = pidfd_open(program, PidfdFlags::empty()).ok();
                link.set_nonblocking(true)?;
                Ok(Self { guard, link, program, pidfd, status: None })
            }
            Err(error) => {
                drop(link);
                guard.wait()?;
                Err(error)
            }
        }
    }

    /// Returns the streams of the program.
    pub fn take_streams(&mut self) -> (Option<std::process::ChildStdout>, Option<std::process::ChildStderr>) {
        (self.guard.stdout.take(), self.guard.stderr.take())
    }

    /// Becomes readable when the program has ended.
    pub fn link(&self) -> &UnixStream {
        &self.link
    }

    /// Returns how the program ended; `None` while it runs.
    pub fn try_status(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = match read_report(&self.link) {
                Ok((message::ENDED, status)) => Some(ExitStatus::from_raw(status)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
                // The guard was killed: nobody else would end its program.
                Ok(_) | Err(_) => {
                    self.kill_program();
                    Some(self.guard.wait()?)
                }
            };
        }
        Ok(self.status)
    }

    /// Ends the program and everything that it started, through the guard, and waits for it.
    pub fn kill_all(&mut self) -> io::Result<()> {
        if self.link.write_all(&[message::KILL]).is_err() {
            self.kill_program();
        }
        self.guard.wait().map(drop)
    }

    /// Ends the guard of a program that has ended; what it left in the background stays.
    pub fn release(&mut self) -> io::Result<()> {
        // A guard that has exited needs no request.
        self.link.write_all(&[message::RELEASE]).ok();
        self.guard.wait().map(drop)
    }

    fn kill_program(&self) {
        // The descriptor identifies the process: a number that another process has by now gets no signal.
        let pidfd = self.pidfd.as_ref();
        if pidfd.is_some_and(|pidfd| pidfd_send_signal(pidfd, Signal::STOP).is_ok()) {
            kill_process_group(self.program, Signal::KILL).ok();
        }
    }
}

/// Returns the command of a guard for a program: this binary with the program's environment and folder.
fn build_guard_command(own_program: &Path, command: &Command, clear_env: bool, on_death: OnAgentDeath) -> Command {
    let mut guard = Command::new(own_program);
    guard.arg0("dunlin-guard").args([GUARD_COMMAND, on_death.as_str()]).arg(command.get_program());
    guard.args(command.get_args());
    if clear_env {
        guard.env_clear();
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => guard.env(name, value),
            None => guard.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        guard.current_dir(folder);
    }
    guard.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    guard
}

/// Gives the guard its files, and returns the number of the program that it started.
fn start_program(link: &UnixStream, open_file: Option<&File>) -> io::Result<Pid> {
    link.set_read_timeout(Some(START_TIMEOUT))?;
    {
        let files = lock_shared_files();
        let descriptors: Vec<_> = files.iter().chain(open_file).take(MAX_DESCRIPTORS).map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::Error::other("too many files for a guard"));
        }
        sendmsg(link, &[IoSlice::new(&[message::START])], &mut control, SendFlags::NOSIGNAL)?;
    }
    match read_report(link) {
        Ok((message::STARTED, number)) => {
            Pid::from_raw(number).ok_or_else(|| io::Error::other("the guard reported no process"))
        }
        Ok((message::FAILED, errno)) => Err(io::Error::from_raw_os_error(errno)),
        Ok(_) => Err(io::Error::other("the guard sent an unknown report")),
        Err(error) => Err(io::Error::other(format!("the guard did not start: {error}"))),
    }
}

/// Reads one report: its kind and its number.
fn read_report(mut link: &UnixStream) -> io::Result<(u8, i32)> {
    let mut report = [0; REPORT_BYTES];
    // One write on the other side, so either all of it has arrived or nothing.
    link.read_exact(&mut report)?;
    let [kind, number @ ..] = report;
    Ok((kind, i32::from_ne_bytes(number)))
}
