//! Runs a program on this host: argv only, never a shell line made by concatenation.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

/// A program and its arguments, to be run with a clean locale and no standard input.
#[derive(Debug)]
pub struct Exec {
    command: Command,
    shown: String,
    input: Option<Vec<u8>>,
    limit: Option<Duration>,
}

impl Exec {
    /// Names the program; it is looked up in the system's own folders.
    pub fn new(program: &str) -> Self {
        let mut command = Command::new(program);
        command
            .env("LC_ALL", "C.UTF-8")
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null());
        Self { command, shown: program.to_owned(), input: None, limit: None }
    }

    /// Adds one argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.shown.push(' ');
        self.shown.push_str(&arg.as_ref().to_string_lossy());
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    pub fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(self, args: I) -> Self {
        args.into_iter().fold(self, |exec, arg| exec.arg(arg))
    }

    /// Sets a variable of the environment.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets the folder it runs in.
    pub fn folder(mut self, folder: &std::path::Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Ends it, and what it has started, after this time: that is an error then.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.command.process_group(0);
        self.limit = Some(limit);
        self
    }

    /// Gives it bytes on standard input.
    pub fn input(mut self, bytes: Vec<u8>) -> Self {
        self.input = Some(bytes);
        self
    }

    /// Runs it to its end, whatever its status.
    ///
    /// # Errors
    /// The program could not be started.
    pub fn output(mut self) -> Result<Output> {
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        if self.input.is_some() {
            self.command.stdin(Stdio::piped());
        }
        let mut child = self.command.spawn().with_context(|| format!("cannot start `{}`", self.shown))?;
        let feeder = self.input.take().zip(child.stdin.take()).map(|(bytes, mut stdin)| {
            // A program that does not read all of its input is free to do so.
            std::thread::spawn(move || drop(stdin.write_all(&bytes)))
        });
        let output = match self.limit {
            None => child.wait_with_output().with_context(|| format!("`{}` did not end", self.shown))?,
            Some(limit) => wait_within(child, limit).with_context(|| format!("`{}` did not end", self.shown))?,
        };
        if let Some(feeder) = feeder {
            feeder.join().ok();
        }
        Ok(output)
    }

    /// Runs it and returns its standard output.
    ///
    /// # Errors
    /// It could not be started, or ended with another status than 0: then the last lines of its standard error.
    pub fn run(self) -> Result<Vec<u8>> {
        let shown = self.shown.clone();
        let output = self.output()?;
        if !output.status.success() {
            bail!("`{shown}` ended with {}{}", output.status, tail(&output));
        }
        Ok(output.stdout)
    }

    /// Runs it and passes on what it writes, as it comes (`true`: standard error); returns its status, or 128 + the
    /// signal that ended it.
    ///
    /// # Errors
    /// The program could not be started.
    pub fn stream(mut self, take: &mut dyn FnMut(bool, String)) -> Result<i32> {
        use std::os::unix::process::ExitStatusExt;
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().with_context(|| format!("cannot start `{}`", self.shown))?;
        let (sender, receiver) = std::sync::mpsc::channel();
        let outputs = [
            (false, child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>)),
            (true, child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>)),
        ];
        for (is_error, pipe) in outputs {
            let sender = sender.clone();
            std::thread::spawn(move || {
                let mut pipe = pipe?;
                let mut buffer = [0; 16 * 1024];
                while let Ok(read @ 1..) = pipe.read(&mut buffer) {
                    sender.send((is_error, String::from_utf8_lossy(&buffer[..read]).into_owned())).ok()?;
                }
                Some(())
            });
        }
        drop(sender);
        for (is_error, text) in receiver {
            take(is_error, text);
        }
        let status = child.wait().with_context(|| format!("`{}` did not end", self.shown))?;
        Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
    }

    /// Runs it and tells whether it ended with status 0.
    ///
    /// # Errors
    /// It could not be started.
    pub fn succeeds(self) -> Result<bool> {
        Ok(self.output()?.status.success())
    }
}

/// Waits for a program that leads a process group, and ends the group when the time is over.
fn wait_within(child: Child, limit: Duration) -> Result<Output> {
    let group = Pid::from_child(&child);
    let (done, ended) = mpsc::channel();
    std::thread::spawn(move || done.send(child.wait_with_output()));
    match ended.recv_timeout(limit) {
        Ok(output) => Ok(output?),
        Err(_) => {
            // Gone already: it has ended in this very moment, too late all the same.
            kill_process_group(group, Signal::KILL).ok();
            bail!("it was ended after {} s", limit.as_secs())
        }
    }
}

/// The last lines of what a failed program said, to stand behind its status.
fn tail(output: &Output) -> String {
    let said = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
    let text = String::from_utf8_lossy(said);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    match lines.get(lines.len().saturating_sub(8)..) {
        Some(last) if !last.is_empty() => format!(": {}", last.join("\n")),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_carries_what_the_program_said() {
        let error = Exec::new("sh").args(["-c", "echo no such thing >&2; exit 3"]).run().unwrap_err();
        crate::messages::check("exec-failed", [("status 3", error)]);
    }

    #[test]
    fn input_reaches_the_program() {
        assert_eq!(Exec::new("cat").input(b"abc".to_vec()).run().unwrap(), b"abc");
    }

    #[test]
    fn what_takes_too_long_is_ended() {
        let error =
            Exec::new("sh").args(["-c", "sleep 60; true"]).limit(Duration::from_millis(50)).output().unwrap_err();
        crate::messages::check("exec-limit", [("a limit of 50 ms", format!("{error:#}"))]);
        let output = Exec::new("echo").arg("x").limit(Duration::from_secs(20)).output().unwrap();
        assert_eq!(output.stdout, b"x\n");
    }
}
