//! Runs that end early: interrupted once or twice, or killed. What they leave on both sides.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use crate::agent::{LIMIT, is_alive, wait_until};
use crate::program::Project;
use crate::{example, loopback};

/// A run of `dunlin exec` whose command has started.
struct RunningExec {
    run: Child,
    _output: BufReader<ChildStdout>,
    /// The command on the host.
    command: Pid,
    /// The folder of the run's control sockets.
    folder: PathBuf,
}

impl RunningExec {
    /// Starts a script, which must print its process number first.
    fn start(project: &Project, script: &str) -> Self {
        let mut command = project.command(&["exec", "web", "--", "sh", "-c", script]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut run = command.spawn().unwrap();
        let mut output = BufReader::new(run.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let number = line.trim().rsplit(' ').next().unwrap().parse().unwrap();
        let open_files = std::fs::read_dir(format!("/proc/{}/fd", run.id())).unwrap();
        let mut paths = open_files.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
        let lock = paths.find(|path| path.to_str().is_some_and(|path| path.contains("/dunlin-ssh-"))).unwrap();
        let folder = lock.parent().unwrap().to_owned();
        assert!(folder.is_dir());
        Self { run, _output: output, command: Pid::from_raw(number).unwrap(), folder }
    }

    fn send_signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.run), signal).unwrap();
    }

    fn wait_for_exit(&mut self) -> Option<i32> {
        wait_until("the run is still there", || self.run.try_wait().unwrap().is_some());
        self.run.wait().unwrap().code()
    }

    fn wait_until_command_gone(&self) {
        wait_until("the command still runs", || !is_alive(self.command));
    }
}

#[test]
fn an_interrupted_run_leaves_nothing() {
    let project = loopback::project();
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let mut exec = RunningExec::start(&project, "echo $$; exec sleep 600");
        exec.send_signal(signal);
        assert_eq!(exec.wait_for_exit(), Some(130), "{signal:?}");
        exec.wait_until_command_gone();
        assert!(!exec.folder.exists(), "{signal:?}");
    }
}

#[test]
fn the_second_interrupt_exits_at_once() {
    let project = loopback::project();
    let mut exec = RunningExec::start(&project, "trap '' TERM; echo $$; while :; do sleep 0.1; done");
    exec.send_signal(Signal::INT);
    let begin = Instant::now();
    // Two signals of a kind that arrive together are one.
    std::thread::sleep(std::time::Duration::from_millis(200));
    exec.send_signal(Signal::INT);
    assert_eq!(exec.wait_for_exit(), Some(130));
    assert!(begin.elapsed() < LIMIT / 2);
    assert!(!exec.folder.exists());
    exec.wait_until_command_gone();
}

#[test]
fn a_killed_run_ends_its_command_and_the_next_run_removes_its_folder() {
    let project = loopback::project();
    let mut exec = RunningExec::start(&project, "echo $$; while :; do echo tick; sleep 0.1; done");
    exec.send_signal(Signal::KILL);
    assert_eq!(exec.wait_for_exit(), None);
    exec.wait_until_command_gone();
    // The folder was there when the run was killed; any run removes it, also one of another test.
    project.dunlin(&["exec", "web", "--", "true"]).ends(0);
    assert!(!exec.folder.exists());
}

#[test]
fn lost_output_fails_the_run() {
    let project = example::project();
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let run = |arguments: &[&str], stderr_is_full: bool| {
        let mut command = project.command(arguments);
        command.stdin(Stdio::null()).stdout(full());
        if stderr_is_full {
            command.stderr(full());
        }
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for arguments in [&["hosts"][..], &["hosts", "--json"], &["man"], &["completions", "bash"], &["check", "--json"]] {
        let (code, error) = run(arguments, false);
        assert_eq!(code, Some(1), "{arguments:?}: {error}");
        let lost = "error: output was lost: cannot write to standard output: No space left on device (os error 28)";
        assert_eq!(error.lines().last(), Some(lost), "{arguments:?}");
        assert_eq!(run(arguments, true).0, Some(1), "{arguments:?}");
    }
    assert_eq!(run(&["--help"], false).0, Some(1));
    assert_eq!(run(&["no-such-command"], true).0, Some(64));
    // `| head`: a reader that has seen enough is not an error.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = project.command(&["man"]).stdin(Stdio::null()).stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
}

#[test]
fn a_dynamic_inventory_ends_with_the_run() {
    let project =
        Project::new(&[("inventory/hosts", "#!/bin/sh\nsetsid sleep 600 & echo $! > other\necho $$ > own\nwait\n")]);
    std::fs::set_permissions(project.path("inventory/hosts"), PermissionsExt::from_mode(0o755)).unwrap();
    for signal in [Signal::INT, Signal::KILL] {
        let mut run = project.command(&["hosts"]).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let own = project.path("inventory/own");
        wait_until("the inventory did not start", || {
            std::fs::read_to_string(&own).is_ok_and(|text| text.ends_with('\n'))
        });
        let processes = ["own", "other"].map(|name| {
            let number = project.read(&format!("inventory/{name}"));
            Pid::from_raw(number.trim().parse().unwrap()).unwrap()
        });
        kill_process(Pid::from_child(&run), signal).unwrap();
        run.wait().unwrap();
        for process in processes {
            wait_until("the inventory's program still runs", || !is_alive(process));
        }
        std::fs::remove_file(own).unwrap();
    }
}
