//! Runs a command that may hang: it has a limit, and what it wrote is kept short.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::wire::deploy::Scope;

/// How often a running command is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// How much of a command's output is kept, in bytes: its end.
const KEPT: usize = 8 * 1024;

/// How a command ended.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    /// With status 0?
    pub ok: bool,
    /// Its status; `None` for a signal or the limit.
    pub status: Option<i32>,
    how: String,
    output: String,
}

impl Ended {
    /// The end in words, with the last lines of what it wrote.
    pub fn told(&self) -> String {
        let lines: Vec<&str> = self.output.lines().filter(|line| !line.trim().is_empty()).collect();
        let last = &lines[lines.len().saturating_sub(8)..];
        if last.is_empty() { self.how.clone() } else { format!("{}: {}", self.how, last.join("\n")) }
    }
}

/// Where a service's own commands run: hooks, once-steps, health checks.
pub(super) struct Place<'a> {
    pub scope: &'a Scope,
    pub version: &'a str,
    pub release: &'a Path,
    pub user: Option<&'a str>,
}

impl Place<'_> {
    /// Runs a command of the service in the folder of its release.
    pub fn run(&self, argv: &[String], limit: Duration) -> Result<Ended> {
        let (program, args) = argv.split_first().context("a command without a program")?;
        let program = if program.contains('/') && !program.starts_with('/') {
            self.release.join(program)
        } else {
            PathBuf::from(program)
        };
        let mut command = match self.user {
            Some(user) => {
                let mut command = Command::new("runuser");
                command.args(["-u", user, "--"]).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.args(args).current_dir(self.release);
        command
            .env("DUNLIN_SERVICE", self.scope.service.as_str())
            .env("DUNLIN_VERSION", self.version)
            .env("DUNLIN_RELEASE", self.release)
            .env("DUNLIN_ROOT", &self.scope.root);
        bounded(command, limit).with_context(|| format!("`{}`", argv.join(" ")))
    }
}

/// Runs a command of the system.
pub(super) fn run(argv: &[String], limit: Duration) -> Result<Ended> {
    let (program, args) = argv.split_first().context("a command without a program")?;
    let mut command = Command::new(program);
    command.args(args);
    bounded(command, limit).with_context(|| format!("`{}`", argv.join(" ")))
}

fn bounded(mut command: Command, limit: Duration) -> Result<Ended> {
    use std::os::unix::process::CommandExt;
    command
        .env("LC_ALL", "C.UTF-8")
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let mut child = command.spawn().context("cannot be started")?;
    let (out, err) = (tail(child.stdout.take()), tail(child.stderr.take()));
    let status = wait(&mut child, limit)?;
    let (how, output) = match status {
        Some(status) => (format!("ended with {status}"), joined(out, err)),
        None => (format!("did not end within {limit:?}"), joined(out, err)),
    };
    let ok = status.is_some_and(|status| status.success());
    Ok(Ended { ok, status: status.and_then(|status| status.code()), how, output })
}

/// Waits for the end, or ends the command with all that it started.
fn wait(child: &mut Child, limit: Duration) -> Result<Option<std::process::ExitStatus>> {
    let until = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= until {
            let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
            group.and_then(|group| kill_process_group(group, Signal::KILL).ok());
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(LOOK);
    }
}

type Tail = std::sync::mpsc::Receiver<Vec<u8>>;

/// Reads a stream to its end in the background and keeps its last bytes.
fn tail(stream: Option<impl Read + Send + 'static>) -> Tail {
    let (send, receive) = std::sync::mpsc::channel();
    if let Some(mut stream) = stream {
        thread::spawn(move || {
            let (mut kept, mut chunk) = (Vec::new(), [0; 4096]);
            while let Ok(n @ 1..) = stream.read(&mut chunk) {
                kept.extend_from_slice(&chunk[..n]);
                kept.drain(..kept.len().saturating_sub(KEPT));
            }
            // Nobody waits any more where the command left something running that holds the stream open.
            send.send(kept).ok();
        });
    }
    receive
}

fn joined(out: Tail, err: Tail) -> String {
    // A child that went on in the background may hold the streams for ever.
    let text = |tail: Tail| tail.recv_timeout(Duration::from_millis(500)).unwrap_or_default();
    let (out, err) = (text(out), text(err));
    format!("{}{}", String::from_utf8_lossy(&out), String::from_utf8_lossy(&err))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, limit: Duration) -> Ended {
        run(&["sh", "-c", script].map(str::to_owned), limit).unwrap()
    }

    #[test]
    fn a_command_ends_with_its_status_and_its_last_words() {
        let ended = sh("echo out; echo no >&2; exit 3", Duration::from_secs(20));
        assert!(!ended.ok && ended.status == Some(3), "{ended:?}");
        crate::messages::check("command-failed", [("status 3", ended.told())]);
    }

    #[test]
    fn a_command_that_hangs_is_ended_with_its_children() {
        let started = Instant::now();
        let ended = sh("sleep 600 & sleep 600", Duration::from_millis(50));
        assert!(!ended.ok && ended.status.is_none(), "{ended:?}");
        crate::messages::check("command-hangs", [("50 ms", ended.told())]);
        assert!(started.elapsed() < Duration::from_secs(20));
    }
}
