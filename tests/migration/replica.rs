//! Replicas: made, replaced, taken back under writes; and what a primary without them accepts.

use std::fs;
use std::time::Duration;

use dunlin::plan::Action;
use dunlin::protocol::shard::{
    CopyResult, JournalQuery, MinReplicasRequest, MoveSpec, Operation, PreflightRequest, ShardReply, ShardRequest,
};
use redis::Connection;
use rustix::process::{Signal, kill_process};

use crate::agent_process::{AgentProcess, read_replies};
use crate::fixture::{MoveFixture, admin_credentials, app_credentials, connect_admin, connect_as, wait_until};
use crate::messages;
use crate::moves::{run_copy, run_retire};
use crate::writers::{MoveWriters, stop_and_check};

fn run_replicate(fixture: &MoveFixture, spec: &MoveSpec) -> anyhow::Result<CopyResult> {
    match fixture.run_request(ShardRequest::CreateReplica(spec.clone()))? {
        ShardReply::CreateReplica(copied) => Ok(copied),
        other => panic!("{other:?}"),
    }
}

/// Hosts whose primary needs one replica, from the beginning; host 1 has it, and it is attached.
fn fixture_with_replica(count: u8) -> MoveFixture {
    let mut fixture = MoveFixture::with_instances(count);
    fixture.needed = 1;
    fixture.provision_replica(1, 0).unwrap();
    fixture.provision_primary(0).unwrap();
    wait_until_attached(&fixture, 0, 1);
    fixture
}

fn config_value(fixture: &MoveFixture, n: u8, name: &str) -> String {
    let pair: Vec<String> =
        redis::cmd("CONFIG").arg("GET").arg(name).query(&mut connect_admin(&fixture.address(n)).unwrap()).unwrap();
    pair[1].clone()
}

/// What a primary needs: in memory, and is it 1 in its file?
pub fn min_replicas_setting(fixture: &MoveFixture, n: u8) -> (String, bool) {
    let file = fs::read_to_string(fixture.conf_path(n)).unwrap();
    (config_value(fixture, n, "min-replicas-to-write"), file.contains("\nmin-replicas-to-write 1"))
}

/// Waits until a primary counts this many replicas as good.
fn wait_until_attached(fixture: &MoveFixture, n: u8, count: usize) {
    let mut connection = connect_admin(&fixture.address(n)).unwrap();
    wait_until(Duration::from_secs(20), || {
        let info: String = redis::cmd("INFO").arg("replication").query(&mut connection).unwrap();
        info.lines().filter(|line| line.contains("state=online") && line.contains("lag=")).count() == count
    });
}

fn write_probe(fixture: &MoveFixture, n: u8) -> Result<(), String> {
    let mut client = connect_as(&fixture.address(n), &app_credentials()).unwrap();
    let written = redis::cmd("SET").arg("probe").arg(n).exec(&mut client);
    written.map_err(|error| error.code().unwrap_or_default().to_owned())
}

/// What was acknowledged is at the replica once it has caught up.
pub fn assert_replica_complete(fixture: &MoveFixture, replica: u8, owner: u8, writers: &MoveWriters) {
    let size = |n| redis::cmd("DBSIZE").query::<u64>(&mut connect_admin(&fixture.address(n)).unwrap()).unwrap();
    let offset = |connection: &mut Connection| {
        let info: String = redis::cmd("INFO").arg("replication").query(connection).unwrap();
        info.lines().find_map(|line| line.strip_prefix("master_repl_offset:")?.parse::<u64>().ok()).unwrap()
    };
    let (mut one, mut other) =
        (connect_admin(&fixture.address(replica)).unwrap(), connect_admin(&fixture.address(owner)).unwrap());
    wait_until(Duration::from_secs(20), || offset(&mut one) == offset(&mut other));
    assert_eq!(size(replica), size(owner));
    assert_eq!(writers.lost_writes(&fixture.address(replica)), Vec::<String>::new());
}

#[test]
fn replicas_are_created_and_replaced_without_blocking_writes() {
    let mut fixture = fixture_with_replica(3);
    let mut writers = MoveWriters::start_writers(2, &fixture.address(0));
    writers.wait_for_writes(100);
    let spec = fixture.replica_spec(0, 2, Some(1));
    let copied = run_replicate(&fixture, &spec).unwrap();
    assert!(copied.verification.keys >= 2 && copied.verification.is_equal(), "{copied:?}");
    assert_eq!(run_replicate(&fixture, &spec).unwrap().verification, Default::default(), "it was found equal already");
    // Open to readers, closed to writers, and as provisioning wants it.
    assert_eq!(write_probe(&fixture, 2).unwrap_err(), "READONLY");
    assert_eq!(fixture.provision_replica(2, 0).unwrap().action, Action::None);
    // The map names it now.
    for _ in 0..2 {
        let mut named = spec.clone();
        named.record.epoch = 11;
        let kept = fixture.run_request(ShardRequest::CommitReplica(named)).unwrap();
        assert_eq!(kept, ShardReply::CommitReplica(()));
    }
    assert_eq!(run_replicate(&fixture, &spec).unwrap(), CopyResult::default());
    let what = JournalQuery { credentials: admin_credentials(), journal_dir: spec.header.journal_dir.clone() };
    let ShardReply::ListMoves(moves) = fixture.run_request(ShardRequest::ListMoves(what)).unwrap() else { panic!() };
    assert_eq!((moves[0].is_finished, moves[0].record.epoch), (true, 11), "the epoch that named it");
    let named = fixture.run_request(ShardRequest::Abort(spec)).unwrap_err();
    messages::check("abort-of-a-named-replica", [("abort", format!("{named:#}"))]);
    assert!(run_retire(&mut fixture, 1, 0).archive_dir.is_some());
    writers.wait_for_writes(100);
    assert_eq!(min_replicas_setting(&fixture, 0), ("1".to_owned(), true));
    // Of a copy, a comparison or a required replica that held writes, the gap would be many seconds.
    assert!(writers.longest_gap() < Duration::from_secs(3), "{:?}", writers.longest_gap());
    stop_and_check(&mut writers, &fixture, 0);
    assert_replica_complete(&fixture, 2, 0, &writers);
}

#[test]
fn replica_copies_respect_throttling() {
    let mut fixture = fixture_with_replica(3);
    let mut writers = MoveWriters::start_writers(1, &fixture.address(0));
    let mut client = connect_as(&fixture.address(0), &app_credentials()).unwrap();
    for n in 0..8 {
        redis::cmd("SET").arg(format!("large:{n}")).arg(vec![b'x'; 1 << 20]).exec(&mut client).unwrap();
    }
    let mut spec = fixture.replica_spec(0, 2, Some(1));
    // Two seconds of copying, in the middle of which it is killed; what it began is removed, and made anew.
    spec.record.throttle.bandwidth = 4 << 20;
    let mut agent = AgentProcess::start_agent(&fixture, &[ShardRequest::CreateReplica(spec.clone())], None);
    wait_until(Duration::from_secs(20), || fixture.read_pid(2).is_some());
    kill_process(agent.pid(), Signal::KILL).unwrap();
    agent.wait_for_exit();
    assert_eq!(fixture.run_request(ShardRequest::Abort(spec.clone())).unwrap(), ShardReply::Abort(()));
    assert!(!fixture.conf_path(2).exists() && fixture.read_pid(2).is_none());
    run_replicate(&fixture, &spec).unwrap();
    fixture.run_request(ShardRequest::CommitReplica(spec)).unwrap();
    assert_eq!(fixture.provision_replica(2, 0).unwrap().action, Action::None);
    writers.wait_for_writes(50);
    stop_and_check(&mut writers, &fixture, 0);
    assert_replica_complete(&fixture, 2, 0, &writers);
}

#[test]
fn interrupted_replicas_are_finished_or_removed() {
    for at in [
        "start_replica:before",
        "start_replica:after",
        "copy:after",
        "verify:before",
        "verify:after",
        "open_target:before",
        "open_target:after",
    ] {
        let mut fixture = fixture_with_replica(3);
        let mut writers = MoveWriters::start_writers(1, &fixture.address(0));
        writers.wait_for_writes(20);
        let spec = fixture.replica_spec(0, 2, Some(1));
        for then_abort in [true, false] {
            let mut agent = AgentProcess::start_agent(&fixture, &[ShardRequest::CreateReplica(spec.clone())], Some(at));
            assert!(!agent.wait_for_exit().success(), "{at}: {:?}", read_replies(&fixture));
            let what = JournalQuery { credentials: admin_credentials(), journal_dir: spec.header.journal_dir.clone() };
            let ShardReply::ListMoves(moves) = fixture.run_request(ShardRequest::ListMoves(what)).unwrap() else {
                panic!()
            };
            assert!(
                !moves[0].is_finished
                    && moves[0].record.operation
                        == (Operation::CreateReplica { replaces: Some(fixture.instance_address(1)) }),
                "{moves:?}"
            );
            // The journal is no other move's.
            let mut relocation = spec.clone();
            relocation.record.operation = Operation::Relocate { other_replicas: Vec::new() };
            for other in [ShardRequest::Copy(relocation.clone()), ShardRequest::CutOver(relocation)] {
                let refused = fixture.run_request(other).unwrap_err();
                messages::check("move-during-a-replica-build", [("copy, cutover", format!("{refused:#}"))]);
            }
            if then_abort {
                assert_eq!(fixture.run_request(ShardRequest::Abort(spec.clone())).unwrap(), ShardReply::Abort(()));
                assert!(
                    !fixture.data_dir(2).exists() && !fixture.conf_path(2).exists() && fixture.read_pid(2).is_none(),
                    "{at}"
                );
            }
        }
        run_replicate(&fixture, &spec).unwrap();
        fixture.run_request(ShardRequest::CommitReplica(spec)).unwrap();
        writers.wait_for_writes(20);
        assert_eq!(min_replicas_setting(&fixture, 0), ("1".to_owned(), true), "{at}: the primary was not touched");
        stop_and_check(&mut writers, &fixture, 0);
        assert_replica_complete(&fixture, 2, 0, &writers);
    }
}

#[test]
fn restarted_primaries_without_replicas_reject_writes() {
    let mut fixture = fixture_with_replica(2);
    write_probe(&fixture, 0).unwrap();
    fixture.kill_instance(1);
    wait_until(Duration::from_secs(20), || write_probe(&fixture, 0).is_err_and(|code| code == "NOREPLICAS"));
    fixture.kill_instance(0);
    fixture.restart_instance(0);
    fixture.wait_until_ready(0);
    for _ in 0..50 {
        assert_eq!(write_probe(&fixture, 0).unwrap_err(), "NOREPLICAS");
    }
    // With its replica, it serves.
    fixture.restart_instance(1);
    wait_until(Duration::from_secs(20), || write_probe(&fixture, 0).is_ok());
    assert_eq!(fixture.provision_primary(0).unwrap().action, Action::None);
    assert_eq!(fixture.provision_replica(1, 0).unwrap().action, Action::None);
}

#[test]
fn moved_primaries_require_their_replicas() {
    let mut fixture = fixture_with_replica(3);
    let mut writers = MoveWriters::start_writers(2, &fixture.address(0));
    writers.wait_for_writes(50);
    let spec = fixture.move_spec_with_replicas(0, 2, &[1]);
    let preflight =
        fixture.run_request(ShardRequest::Preflight(PreflightRequest::for_relocation(spec.clone()))).unwrap();
    assert!(matches!(&preflight, ShardReply::Preflight(result) if result.issues.is_empty()), "{preflight:?}");
    run_copy(&fixture, spec.clone()).unwrap();
    // The replicas come over after the promotion; the new owner does not wait for them.
    let mut agent =
        AgentProcess::start_agent(&fixture, &[ShardRequest::CutOver(spec.clone())], Some("promote:after:stop"));
    assert!(agent.wait_for_stop());
    assert_eq!(fixture.writable_instances(), [2]);
    kill_process(agent.pid(), Signal::CONT).unwrap();
    agent.wait_for_exit();
    let Ok(ShardReply::CutOver(switched)) = &read_replies(&fixture)[0] else { panic!("{:?}", read_replies(&fixture)) };
    assert!(switched.follow_ups.is_empty(), "{switched:?}");
    writers.publish_address(&fixture.address(2));
    writers.wait_for_writes(50);
    // In memory and in the file, once the replicas have come over; the source as it was.
    assert_eq!(
        (min_replicas_setting(&fixture, 2), min_replicas_setting(&fixture, 0)),
        (("1".to_owned(), true), ("1".to_owned(), true))
    );
    run_retire(&mut fixture, 0, 2);
    writers.wait_for_writes(50);
    stop_and_check(&mut writers, &fixture, 2);
    assert_replica_complete(&fixture, 1, 2, &writers);
    assert_eq!(fixture.provision_primary(2).unwrap().action, Action::None);
    assert_eq!(fixture.provision_replica(1, 2).unwrap().action, Action::None);
    for n in [1, 2] {
        fixture.kill_instance(n);
    }
    fixture.restart_instance(2);
    fixture.wait_until_ready(2);
    assert_eq!(write_probe(&fixture, 2).unwrap_err(), "NOREPLICAS");
}

#[test]
fn moves_back_keep_the_replica() {
    let mut fixture = fixture_with_replica(3);
    let mut writers = MoveWriters::start_writers(2, &fixture.address(0));
    writers.wait_for_writes(50);
    for (from, to) in [(0, 2), (2, 0)] {
        let spec = fixture.move_spec_with_replicas(from, to, &[1]);
        run_copy(&fixture, spec.clone()).unwrap();
        let ShardReply::CutOver(switched) = fixture.run_request(ShardRequest::CutOver(spec)).unwrap() else { panic!() };
        assert_eq!(switched.follow_ups, Vec::<String>::new());
        writers.publish_address(&fixture.address(to));
        writers.wait_for_writes(50);
        assert_eq!(min_replicas_setting(&fixture, to), ("1".to_owned(), true));
        // The old instance soaks as one more replica.
        wait_until_attached(&fixture, to, 2);
    }
    run_retire(&mut fixture, 2, 0);
    writers.wait_for_writes(50);
    stop_and_check(&mut writers, &fixture, 0);
    assert_replica_complete(&fixture, 1, 0, &writers);
    assert_eq!(fixture.provision_primary(0).unwrap().action, Action::None);
    assert_eq!(fixture.provision_replica(1, 0).unwrap().action, Action::None);
}

#[test]
fn preflight_reports_down_and_unknown_replicas() {
    let mut fixture = fixture_with_replica(3);
    let relocation = fixture.move_spec(0, 2);
    let spec = fixture.move_spec_with_replicas(0, 2, &[1]);
    let rules = |fixture: &MoveFixture, spec: &MoveSpec| match fixture
        .run_request(ShardRequest::Preflight(PreflightRequest::for_relocation(spec.clone())))
        .unwrap()
    {
        ShardReply::Preflight(result) => {
            result.issues.into_iter().map(|refusal| format!("{}: {}", refusal.rule, refusal.reason)).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    let unknown = rules(&fixture, &relocation);
    messages::check("preflight-orphan-replica", unknown.iter().map(|issue| ("move", issue)));
    fixture.kill_instance(1);
    wait_until_attached(&fixture, 0, 0);
    let down = rules(&fixture, &spec);
    messages::check("preflight-replica-down", down.iter().map(|issue| ("move", issue)));
}

#[test]
fn min_replicas_are_set_only_once_replicas_are_attached() {
    let mut fixture = MoveFixture::with_instances(2);
    fixture.provision_primary(0).unwrap();
    let guard = |fixture: &mut MoveFixture, replicas| {
        let instance = fixture.instance_spec(0);
        let arm =
            MinReplicasRequest { header: fixture.job_for(0), address: fixture.instance_address(0), replicas, instance };
        fixture.run_request(ShardRequest::SetMinReplicas(arm))
    };
    let alone = guard(&mut fixture, 1).unwrap_err();
    messages::check("min-replicas-without-replica", [("1 required", format!("{alone:#}"))]);
    assert_eq!(min_replicas_setting(&fixture, 0), ("0".to_owned(), false));
    write_probe(&fixture, 0).unwrap();
    fixture.provision_replica(1, 0).unwrap();
    assert_eq!(guard(&mut fixture, 1).unwrap(), ShardReply::SetMinReplicas(()));
    assert_eq!(min_replicas_setting(&fixture, 0), ("1".to_owned(), true));
    write_probe(&fixture, 0).unwrap();
    assert_eq!(guard(&mut fixture, 0).unwrap(), ShardReply::SetMinReplicas(()));
    assert_eq!(min_replicas_setting(&fixture, 0), ("0".to_owned(), false));
    assert_eq!(fixture.provision_primary(0).unwrap().action, Action::None);
}
