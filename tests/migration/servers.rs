//! Moves between servers of different versions: upward under writes, downward refused.
//!
//! `DUNLIN_TEST_NEWER_SERVER=/usr/bin/valkey-server` names a server that is newer than that of `DUNLIN_TEST_SERVER`.
//! Without it the tests of mixed versions are ignored: no package has two servers. `script/torture --server` runs them.

use dunlin::protocol::shard::{PreflightIssue, PreflightRequest, ShardReply, ShardRequest};
use dunlin::resources::redis_shard::RedisShard;

use crate::fixture::{MoveFixture, connect_admin};
use crate::invariants::info_field;
use crate::messages;
use crate::moves::{run_copy, run_retire, run_switch};
use crate::verification::fill_all_types;
use crate::writers::{MoveWriters, stop_and_check};

pub fn newer_server() -> String {
    std::env::var("DUNLIN_TEST_NEWER_SERVER").expect("DUNLIN_TEST_NEWER_SERVER names a server program")
}

pub fn run_preflight(fixture: &mut MoveFixture, from: u8, to: u8) -> Vec<PreflightIssue> {
    let request = PreflightRequest::for_relocation(fixture.move_spec(from, to));
    match fixture.run_request(ShardRequest::Preflight(request)).unwrap() {
        ShardReply::Preflight(result) => result.issues,
        other => panic!("{other:?}"),
    }
}

#[test]
#[ignore = "needs a second server: DUNLIN_TEST_NEWER_SERVER"]
fn shards_move_to_a_newer_server_and_not_back() {
    let mut fixture = MoveFixture::with_instances(2);
    fixture.set_server(1, &newer_server());
    fixture.provision_primary(0).unwrap();
    fill_all_types(&fixture);
    let mut writers = MoveWriters::start_writers(4, &fixture.address(0));
    writers.wait_for_writes(200);
    assert_eq!(run_preflight(&mut fixture, 0, 1), []);
    let spec = fixture.move_spec(0, 1);
    let copied = run_copy(&fixture, spec.clone()).unwrap();
    assert!(copied.verification.keys >= 607 && copied.verification.is_equal(), "{:?}", copied.verification);
    writers.reset_gaps();
    let switched = run_switch(&fixture, spec).unwrap();
    assert!(!switched.already_cut_over, "{switched:?}");
    writers.publish_address(&fixture.address(1));
    writers.wait_for_writes(200);
    assert_eq!(fixture.writable_instances(), [1]);
    assert!(switched.gap_us < 200_000, "{switched:?}");
    run_retire(&mut fixture, 0, 1);
    stop_and_check(&mut writers, &fixture, 1);

    let issues = run_preflight(&mut fixture, 1, 0);
    let issue = issues.iter().find(|issue| issue.rule.as_str() == "version");
    assert!(issue.is_some(), "{issues:?}");
}

#[test]
fn an_instance_that_is_started_by_several_has_one_process() {
    let mut fixture = MoveFixture::with_instances(1);
    fixture.provision_primary(0).unwrap();
    for _ in 0..5 {
        fixture.kill_instance(0);
        let instance: RedisShard = serde_json::from_value(fixture.instance_spec(0)).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| instance.start_instance().unwrap());
            }
        });
        fixture.wait_until_ready(0);
        let server = info_field(&mut connect_admin(&fixture.address(0)).unwrap(), "server", "process_id");
        let pid = fixture.read_pid(0).map(|pid| pid.as_raw_nonzero().to_string());
        assert_eq!(pid, Some(server), "redis.pid names the process that serves");
    }
}

#[test]
fn a_server_that_is_not_installed_is_an_issue() {
    let mut fixture = MoveFixture::with_instances(2);
    fixture.provision_primary(0).unwrap();
    fixture.set_server(1, "/nonexistent/valkey-server");
    let issues = run_preflight(&mut fixture, 0, 1);
    messages::check("preflight-server-not-installed", issues.iter().map(|issue| (issue.rule.as_str(), &issue.reason)));
}
