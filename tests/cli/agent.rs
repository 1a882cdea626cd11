//! The agent as a process of its own, with the test as its controller: what ends with it, and what stays.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use dunlin::protocol::frame::{Receiver, encode_message, read_frame};
use dunlin::protocol::lock::{LockRequest, LockResult};
use dunlin::protocol::{AgentMessage, ControllerMessage, Event, ExecRequest, ExecResult, OutputStream, Reply, Request};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// Time limit for what should take a moment.
pub const LIMIT: Duration = Duration::from_secs(60);

struct Agent {
    process: Child,
    /// Dropping it closes the connection.
    input: Option<ChildStdin>,
    output: ChildStdout,
}

impl Agent {
    fn start() -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dunlin"));
        command.arg("agent");
        Self::run(command)
    }

    /// Starts an agent whose state, such as the host's lock, is in a folder of the test.
    fn start_in(folder: &Path) -> Self {
        let binary = env!("CARGO_BIN_EXE_dunlin");
        let mut command = if rustix::process::geteuid().is_root() {
            // The state of root's agent has a fixed path: a mount of this process alone lies over it.
            let script = "mount --bind \"$1\" /var/lib && exec \"$2\" agent";
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-c", script, "sh"]).arg(folder).arg(binary);
            command
        } else {
            let mut command = Command::new(binary);
            command.arg("agent").env("XDG_CACHE_HOME", folder);
            command
        };
        command.stderr(Stdio::inherit());
        Self::run(command)
    }

    fn run(mut command: Command) -> Self {
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (input, output) = (process.stdin.take(), process.stdout.take().unwrap());
        let mut agent = Self { process, input, output };
        assert!(matches!(agent.next_message(), AgentMessage::Hello(_)));
        agent
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    fn send(&mut self, message: &ControllerMessage) {
        self.input.as_mut().unwrap().write_all(&encode_message(message).unwrap()).unwrap();
    }

    fn exec(&mut self, id: u64, argv: &[&str], timeout: Duration) {
        let argv = argv.iter().map(ToString::to_string).collect();
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap();
        self.send(&ControllerMessage::Request {
            id,
            request: Request::Exec(ExecRequest { argv, timeout_ms, operator: "test".to_owned(), run: "1".to_owned() }),
        });
    }

    /// Takes the host's lock.
    fn lock(&mut self, run: &str) -> LockResult {
        let request = LockRequest {
            operator: "alice@desk".to_owned(),
            command: "provision".to_owned(),
            run: run.to_owned(),
            shared: false,
        };
        self.send(&ControllerMessage::Request { id: 9, request: Request::Lock(request) });
        match self.read_reply() {
            (_, Reply::Lock(result)) => result,
            (_, other) => panic!("{other:?}"),
        }
    }

    fn shell(&mut self, id: u64, script: &str) {
        self.exec(id, &["sh", "-c", script], LIMIT * 10);
    }

    fn next_message(&mut self) -> AgentMessage {
        loop {
            let frame = read_frame(&mut self.output, Receiver::Controller).unwrap().unwrap();
            match frame.parse_message().unwrap() {
                AgentMessage::KeepAlive => {}
                message => return message,
            }
        }
    }

    /// Returns the output of the request until it has that many lines.
    fn read_lines(&mut self, count: usize) -> Vec<String> {
        let mut text = String::new();
        while text.lines().count() < count || !text.ends_with('\n') {
            let message = self.next_message();
            let AgentMessage::Event { event: Event::Output { text: part, .. }, .. } = message else {
                panic!("{message:?}")
            };
            text += &part;
        }
        text.lines().map(str::to_owned).collect()
    }

    fn read_pids(&mut self, count: usize) -> Vec<Pid> {
        self.read_lines(count)
            .iter()
            .take(count)
            .map(|line| Pid::from_raw(line.trim().parse().unwrap()).unwrap())
            .collect()
    }

    /// Returns the output of the request, and its end.
    fn read_reply(&mut self) -> (String, Reply) {
        let mut said = String::new();
        loop {
            match self.next_message() {
                AgentMessage::Event { event: Event::Output { stream, text }, .. } => {
                    let mark = if stream == OutputStream::Err { "!" } else { "" };
                    said += &format!("{mark}{text}");
                }
                AgentMessage::Reply { reply, .. } => return (said, reply),
                other => panic!("{other:?}"),
            }
        }
    }

    fn wait_for_exit(&mut self) {
        wait_until("the agent is still there", || self.process.try_wait().unwrap().is_some());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

pub fn wait_until(problem: &str, mut is_done: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !is_done() {
        assert!(Instant::now() < end, "{problem}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub fn is_alive(process: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    test_kill_process(process).is_ok() && !stat.rsplit(')').next().unwrap().trim().starts_with('Z')
}

fn wait_until_gone(processes: &[Pid]) {
    for process in processes {
        wait_until(&format!("process {process} still runs"), || !is_alive(*process));
    }
}

fn parent_of(process: Pid) -> Pid {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    Pid::from_raw(fields[1].parse().unwrap()).unwrap()
}

/// Prints its own number, and that of a process that has left its group and its session.
const ESCAPING: &str = "setsid sleep 600 & echo $!; echo $$; exec sleep 600";

#[test]
fn a_killed_agent_takes_its_commands_with_it() {
    let mut agent = Agent::start();
    agent.shell(1, ESCAPING);
    let processes = agent.read_pids(2);
    assert!(processes.iter().all(|process| is_alive(*process)));
    kill_process(agent.pid(), Signal::KILL).unwrap();
    wait_until_gone(&processes);
}

#[test]
fn the_next_run_gets_the_lock_when_the_commands_of_a_killed_agent_are_gone() {
    let folder = tempfile::tempdir().unwrap();
    for script in ["echo $$; exec sleep 600", "trap '' TERM; echo $$; while :; do sleep 0.1; done"] {
        let mut first = Agent::start_in(folder.path());
        assert_eq!(first.lock("1"), LockResult::Acquired);
        first.shell(1, script);
        let processes = first.read_pids(1);
        let mut second = Agent::start_in(folder.path());
        assert!(matches!(second.lock("2"), LockResult::HeldBy(holders) if holders[0].run == "1"));
        kill_process(first.pid(), Signal::KILL).unwrap();
        assert_eq!(second.lock("2"), LockResult::Acquired);
        assert!(!is_alive(processes[0]), "a second run would start the command beside the first: {script}");
    }
}

#[test]
fn a_closed_connection_ends_the_agent_and_its_commands() {
    let mut agent = Agent::start();
    agent.shell(1, ESCAPING);
    let processes = agent.read_pids(2);
    agent.input = None;
    agent.wait_for_exit();
    wait_until_gone(&processes);
}

#[test]
fn an_unread_command_neither_grows_the_agent_nor_keeps_it() {
    let mut agent = Agent::start();
    agent.shell(1, "echo $$; exec yes 0123456789012345678901234567890123456789");
    let yes = agent.read_pids(1);
    let resident_mib = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    };
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        assert!(resident_mib() < 200, "the agent has {} MiB", resident_mib());
        std::thread::sleep(Duration::from_millis(50));
    }
    // Its pipe is full, and nobody reads any more.
    agent.input = None;
    agent.wait_for_exit();
    wait_until_gone(&yes);
}

#[test]
fn a_command_ends_at_its_time_limit() {
    let mut agent = Agent::start();
    // It ignores the request to exit.
    agent.exec(1, &["sh", "-c", "trap '' TERM; echo $$; while :; do sleep 1; done"], Duration::from_millis(300));
    let processes = agent.read_pids(1);
    let (_, reply) = agent.read_reply();
    let Reply::Failed { error } = reply else { panic!("{reply:?}") };
    assert_eq!(error, "`sh -c trap '' TERM; echo $$; while :; do sleep 1; done` did not end within 300ms");
    wait_until_gone(&processes);
}

#[test]
fn a_cancelled_command_is_asked_to_exit_first() {
    let mut agent = Agent::start();
    agent.shell(1, "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.05; done");
    assert_eq!(agent.read_lines(1), ["ready"]);
    agent.send(&ControllerMessage::Cancel { id: 1 });
    let (said, reply) = agent.read_reply();
    assert!(said.contains("bye"), "{said}");
    assert_eq!(reply, Reply::Exec(ExecResult { status: 137 }));
}

#[test]
fn a_killed_guard_takes_its_command_with_it() {
    let mut agent = Agent::start();
    agent.shell(1, "echo $$; exec sleep 600");
    let processes = agent.read_pids(1);
    let guard = parent_of(processes[0]);
    assert_ne!(guard, agent.pid(), "there is no guard");
    kill_process(guard, Signal::KILL).unwrap();
    let (_, reply) = agent.read_reply();
    assert_eq!(reply, Reply::Exec(ExecResult { status: 137 }));
    wait_until_gone(&processes);
}

#[test]
fn a_guard_passes_on_how_a_command_ends() {
    let mut agent = Agent::start();
    for (script, said, status) in
        [("echo out; exit 7", "out\n", 7), ("echo err >&2", "!err\n", 0), ("kill -9 $$", "", 137), ("pwd", "/\n", 0)]
    {
        let script = if script == "pwd" { "cd / && pwd" } else { script };
        agent.shell(1, script);
        assert_eq!(agent.read_reply(), (said.to_owned(), Reply::Exec(ExecResult { status })), "{script}");
    }
    agent.exec(1, &["/no/such/program"], LIMIT);
    let (_, reply) = agent.read_reply();
    let Reply::Failed { error } = reply else { panic!("{reply:?}") };
    assert_eq!(error, "cannot start `/no/such/program`: No such file or directory (os error 2)");
}

#[test]
fn a_command_that_ends_leaves_its_daemons() {
    let mut agent = Agent::start();
    agent.shell(1, "sleep 600 >/dev/null 2>&1 & echo $!");
    let daemon = agent.read_pids(1)[0];
    let (_, reply) = agent.read_reply();
    assert_eq!(reply, Reply::Exec(ExecResult { status: 0 }));
    agent.input = None;
    agent.wait_for_exit();
    assert!(is_alive(daemon));
    kill_process(daemon, Signal::KILL).unwrap();
}

#[test]
fn a_guard_is_only_started_by_an_agent() {
    let null = File::open("/dev/null").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_dunlin"));
    let output = command.args(["guard", "kill", "echo", "ran"]).stdin(null).output().unwrap();
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
}
