//! Follows a started program: its output, its end, and the limits at which it is ended.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::process::{Child, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::guarded::GuardedProcess;
use super::output::End;

/// Interval at which a running program is checked for cancellation.
const CANCEL_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Time limit for the rest of a killed program's output: a pipe's content, unless something else writes to it.
const REST_TIMEOUT: Duration = Duration::from_millis(200);

/// A part of the output, or the end of a stream.
pub(super) enum Chunk {
    Data { is_error: bool, bytes: Vec<u8> },
    End,
}

/// Receives the parts of the output (`true`: standard error).
pub(super) type TakeOutput<'a> = &'a mut dyn FnMut(bool, Vec<u8>);

/// A started program, with or without a guard.
pub(super) enum Process {
    /// A child of this process, which leads a process group.
    Direct {
        child: Child,
        /// Becomes readable when the program has ended.
        pidfd: Option<OwnedFd>,
    },
    /// A child of a guard.
    Guarded(GuardedProcess),
}

/// The limits of a program.
pub(super) struct Limits<'a> {
    pub timeout: Option<Duration>,
    pub deadline: Option<Instant>,
    pub output_limit: u64,
    pub drain_timeout: Option<Duration>,
    pub is_cancelled: Option<&'a dyn Fn() -> bool>,
}

impl Process {
    /// Takes a child that leads a process group.
    pub fn direct(child: Child) -> Self {
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).ok();
        Self::Direct { child, pidfd }
    }

    /// Returns how the program ended; `None` while it runs.
    fn try_status(&mut self) -> io::Result<Option<ExitStatus>> {
        match self {
            Self::Direct { child, .. } => child.try_wait(),
            Self::Guarded(process) => process.try_status(),
        }
    }

    /// Ends the program and what it started.
    fn kill_all(&mut self) -> io::Result<()> {
        match self {
            Self::Direct { child, .. } => {
                // Gone already: it has ended in this very moment.
                kill_process_group(Pid::from_child(child), Signal::KILL).ok();
                child.wait().map(drop)
            }
            Self::Guarded(process) => process.kill_all(),
        }
    }

    /// Leaves what the program started in the background to itself.
    fn release(&mut self) -> io::Result<()> {
        match self {
            Self::Direct { .. } => Ok(()),
            Self::Guarded(process) => process.release(),
        }
    }

    /// Waits until the program has ended, at most that long.
    fn wait_within(&self, timeout: Duration) -> io::Result<()> {
        let readable = match self {
            Self::Direct { pidfd: Some(pidfd), .. } => PollFd::new(pidfd, PollFlags::IN),
            Self::Direct { pidfd: None, .. } => {
                thread::sleep(timeout.min(CANCEL_POLL_INTERVAL));
                return Ok(());
            }
            Self::Guarded(process) => PollFd::new(process.link(), PollFlags::IN),
        };
        let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
        match poll(&mut [readable], Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Passes on the output until the program and both streams have ended, or until a limit is reached.
///
/// # Errors
/// Returns an error if the program cannot be waited for.
pub(super) fn follow(
    process: &mut Process,
    limits: &Limits<'_>,
    chunks: &Receiver<Chunk>,
    take: TakeOutput<'_>,
) -> io::Result<End> {
    let (mut open_streams, mut status, mut drain_until, mut written) = (2_u32, None, None, 0);
    loop {
        if status.is_none() {
            status = process.try_status()?;
            if status.is_some() {
                drain_until = limits.drain_timeout.map(|timeout| Instant::now() + timeout);
            }
        }
        if let Some(status) = status
            && (open_streams == 0 || drain_until.is_some_and(|until| Instant::now() >= until))
        {
            process.release()?;
            return Ok(End::Exited(status));
        }
        if let Some(end) = limits.exceeded(written) {
            process.kill_all()?;
            take_rest(open_streams, chunks, take);
            return Ok(status.map_or(end, End::Exited));
        }
        if open_streams == 0 {
            process.wait_within(limits.next_check(None, false))?;
            continue;
        }
        match chunks.recv_timeout(limits.next_check(drain_until, limits.drain_timeout.is_some())) {
            Ok(Chunk::Data { is_error, bytes }) => {
                written += bytes.len() as u64;
                take(is_error, bytes);
            }
            Ok(Chunk::End) => open_streams -= 1,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => open_streams = 0,
        }
    }
}

/// Passes on what a program wrote before it was killed.
fn take_rest(mut open_streams: u32, chunks: &Receiver<Chunk>, take: TakeOutput<'_>) {
    let until = Instant::now() + REST_TIMEOUT;
    while open_streams > 0 {
        match chunks.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(Chunk::Data { is_error, bytes }) => take(is_error, bytes),
            Ok(Chunk::End) => open_streams -= 1,
            Err(_) => return,
        }
    }
}

impl Limits<'_> {
    fn exceeded(&self, written: u64) -> Option<End> {
        if written > self.output_limit {
            return Some(End::WroteTooMuch(self.output_limit));
        }
        if self.is_cancelled.is_some_and(|is_cancelled| is_cancelled()) {
            return Some(End::Cancelled);
        }
        let timeout = self.timeout.filter(|_| self.deadline.is_some_and(|deadline| Instant::now() >= deadline));
        timeout.map(End::TimedOut)
    }

    /// Returns how long nothing needs to be looked at but the output.
    fn next_check(&self, drain_until: Option<Instant>, ends_before_streams: bool) -> Duration {
        let now = Instant::now();
        let until = [self.deadline, drain_until].into_iter().flatten().min();
        let left = until.map_or(Duration::from_secs(60), |until| until.saturating_duration_since(now));
        // A program may end while something that it left in the background keeps its streams open.
        let is_checked = self.is_cancelled.is_some() || (ends_before_streams && drain_until.is_none());
        if is_checked { left.min(CANCEL_POLL_INTERVAL) } else { left }
    }
}

/// Reads a stream to its end.
pub(super) fn read_in_background(
    stream: Option<impl Read + Send + 'static>,
    is_error: bool,
    sender: SyncSender<Chunk>,
) -> io::Result<()> {
    let reading = thread::Builder::new().spawn(move || {
        let mut buffer = [0; 16 * 1024];
        if let Some(mut stream) = stream {
            loop {
                match stream.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(read) if sender.send(Chunk::Data { is_error, bytes: buffer[..read].to_vec() }).is_ok() => {}
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    _ => break,
                }
            }
        }
        // Nobody listens any more where the program was ended.
        sender.send(Chunk::End).ok();
    });
    reading.map(drop)
}
