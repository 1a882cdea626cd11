//! Moves back and forth under writes.

use std::time::Duration;

use dunlin::protocol::shard::{
    CopyResult, Credentials, CutoverResult, JournalQuery, MovePhase, MoveSpec, RecoveryResult, ReplicationRole,
    RetireResult, ShardReply, ShardRequest,
};

use crate::fixture::{MoveFixture, admin_credentials, app_credentials, connect_as, wait_until};
use crate::messages;
use crate::writers::{MoveWriters, stop_and_check};

pub fn run_copy(fixture: &MoveFixture, spec: MoveSpec) -> anyhow::Result<CopyResult> {
    match fixture.run_request(ShardRequest::Copy(spec))? {
        ShardReply::Copy(copied) => Ok(copied),
        other => panic!("{other:?}"),
    }
}

pub fn run_switch(fixture: &MoveFixture, spec: MoveSpec) -> anyhow::Result<CutoverResult> {
    match fixture.run_request(ShardRequest::CutOver(spec))? {
        ShardReply::CutOver(switched) => Ok(switched),
        other => panic!("{other:?}"),
    }
}

/// Retires a source as soon as its last clients are gone.
pub fn run_retire(fixture: &mut MoveFixture, n: u8, owner: u8) -> RetireResult {
    let what = fixture.retire_spec(n, owner);
    let mut last = None;
    wait_until(Duration::from_secs(20), || {
        let result = fixture.run_request(ShardRequest::Retire(what.clone()));
        last.insert(result).is_ok()
    });
    match last {
        Some(Ok(ShardReply::Retire(done))) => done,
        other => panic!("{other:?}"),
    }
}

#[test]
fn moves_back_and_forth_lose_no_write() {
    let mut fixture = MoveFixture::with_instances(2);
    fixture.provision_primary(0).unwrap();
    let mut writers = MoveWriters::start_writers(4, &fixture.address(0));
    writers.wait_for_writes(200);
    let (mut from, mut to) = (0, 1);
    let mut gaps = Vec::new();
    for _ in 0..6 {
        let spec = fixture.move_spec(from, to);
        let copied = run_copy(&fixture, spec.clone()).unwrap();
        assert!(copied.verification.keys >= 4 && copied.verification.is_equal());
        writers.reset_gaps();
        let switched = run_switch(&fixture, spec.clone()).unwrap();
        assert!(!switched.already_cut_over && switched.follow_ups.is_empty(), "{switched:?}");
        writers.publish_address(&fixture.address(to));
        writers.wait_for_writes(50);
        gaps.push((switched.gap_us, switched.retries, writers.longest_gap()));
        assert_eq!(fixture.writable_instances(), [to]);
        // Asked again, both say that it is done.
        assert!(run_switch(&fixture, spec.clone()).unwrap().already_cut_over);
        run_copy(&fixture, spec).unwrap();
        let kept = run_retire(&mut fixture, from, to).archive_dir.unwrap();
        assert!(kept.join("KEPT-UNTIL").is_file() && kept.join("appendonlydir").is_dir());
        assert_eq!(run_retire(&mut fixture, from, to).archive_dir, None);
        (from, to) = (to, from);
    }
    stop_and_check(&mut writers, &fixture, from);
    eprintln!("gaps (server, retries, client): {gaps:?}");
    assert!(gaps.iter().all(|(gap, ..)| *gap < 200_000), "{gaps:?}");
}

#[test]
fn status_and_abort_report_the_actual_state() {
    let mut fixture = MoveFixture::with_instances(2);
    fixture.provision_primary(0).unwrap();
    let mut writers = MoveWriters::start_writers(1, &fixture.address(0));
    writers.wait_for_writes(50);
    let spec = fixture.move_spec(0, 1);
    run_copy(&fixture, spec.clone()).unwrap();
    let what = JournalQuery { credentials: admin_credentials(), journal_dir: spec.header.journal_dir.clone() };
    let ShardReply::ListMoves(moves) = fixture.run_request(ShardRequest::ListMoves(what)).unwrap() else { panic!() };
    assert_eq!((moves[0].shard, moves[0].phase, moves[0].is_finished), (spec.header.shard, MovePhase::Verify, false));
    assert!(
        matches!(moves[0].source_role, ReplicationRole::Primary { .. })
            && matches!(moves[0].target_role, ReplicationRole::Replica { .. })
    );
    assert!(matches!(fixture.run_recover(0, 1), RecoveryResult::AtSource { .. }));
    assert_eq!(fixture.run_request(ShardRequest::Abort(spec.clone())).unwrap(), ShardReply::Abort(()));
    assert_eq!(fixture.run_request(ShardRequest::Abort(spec.clone())).unwrap(), ShardReply::Abort(()));
    assert!(!fixture.data_dir(1).exists() && !fixture.conf_path(1).exists() && fixture.read_pid(1).is_none());
    // And again from the start, to the end; then there is nothing to abort.
    run_copy(&fixture, spec.clone()).unwrap();
    run_switch(&fixture, spec.clone()).unwrap();
    writers.publish_address(&fixture.address(1));
    messages::check("abort-after-cutover", [("abort", fixture.run_request(ShardRequest::Abort(spec)).unwrap_err())]);
    writers.wait_for_writes(50);
    stop_and_check(&mut writers, &fixture, 1);
}

#[test]
fn sources_are_retired_after_their_first_aof_rewrite() {
    let mut fixture = MoveFixture::with_instances(2);
    fixture.provision_primary(0).unwrap();
    let mut writers = MoveWriters::start_writers(1, &fixture.address(0));
    writers.wait_for_writes(20);
    let spec = fixture.move_spec(0, 1);
    run_copy(&fixture, spec.clone()).unwrap();
    run_switch(&fixture, spec).unwrap();
    writers.publish_address(&fixture.address(1));
    writers.wait_for_writes(20);
    stop_and_check(&mut writers, &fixture, 1);
    // As after a full sync: the append-only file is on, and there is none yet.
    let mut source = crate::fixture::connect_admin(&fixture.address(0)).unwrap();
    for (name, value) in [("appendonly", "no"), ("rdb-key-save-delay", "1000000"), ("appendonly", "yes")] {
        redis::cmd("CONFIG").arg("SET").arg(name).arg(value).exec(&mut source).unwrap();
    }
    assert!(run_retire(&mut fixture, 0, 1).archive_dir.is_some());
    assert_eq!(fixture.read_pid(0), None);
}

/// Neither a subscriber nor a blocked or monitoring client is cut off, whatever its user; an idle pool is.
#[test]
fn retiring_waits_for_every_client_that_would_lose_something() {
    let line = "user batch on >batchword ~* &* -@all +@read +@blocking +@pubsub +monitor +ping\nuser s017 on";
    let mut fixture = MoveFixture::with_conf_edits(2, "always", vec![("user s017 on", line)]);
    fixture.provision_primary(0).unwrap();
    let spec = fixture.move_spec(0, 1);
    run_copy(&fixture, spec.clone()).unwrap();
    run_switch(&fixture, spec).unwrap();
    let batch = Credentials { user: "batch".to_owned(), password: "batchword".to_owned(), tls_ca: None };
    let connect = |user: &Credentials| connect_as(&fixture.address(0), user).unwrap();
    let (mut pool, mut blocked, mut monitor, mut subscriber) =
        (connect(&app_credentials()), connect(&batch), connect(&batch), connect(&batch));
    redis::cmd("EXISTS").arg("k").exec(&mut pool).unwrap();
    // XREAD is a read: a replica accepts it, and blocks.
    blocked
        .send_packed_command(&redis::cmd("XREAD").arg(&["BLOCK", "0", "STREAMS", "none", "$"]).get_packed_command())
        .unwrap();
    monitor.send_packed_command(&redis::cmd("MONITOR").get_packed_command()).unwrap();
    subscriber.send_packed_command(&redis::cmd("SUBSCRIBE").arg("news").get_packed_command()).unwrap();
    std::thread::sleep(Duration::from_millis(4500));
    let request = fixture.retire_spec(0, 1);
    let refuse = || fixture.run_request(ShardRequest::Retire(request.clone())).unwrap_err();
    let by_three = refuse();
    drop((blocked, monitor));
    std::thread::sleep(Duration::from_millis(200));
    messages::check("retire-with-clients", [("three clients", by_three), ("one client", refuse())]);
    drop(subscriber);
    std::thread::sleep(Duration::from_millis(200));
    assert!(matches!(fixture.run_request(ShardRequest::Retire(request)), Ok(ShardReply::Retire(_))));
    redis::cmd("PING").exec(&mut pool).unwrap_err();
}
