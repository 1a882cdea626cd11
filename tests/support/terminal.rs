//! A run of dunlin on a terminal: what a person sees, and the keys that they press.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// Longest time for a plan or an answer.
const LIMIT: Duration = Duration::from_secs(60);

/// A run of dunlin on a terminal.
pub struct TerminalRun {
    child: std::process::Child,
    controller: File,
    output: mpsc::Receiver<Vec<u8>>,
    shown: String,
}

impl TerminalRun {
    pub fn start(mut command: Command) -> Self {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&controller).unwrap();
        unlockpt(&controller).unwrap();
        let name = ptsname(&controller, Vec::new()).unwrap();
        let open = || -> OwnedFd { rustix::fs::open(&name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap() };
        let [input, output, errors] = [(); 3].map(|()| Stdio::from(open()));
        let child = command.env("TERM", "xterm").stdin(input).stdout(output).stderr(errors).spawn();
        let controller = File::from(controller);
        let mut reader = controller.try_clone().unwrap();
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { child: child.unwrap(), controller, output: receiver, shown: String::new() }
    }

    pub fn wait_for(&mut self, text: &str) {
        let end = Instant::now() + LIMIT;
        while !self.shown.contains(text) {
            let left = end.saturating_duration_since(Instant::now());
            let bytes = self.output.recv_timeout(left).unwrap_or_else(|_| panic!("no `{text}`: {}", self.shown));
            self.shown += &String::from_utf8_lossy(&bytes);
        }
    }

    pub fn press(&mut self, keys: &str) {
        self.controller.write_all(keys.as_bytes()).unwrap();
    }

    /// Presses the keys until the run ends, and returns its exit code: a key that comes between the question and the wait
    /// for an answer may be the terminal's own.
    pub fn answer(mut self, keys: &str) -> i32 {
        let end = Instant::now() + LIMIT;
        loop {
            // The other side of the terminal may be closed already.
            self.controller.write_all(keys.as_bytes()).ok();
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            if Instant::now() > end {
                self.child.kill().ok();
                panic!("it did not end: {}", self.shown);
            }
            thread::sleep(Duration::from_millis(200));
        }
    }
}
