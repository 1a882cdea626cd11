//! The question before a change, on a terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::loopback;
use crate::program::Project;

/// Longest time for a plan or an answer.
const LIMIT: Duration = Duration::from_secs(60);

/// A run of dunlin on a terminal.
struct TerminalRun {
    child: std::process::Child,
    controller: File,
    output: mpsc::Receiver<Vec<u8>>,
    shown: String,
}

impl TerminalRun {
    fn start(project: &Project, arguments: &[&str]) -> Self {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&controller).unwrap();
        unlockpt(&controller).unwrap();
        let name = ptsname(&controller, Vec::new()).unwrap();
        let open = || -> OwnedFd { rustix::fs::open(&name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap() };
        let [input, output, errors] = [(); 3].map(|()| Stdio::from(open()));
        let child = project.command(arguments).env("TERM", "xterm").stdin(input).stdout(output).stderr(errors).spawn();
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

    fn wait_for(&mut self, text: &str) {
        let end = Instant::now() + LIMIT;
        while !self.shown.contains(text) {
            let left = end.saturating_duration_since(Instant::now());
            let bytes = self.output.recv_timeout(left).unwrap_or_else(|_| panic!("no `{text}`: {}", self.shown));
            self.shown += &String::from_utf8_lossy(&bytes);
        }
    }

    fn press(&mut self, keys: &str) {
        self.controller.write_all(keys.as_bytes()).unwrap();
    }

    /// Presses the keys until the run ends, and returns its exit code: a key that comes between the question and the
    /// wait for an answer may be the terminal's own.
    fn answer(mut self, keys: &str) -> i32 {
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

#[test]
fn answers_have_their_exit_codes() {
    for (keys, code) in [("\u{3}", 130), ("\u{4}", 3), ("n", 3), ("\r", 3)] {
        let project = loopback::project();
        let mut run = TerminalRun::start(&project, &["provision"]);
        run.wait_for("Apply this plan?");
        assert_eq!(run.answer(keys), code, "{keys:?}");
        assert_eq!(project.read("srv/greeting"), "good evening\n", "{keys:?}");
    }
}

#[test]
fn what_was_typed_before_the_question_is_no_answer() {
    let project = loopback::project();
    let mut run = TerminalRun::start(&project, &["provision"]);
    // Nothing is on the screen yet.
    run.press("yyyy");
    run.wait_for("Apply this plan?");
    assert_eq!(run.answer("n"), 3);
    assert_eq!(project.read("srv/greeting"), "good evening\n");
}

#[test]
fn a_file_of_a_user_cannot_act_on_the_terminal() {
    let project = loopback::project();
    project.write("srv/greeting", "\u{1b}[2K\u{1b}[1A\u{1b}]0;owned\u{7}\u{202e}hidden\r\n");
    let output = project.dunlin(&["provision", "--dry-run"]).ends(0);
    assert!(output.stdout.contains("\\u{1b}[2K") && output.stdout.contains("\\u{202e}"), "{}", output.stdout);
    let is_unsafe = |c: char| (c.is_control() && c != '\n' && c != '\t') || c == '\u{202e}';
    assert!(!output.stdout.contains(is_unsafe) && !output.stderr.contains(is_unsafe), "{:?}", output.stdout);
    let json = project.dunlin(&["provision", "--dry-run", "--json"]).ends(0);
    assert!(!json.stdout.contains(is_unsafe));
    assert!(json.event("plan").to_string().contains("hidden"));
}
