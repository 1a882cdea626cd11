//! An instance without systemd: a daemon that is identified by the pid file in its folder.

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::server::SERVER_PROGRAMS;
use crate::host_fs;
use crate::poll::poll_until;
use crate::process::Program;

/// Time limit for an instance to write its data and exit.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// As many bytes as a file with a process number has at most.
const MAX_PID_BYTES: u64 = 32;
/// Time limit for a daemon to write its number, before it loads its data.
const PID_FILE_TIMEOUT: Duration = Duration::from_secs(5);
const PID_FILE_INTERVAL: Duration = Duration::from_millis(5);
/// Interval between two requests to exit.
const TERM_INTERVAL: Duration = Duration::from_secs(1);

/// Returns whether the process in `redis.pid` exists. A number that another program uses by now does not count.
pub fn is_running(folder: &Path) -> bool {
    read_pid(folder).is_some()
}

/// Starts the daemon where it does not run; what it writes is not readable by others, as with the unit.
///
/// Of two starts at the same time, the second one waits for the first: since Redis 7.2, a server writes its number to
/// `redis.pid` before it notices that its address is taken and exits. Nobody would find the one that runs.
///
/// # Errors
/// Returns the error of the server program.
pub fn start_daemon(server: &str, conf: &Path, folder: &Path, user: &str) -> Result<()> {
    let conf_dir = conf.parent().unwrap_or(conf);
    let lock = fs::File::open(conf_dir).with_context(|| conf_dir.display().to_string())?;
    flock(&lock, FlockOperation::LockExclusive).context("waiting for another start of the instance")?;
    if is_running(folder) {
        return Ok(());
    }
    run_server(server, conf, user)?;
    // One that cannot start exits without a number; its user finds out by its address.
    poll_until(Instant::now() + PID_FILE_TIMEOUT, PID_FILE_INTERVAL, || anyhow::Ok(is_running(folder).then_some(())))?;
    Ok(())
}

/// Runs the server program, which returns once it has a process of its own.
fn run_server(server: &str, conf: &Path, user: &str) -> Result<()> {
    let is_root = rustix::process::geteuid().is_root();
    let exec = match user {
        "root" => Program::short("sh"),
        _ if !is_root => Program::short("sh"),
        user => Program::short("setpriv").args(["--reuid", user, "--regid", user, "--init-groups", "--", "sh"]),
    };
    let exec = exec.args(["-c", "umask 027; exec \"$1\" \"$2\"", "sh", server]).arg(conf);
    exec.run().with_context(|| format!("starting {server}"))?;
    Ok(())
}

/// Stops the process (it first writes its append-only file) and waits until it has exited, its port
/// too: the file with its number goes before that.
///
/// # Errors
/// Returns an error if the process still exists after a minute.
pub fn stop_daemon(folder: &Path) -> Result<()> {
    let Some(running) = read_pid(folder) else { return Ok(()) };
    let process = match pidfd_open(running, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(Errno::SRCH) => return Ok(()),
        Err(error) => return Err(error).context("watching the instance's process"),
    };
    let end = Instant::now() + STOP_TIMEOUT;
    while Instant::now() < end {
        // More than once: Redis drops the request while it writes its first append-only file.
        match pidfd_send_signal(&process, Signal::TERM) {
            Ok(()) if wait_for_exit(&process, TERM_INTERVAL)? => return Ok(()),
            Ok(()) => {}
            Err(Errno::SRCH) => return Ok(()),
            Err(error) => return Err(error).context("stopping the instance's process"),
        }
    }
    bail!("process {} of the instance did not exit within {} s", running.as_raw_nonzero(), STOP_TIMEOUT.as_secs())
}

/// Waits for the end of a process with all its threads.
fn wait_for_exit(process: &OwnedFd, timeout: Duration) -> Result<bool> {
    let most = Timespec::try_from(timeout)?;
    match poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&most)) {
        Ok(ended) => Ok(ended > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error).context("waiting for the instance's process"),
    }
}

/// A process of an instance.
#[derive(Clone, Copy, Debug)]
pub struct RunningProcess {
    number: i32,
    /// Start of the process in clock ticks since the boot.
    start_ticks: u64,
}

impl RunningProcess {
    /// Returns the process that `redis.pid` in an instance's folder names; `None` if it does not run.
    pub fn of_instance(folder: &Path) -> Option<Self> {
        Self::find(read_pid(folder)?.as_raw_nonzero().get())
    }

    /// Returns the process with a number; `None` if there is none.
    pub fn find(number: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
        // The name of the program, in parentheses, may contain spaces. The start is the 20th field after it.
        let (_, fields) = stat.rsplit_once(')')?;
        Some(Self { number, start_ticks: fields.split_whitespace().nth(19)?.parse().ok()? })
    }

    /// Returns a text that no other process since the boot has.
    pub fn identity(&self) -> String {
        format!("{}/{}", self.number, self.start_ticks)
    }

    /// Returns the time at which the process started, to within a second.
    ///
    /// # Errors
    /// Returns an error if the system does not state when it booted.
    pub fn started_at(&self) -> Result<SystemTime> {
        let stat = fs::read_to_string("/proc/stat").context("/proc/stat")?;
        let booted = stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<u64>().ok());
        let seconds = self.start_ticks / rustix::param::clock_ticks_per_second();
        Ok(UNIX_EPOCH + Duration::from_secs(booted.context("/proc/stat contains no btime")? + seconds))
    }

    /// Returns device and inode of the program that the process runs, also if its file was replaced; `None` if the
    /// process has exited or may not be inspected.
    pub fn program_file(&self) -> Option<(u64, u64)> {
        let file = fs::metadata(format!("/proc/{}/exe", self.number)).ok()?;
        Some((file.dev(), file.ino()))
    }
}

fn read_pid(folder: &Path) -> Option<Pid> {
    let mut text = String::new();
    let file = host_fs::open_file(&folder.join("redis.pid")).ok()??;
    file.take(MAX_PID_BYTES).read_to_string(&mut text).ok()?;
    let number: i32 = text.trim().parse().ok()?;
    // The title is the name alone, whatever the daemon puts behind it; a zombie has none.
    let title = fs::read(format!("/proc/{number}/cmdline")).ok()?;
    let title = String::from_utf8_lossy(&title);
    SERVER_PROGRAMS.iter().any(|name| title.contains(name)).then(|| Pid::from_raw(number)).flatten()
}
