//! Runs programs: argv only, never a shell line made by concatenation.
//!
//! Each program leads a process group of its own. At its time limit, or when it is cancelled, the whole group is ended,
//! with all that it started. What it writes is read while it runs, and no more than a limit of it is kept.
//!
//! A program that changes a host runs under a guard, which ends it when the agent dies.

mod death_watch;
mod guard;
mod guarded;
mod output;
mod running;
#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

pub use death_watch::{DeathWatch, wait_for_agent_death};
pub use guard::{OnAgentDeath, run_guard};
pub use guarded::{enable_guards, end_guarded_programs, share_files_with_guards};
pub use output::{Completed, End, Output};

use guarded::GuardedProcess;
use output::last_lines;
use running::{Limits, Process, TakeOutput, follow, read_in_background};

/// Default limit for the bytes kept of each output stream.
const MAX_OUTPUT: usize = 16 << 20;
/// Default limit for programs of the system that answer a question or change a setting.
const SHORT_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// Maximum number of output chunks that wait to be passed on.
const MAX_CHUNKS: usize = 64;

/// A program and its arguments, to be run without standard input.
pub struct Program<'a> {
    command: Command,
    shown: String,
    input: Option<Vec<u8>>,
    timeout: Option<Duration>,
    timeout_hint: Option<&'static str>,
    drain_timeout: Option<Duration>,
    max_output: usize,
    output_limit: Option<u64>,
    on_agent_death: Option<OnAgentDeath>,
    has_clear_env: bool,
    is_cancelled: Option<&'a dyn Fn() -> bool>,
    is_output_hidden: bool,
    open_file: Option<File>,
}

impl<'a> Program<'a> {
    /// Names the program, which is looked up in the system's own folders and gets a clean locale.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self::with_own_environment(program)
            .env("LC_ALL", "C.UTF-8")
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("DEBIAN_FRONTEND", "noninteractive")
    }

    /// Works like [`Program::new`] for a program that answers a question or changes a setting. It is ended after five
    /// minutes: one that hangs would hold the locks of the whole fleet.
    pub fn short(program: impl AsRef<OsStr>) -> Self {
        Self::new(program).timeout(SHORT_TIMEOUT)
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
            timeout_hint: None,
            drain_timeout: None,
            max_output: MAX_OUTPUT,
            output_limit: None,
            on_agent_death: None,
            has_clear_env: false,
            is_cancelled: None,
            is_output_hidden: false,
            open_file: None,
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

    /// Removes a variable of this process from its environment.
    pub fn without_env(mut self, name: &str) -> Self {
        self.command.env_remove(name);
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

    /// Adds the next step to the error of a program that reached its time limit.
    pub fn explain_timeout(mut self, hint: &'static str) -> Self {
        self.timeout_hint = Some(hint);
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

    /// Runs it under a guard, which acts when this process dies. Has no effect on a program with input, and where
    /// guards are not enabled.
    pub fn guarded(mut self, on_agent_death: OnAgentDeath) -> Self {
        self.on_agent_death = Some(on_agent_death);
        self
    }

    /// Removes the environment of this process.
    pub fn clear_env(mut self) -> Self {
        self.command.env_clear();
        self.has_clear_env = true;
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

    /// Keeps a file open until the program has ended, also after the end of this process: a lock on the file lasts as
    /// long. Under a guard the guard has the file, otherwise it is the program's standard input. Not together with
    /// [`Program::input`].
    pub fn keep_open(mut self, file: File) -> Self {
        self.open_file = Some(file);
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
        let (shown, timeout_hint) = (self.shown.clone(), self.timeout_hint);
        let completed = self.complete()?;
        match completed.end {
            End::Exited(status) => {
                let omitted = completed.stdout.omitted;
                if omitted > 0 {
                    bail!("`{shown}` wrote too much: {omitted} bytes more than allowed");
                }
                Ok(std::process::Output { status, stdout: completed.stdout.bytes, stderr: completed.stderr.bytes })
            }
            End::TimedOut(_) => {
                let hint = timeout_hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
                bail!("`{shown}` {}{hint}{}", completed.describe_end(), completed.describe_output())
            }
            End::Cancelled | End::WroteTooMuch(_) => bail!("`{shown}` {}", completed.describe()),
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

    fn run_with(mut self, take: TakeOutput<'_>) -> Result<End> {
        if self.input.is_some() {
            self.command.stdin(Stdio::piped());
        }
        let started = Instant::now();
        let guard = self.on_agent_death.filter(|_| guarded::has_guards() && self.input.is_none());
        // Bounded: a program that writes faster than its output is passed on has to wait.
        let (sender, chunks) = mpsc::sync_channel(MAX_CHUNKS);
        let cannot_start = || format!("cannot start `{}`", self.shown);
        let mut process = if let Some(on_agent_death) = guard {
            let mut process =
                GuardedProcess::start(&self.command, self.has_clear_env, on_agent_death, self.open_file.as_ref())
                    .with_context(cannot_start)?;
            let (stdout, stderr) = process.take_streams();
            read_in_background(stdout, false, sender.clone())?;
            read_in_background(stderr, true, sender)?;
            Process::Guarded(process)
        } else {
            if let Some(file) = self.open_file.take() {
                self.command.stdin(file);
            }
            let mut child = self.command.spawn().with_context(cannot_start)?;
            if let Some((bytes, mut stdin)) = self.input.take().zip(child.stdin.take()) {
                // A program that does not read all of its input is free to do so.
                thread::Builder::new().spawn(move || stdin.write_all(&bytes).ok())?;
            }
            read_in_background(child.stdout.take(), false, sender.clone())?;
            read_in_background(child.stderr.take(), true, sender)?;
            Process::direct(child)
        };
        let is_cancelled = || self.is_cancelled.is_some_and(|is_cancelled| is_cancelled()) || guarded::is_ending();
        let is_killed_with_agent = guard == Some(OnAgentDeath::Kill);
        let limits = Limits {
            timeout: self.timeout,
            // A limit that is centuries away is none.
            deadline: self.timeout.and_then(|timeout| started.checked_add(timeout)),
            output_limit: self.output_limit.unwrap_or(u64::MAX),
            drain_timeout: self.drain_timeout,
            is_cancelled: if is_killed_with_agent { Some(&is_cancelled) } else { self.is_cancelled },
        };
        let end = follow(&mut process, &limits, &chunks, take);
        end.with_context(|| format!("cannot wait for `{}`", self.shown))
    }
}
