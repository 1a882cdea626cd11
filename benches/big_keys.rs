//! Moves of one big key under writes: memory of the agent, longest wait of a client.
//! `script/bench big-keys`. The environment variable `DUNLIN_BENCH_SHAPES` selects types, `…_BYTES` the length of the
//! string, `…_MEMBERS` the number of members of the other types.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for measurements: it stops at what is missing, and prints its figures"
)]
#![allow(missing_docs, dead_code, clippy::cast_precision_loss)]

#[path = "../tests/migration/agent_process.rs"]
mod agent_process;
#[path = "../tests/migration/fixture.rs"]
mod fixture;
#[path = "../tests/migration/key_load.rs"]
mod key_load;

use std::path::Path;
use std::time::{Duration, Instant};

use agent_process::{AgentProcess, TASK_VARIABLE, read_replies};
use dunlin::protocol::shard::{ShardReply, ShardRequest, VerifyResult};
use fixture::{MoveFixture, admin_credentials, connect_admin};
use key_load::{BIG_KEY, KeyClients, KeyShape};

/// How long the clients are watched without a move.
const IDLE_TIME: Duration = Duration::from_secs(10);
/// Time limit of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1200);

/// Figures of one key.
struct BigKeyFigures {
    idle_wait: Duration,
    copy_wait: Duration,
    compare_wait: Duration,
    compare_time: Duration,
    reported_wait: Duration,
    /// The longest command of the agent in the comparison of at least 2 ms, as the source measures it.
    longest_command: Duration,
    copy_memory: u64,
    compare_memory: u64,
    is_equal: bool,
}

fn main() {
    if let Some(folder) = std::env::var_os(TASK_VARIABLE) {
        return agent_process::run_requests(Path::new(&folder));
    }
    let number = |name: &str, default: u64| {
        std::env::var(format!("DUNLIN_BENCH_{name}")).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
    };
    let (bytes, members) = (number("BYTES", 757 << 20), number("MEMBERS", 6_000_000));
    let selected = std::env::var("DUNLIN_BENCH_SHAPES").unwrap_or_default();
    let (mut longest_wait, mut longest_command, mut most_memory, mut is_equal) =
        (Duration::ZERO, Duration::ZERO, 0, true);
    for shape in KeyShape::ALL {
        if !selected.is_empty() && !selected.split(',').any(|name| name == shape.name()) {
            continue;
        }
        let size = if shape == KeyShape::Text { bytes } else { members };
        let figures = measure_key(shape, size);
        eprintln!(
            "{} of {size}: longest wait {:.1} ms without a move, {:.1} ms in the copy, {:.1} ms in a comparison of {:.1} s \
             ({:.1} ms reported, longest command {:.1} ms); agent {} MB in the copy, {} MB in the comparison; equal: {}",
            shape.name(),
            milliseconds(figures.idle_wait),
            milliseconds(figures.copy_wait),
            milliseconds(figures.compare_wait),
            figures.compare_time.as_secs_f64(),
            milliseconds(figures.reported_wait),
            milliseconds(figures.longest_command),
            figures.copy_memory >> 20,
            figures.compare_memory >> 20,
            figures.is_equal
        );
        longest_wait = longest_wait.max(figures.compare_wait);
        longest_command = longest_command.max(figures.longest_command);
        most_memory = most_memory.max(figures.copy_memory).max(figures.compare_memory);
        is_equal &= figures.is_equal;
    }
    println!(
        "bench big-keys: longest_wait_ms={:.1} longest_command_ms={:.1} agent_memory_mb={} equal={is_equal}",
        milliseconds(longest_wait),
        milliseconds(longest_command),
        most_memory >> 20
    );
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn measure_key(shape: KeyShape, size: u64) -> BigKeyFigures {
    // The source compresses a string before it sends any of it: a busy machine takes longer for 2 GiB than the
    // template's 30 s, after which the copy would begin again.
    let edits = vec![
        ("repl-timeout 30", "repl-timeout 300"),
        ("maxmemory 256mb", "maxmemory 16gb"),
        ("repl-backlog-size", "proto-max-bulk-len 4gb\nenable-debug-command local\nrepl-backlog-size"),
    ];
    let mut fixture = MoveFixture::with_conf_edits(2, "everysec", edits);
    fixture.provision_primary(0).unwrap();
    shape.fill_key(&mut connect_admin(&fixture.address(0)).unwrap(), size);
    let mut clients = KeyClients::start_clients(shape, size, &fixture.address(0), &admin_credentials());
    std::thread::sleep(Duration::from_secs(1));
    clients.take_longest_wait();
    std::thread::sleep(IDLE_TIME);
    let idle_wait = clients.take_longest_wait();
    let mut spec = fixture.move_spec(0, 1);
    spec.limits.copy_stall_timeout_s = 300;
    let (_, copy_memory) = run_request(&fixture, ShardRequest::Copy(spec.clone()));
    let copy_wait = clients.take_longest_wait();
    let mut source = connect_admin(&fixture.address(0)).unwrap();
    source.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    redis::cmd("CONFIG").arg(&["SET", "slowlog-log-slower-than", "2000"]).exec(&mut source).unwrap();
    redis::cmd("CONFIG").arg(&["SET", "slowlog-max-len", "100000"]).exec(&mut source).unwrap();
    redis::cmd("SLOWLOG").arg("RESET").exec(&mut source).unwrap();
    let begin = Instant::now();
    let (reply, compare_memory) = run_request(&fixture, ShardRequest::Verify(spec.clone()));
    let (compare_wait, compare_time) = (clients.take_longest_wait(), begin.elapsed());
    let ShardReply::Verify(verified) = reply else { panic!("{reply:?}") };
    let longest_command = find_longest_command(&mut source);
    clients.stop_clients();
    run_request(&fixture, ShardRequest::CutOver(spec));
    let is_equal = verified.is_equal() && has_equal_digests(&fixture);
    BigKeyFigures {
        idle_wait,
        copy_wait,
        compare_wait,
        compare_time,
        reported_wait: Duration::from_micros(reported_wait(&verified)),
        longest_command,
        copy_memory,
        compare_memory,
        is_equal,
    }
}

fn reported_wait(verified: &VerifyResult) -> u64 {
    verified.longest_pause_us.max(verified.longest_wait_us)
}

/// Returns the duration of the longest command in the slow log, except for writes.
fn find_longest_command(source: &mut redis::Connection) -> Duration {
    let entries: Vec<redis::Value> = redis::cmd("SLOWLOG").arg("GET").arg(-1).query(source).unwrap();
    let duration = |entry: &redis::Value| match entry {
        redis::Value::Array(fields) => match (&fields[2], &fields[3]) {
            (redis::Value::Int(microseconds), redis::Value::Array(words)) => {
                let name = words.first().map(|name| format!("{name:?}").to_lowercase()).unwrap_or_default();
                let is_read = ["scan", "mget", "mscore", "mismember", "getrange", "lrange", "memory", "dump"];
                is_read.iter().any(|read| name.contains(read)).then_some(*microseconds)
            }
            _ => None,
        },
        _ => None,
    };
    Duration::from_micros(entries.iter().filter_map(duration).max().unwrap_or(0).unsigned_abs())
}

/// Runs a request in an agent of its own; returns the reply and the most memory of the agent.
fn run_request(fixture: &MoveFixture, request: ShardRequest) -> (ShardReply, u64) {
    let mut agent = AgentProcess::start_agent(fixture, &[request], None);
    let memory = agent.wait_and_measure_memory(REQUEST_TIMEOUT);
    (read_replies(fixture).into_iter().next().unwrap().unwrap(), memory)
}

/// Returns whether both instances hold the same, by what Redis itself makes of the key.
fn has_equal_digests(fixture: &MoveFixture) -> bool {
    let digest = |n: u8| {
        let mut connection = connect_admin(&fixture.address(n)).unwrap();
        connection.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        redis::cmd("DEBUG").arg("DIGEST-VALUE").arg(BIG_KEY).query::<Vec<String>>(&mut connection).unwrap()
    };
    digest(0) == digest(1)
}
