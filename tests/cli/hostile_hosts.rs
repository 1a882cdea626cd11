//! Hosts that were taken over: what they send in place of an agent's answers costs the controller neither memory nor
//! time.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use dunlin::plan::Digest;
use dunlin::protocol::frame::encode_message;
use dunlin::protocol::{AgentMessage, Event, Hello, HostFacts, OutputStream, PROTOCOL_VERSION, SystemLoad};
use rustix::process::{Pid, Signal, kill_process};

use crate::agent::{LIMIT, wait_until};
use crate::loopback;
use crate::program::{Project, snapshot_text};

/// Limit for the controller's memory, beside the binary that it keeps to send to hosts.
const MAX_MEMORY: u64 = 200 << 20;

/// A project whose hosts run this script in place of an agent. In its folder are frames: `hello` (of an agent of the
/// same binary) and `event`.
fn hostile_project(script: &str) -> Project {
    let project = loopback::hostile_project(script);
    let binary = std::fs::File::open(env!("CARGO_BIN_EXE_dunlin")).unwrap();
    let hello = Hello {
        protocol_version: PROTOCOL_VERSION,
        version: "0.1.0".to_owned(),
        binary_digest: Digest::of_reader(binary).unwrap(),
        uid: 0,
        facts: HostFacts::default(),
        load: SystemLoad::default(),
    };
    let event = Event::Output { stream: OutputStream::Out, text: "x\n".repeat(100_000) };
    for (name, bytes) in [
        ("hello", encode_message(&AgentMessage::Hello(hello)).unwrap()),
        ("event", encode_message(&AgentMessage::Event { id: 1, event }).unwrap()),
    ] {
        std::fs::write(project.path(name), bytes).unwrap();
    }
    project
}

/// Returns the frame of a content of 1 GiB in some KiB.
fn build_bomb() -> Vec<u8> {
    let mut packed = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    let zeros = vec![0; 1 << 20];
    (0..1 << 10).for_each(|_| packed.write_all(&zeros).unwrap());
    let payload = [&[b'0'; 64][..], &(1_u64 << 30).to_be_bytes(), &packed.finish().unwrap()].concat();
    let length = u32::try_from(payload.len() + 1).unwrap().to_be_bytes();
    [&length[..], &[1], &payload].concat()
}

/// Returns the most memory that a process has had, beside the binary; 0 for one that has ended.
fn peak_memory(run: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", run.id())).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)).map_or(0, |number| number.parse::<u64>().unwrap());
    let binary = std::fs::metadata(env!("CARGO_BIN_EXE_dunlin")).unwrap().len();
    (kib * 1024).saturating_sub(binary)
}

/// Runs a command on the hostile host, and returns what it wrote on standard error.
fn exec(project: &Project) -> String {
    let mut command = project.command(&["exec", "web", "--", "true"]);
    let mut run = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let stderr = BufReader::new(run.stderr.take().unwrap());
    let reading = std::thread::spawn(move || stderr.lines().map(Result::unwrap).collect::<Vec<_>>().join("\n"));
    let mut peak = 0;
    wait_until("the run is still there", || {
        peak = peak.max(peak_memory(&run));
        run.try_wait().unwrap().is_some()
    });
    let said = reading.join().unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(4), "{said}");
    assert!(peak < MAX_MEMORY, "the controller took {} MiB", peak >> 20);
    said
}

#[test]
fn a_decompression_bomb_is_refused() {
    let project = hostile_project("cat hello bomb; sleep 60");
    std::fs::write(project.path("bomb"), build_bomb()).unwrap();
    let said = exec(&project);
    snapshot_text("hostile-host-sends-contents", &said);
}

#[test]
fn endless_frames_are_refused() {
    // 16 MiB that are no message, and a length beyond all limits.
    let no_message = exec(&hostile_project(r"cat hello; printf '\001\000\000\001\000'; cat /dev/zero"));
    let too_long = exec(&hostile_project(r"cat hello; printf '\377\377\377\377\000'; cat /dev/zero"));
    let no_agent = exec(&hostile_project(r"printf '\000\377\377\377\000'; cat /dev/zero"));
    snapshot_text("hostile-host-sends-endless-frames", &[no_message, too_long, no_agent].join("\n"));
}

#[test]
fn endless_text_on_standard_error_is_cut_and_escaped() {
    let project = hostile_project(r"cat hello; printf '\033[2Jcleared\n' >&2; head -c 100000000 /dev/zero >&2");
    snapshot_text("hostile-host-writes-endless-text", &exec(&project));
    // The same lines as events.
    let output = project.dunlin(&["exec", "web", "--json", "--", "true"]).ends(4);
    let mut lines = output.events().into_iter().filter(|event| event["event"] == "agent_stderr");
    let first = lines.next().unwrap();
    assert_eq!((&first["host"], &first["text"]), (&"web-1".into(), &"\u{1b}[2Jcleared".into()));
    assert_eq!(lines.count(), 1, "{}", output.stdout);
}

#[test]
fn a_flood_of_events_waits_for_a_reader_that_stopped() {
    let project = hostile_project("cat hello; while cat event; do :; done");
    let mut command = project.command(&["exec", "web", "--", "true"]);
    let mut run = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    // One line, and nothing more.
    let mut output = BufReader::with_capacity(64, run.stdout.take().unwrap());
    output.read_line(&mut String::new()).unwrap();
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        let peak = peak_memory(&run);
        assert!(peak < MAX_MEMORY, "the controller took {} MiB", peak >> 20);
        std::thread::sleep(Duration::from_millis(20));
    }
    // Its main thread waits for the reader; the signals work all the same.
    for _ in 0..2 {
        kill_process(Pid::from_child(&run), Signal::INT).unwrap();
        std::thread::sleep(Duration::from_millis(200));
    }
    let begin = Instant::now();
    wait_until("the run is still there", || run.try_wait().unwrap().is_some());
    assert!(begin.elapsed() < LIMIT / 2);
    assert_eq!(run.wait().unwrap().code(), Some(130));
}
