//! Moves that spare their source: a cap on bytes, limits past which they wait, slow down, or give a copy up.

use std::fs::{self, File};
use std::io::Read;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dunlin::protocol::shard::{JournalQuery, MoveSpec, Operation, RecoveryResult, ShardReply, ShardRequest};
use dunlin::protocol::throttle::{MemoryLimit, ThrottleLimits};
use dunlin::protocol::{Event, ProgressSink};
use redis::Connection;
use rustix::process::{Signal, kill_process};

use crate::agent_process::{AgentProcess, read_replies};
use crate::fixture::{
    MoveFixture, SHARD_ID, admin_credentials, app_credentials, connect_admin, connect_as, wait_until,
};
use crate::messages;
use crate::moves::{run_copy, run_switch};
use crate::writers::{MoveWriters, stop_and_check};

const MIB: u64 = 1 << 20;
/// Where the target's file leads while a copy goes through a proxy.
const PLACEHOLDER_REPLICAOF: &str = "replicaof 127.77.0.17 0";

/// Keys with values that no compression makes smaller.
pub fn fill_large(fixture: &MoveFixture, count: usize, size: u64) {
    let mut client = connect_as(&fixture.address(0), &app_credentials()).unwrap();
    let random = File::open("/dev/urandom").unwrap();
    for n in 0..count {
        let mut value = Vec::new();
        random.try_clone().unwrap().take(size).read_to_end(&mut value).unwrap();
        redis::cmd("SET").arg(format!("value:{n}")).arg(value).exec(&mut client).unwrap();
    }
}

fn throttled_spec(fixture: &mut MoveFixture, sparing: ThrottleLimits) -> MoveSpec {
    let mut spec = fixture.move_spec(0, 1);
    spec.record.throttle = sparing;
    spec
}

fn capped_spec(fixture: &mut MoveFixture, bandwidth: u64) -> MoveSpec {
    throttled_spec(fixture, ThrottleLimits { bandwidth, ..ThrottleLimits::default() })
}

fn info_field(connection: &mut Connection, section: &str, name: &str) -> String {
    let text: String = redis::cmd("INFO").arg(section).query(connection).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_default().to_owned()
}

fn read_conf(fixture: &MoveFixture, n: u8) -> String {
    fs::read_to_string(fixture.conf_path(n)).unwrap_or_default()
}

/// Waits until the target has a part of the data, and not all of it.
fn wait_until_half_copied(fixture: &MoveFixture) {
    let mut target = None;
    wait_until(Duration::from_secs(20), || {
        target = connect_admin(&fixture.address(1)).ok();
        target.is_some()
    });
    let mut target = target.unwrap();
    let reads =
        |target: &mut Connection| info_field(target, "replication", "master_sync_read_bytes").parse().unwrap_or(0);
    wait_until(Duration::from_secs(20), || reads(&mut target) > MIB / 2);
}

/// Waits until the source has nothing to do with the copy any more.
fn assert_source_idle(fixture: &MoveFixture) {
    let mut source = connect_admin(&fixture.address(0)).unwrap();
    wait_until(Duration::from_secs(20), || {
        info_field(&mut source, "replication", "connected_slaves") == "0"
            && info_field(&mut source, "persistence", "rdb_bgsave_in_progress") == "0"
    });
    assert_eq!(info_field(&mut source, "replication", "role"), "master");
    let required: Vec<String> =
        redis::cmd("CONFIG").arg("GET").arg("min-replicas-to-write").query(&mut source).unwrap();
    assert_eq!(required[1], "0");
    assert_eq!(fixture.writable_instances(), [0]);
}

/// Records the notes of an operation, and asks it to stop on request.
#[derive(Default)]
struct NoteRecorder {
    notes: Mutex<Vec<String>>,
    stop: AtomicBool,
}

impl NoteRecorder {
    fn contains_note(&self, text: &str) -> bool {
        self.notes.lock().unwrap().iter().any(|note| note.contains(text))
    }
}

impl ProgressSink for NoteRecorder {
    fn emit(&self, event: Event) {
        if let Event::Note { text } = event {
            self.notes.lock().unwrap().push(text);
        }
    }

    fn is_cancelled(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

/// Sets a flag when it is dropped.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A client whose commands take a fifth of a second and more, one after the other, while `work` is done.
fn with_slow_commands<T>(fixture: &MoveFixture, work: impl FnOnce(&AtomicBool) -> T) -> T {
    let is_over = AtomicBool::new(false);
    let address = fixture.address(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = connect_admin(&address).unwrap();
            let mut rounds = 1_000_000;
            while !is_over.load(Ordering::SeqCst) {
                let begin = Instant::now();
                let script = format!("for i = 1, {rounds} do end");
                redis::cmd("EVAL").arg(script).arg(0).exec(&mut client).unwrap();
                rounds = if begin.elapsed() < Duration::from_millis(250) { rounds * 2 } else { rounds };
            }
        });
        // Also where the work fails: the scope waits for the client.
        let _over = StopOnDrop(&is_over);
        work(&is_over)
    })
}

#[test]
fn capped_copies_stay_below_the_limit_and_are_complete() {
    let mut fixture = MoveFixture::with_instances(2);
    fixture.provision_primary(0).unwrap();
    fill_large(&fixture, 60, MIB / 10);
    let mut writers = MoveWriters::start_writers(2, &fixture.address(0));
    writers.wait_for_writes(50);
    let cap = 4 * MIB;
    let spec = capped_spec(&mut fixture, cap);
    let begin = Instant::now();
    let copied = run_copy(&fixture, spec.clone()).unwrap();
    let took = begin.elapsed().as_secs_f64();
    // Sent once by the full sync; a bucket lets a twentieth of a second pass at once.
    let least = (60 * (MIB / 10)) as f64 / cap as f64 - 0.1;
    assert!(took >= least, "6 MiB took {took} s at 4 MiB/s, at least {least}");
    assert!(copied.verification.is_equal() && copied.verification.keys >= 60 && copied.verification.compared_live < 60);
    // Once more where all keys are asked of both servers.
    let begin = Instant::now();
    assert!(
        matches!(fixture.run_request(ShardRequest::Verify(spec.clone())).unwrap(), ShardReply::Verify(all) if all.compared_live >= 60)
    );
    assert!(begin.elapsed().as_secs_f64() >= least, "{:?}, at least {least}", begin.elapsed());
    let mut source = connect_admin(&fixture.address(0)).unwrap();
    let syncs =
        |source: &mut Connection| ["sync_full", "sync_partial_ok"].map(|name| info_field(source, "stats", name));
    let [full, partial] = syncs(&mut source);
    assert!(full == "1" && partial != "0", "one full sync through the proxy, {full}, then partial ones, {partial}");
    let (ip, port) = (&spec.record.from.host, spec.record.from.port);
    assert!(read_conf(&fixture, 1).contains(&format!("replicaof {ip} {port}")), "{}", read_conf(&fixture, 1));
    // Asked again, there is nothing to do; then everything is as after a copy without a cap.
    run_copy(&fixture, spec.clone()).unwrap();
    assert_eq!(syncs(&mut source), [full, partial]);
    run_switch(&fixture, spec).unwrap();
    writers.publish_address(&fixture.address(1));
    writers.wait_for_writes(50);
    stop_and_check(&mut writers, &fixture, 1);
}

#[test]
fn capped_copies_wait_for_the_next_agent() {
    let mut fixture = MoveFixture::with_instances(2);
    fixture.provision_primary(0).unwrap();
    fill_large(&fixture, 60, MIB / 10);
    let mut writers = MoveWriters::start_writers(2, &fixture.address(0));
    writers.wait_for_writes(20);
    let slow = capped_spec(&mut fixture, MIB);
    for victim_too in [false, true] {
        let agent = AgentProcess::start_agent(&fixture, &[ShardRequest::Copy(slow.clone())], None);
        wait_until_half_copied(&fixture);
        drop(agent);
        assert_source_idle(&fixture);
        assert!(read_conf(&fixture, 1).contains(PLACEHOLDER_REPLICAOF), "{}", read_conf(&fixture, 1));
        if victim_too {
            fixture.kill_instance(1);
            fixture.restart_instance(1);
            fixture.wait_until_ready(1);
        }
        // Whether it is still alive or was restarted, it is a replica, and requests no copy.
        let mut target = connect_admin(&fixture.address(1)).unwrap();
        let is = ["role", "master_host", "master_link_status"].map(|name| info_field(&mut target, "replication", name));
        assert_eq!(is, ["slave", "127.77.0.17", "down"]);
        assert!(matches!(fixture.run_recover(0, 1), RecoveryResult::AtSource { .. }));
    }
    let what = JournalQuery { credentials: admin_credentials(), journal_dir: slow.header.journal_dir.clone() };
    let ShardReply::ListMoves(moves) = fixture.run_request(ShardRequest::ListMoves(what)).unwrap() else { panic!() };
    assert_eq!(moves[0].record.throttle.bandwidth, MIB, "the limit is in the journal for a later run");
    // Another agent, another proxy; its operator is in more of a hurry.
    let fast = capped_spec(&mut fixture, 16 * MIB);
    let mut agent =
        AgentProcess::start_agent(&fixture, &[ShardRequest::Copy(fast.clone()), ShardRequest::CutOver(fast)], None);
    agent.wait_for_exit();
    let done = read_replies(&fixture);
    assert!(matches!(&done[..], [Ok(ShardReply::Copy(_)), Ok(ShardReply::CutOver(_))]), "{done:?}");
    writers.publish_address(&fixture.address(1));
    writers.wait_for_writes(20);
    stop_and_check(&mut writers, &fixture, 1);
}

#[test]
fn capped_copies_can_be_aborted_or_resumed_without_a_limit() {
    let mut fixture = MoveFixture::with_instances(2);
    fixture.provision_primary(0).unwrap();
    fill_large(&fixture, 60, MIB / 10);
    let mut writers = MoveWriters::start_writers(1, &fixture.address(0));
    let slow = capped_spec(&mut fixture, MIB);
    let agent = AgentProcess::start_agent(&fixture, &[ShardRequest::Copy(slow.clone())], None);
    wait_until_half_copied(&fixture);
    drop(agent);
    assert_eq!(fixture.run_request(ShardRequest::Abort(slow.clone())).unwrap(), ShardReply::Abort(()));
    assert_source_idle(&fixture);
    assert!(!fixture.data_dir(1).exists() && !fixture.conf_path(1).exists() && fixture.read_pid(1).is_none());

    let agent = AgentProcess::start_agent(&fixture, &[ShardRequest::Copy(slow)], None);
    wait_until_half_copied(&fixture);
    drop(agent);
    let spec = fixture.move_spec(0, 1);
    run_copy(&fixture, spec.clone()).unwrap();
    assert!(!read_conf(&fixture, 1).contains(PLACEHOLDER_REPLICAOF));
    run_switch(&fixture, spec).unwrap();
    writers.publish_address(&fixture.address(1));
    writers.wait_for_writes(20);
    stop_and_check(&mut writers, &fixture, 1);
}

#[test]
fn cancelled_copies_end_at_the_source() {
    for bandwidth in [MIB, 0] {
        let mut fixture = MoveFixture::with_instances(2);
        fixture.provision_primary(0).unwrap();
        fill_large(&fixture, 60, MIB / 10);
        let mut source = connect_admin(&fixture.address(0)).unwrap();
        // Without a cap: six seconds for the keys, by the source's own brake.
        let delay = if bandwidth == 0 { "100000" } else { "0" };
        redis::cmd("CONFIG").arg("SET").arg("rdb-key-save-delay").arg(delay).exec(&mut source).unwrap();
        let (spec, recorder) = (capped_spec(&mut fixture, bandwidth), NoteRecorder::default());
        let error = thread::scope(|scope| {
            let copying =
                scope.spawn(|| fixture.run_with_sink(ShardRequest::Copy(spec.clone()), &recorder).unwrap_err());
            wait_until_half_copied(&fixture);
            recorder.stop.store(true, Ordering::SeqCst);
            copying.join().unwrap()
        });
        messages::check("copy-cancelled", [("copy", format!("{error:#}"))]);
        assert_source_idle(&fixture);
        redis::cmd("CONFIG").arg("SET").arg("rdb-key-save-delay").arg(0).exec(&mut source).unwrap();
        let spec = fixture.move_spec(0, 1);
        run_copy(&fixture, spec.clone()).unwrap();
        run_switch(&fixture, spec).unwrap();
        assert_eq!(fixture.writable_instances(), [1]);
    }
}

#[test]
fn no_copy_or_cutover_starts_while_the_source_is_slow() {
    let mut fixture = MoveFixture::with_instances(2);
    fixture.provision_primary(0).unwrap();
    let mut writers = MoveWriters::start_writers(1, &fixture.address(0));
    writers.wait_for_writes(20);
    let impatient = throttled_spec(
        &mut fixture,
        ThrottleLimits { max_p99_ms: 150, overload_timeout_s: 4, ..ThrottleLimits::default() },
    );
    let patient = throttled_spec(
        &mut fixture,
        ThrottleLimits { max_p99_ms: 150, overload_timeout_s: 60, ..ThrottleLimits::default() },
    );
    let journal = impatient.header.journal_dir.join(format!("shard-{SHARD_ID}.jsonl"));
    with_slow_commands(&fixture, |_| {
        let error = run_copy(&fixture, impatient.clone()).unwrap_err();
        messages::check("copy-of-a-slow-source", [("copy", format!("{error:#}"))]);
    });
    assert_eq!(fs::read_to_string(&journal).unwrap(), "", "no move was begun");
    assert!(!fixture.conf_path(1).exists());

    let recorder = NoteRecorder::default();
    with_slow_commands(&fixture, |is_over| {
        thread::scope(|scope| {
            let copying = scope.spawn(|| fixture.run_with_sink(ShardRequest::Copy(patient.clone()), &recorder));
            wait_until(Duration::from_secs(30), || recorder.contains_note("copy held: p99"));
            assert!(!fixture.conf_path(1).exists());
            is_over.store(true, Ordering::SeqCst);
            copying.join().unwrap().unwrap();
        });
    });
    assert!(recorder.contains_note("the copy continues after"));

    // The copy is complete; the cutover waits too, and min-replicas-to-write is not raised meanwhile.
    with_slow_commands(&fixture, |_| {
        let error = run_switch(&fixture, impatient.clone()).unwrap_err();
        messages::check("cutover-of-a-slow-source", [("cutover", format!("{error:#}"))]);
    });
    assert!(!fs::read_to_string(&journal).unwrap().contains("require_replicas"));
    assert_eq!(fixture.writable_instances(), [0]);
    run_switch(&fixture, patient).unwrap();
    writers.publish_address(&fixture.address(1));
    writers.wait_for_writes(20);
    stop_and_check(&mut writers, &fixture, 1);
}

#[test]
fn copies_wait_for_a_frozen_source() {
    let mut fixture = MoveFixture::with_instances(2);
    fixture.provision_primary(0).unwrap();
    let mut writers = MoveWriters::start_writers(1, &fixture.address(0));
    writers.wait_for_writes(20);
    let spec = throttled_spec(
        &mut fixture,
        ThrottleLimits { max_p99_ms: 150, overload_timeout_s: 60, ..ThrottleLimits::default() },
    );
    let (source, recorder) = (fixture.read_pid(0).unwrap(), NoteRecorder::default());
    thread::scope(|scope| {
        let copying = scope.spawn(|| fixture.run_with_sink(ShardRequest::Copy(spec.clone()), &recorder));
        // It is being watched: a connection of the admin's that asks for nothing but PING.
        let mut client = connect_admin(&fixture.address(0)).unwrap();
        wait_until(Duration::from_secs(20), || {
            let list: String = redis::cmd("CLIENT").arg("LIST").query(&mut client).unwrap();
            list.contains("cmd=ping")
        });
        kill_process(source, Signal::STOP).unwrap();
        wait_until(Duration::from_secs(30), || recorder.contains_note("copy held: the source does not answer"));
        kill_process(source, Signal::CONT).unwrap();
        copying.join().unwrap().unwrap();
    });
    run_switch(&fixture, spec).unwrap();
    writers.publish_address(&fixture.address(1));
    writers.wait_for_writes(20);
    stop_and_check(&mut writers, &fixture, 1);
}

#[test]
fn copies_are_throttled_when_the_source_slows_down() {
    let mut fixture = MoveFixture::with_instances(2);
    fixture.provision_primary(0).unwrap();
    fill_large(&fixture, 80, MIB / 10);
    let spec = throttled_spec(
        &mut fixture,
        ThrottleLimits { max_p99_ms: 150, bandwidth: 2 * MIB, ..ThrottleLimits::default() },
    );
    let recorder = NoteRecorder::default();
    thread::scope(|scope| {
        let copying = scope.spawn(|| fixture.run_with_sink(ShardRequest::Copy(spec.clone()), &recorder));
        wait_until_half_copied(&fixture);
        with_slow_commands(&fixture, |_| {
            wait_until(Duration::from_secs(20), || recorder.contains_note("copy slowed down: p99"))
        });
        copying.join().unwrap().unwrap();
    });
    run_switch(&fixture, spec).unwrap();
    assert_eq!(fixture.writable_instances(), [1]);
}

#[test]
fn copies_exceeding_the_cow_limit_are_aborted() {
    let mut fixture = MoveFixture::with_instances(2);
    fixture.provision_primary(0).unwrap();
    fill_large(&fixture, 30_000, 1000);
    let cow = Some(MemoryLimit::Bytes(4 * MIB));
    let spec = throttled_spec(
        &mut fixture,
        ThrottleLimits { bandwidth: 2 * MIB, max_cow_memory: cow, ..ThrottleLimits::default() },
    );
    let (is_over, recorder, address) = (AtomicBool::new(false), NoteRecorder::default(), fixture.address(0));
    let copied = thread::scope(|scope| {
        // Writes to all of the data: each page of it becomes the fork's own.
        scope.spawn(|| {
            let mut client = connect_as(&address, &app_credentials()).unwrap();
            for n in (0..30_000).cycle() {
                if is_over.load(Ordering::SeqCst) {
                    break;
                }
                redis::cmd("SETRANGE").arg(format!("value:{n}")).arg(0).arg("x").exec(&mut client).unwrap();
            }
        });
        let copied = fixture.run_with_sink(ShardRequest::Copy(spec.clone()), &recorder);
        is_over.store(true, Ordering::SeqCst);
        copied
    });
    let error = copied.expect_err(&format!("{:?}", recorder.notes.lock().unwrap()));
    assert!(format!("{error:#}").contains("stopped 3 times (copy-on-write memory"), "{error:#}");
    assert!(recorder.contains_note("copy stopped: copy-on-write memory"));
    assert_source_idle(&fixture);
    assert!(read_conf(&fixture, 1).contains(PLACEHOLDER_REPLICAOF));
    // Nobody writes any more: the same copy, under the same limits.
    run_copy(&fixture, spec.clone()).unwrap();
    run_switch(&fixture, spec).unwrap();
    assert_eq!(fixture.writable_instances(), [1]);
}

#[test]
fn replica_copies_stay_below_the_limit() {
    let mut fixture = MoveFixture::with_instances(2);
    fixture.provision_primary(0).unwrap();
    fill_large(&fixture, 40, MIB / 10);
    let mut writers = MoveWriters::start_writers(1, &fixture.address(0));
    writers.wait_for_writes(20);
    let operation = Operation::CreateReplica { replaces: None };
    let mut spec = capped_spec(&mut fixture, 2 * MIB);
    spec.record.operation = operation;
    let begin = Instant::now();
    let agent = AgentProcess::start_agent(&fixture, &[ShardRequest::CreateReplica(spec.clone())], None);
    wait_until_half_copied(&fixture);
    drop(agent);
    assert_source_idle(&fixture);
    assert!(read_conf(&fixture, 1).contains(PLACEHOLDER_REPLICAOF));
    assert!(matches!(
        fixture.run_request(ShardRequest::CreateReplica(spec.clone())).unwrap(),
        ShardReply::CreateReplica(_)
    ));
    let least = (40 * (MIB / 10)) as f64 / (2 * MIB) as f64 - 0.1;
    assert!(begin.elapsed().as_secs_f64() >= least, "{:?}, at least {least}", begin.elapsed());
    assert_eq!(fixture.run_request(ShardRequest::CommitReplica(spec)).unwrap(), ShardReply::CommitReplica(()));
    assert!(!read_conf(&fixture, 1).contains(PLACEHOLDER_REPLICAOF));
    let mut source = connect_admin(&fixture.address(0)).unwrap();
    assert_eq!(info_field(&mut source, "replication", "connected_slaves"), "1");
    stop_and_check(&mut writers, &fixture, 0);
}
