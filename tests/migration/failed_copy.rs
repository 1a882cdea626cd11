//! A copy that failed costs the source nothing more: no replica, no fork, no further full sync.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dunlin::protocol::shard::{RecoveryResult, ShardReply, ShardRequest};
use dunlin::protocol::throttle::ThrottleLimits;
use dunlin::protocol::{Event, ProgressSink};
use redis::Connection;

use crate::agent_process::{AgentProcess, read_replies};
use crate::fixture::{MoveFixture, connect_admin, wait_until};
use crate::invariants::info_field;
use crate::messages;
use crate::moves::{run_copy, run_switch};
use crate::throttle::fill_large;
use crate::verification::run_line;

/// Number of keys of the source, and how long its child sleeps after each, in microseconds: a full sync takes over 2 s.
const KEYS: usize = 1000;
const KEY_SAVE_DELAY_US: u32 = 2000;
/// How long the source is observed afterwards. A replica that still followed it would be back within a second.
const OBSERVATION: Duration = Duration::from_secs(3);

/// Writes values of 64 KiB to a few keys until it is stopped, far more than the source's output buffer for replicas
/// takes.
fn write_until_stopped(connection: &mut Connection, is_stopped: &AtomicBool) {
    let value = "v".repeat(64 << 10);
    for n in (0..8).cycle() {
        if is_stopped.load(Ordering::Relaxed) {
            return;
        }
        redis::cmd("SET").arg(format!("large:{n}")).arg(&value).exec(connection).unwrap();
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Runs something while a source is written to, so that no full sync of it succeeds.
fn run_under_writes(fixture: &MoveFixture, run: impl FnOnce()) {
    let is_stopped = AtomicBool::new(false);
    let mut writer = connect_admin(&fixture.address(0)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| write_until_stopped(&mut writer, &is_stopped));
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        is_stopped.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// Fills a source whose full syncs take seconds, and lets its output buffer for replicas hold less than is written to it
/// meanwhile.
fn fill_and_limit_output_buffer(source: &mut Connection) {
    for key in 0..KEYS {
        redis::cmd("SET").arg(format!("key:{key}")).arg(key).exec(source).unwrap();
    }
    redis::cmd("CONFIG").arg(&["SET", "client-output-buffer-limit", "replica 1mb 1mb 60"]).exec(source).unwrap();
    // A limit below the size of the backlog would not count.
    run_line(source, "CONFIG SET repl-backlog-size 1mb");
    disable_rdb_channel(source);
    run_line(source, &format!("CONFIG SET rdb-key-save-delay {KEY_SAVE_DELAY_US}"));
}

/// Lets a source buffer what is written during a full sync, as Redis 7.0 does. Redis 8.0 sends it at once over a second
/// connection, and the replica buffers it.
fn disable_rdb_channel(source: &mut Connection) {
    let setting: Vec<String> = redis::cmd("CONFIG").arg("GET").arg("repl-rdb-channel").query(source).unwrap();
    if !setting.is_empty() {
        run_line(source, "CONFIG SET repl-rdb-channel no");
    }
}

/// Checks that the source has no replica and no child, and starts no full sync while it is observed.
fn assert_no_more_syncs(source: &mut Connection) {
    wait_until(Duration::from_secs(5), || {
        info_field(source, "replication", "connected_slaves") == "0"
            && info_field(source, "persistence", "rdb_bgsave_in_progress") == "0"
    });
    let (syncs, end) = (info_field(source, "stats", "sync_full"), Instant::now() + OBSERVATION);
    while Instant::now() < end {
        assert_eq!(info_field(source, "stats", "sync_full"), syncs);
        assert_eq!(info_field(source, "replication", "connected_slaves"), "0");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn copies_that_overflow_the_output_buffer_end_with_their_reason() {
    let mut fixture = MoveFixture::with_instances(2);
    fixture.provision_primary(0).unwrap();
    let mut source = connect_admin(&fixture.address(0)).unwrap();
    fill_and_limit_output_buffer(&mut source);
    let spec = fixture.move_spec(0, 1);
    run_under_writes(&fixture, || {
        let error = format!("{:#}", run_copy(&fixture, spec.clone()).unwrap_err());
        messages::check("copy-that-overflows-the-output-buffer", [("copy", error)]);
        // The writes go on, and the copy does not come back for them.
        assert_no_more_syncs(&mut source);
    });
    // With a larger buffer the same move goes on.
    redis::cmd("CONFIG")
        .arg(&["SET", "client-output-buffer-limit", "replica 1gb 512mb 120"])
        .exec(&mut source)
        .unwrap();
    run_line(&mut source, "CONFIG SET rdb-key-save-delay 0");
    let copied = run_copy(&fixture, spec).unwrap();
    assert!(copied.verification.is_equal() && copied.verification.keys >= KEYS as u64, "{copied:?}");
}

#[test]
fn targets_that_crash_and_start_again_make_no_full_sync() {
    let mut fixture = MoveFixture::with_instances(2);
    fixture.provision_primary(0).unwrap();
    let mut source = connect_admin(&fixture.address(0)).unwrap();
    for key in 0..KEYS {
        redis::cmd("SET").arg(format!("key:{key}")).arg(key).exec(&mut source).unwrap();
    }
    run_line(&mut source, &format!("CONFIG SET rdb-key-save-delay {KEY_SAVE_DELAY_US}"));
    let spec = fixture.move_spec(0, 1);
    let failed = std::thread::scope(|scope| {
        let copying = scope.spawn(|| run_copy(&fixture, spec.clone()));
        wait_until(Duration::from_secs(20), || info_field(&mut source, "persistence", "rdb_bgsave_in_progress") == "1");
        fixture.kill_instance(1);
        copying.join().unwrap()
    });
    failed.unwrap_err();
    // As systemd does it.
    fixture.restart_instance(1);
    assert_no_more_syncs(&mut source);
    run_line(&mut source, "CONFIG SET rdb-key-save-delay 0");
    let copied = run_copy(&fixture, spec).unwrap();
    assert!(copied.verification.is_equal() && copied.verification.keys >= KEYS as u64, "{copied:?}");
}

#[test]
fn copies_whose_agent_was_killed_stop_costing_the_source() {
    let mut fixture = MoveFixture::with_instances(2);
    fixture.provision_primary(0).unwrap();
    let mut source = connect_admin(&fixture.address(0)).unwrap();
    fill_and_limit_output_buffer(&mut source);
    let spec = fixture.move_spec(0, 1);
    run_under_writes(&fixture, || {
        let agent = AgentProcess::start_agent(&fixture, &[ShardRequest::Copy(spec.clone())], None);
        wait_until(Duration::from_secs(60), || info_field(&mut source, "persistence", "rdb_bgsave_in_progress") == "1");
        agent.kill_with_watches();
        assert_no_more_syncs(&mut source);
    });
    // Nor does it for a target that starts again.
    fixture.kill_instance(1);
    fixture.restart_instance(1);
    assert_no_more_syncs(&mut source);
    run_line(&mut source, "CONFIG SET rdb-key-save-delay 0");
    assert!(run_copy(&fixture, spec).unwrap().verification.is_equal());
}

#[test]
fn complete_copies_whose_agent_was_killed_wait_for_the_next_one() {
    let mut fixture = MoveFixture::with_instances(2);
    fixture.provision_primary(0).unwrap();
    let mut source = connect_admin(&fixture.address(0)).unwrap();
    run_line(&mut source, "SET key value");
    let spec = fixture.move_spec(0, 1);
    let copy = [ShardRequest::Copy(spec.clone())];
    let mut agent = AgentProcess::start_agent(&fixture, &copy, Some("verify:before:stop"));
    assert!(agent.wait_for_stop());
    assert_eq!(info_field(&mut source, "replication", "connected_slaves"), "1");
    agent.kill_with_watches();
    assert_no_more_syncs(&mut source);
    let placeholder = "replicaof 127.77.0.17 0";
    assert!(std::fs::read_to_string(fixture.conf_path(1)).unwrap().contains(placeholder));
    // The data are still of use: the next agent needs no full sync.
    run_line(&mut source, "SET key another");
    let syncs = info_field(&mut source, "stats", "sync_full");
    assert!(run_copy(&fixture, spec.clone()).unwrap().verification.is_equal());
    assert_eq!(info_field(&mut source, "stats", "sync_full"), syncs);
    // An agent that ends by itself gives its lease back as well; once the cutover is prepared, recovery decides.
    let cutover = [ShardRequest::CutOver(spec.clone())];
    let mut agent = AgentProcess::start_agent(&fixture, &cutover, Some("prepare_standby:before:stop"));
    assert!(agent.wait_for_stop());
    agent.kill_with_watches();
    assert_eq!(info_field(&mut source, "replication", "connected_slaves"), "1");
    assert!(matches!(fixture.run_recover(0, 1), RecoveryResult::AtSource { .. }));
    assert!(!run_switch(&fixture, spec).unwrap().already_cut_over);
    assert_eq!(fixture.writable_instances(), [1]);
}

#[test]
fn new_replicas_are_watched_until_they_are_open() {
    let mut fixture = MoveFixture::with_instances(2);
    fixture.provision_primary(0).unwrap();
    let mut primary = connect_admin(&fixture.address(0)).unwrap();
    run_line(&mut primary, "SET key value");
    let spec = fixture.replica_spec(0, 1, None);
    let create = [ShardRequest::CreateReplica(spec)];
    let mut agent = AgentProcess::start_agent(&fixture, &create, Some("open_target:before:stop"));
    assert!(agent.wait_for_stop());
    agent.kill_with_watches();
    assert_no_more_syncs(&mut primary);
    let mut agent = AgentProcess::start_agent(&fixture, &create, None);
    assert!(agent.wait_for_exit().success());
    assert!(matches!(read_replies(&fixture)[..], [Ok(ShardReply::CreateReplica(_))]), "{:?}", read_replies(&fixture));
    // Nobody watches it any more, and it follows its primary.
    assert_eq!(info_field(&mut primary, "replication", "connected_slaves"), "1");
    let conf = std::fs::read_to_string(fixture.conf_path(1)).unwrap();
    assert!(conf.contains(&format!("replicaof {}", fixture.address(0).replace(':', " "))), "{conf}");
}

/// Revokes the source's replication rights once the copy receives data: those of connections that exist are kept.
struct RevokeReplication(Mutex<Option<Connection>>);

impl ProgressSink for RevokeReplication {
    fn emit(&self, event: Event) {
        if matches!(event, Event::Progress { phase, .. } if phase == "copy")
            && let Some(mut source) = self.0.lock().unwrap().take()
        {
            run_line(&mut source, "ACL SETUSER replica -psync -sync");
        }
    }

    fn is_cancelled(&self) -> bool {
        false
    }
}

#[test]
fn throttled_copies_that_fail_after_the_proxy_make_no_full_sync() {
    let mut fixture = MoveFixture::with_instances(2);
    fixture.provision_primary(0).unwrap();
    let mut source = connect_admin(&fixture.address(0)).unwrap();
    fill_large(&fixture, 40, 100 << 10);
    let mut spec = fixture.move_spec(0, 1);
    spec.record.throttle = ThrottleLimits { bandwidth: 4 << 20, ..ThrottleLimits::default() };
    spec.limits.copy_stall_timeout_s = 3;
    let sink = RevokeReplication(Mutex::new(Some(connect_admin(&fixture.address(0)).unwrap())));
    let error = fixture.run_with_sink(ShardRequest::Copy(spec.clone()), &sink).unwrap_err();
    messages::check("copy-without-replication-rights", [("copy", format!("{error:#}"))]);
    run_line(&mut source, "ACL SETUSER replica +psync +sync");
    assert_no_more_syncs(&mut source);
    assert!(std::fs::read_to_string(fixture.conf_path(1)).unwrap().contains("replicaof 127.77.0.17 0"));
    assert!(run_copy(&fixture, spec).unwrap().verification.is_equal());
}
