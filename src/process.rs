//! Runs programs: argv only, never a shell line made by concatenation.
//!
//! Each program leads a process group of its own. At its time limit, or when it is cancelled, the whole group is ended,
//! with all that it started. What it writes is read while it runs, and no more than a limit of it is kept.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

/// Default limit for the bytes kept of each output stream.
const MAX_OUTPUT: usize = 16 << 20;
/// Maximum number of output chunks that wait to be passed on.
const MAX_CHUNKS: usize = 64;
/// Interval at which a running program is checked for cancellation.
const CANCEL_POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Number of output lines that an error message quotes.
const LINES_IN_MESSAGE: usize = 8;
/// Maximum number of characters of each of these lines.
const MAX_LINE_CHARS: usize = 2000;

/// A program and its arguments, to be run without standard input.
pub struct Program<'a> {
    command: Command,
    shown: String,
    input: Option<Vec<u8>>,
    timeout: Option<Duration>,
    drain_timeout: Option<Duration>,
    max_output: usize,
    output_limit: Option<u64>,
    is_cancelled: Option<&'a dyn Fn() -> bool>,
    is_output_hidden: bool,
}

/// Describes how a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, or by a signal of somebody else.
    Exited(ExitStatus),
    /// The program was killed at its time limit.
    TimedOut(Duration),
    /// The program was killed because the run was cancelled.
    Cancelled,
    /// The program was killed because it wrote more than this number of bytes.
    WroteTooMuch(u64),
}

/// Holds the output of a program on one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// The last bytes, up to the limit.
    pub bytes: Vec<u8>,
    /// Number of earlier bytes that were dropped.
    pub omitted: u64,
}

/// A program that has ended.
#[derive(Clone, Debug)]
pub struct Completed {
    /// Result of the run.
    pub end: End,
    /// Its standard output.
    pub stdout: Output,
    /// Its standard error.
    pub stderr: Output,
}

/// A part of the output, or the end of a stream.
enum Chunk {
    Data { is_error: bool, bytes: Vec<u8> },
    End,
}

impl<'a> Program<'a> {
    /// Names the program, which is looked up in the system's own folders and gets a clean locale.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self::with_own_environment(program)
            .env("LC_ALL", "C.UTF-8")
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("DEBIAN_FRONTEND", "noninteractive")
    }

    /// Names the program, which gets the environment of this process unchanged.
    pub fn with_own_environment(program: impl AsRef<OsStr>) -> Self {
        let shown = program.as_ref().to_string_lossy().into_owned();
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        Self {
            command,
            shown,
            input: None,
            timeout: None,
            drain_timeout: None,
            max_output: MAX_OUTPUT,
            output_limit: None,
            is_cancelled: None,
            is_output_hidden: false,
        }
    }

    /// Keeps what it was given and what it writes out of error messages, which call it `shown`: it is given a secret.
    pub fn hide_output(mut self, shown: &str) -> Self {
        shown.clone_into(&mut self.shown);
        self.is_output_hidden = true;
        self
    }

    /// Adds one argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        if !self.is_output_hidden {
            self.shown.push(' ');
            self.shown.push_str(&arg.as_ref().to_string_lossy());
        }
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    pub fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(self, args: I) -> Self {
        args.into_iter().fold(self, |program, arg| program.arg(arg))
    }

    /// Sets a variable of the environment.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets the folder that it runs in.
    pub fn folder(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Ends it, and what it has started, after this time.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Waits only that long for the end of its output once it has ended: a process that it leaves in the background may
    /// keep the streams open forever. Without this the output is waited for until the time limit.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = Some(timeout);
        self
    }

    /// Keeps only the last bytes of each output stream.
    pub fn max_output(mut self, bytes: usize) -> Self {
        self.max_output = bytes;
        self
    }

    /// Ends it, and what it has started, once it has written more than this number of bytes to both streams together.
    pub fn output_limit(mut self, bytes: u64) -> Self {
        self.output_limit = Some(bytes);
        self
    }

    /// Removes the environment of this process.
    pub fn clear_env(mut self) -> Self {
        self.command.env_clear();
        self
    }

    /// Ends it, and what it has started, once this returns true.
    pub fn cancel_when(mut self, is_cancelled: &'a dyn Fn() -> bool) -> Self {
        self.is_cancelled = Some(is_cancelled);
        self
    }

    /// Gives it bytes on standard input.
    pub fn input(mut self, bytes: Vec<u8>) -> Self {
        self.input = Some(bytes);
        self
    }

    /// Runs it until it ends or is ended, and returns how, and what it wrote.
    ///
    /// # Errors
    /// Returns an error if the program cannot be started.
    pub fn complete(self) -> Result<Completed> {
        let (mut stdout, mut stderr) = (Output::default(), Output::default());
        let max = self.max_output;
        let end = self.run_with(&mut |is_error, bytes| {
            if is_error { &mut stderr } else { &mut stdout }.append(&bytes, max);
        })?;
        stdout.trim(max);
        stderr.trim(max);
        Ok(Completed { end, stdout, stderr })
    }

    /// Runs it until it ends by itself, whatever its status.
    ///
    /// # Errors
    /// Returns an error if the program cannot be started, or was ended.
    pub fn output(self) -> Result<std::process::Output> {
        let shown = self.shown.clone();
        let completed = self.complete()?;
        match completed.end {
            End::Exited(status) => {
                let omitted = completed.stdout.omitted;
                if omitted > 0 {
                    bail!("`{shown}` wrote too much: {omitted} bytes more than allowed");
                }
                Ok(std::process::Output { status, stdout: completed.stdout.bytes, stderr: completed.stderr.bytes })
            }
            End::TimedOut(_) | End::Cancelled | End::WroteTooMuch(_) => bail!("`{shown}` {}", completed.describe()),
        }
    }

    /// Runs it and returns its standard output.
    ///
    /// # Errors
    /// Fails where it cannot be started, was ended, or ended with another status than 0; the message has the last lines
    /// of its standard error.
    pub fn run(self) -> Result<Vec<u8>> {
        let (shown, is_hidden) = (self.shown.clone(), self.is_output_hidden);
        let output = self.output()?;
        if !output.status.success() && is_hidden {
            bail!("`{shown}` ended with {}; its output is hidden, because it was given a secret", output.status);
        }
        if !output.status.success() {
            let said = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
            bail!("`{shown}` ended with {}{}", output.status, last_lines(&String::from_utf8_lossy(said)));
        }
        Ok(output.stdout)
    }

    /// Runs it and passes on what it writes, as it comes (`true`: standard error); returns its status, or 128 + the
    /// signal that ended it.
    ///
    /// # Errors
    /// Returns an error if the program cannot be started, or was ended at its time limit.
    pub fn stream(self, pass_on: &mut dyn FnMut(bool, String)) -> Result<i32> {
        let shown = self.shown.clone();
        let end = self.run_with(&mut |is_error, bytes| {
            pass_on(is_error, String::from_utf8_lossy(&bytes).into_owned());
        })?;
        match end {
            End::Exited(status) => Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))),
            End::Cancelled => Ok(128 + Signal::KILL.as_raw()),
            End::TimedOut(timeout) => bail!("`{shown}` did not end within {timeout:?}"),
            End::WroteTooMuch(limit) => bail!("`{shown}` wrote more than {limit} bytes"),
        }
    }

    /// Runs it and returns whether it ended with status 0.
    ///
    /// # Errors
    /// Returns an error if it cannot be started, or was ended.
    pub fn succeeds(self) -> Result<bool> {
        Ok(self.output()?.status.success())
    }

    fn run_with(mut self, take: &mut dyn FnMut(bool, Vec<u8>)) -> Result<End> {
        if self.input.is_some() {
            self.command.stdin(Stdio::piped());
        }
        let started = Instant::now();
        let mut child = self.command.spawn().with_context(|| format!("cannot start `{}`", self.shown))?;
        let running = Running {
            group: Pid::from_child(&child),
            process: pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).ok(),
            timeout: self.timeout,
            // A limit that is centuries away is none.
            deadline: self.timeout.and_then(|timeout| started.checked_add(timeout)),
            output_limit: self.output_limit.unwrap_or(u64::MAX),
            is_cancelled: self.is_cancelled,
        };
        if let Some((bytes, mut stdin)) = self.input.take().zip(child.stdin.take()) {
            // A program that does not read all of its input is free to do so.
            thread::spawn(move || stdin.write_all(&bytes).ok());
        }
        // Bounded: a program that writes faster than its output is passed on has to wait.
        let (sender, chunks) = mpsc::sync_channel(MAX_CHUNKS);
        read_in_background(child.stdout.take(), false, sender.clone());
        read_in_background(child.stderr.take(), true, sender);
        let end = running.follow(&mut child, &chunks, self.drain_timeout, take);
        end.with_context(|| format!("cannot wait for `{}`", self.shown))
    }
}

/// A program that was started.
struct Running<'a> {
    group: Pid,
    /// Becomes readable when the program has ended.
    process: Option<OwnedFd>,
    timeout: Option<Duration>,
    deadline: Option<Instant>,
    output_limit: u64,
    is_cancelled: Option<&'a dyn Fn() -> bool>,
}

impl Running<'_> {
    /// Passes on the output until the program and both streams have ended.
    fn follow(
        &self,
        child: &mut Child,
        chunks: &Receiver<Chunk>,
        drain_timeout: Option<Duration>,
        take: &mut dyn FnMut(bool, Vec<u8>),
    ) -> io::Result<End> {
        let (mut open_streams, mut status, mut drain_until, mut written) = (2, None, None, 0);
        loop {
            if status.is_none() {
                status = child.try_wait()?;
                if status.is_some() {
                    drain_until = drain_timeout.map(|timeout| Instant::now() + timeout);
                }
            }
            if let Some(status) = status
                && (open_streams == 0 || drain_until.is_some_and(|until| Instant::now() >= until))
            {
                return Ok(End::Exited(status));
            }
            if let Some(end) = self.overdue(written) {
                // Gone already: it has ended in this very moment.
                kill_process_group(self.group, Signal::KILL).ok();
                child.wait()?;
                while let Ok(chunk) = chunks.try_recv() {
                    if let Chunk::Data { is_error, bytes } = chunk {
                        take(is_error, bytes);
                    }
                }
                return Ok(status.map_or(end, End::Exited));
            }
            if open_streams == 0 {
                self.wait_for_end()?;
                continue;
            }
            match chunks.recv_timeout(self.next_check(drain_until, drain_timeout.is_some())) {
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

    fn overdue(&self, written: u64) -> Option<End> {
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

    /// Waits for the end of the program, whose streams have ended, up to the next check.
    fn wait_for_end(&self) -> io::Result<()> {
        let most = self.next_check(None, false);
        let Some(process) = &self.process else {
            thread::sleep(most.min(CANCEL_POLL_INTERVAL));
            return Ok(());
        };
        let most = Timespec::try_from(most).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&most)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Reads a stream to its end.
fn read_in_background(stream: Option<impl Read + Send + 'static>, is_error: bool, sender: SyncSender<Chunk>) {
    thread::spawn(move || {
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
}

impl Output {
    /// Adds bytes, and drops the oldest ones where there are far too many.
    fn append(&mut self, bytes: &[u8], max: usize) {
        self.bytes.extend_from_slice(bytes);
        // Not at each call: what is kept has to be moved.
        if self.bytes.len() > max.saturating_mul(2) {
            self.trim(max);
        }
    }

    fn trim(&mut self, max: usize) {
        let surplus = self.bytes.len().saturating_sub(max);
        self.bytes.drain(..surplus);
        self.omitted += surplus as u64;
    }
}

impl Completed {
    /// Returns whether it ended with status 0.
    pub fn is_success(&self) -> bool {
        matches!(self.end, End::Exited(status) if status.success())
    }

    /// Returns its status; `None` where a signal or the time limit ended it.
    pub fn code(&self) -> Option<i32> {
        match self.end {
            End::Exited(status) => status.code(),
            End::TimedOut(_) | End::Cancelled | End::WroteTooMuch(_) => None,
        }
    }

    /// Describes how it ended, with the last lines of what it wrote: `ended with exit status: 3: no such table`.
    pub fn describe(&self) -> String {
        let end = match self.end {
            End::Exited(status) => format!("ended with {status}"),
            End::TimedOut(timeout) => format!("did not end within {timeout:?}"),
            End::Cancelled => "was cancelled".to_owned(),
            End::WroteTooMuch(limit) => format!("wrote more than {limit} bytes"),
        };
        let text = |output: &Output| String::from_utf8_lossy(&output.bytes).into_owned();
        format!("{end}{}", last_lines(&(text(&self.stdout) + &text(&self.stderr))))
    }
}

/// Returns the last lines of what a program wrote, with a colon before them, to be put behind its status.
fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(LINES_IN_MESSAGE)..];
    let last: Vec<String> = last.iter().map(|line| shorten(line)).collect();
    if last.is_empty() { String::new() } else { format!(": {}", last.join("\n")) }
}

fn shorten(line: &str) -> String {
    match line.char_indices().nth(MAX_LINE_CHARS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn sh(script: &str) -> Program<'static> {
        Program::new("sh").args(["-c", script])
    }

    /// Waits until the process whose number a script wrote into that file is gone.
    fn is_gone(file: &Path) -> bool {
        let number = std::fs::read_to_string(file).unwrap();
        let path = format!("/proc/{}/cmdline", number.trim());
        let check = || Ok::<_, ()>(std::fs::read(&path).unwrap_or_default().is_empty().then_some(()));
        crate::poll::poll_until(Instant::now() + LIMIT, Duration::from_millis(5), check).unwrap().is_some()
    }

    #[test]
    fn a_failure_has_the_last_lines_of_the_output() {
        let text = sh("echo no such thing >&2; exit 3").run().unwrap_err().to_string();
        assert!(text.contains("exit status: 3: no such thing"), "{text}");
        let completed = sh("echo out; echo no >&2; exit 3").timeout(LIMIT).complete().unwrap();
        assert_eq!((completed.is_success(), completed.code()), (false, Some(3)));
        assert_eq!(completed.describe(), "ended with exit status: 3: out\nno");
        let error = Program::new("no-such-program").run().unwrap_err();
        assert_eq!(error.downcast_ref::<io::Error>().unwrap().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn input_reaches_the_program() {
        assert_eq!(Program::new("cat").input(b"abc".to_vec()).run().unwrap(), b"abc");
        // More than a pipe holds, and a program that does not read it.
        assert!(Program::new("true").input(vec![0; 1 << 20]).succeeds().unwrap());
    }

    #[test]
    fn the_time_limit_ends_the_program_and_what_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let begin = Instant::now();
        let script = "sleep 600 & echo $! > child; echo waiting; wait";
        // Until the file is there, and not for a fixed time.
        let child = folder.path().join("child");
        let is_ready = || std::fs::read_to_string(&child).is_ok_and(|text| text.ends_with('\n'));
        let completed = sh(script).folder(folder.path()).cancel_when(&is_ready).complete().unwrap();
        assert_eq!((completed.end, completed.code()), (End::Cancelled, None));
        assert!(is_gone(&child));
        let completed = sh("sleep 600; true").timeout(Duration::from_millis(50)).complete().unwrap();
        assert_eq!(completed.describe(), "did not end within 50ms");
        let error = sh("sleep 600; true").timeout(Duration::from_millis(50)).run().unwrap_err().to_string();
        assert!(error.contains("did not end within 50ms"), "{error}");
        assert!(begin.elapsed() < LIMIT);
    }

    #[test]
    fn a_program_may_leave_a_process_that_keeps_its_output_open() {
        let begin = Instant::now();
        let program = sh("sleep 600 & echo $!").timeout(LIMIT).drain_timeout(Duration::from_millis(50));
        let completed = program.complete().unwrap();
        assert!(completed.is_success());
        assert!(begin.elapsed() < LIMIT);
        let left = String::from_utf8(completed.stdout.bytes).unwrap();
        sh(&format!("kill {left}")).run().unwrap();
    }

    #[test]
    fn only_the_end_of_a_long_output_is_kept() {
        let completed = sh("seq 1 100000; echo last").max_output(1000).complete().unwrap();
        assert_eq!(completed.stdout.bytes.len(), 1000);
        assert_eq!(completed.stdout.omitted, 588_895 + 5 - 1000);
        assert!(completed.stdout.bytes.ends_with(b"\nlast\n"));
        let error = sh("echo 123456").max_output(3).run().unwrap_err().to_string();
        assert!(error.contains("wrote too much"), "{error}");
    }

    #[test]
    fn a_program_that_writes_for_ever_is_ended() {
        let begin = Instant::now();
        let completed = sh("yes 0123456789").output_limit(1 << 20).complete().unwrap();
        assert_eq!((completed.end, completed.code()), (End::WroteTooMuch(1 << 20), None));
        assert!(completed.stdout.bytes.len() < 4 << 20, "{} bytes were kept", completed.stdout.bytes.len());
        let error = sh("yes").output_limit(100).run().unwrap_err().to_string();
        assert!(error.contains("wrote more than 100 bytes"), "{error}");
        assert!(begin.elapsed() < LIMIT);
    }

    #[test]
    fn a_message_quotes_the_beginning_of_long_lines() {
        let error = sh("head -c 100000 /dev/zero | tr '\\0' x; exit 1").run().unwrap_err().to_string();
        assert!(error.len() < 2 * MAX_LINE_CHARS && error.ends_with("xxx…"), "{}", error.len());
    }

    #[test]
    fn a_stream_is_passed_on_as_it_comes() {
        let mut said = String::new();
        let status = sh("echo a; echo b >&2; kill -9 $$").stream(&mut |is_error, text| {
            said += &format!("{is_error} {text}");
        });
        assert_eq!(status.unwrap(), 137);
        assert!(said.contains("false a\n") && said.contains("true b\n"), "{said}");
    }
}
