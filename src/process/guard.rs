//! A guard: a small process between the agent and a program that must not outlive it.
//!
//! The guard is this binary again. It starts the program in a process group of its own, and waits for the program's end
//! or the agent's. An agent that is killed cannot clean up; its guards notice by their link to it, which the kernel
//! closes. As the subreaper of all that the program starts, a guard also finds processes that left the group.
//!
//! A guard keeps the files open that the agent gave it, among them the host's lock: no other run begins on the host
//! while the program lives.

use std::ffi::OsString;
use std::io::{self, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open, set_child_subreaper};

use crate::poll::poll_until;

/// Name of the hidden command that is a guard.
pub const GUARD_COMMAND: &str = "guard";
/// Maximum number of files that an agent gives to a guard: the host's lock and its note, and one of the program.
pub(super) const MAX_DESCRIPTORS: usize = 3;
/// Length of a guard's report: its kind, and a number.
pub(super) const REPORT_BYTES: usize = 5;
/// Time between the request to exit and the kill.
const TERM_TIMEOUT: Duration = Duration::from_secs(2);
/// Time limit for killed processes to be gone: one in the kernel's hands may take that long.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The bytes on the link of an agent and a guard.
pub(super) mod message {
    /// To the guard: start; carries the files.
    pub const START: u8 = b'g';
    /// To the guard: end the program and all that it started.
    pub const KILL: u8 = b'k';
    /// To the guard: exit, and leave the program's background processes to themselves.
    pub const RELEASE: u8 = b'r';
    /// To the agent: the program was started; with its process number.
    pub const STARTED: u8 = b'S';
    /// To the agent: the program was not started; with the error number.
    pub const FAILED: u8 = b'F';
    /// To the agent: the program has ended; with its wait status.
    pub const ENDED: u8 = b'E';
}

/// Action of a guard on its program when the agent dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnAgentDeath {
    /// Ends the program and all that it started.
    Kill,
    /// Waits for the end of a program that must not stop halfway, such as a package manager.
    Finish,
}

impl OnAgentDeath {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Finish => "finish",
        }
    }
}

/// Runs as a guard if these are the arguments of one (with the name of the program first).
pub fn run_guard(args: &[OsString]) -> Option<ExitCode> {
    let [_, command, on_death, program, args @ ..] = args else { return None };
    if command != GUARD_COMMAND {
        return None;
    }
    let modes = [OnAgentDeath::Kill, OnAgentDeath::Finish];
    let on_death = modes.into_iter().find(|mode| on_death == mode.as_str())?;
    Some(match guard_program(on_death, program, args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    })
}

fn guard_program(on_death: OnAgentDeath, program: &OsString, args: &[OsString]) -> io::Result<()> {
    let link = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    // Open until this process ends.
    let _files = receive_files(&link)?;
    set_child_subreaper(Some(rustix::process::getpid()))?;
    let started = Command::new(program).args(args).stdin(Stdio::null()).process_group(0).spawn();
    let child = match started {
        Ok(child) => child,
        Err(error) => {
            return send_report(&link, message::FAILED, error.raw_os_error().unwrap_or(Errno::INVAL.raw_os_error()));
        }
    };
    let program = Pid::from_child(&child);
    close_output()?;
    let mut guarded = Guarded { link, child, status: None };
    // An agent that is gone is noticed by the first look at the link.
    send_report(&guarded.link, message::STARTED, program.as_raw_nonzero().get()).ok();
    match guarded.wait_for_order()? {
        Order::Release => Ok(()),
        Order::Kill => kill_descendants(program),
        Order::AgentDied if on_death == OnAgentDeath::Finish => guarded.child.wait().map(drop),
        Order::AgentDied => kill_descendants(program),
    }
}

/// Event that ends a guard's wait.
enum Order {
    Kill,
    Release,
    AgentDied,
}

struct Guarded {
    link: UnixStream,
    child: Child,
    status: Option<ExitStatus>,
}

impl Guarded {
    /// Waits for an order of the agent or its death, and reports the end of the program meanwhile.
    fn wait_for_order(&mut self) -> io::Result<Order> {
        let pidfd = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty()).ok();
        // Without descriptors of processes, the program is looked at now and then.
        let interval =
            if pidfd.is_some() { None } else { Some(Timespec::try_from(POLL_INTERVAL).map_err(io::Error::other)?) };
        loop {
            if self.status.is_none()
                && let Some(status) = self.child.try_wait()?
            {
                self.status = Some(status);
                send_report(&self.link, message::ENDED, status.into_raw()).ok();
            }
            let mut fds = vec![PollFd::new(&self.link, PollFlags::IN)];
            if self.status.is_none() {
                fds.extend(pidfd.as_ref().map(|pidfd| PollFd::new(pidfd, PollFlags::IN)));
            }
            match poll(&mut fds, interval.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if fds[0].revents().is_empty() {
                continue;
            }
            let mut order = [0];
            match (&self.link).read(&mut order) {
                Ok(1) if order[0] == message::RELEASE => return Ok(Order::Release),
                Ok(1) if order[0] == message::KILL => return Ok(Order::Kill),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => return Ok(Order::AgentDied),
            }
        }
    }
}

/// Receives the files that the agent sends with its first byte.
fn receive_files(link: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    let (mut byte, mut space) = ([0], [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))]);
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(link, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes == 0 || byte[0] != message::START {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let files = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files.collect::<Vec<_>>()),
        _ => None,
    });
    Ok(files.flatten().collect())
}

fn send_report(mut link: &UnixStream, kind: u8, number: i32) -> io::Result<()> {
    let mut report = [0; REPORT_BYTES];
    report[0] = kind;
    report[1..].copy_from_slice(&number.to_ne_bytes());
    link.write_all(&report)
}

/// Closes the program's streams, so that their readers see the end once no writer is left.
fn close_output() -> io::Result<()> {
    let null = std::fs::OpenOptions::new().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}

/// Ends the program's group, and everything below this process: first by request, then by force.
fn kill_descendants(program: Pid) -> io::Result<()> {
    signal_all(program, Signal::TERM);
    if poll_until(Instant::now() + TERM_TIMEOUT, POLL_INTERVAL, || is_childless(Signal::CONT, program))?.is_some() {
        return Ok(());
    }
    let is_gone = poll_until(Instant::now() + KILL_TIMEOUT, POLL_INTERVAL, || is_childless(Signal::KILL, program))?;
    is_gone.ok_or_else(|| io::ErrorKind::TimedOut.into())
}

/// Returns whether no descendant is left; otherwise sends a signal to all of them.
fn is_childless(signal: Signal, program: Pid) -> io::Result<Option<()>> {
    if list_descendants()?.is_empty() {
        return Ok(Some(()));
    }
    signal_all(program, signal);
    Ok(None)
}

fn signal_all(program: Pid, signal: Signal) {
    // Gone already, which is what is wanted.
    kill_process_group(program, signal).ok();
    for process in list_descendants().unwrap_or_default() {
        kill_process(process, signal).ok();
    }
}

/// Returns the processes below this one that have not ended.
fn list_descendants() -> io::Result<Vec<Pid>> {
    let mut processes = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.parse::<i32>().ok());
        let Some(pid) = number.and_then(Pid::from_raw) else { continue };
        // A process that ended in the meantime does not count.
        let stat = std::fs::read_to_string(path.join("stat")).unwrap_or_default();
        // The name in parentheses may hold anything; state and parent follow it.
        let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let (state, parent) = (fields.next(), fields.next().and_then(|parent| parent.parse::<i32>().ok()));
        if let Some(parent) = parent.and_then(Pid::from_raw).filter(|_| !matches!(state, Some("Z" | "X"))) {
            processes.push((pid, parent));
        }
    }
    let mut descendants = vec![rustix::process::getpid()];
    let mut at = 0;
    while let Some(&parent) = descendants.get(at) {
        descendants.extend(processes.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    Ok(descendants.split_off(1))
}
