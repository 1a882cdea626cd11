//! A copy takes the place of a primary that is gone.

use std::thread;
use std::time::Duration;

use dunlin::protocol::shard::failover::{
    InstanceRef, LowerMinReplicasRequest, ProbeResult, ProbeTarget, PromoteReplica, PromoteResult, ReplicaProbeRequest,
};
use dunlin::protocol::shard::{
    Credentials, JournalQuery, MoveRecord, Operation, ReplicationRole, ShardReply, ShardRequest, StepHeader,
};
use dunlin::rebalance::host::handle_request;
use redis::Connection;
use rustix::process::{Signal, kill_process};

use crate::agent_process::{AgentProcess, read_replies};
use crate::fixture::{
    MoveFixture, RecordedNotes, SHARD_ID, admin_credentials, app_credentials, connect_admin, connect_as, wait_until,
};
use crate::messages;
use crate::moves::{run_copy, run_switch};
use crate::writers::MoveWriters;
use dunlin_shards::ShardId;

/// As shipped for shards with replicas, but that a primary misses its replicas sooner.
const MIN_REPLICAS_EDIT: (&str, &str) = ("min-replicas-max-lag 5", "min-replicas-max-lag 1\nmin-replicas-to-write 1");

/// A primary at 0, and replicas of it in sync.
fn start_cluster(replicas: u8) -> MoveFixture {
    cluster_with_spares(replicas, 0)
}

/// The same, and places where nothing is yet.
fn cluster_with_spares(replicas: u8, spares: u8) -> MoveFixture {
    let mut fixture = MoveFixture::with_conf_edits(replicas + 1 + spares, "always", vec![MIN_REPLICAS_EDIT]);
    fixture.provision_primary(0).unwrap();
    for n in 1..=replicas {
        fixture.provision_replica(n, 0).unwrap();
    }
    wait_until(Duration::from_secs(20), || {
        info_field(&fixture, 0, "replication", "connected_slaves") == replicas.to_string()
    });
    wait_until(Duration::from_secs(20), || {
        (1..=replicas).all(|n| info_field(&fixture, n, "persistence", "aof_rewrite_in_progress") == "0")
    });
    fixture
}

fn info_field(fixture: &MoveFixture, n: u8, section: &str, name: &str) -> String {
    let ask = |mut connection: Connection| redis::cmd("INFO").arg(section).query::<String>(&mut connection);
    let text = connect_admin(&fixture.address(n)).and_then(ask).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_default().to_owned()
}

fn set_config(fixture: &MoveFixture, n: u8, words: &[&str]) {
    redis::cmd("CONFIG").arg(words).exec(&mut connect_admin(&fixture.address(n)).unwrap()).unwrap();
}

fn role_of(fixture: &MoveFixture, n: u8) -> ReplicationRole {
    probe_instance(fixture, n, None).role
}

fn probe_instance(fixture: &MoveFixture, n: u8, primary: Option<u8>) -> ProbeResult {
    let place = ProbeTarget {
        shard: ShardId(SHARD_ID),
        address: fixture.instance_address(n),
        primary: primary.map(|n| fixture.instance_address(n)),
    };
    let journals = fixture.instance_root(n).join("moves");
    match fixture.run_request(ShardRequest::ProbeReplicas(ReplicaProbeRequest {
        targets: vec![place],
        credentials: admin_credentials(),
        journal_dir: journals,
    })) {
        Ok(ShardReply::ProbeReplicas(mut seen)) => seen.remove(0),
        other => panic!("{other:?}"),
    }
}

fn promote_request(fixture: &mut MoveFixture, to: u8, others: &[u8]) -> PromoteReplica {
    let other_replicas = others.iter().map(|n| fixture.instance_address(*n)).collect();
    PromoteReplica {
        header: fixture.job_for(to),
        record: MoveRecord { operation: Operation::Failover { other_replicas }, ..fixture.move_record(0, to, &[]) },
        offset: 0,
        old_primary_is_stopped: false,
    }
}

fn instance_handle(fixture: &mut MoveFixture, n: u8, owner: u8) -> InstanceRef {
    InstanceRef {
        header: fixture.job_for(n),
        address: fixture.instance_address(n),
        primary: fixture.instance_address(owner),
        epoch: 8,
        instance: fixture.instance_spec(n),
    }
}

fn run_promote(fixture: &MoveFixture, what: &PromoteReplica) -> anyhow::Result<PromoteResult> {
    match fixture.run_request(ShardRequest::Promote(what.clone()))? {
        ShardReply::Promote(promoted) => Ok(promoted),
        other => panic!("{other:?}"),
    }
}

/// Writes until some are acknowledged, and waits until all replicas have all of it.
fn write_and_stop(fixture: &MoveFixture, replicas: u8) -> MoveWriters {
    let mut writers = MoveWriters::start_writers(2, &fixture.address(0));
    writers.wait_for_writes(100);
    writers.stop_writers();
    let end = info_field(fixture, 0, "replication", "master_repl_offset");
    wait_until(Duration::from_secs(20), || {
        (1..=replicas).all(|n| info_field(fixture, n, "replication", "slave_repl_offset") == end)
    });
    writers
}

#[test]
fn promoted_replicas_have_all_writes_and_the_others_follow() {
    let mut fixture = start_cluster(2);
    let written = write_and_stop(&fixture, 2);
    // Readers at the copy are sent away; they come back to the new primary.
    let mut reader = connect_as(&fixture.address(1), &app_credentials()).unwrap();
    redis::cmd("PING").exec(&mut reader).unwrap();
    fixture.kill_instance(0);
    let seen = probe_instance(&fixture, 1, Some(0));
    assert_eq!(
        (seen.primary_role, seen.is_syncing, seen.is_durable, seen.min_replicas),
        (ReplicationRole::Unreachable, false, true, 1)
    );
    let what = promote_request(&mut fixture, 1, &[2]);
    let promoted = run_promote(&fixture, &what).unwrap();
    assert!(!promoted.already_promoted && promoted.waited_ms >= 4000, "{promoted:?}");
    assert!(redis::cmd("PING").exec(&mut reader).is_err());
    assert_eq!(fixture.writable_instances(), [1]);
    assert_eq!(written.lost_writes(&fixture.address(1)), Vec::<String>::new());
    written.check_counters(&fixture.address(1));
    wait_until(Duration::from_secs(20), || {
        matches!(role_of(&fixture, 2), ReplicationRole::Replica { link_is_up: true, .. })
    });
    assert_eq!(info_field(&fixture, 1, "stats", "sync_partial_ok"), "1", "the other copy took only what it lacked");
    assert_eq!(probe_instance(&fixture, 1, None).min_replicas, 1, "it goes on with one replica");
    assert!(run_promote(&fixture, &what).unwrap().already_promoted);
    // By the new map there is nothing to provision, and all of it survives restarts.
    assert!(!fixture.provision_primary(1).unwrap().action.is_pending());
    fixture.kill_instance(1);
    fixture.restart_instance(1);
    wait_until(Duration::from_secs(20), || fixture.writable_instances() == [1]);

    // The old one comes back: it takes no write, and is set aside with its files.
    fixture.restart_instance(0);
    fixture.wait_until_ready(0);
    assert!(matches!(role_of(&fixture, 0), ReplicationRole::Primary { .. }));
    assert_eq!(fixture.writable_instances(), [1]);
    let old = instance_handle(&mut fixture, 0, 1);
    let ShardReply::ArchiveInstance(aside) = fixture.run_request(ShardRequest::ArchiveInstance(old.clone())).unwrap()
    else {
        panic!()
    };
    let kept = aside.archive_dir.unwrap();
    assert!(kept.join("REPLACED-BY").is_file() && kept.join("appendonlydir").is_dir(), "{}", kept.display());
    assert_eq!((aside.bytes_ahead, fixture.read_pid(0)), (None, None), "it was started again");
    let ShardReply::ArchiveInstance(again) = fixture.run_request(ShardRequest::ArchiveInstance(old)).unwrap() else {
        panic!()
    };
    assert_eq!(again.archive_dir, None);
    // The owner itself is never set aside, nor by somebody whose map is older than its promotion.
    let stale = InstanceRef { epoch: 7, primary: fixture.instance_address(2), ..instance_handle(&mut fixture, 1, 2) };
    let owner = instance_handle(&mut fixture, 1, 1);
    let archive = |instance| fixture.run_request(ShardRequest::ArchiveInstance(instance)).unwrap_err();
    messages::check("archive-of-the-primary", [("older map", archive(stale)), ("its own map", archive(owner))]);
}

#[test]
fn the_last_replica_accepts_writes_alone() {
    let mut fixture = start_cluster(1);
    let written = write_and_stop(&fixture, 1);
    fixture.kill_instance(0);
    // Its own host stops the old one for good: nobody has to wait.
    let old = instance_handle(&mut fixture, 0, 1);
    assert_eq!(fixture.run_request(ShardRequest::StopOldPrimary(old)).unwrap(), ShardReply::StopOldPrimary(()));
    let what = PromoteReplica { old_primary_is_stopped: true, ..promote_request(&mut fixture, 1, &[]) };
    // Where it is waited, that takes four seconds; a busy disk may take one to note the step.
    assert!(run_promote(&fixture, &what).unwrap().waited_ms < 3000);
    assert_eq!((fixture.writable_instances(), probe_instance(&fixture, 1, None).min_replicas), (vec![1], 0));
    assert_eq!(written.lost_writes(&fixture.address(1)), Vec::<String>::new());
    fixture.kill_instance(1);
    fixture.restart_instance(1);
    // Between two of its files an instance says for a moment that it has loaded.
    wait_until(Duration::from_secs(20), || fixture.writable_instances() == [1]);
}

#[test]
fn reachable_primaries_are_not_stopped_or_failed_over() {
    let mut fixture = start_cluster(1);
    assert!(matches!(probe_instance(&fixture, 1, Some(0)).primary_role, ReplicationRole::Primary { .. }));
    let what = promote_request(&mut fixture, 1, &[]);
    messages::check("failover-of-a-live-primary", [("promote", run_promote(&fixture, &what).unwrap_err())]);
    let old = instance_handle(&mut fixture, 0, 1);
    let refused = fixture.run_request(ShardRequest::StopOldPrimary(old)).unwrap_err();
    messages::check("stop-of-a-live-primary", [("stop", refused)]);
    assert!(
        !what.header.journal_dir.join(format!("shard-{SHARD_ID}.jsonl")).exists()
            || probe_instance(&fixture, 1, None).failover.is_none()
    );
    // A copy that is not as far as the plan saw it.
    fixture.kill_instance(0);
    let later = PromoteReplica { offset: u64::MAX, ..what };
    messages::check("failover-outdated-plan", [("promote", run_promote(&fixture, &later).unwrap_err())]);
    assert!(matches!(role_of(&fixture, 1), ReplicationRole::Replica { .. }));
}

#[test]
fn primaries_that_return_in_time_keep_their_shard() {
    let mut fixture = start_cluster(2);
    let written = write_and_stop(&fixture, 2);
    fixture.kill_instance(0);
    let what = promote_request(&mut fixture, 1, &[2]);
    let contents = std::mem::take(&mut fixture.contents);
    let request = ShardRequest::Promote(what.clone());
    let ended = thread::scope(|scope| {
        let promoting = scope.spawn(|| handle_request(request, &contents, &RecordedNotes::default()));
        wait_until(Duration::from_secs(20), || matches!(role_of(&fixture, 1), ReplicationRole::Primary { .. }));
        assert_eq!(fixture.writable_instances(), Vec::<u8>::new(), "closed");
        let instance: dunlin::resources::redis_shard::RedisShard =
            serde_json::from_value(instance_handle(&mut fixture, 0, 1).instance).unwrap();
        instance.start_instance().unwrap();
        promoting.join().unwrap()
    });
    messages::check("failover-of-a-primary-that-returned", [("promote", format!("{:#}", ended.unwrap_err()))]);
    wait_until(Duration::from_secs(20), || fixture.writable_instances() == [0]);
    wait_until(Duration::from_secs(20), || info_field(&fixture, 0, "replication", "connected_slaves") == "2");
    assert_eq!(written.lost_writes(&fixture.address(0)), Vec::<String>::new());
    let seen = probe_instance(&fixture, 1, Some(0)).failover.unwrap();
    assert!(seen.is_finished && !seen.promotion_started);
    // Gone once more, and this time it stays away.
    fixture.kill_instance(0);
    run_promote(&fixture, &what).unwrap();
    assert_eq!(fixture.writable_instances(), [1]);
}

#[test]
fn users_in_memory_only_are_closed_like_the_others() {
    let mut fixture = start_cluster(1);
    write_and_stop(&fixture, 1);
    let mut admin = connect_admin(&fixture.address(1)).unwrap();
    redis::cmd("ACL").arg(&["SETUSER", "extra", "on", ">word", "~*", "+@all"]).exec(&mut admin).unwrap();
    let login = Credentials { user: "extra".to_owned(), password: "word".to_owned(), tls_ca: None };
    let mut client = connect_as(&fixture.address(1), &login).unwrap();
    redis::cmd("PING").exec(&mut client).unwrap();
    fixture.kill_instance(0);
    let request = promote_request(&mut fixture, 1, &[]);
    run_promote(&fixture, &request).unwrap();
    redis::cmd("SET").arg("key").arg(1).exec(&mut client).unwrap_err();
    assert!(connect_as(&fixture.address(1), &login).is_err());
    connect_as(&fixture.address(1), &app_credentials()).unwrap();
}

#[test]
fn agents_killed_at_any_step_leave_at_most_one_writable_instance() {
    let steps = [
        "prepare_standby:before",
        "prepare_standby:after",
        "demote_source:before",
        "demote_source:after",
        "promote:before",
        "promote:after",
    ];
    let later = ["finalize:before", "finalize:after"];
    for (number, at) in steps.into_iter().chain(later).enumerate() {
        let mut fixture = start_cluster(2);
        let written = write_and_stop(&fixture, 2);
        fixture.kill_instance(0);
        let what = promote_request(&mut fixture, 1, &[2]);
        let mut agent = AgentProcess::start_agent(&fixture, &[ShardRequest::Promote(what.clone())], Some(at));
        assert!(!agent.wait_for_exit().success(), "{at}: {:?}", read_replies(&fixture));
        // The copy is killed too, every other time; by its files it is closed or open.
        if number % 2 == 0 {
            fixture.kill_instance(1);
            fixture.restart_instance(1);
            fixture.wait_until_ready(1);
        }
        let open = number >= 5;
        wait_until(Duration::from_secs(20), || fixture.writable_instances() == if open { vec![1] } else { vec![] });
        let seen = probe_instance(&fixture, 1, None).failover.unwrap();
        assert_eq!((seen.promotion_started, &seen.from), (number >= 4, &what.record.from), "{at}");
        run_promote(&fixture, &what).unwrap();
        assert_eq!(fixture.writable_instances(), [1], "{at}");
        fixture.restart_instance(0);
        fixture.wait_until_ready(0);
        assert_eq!(fixture.writable_instances(), [1], "{at}");
        assert_eq!(written.lost_writes(&fixture.address(1)), Vec::<String>::new(), "{at}");
    }
}

#[test]
fn interrupted_failovers_are_rolled_back_when_the_primary_returns() {
    let mut fixture = start_cluster(1);
    fixture.kill_instance(0);
    let what = promote_request(&mut fixture, 1, &[]);
    let mut agent =
        AgentProcess::start_agent(&fixture, &[ShardRequest::Promote(what.clone())], Some("demote_source:before"));
    assert!(!agent.wait_for_exit().success());
    let refused = fixture.run_request(ShardRequest::RevertFailover(what.clone())).unwrap_err().to_string();
    messages::check("revert-without-a-primary", [("revert", refused)]);
    fixture.restart_instance(0);
    fixture.wait_until_ready(0);
    assert_eq!(fixture.writable_instances(), Vec::<u8>::new(), "without its replica the primary takes no write");
    assert_eq!(
        fixture.run_request(ShardRequest::RevertFailover(what.clone())).unwrap(),
        ShardReply::RevertFailover(())
    );
    wait_until(Duration::from_secs(20), || fixture.writable_instances() == [0]);
    assert_eq!(fixture.run_request(ShardRequest::RevertFailover(what)).unwrap(), ShardReply::RevertFailover(()));
    assert!(!fixture.provision_replica(1, 0).unwrap().action.is_pending());
}

#[test]
fn writes_only_on_the_old_primary_are_reported_and_archived() {
    let mut fixture = start_cluster(1);
    let _written = write_and_stop(&fixture, 1);
    // The link of the copy breaks, but the primary continues, as one without required replicas does.
    set_config(&fixture, 0, &["SET", "min-replicas-to-write", "0"]);
    set_config(&fixture, 1, &["SET", "masterauth", "wrong"]);
    redis::cmd("CLIENT")
        .arg(&["KILL", "TYPE", "MASTER"])
        .exec(&mut connect_admin(&fixture.address(1)).unwrap())
        .unwrap();
    wait_until(Duration::from_secs(20), || info_field(&fixture, 0, "replication", "connected_slaves") == "0");
    let before: u64 = info_field(&fixture, 0, "replication", "master_repl_offset").parse().unwrap();
    redis::cmd("SET")
        .arg("alone")
        .arg(1)
        .exec(&mut connect_as(&fixture.address(0), &app_credentials()).unwrap())
        .unwrap();
    let after: u64 = info_field(&fixture, 0, "replication", "master_repl_offset").parse().unwrap();
    let old = fixture.read_pid(0).unwrap();
    kill_process(old, Signal::STOP).unwrap();
    let what = promote_request(&mut fixture, 1, &[]);
    run_promote(&fixture, &what).unwrap();
    kill_process(old, Signal::CONT).unwrap();
    let handle = instance_handle(&mut fixture, 0, 1);
    let ShardReply::ArchiveInstance(aside) = fixture.run_request(ShardRequest::ArchiveInstance(handle)).unwrap() else {
        panic!()
    };
    assert!(after > before, "the write is in the stream");
    assert_eq!(aside.bytes_ahead, Some(after - before));
    assert_eq!(fixture.writable_instances(), [1]);
}

#[test]
fn min_replicas_are_lowered_after_a_replica_dies() {
    let mut fixture = start_cluster(1);
    fixture.kill_instance(1);
    wait_until(Duration::from_secs(20), || fixture.writable_instances().is_empty());
    let primary = instance_handle(&mut fixture, 0, 0);
    assert_eq!(
        fixture.run_request(ShardRequest::LowerMinReplicas(LowerMinReplicasRequest { primary, replicas: 0 })).unwrap(),
        ShardReply::LowerMinReplicas(())
    );
    assert_eq!(fixture.writable_instances(), [0]);
    fixture.kill_instance(0);
    fixture.restart_instance(0);
    wait_until(Duration::from_secs(20), || fixture.writable_instances() == [0]);
}

#[test]
fn moves_are_aborted_before_the_cutover_only() {
    let mut fixture = cluster_with_spares(1, 1);
    let written = write_and_stop(&fixture, 1);
    let spec = fixture.move_spec_with_replicas(0, 2, &[1]);
    run_copy(&fixture, spec.clone()).unwrap();
    fixture.kill_instance(0);
    let handle = instance_handle(&mut fixture, 2, 0);
    assert_eq!(fixture.run_request(ShardRequest::DiscardMove(handle)).unwrap(), ShardReply::DiscardMove(()));
    let what = promote_request(&mut fixture, 1, &[2]);
    run_promote(&fixture, &what).unwrap();
    assert_eq!(fixture.writable_instances(), [1]);
    wait_until(Duration::from_secs(20), || {
        matches!(role_of(&fixture, 2), ReplicationRole::Replica { link_is_up: true, .. })
    });
    assert_eq!(written.lost_writes(&fixture.address(1)), Vec::<String>::new());
    let moves = JournalQuery { credentials: admin_credentials(), journal_dir: spec.header.journal_dir.clone() };
    let ShardReply::ListMoves(moves) = fixture.run_request(ShardRequest::ListMoves(moves)).unwrap() else { panic!() };
    assert!(moves[0].is_finished, "{moves:?}");

    let mut fixture = cluster_with_spares(1, 1);
    let spec = fixture.move_spec_with_replicas(0, 2, &[1]);
    run_copy(&fixture, spec.clone()).unwrap();
    let mut agent = AgentProcess::start_agent(&fixture, &[ShardRequest::CutOver(spec)], Some("demote_source:after"));
    assert!(!agent.wait_for_exit().success());
    fixture.kill_instance(0);
    let handle = instance_handle(&mut fixture, 2, 0);
    let refused = fixture.run_request(ShardRequest::DiscardMove(handle)).unwrap_err().to_string();
    messages::check("discard-of-a-possible-primary", [("discard", refused)]);
}

#[test]
fn replicas_can_be_promoted_again_after_a_move_back() {
    let mut fixture = start_cluster(1);
    drop(write_and_stop(&fixture, 1));
    fixture.kill_instance(0);
    let what = promote_request(&mut fixture, 1, &[]);
    assert!(!run_promote(&fixture, &what).unwrap().already_promoted);
    fixture.restart_instance(0);
    fixture.wait_until_ready(0);
    let old = instance_handle(&mut fixture, 0, 1);
    fixture.run_request(ShardRequest::ArchiveInstance(old)).unwrap();
    let mut back = fixture.move_spec(1, 0);
    back.header.run = "back".to_owned();
    run_copy(&fixture, back.clone()).unwrap();
    run_switch(&fixture, back).unwrap();
    wait_until(Duration::from_secs(20), || {
        matches!(role_of(&fixture, 1), ReplicationRole::Replica { link_is_up: true, .. })
    });
    let written = write_and_stop(&fixture, 1);
    fixture.kill_instance(0);
    let again = PromoteReplica { header: StepHeader { run: "again".to_owned(), ..what.header }, ..what };
    let promoted = run_promote(&fixture, &again).unwrap();
    assert!(!promoted.already_promoted && promoted.waited_ms >= 4000, "{promoted:?}");
    assert_eq!(fixture.writable_instances(), [1]);
    assert_eq!(written.lost_writes(&fixture.address(1)), Vec::<String>::new());
}
