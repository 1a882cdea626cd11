//! Links between a target and its source that are slow to be heard of, or dead: the target makes a new one. And
//! instances that say nothing at all.

use std::fs;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use dunlin::protocol::shard::{JournalQuery, ReplicationRole, ShardReply, ShardRequest};

use crate::fixture::{MoveFixture, SHARD_ID, admin_credentials, app_credentials, connect_admin, connect_as};
use crate::lossy_proxy::{LossDirection, LossyProxy};
use crate::moves::run_copy;

/// So many full and partial syncs a source has given.
fn sync_counts(fixture: &MoveFixture, n: u8) -> [u64; 2] {
    let info: String = redis::cmd("INFO").arg("stats").query(&mut connect_admin(&fixture.address(n)).unwrap()).unwrap();
    let number = |name| info.lines().find_map(|line| line.strip_prefix(name)).unwrap().parse().unwrap();
    [number("sync_full:"), number("sync_partial_ok:")]
}

/// A source that has sent something to a replica before, which is gone: offsets of its stream mean nothing while they
/// are 0.
fn copied_fixture() -> MoveFixture {
    let mut fixture = MoveFixture::with_instances(2);
    fixture.provision_primary(0).unwrap();
    let spec = fixture.move_spec(0, 1);
    run_copy(&fixture, spec.clone()).unwrap();
    set_key(&fixture, 0, "first");
    assert_eq!(fixture.run_request(ShardRequest::Abort(spec)).unwrap(), ShardReply::Abort(()));
    fixture
}

fn set_key(fixture: &MoveFixture, n: u8, key: &str) {
    redis::cmd("SET").arg(key).arg(1).exec(&mut connect_as(&fixture.address(n), &app_credentials()).unwrap()).unwrap();
}

fn has_key(fixture: &MoveFixture, n: u8, key: &str) -> bool {
    redis::cmd("EXISTS").arg(key).query(&mut connect_admin(&fixture.address(n)).unwrap()).unwrap()
}

/// It takes a target up to a second to say that it has its data, and a source counts it as online only then. Here it
/// never hears of it on that link.
#[test]
fn targets_with_data_reconnect_without_waiting_for_a_timeout() {
    let mut fixture = copied_fixture();
    let [full, partial] = sync_counts(&fixture, 0);
    let proxy = LossyProxy::start_proxy(&fixture.address(0));
    proxy.lose_first_link(LossDirection::FromReplica);
    let mut spec = fixture.move_spec(0, 1);
    spec.record.from = proxy.address.parse().unwrap();
    let copied = run_copy(&fixture, spec).unwrap();
    assert!(copied.verification.is_equal());
    assert_eq!(sync_counts(&fixture, 0), [full + 1, partial + 1], "a full sync, and one in part over a new link");
    assert_eq!(proxy.link_count(), 2);
}

/// Neither side notices that the link is dead. Where the target's acknowledgements still arrive, it looks alive to the
/// source as well.
#[test]
fn dead_links_are_replaced_before_comparing() {
    for loss in [LossDirection::All, LossDirection::FromSource] {
        let mut fixture = copied_fixture();
        let proxy = LossyProxy::start_proxy(&fixture.address(0));
        let mut spec = fixture.move_spec(0, 1);
        spec.record.from = proxy.address.parse().unwrap();
        run_copy(&fixture, spec.clone()).unwrap();
        let ([full, partial], links) = (sync_counts(&fixture, 0), proxy.link_count());
        proxy.lose_current_links(loss);
        set_key(&fixture, 0, "later");
        assert!(!has_key(&fixture, 1, "later"), "{loss:?}: nothing of the link was lost");
        run_copy(&fixture, spec).unwrap();
        assert!(has_key(&fixture, 1, "later"), "{loss:?}: it goes on over a link that brings nothing");
        assert_eq!(sync_counts(&fixture, 0), [full, partial + 1], "{loss:?}");
        assert_eq!(proxy.link_count(), links + 1, "{loss:?}");
    }
}

/// A host that died has a source or a target of many shards, each of which is given up after two seconds.
#[test]
fn silent_instances_are_awaited_in_parallel() {
    let mut fixture = MoveFixture::with_instances(2);
    fixture.provision_primary(0).unwrap();
    let spec = fixture.move_spec(0, 1);
    run_copy(&fixture, spec.clone()).unwrap();
    // The kernel accepts, and nobody answers.
    let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let journal = |shard: u16| spec.header.journal_dir.join(format!("shard-{shard}.jsonl"));
    let text = fs::read_to_string(journal(SHARD_ID)).unwrap();
    let text = text.replace(&spec.record.from.to_string(), &silent.local_addr().unwrap().to_string());
    for shard in 100..120 {
        fs::write(journal(shard), &text).unwrap();
    }
    let begin = Instant::now();
    let what = JournalQuery { credentials: admin_credentials(), journal_dir: spec.header.journal_dir.clone() };
    let ShardReply::ListMoves(moves) = fixture.run_request(ShardRequest::ListMoves(what)).unwrap() else { panic!() };
    let took = begin.elapsed();
    assert_eq!(
        moves.iter().map(|state| state.shard.0).collect::<Vec<_>>(),
        [17].into_iter().chain(100..120).collect::<Vec<_>>()
    );
    assert!(matches!(moves[0].source_role, ReplicationRole::Primary { .. }));
    assert!(moves[1..].iter().all(|reported| reported.source_role == ReplicationRole::Unreachable), "{moves:?}");
    assert!(took < Duration::from_secs(20), "{took:?}: one after the other takes forty seconds");
}
