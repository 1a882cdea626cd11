//! A copy whose source sends nothing for longer than `repl-timeout`, as while it compresses a long string.

use dunlin::protocol::shard::{ShardReply, ShardRequest};

use crate::agent_process::AgentProcess;
use crate::fixture::{MoveFixture, connect_admin};
use crate::invariants::info_field;
use crate::moves::{run_copy, run_switch};
use crate::verification::run_line;

/// `repl-timeout` of the instances, in seconds.
const TIMEOUT_S: &str = "2";
/// Bytes of the long string; the copy's timeout is 7 seconds longer for it.
const LONG_STRING: usize = 120 << 20;
/// How long the source's child sleeps after each key, in microseconds.
const KEY_SAVE_DELAY_US: u32 = 4_000_000;

fn fixture_with_long_string() -> MoveFixture {
    let timeout = ("repl-timeout 30", "repl-timeout 2\nrepl-ping-replica-period 1");
    let mut fixture = MoveFixture::with_conf_edits(2, "everysec", vec![timeout]);
    fixture.provision_primary(0).unwrap();
    let mut source = connect_admin(&fixture.address(0)).unwrap();
    redis::cmd("SETRANGE").arg("long").arg(LONG_STRING).arg("end").exec(&mut source).unwrap();
    redis::cmd("SET").arg("short").arg(1).exec(&mut source).unwrap();
    run_line(&mut source, &format!("CONFIG SET rdb-key-save-delay {KEY_SAVE_DELAY_US}"));
    fixture
}

fn timeout_at(fixture: &MoveFixture, n: u8) -> String {
    let mut connection = connect_admin(&fixture.address(n)).unwrap();
    let setting: Vec<String> = redis::cmd("CONFIG").arg(&["GET", "repl-timeout"]).query(&mut connection).unwrap();
    setting[1].clone()
}

#[test]
fn a_copy_survives_a_pause_that_is_longer_than_the_timeout() {
    let mut fixture = fixture_with_long_string();
    let spec = fixture.move_spec(0, 1);
    let copied = run_copy(&fixture, spec.clone()).unwrap();
    assert!(copied.verification.is_equal(), "{copied:?}");
    assert_eq!(info_field(&mut connect_admin(&fixture.address(0)).unwrap(), "stats", "sync_full"), "1");
    assert_eq!([0, 1].map(|n| timeout_at(&fixture, n)), [TIMEOUT_S, TIMEOUT_S]);
    run_switch(&fixture, spec).unwrap();
    assert_eq!(fixture.writable_instances(), [1]);
}

#[test]
fn an_interrupted_copy_leaves_no_longer_timeout() {
    for resumes in [true, false] {
        let mut fixture = fixture_with_long_string();
        let spec = fixture.move_spec(0, 1);
        let mut agent =
            AgentProcess::start_agent(&fixture, &[ShardRequest::Copy(spec.clone())], Some("start_replica:after"));
        assert!(!agent.wait_for_exit().success());
        assert_eq!(timeout_at(&fixture, 0), TIMEOUT_S, "the watch of the copy restores it");
        // As it is where the watch was killed with its agent.
        run_line(&mut connect_admin(&fixture.address(0)).unwrap(), "CONFIG SET repl-timeout 600");
        if resumes {
            run_copy(&fixture, spec).unwrap();
        } else {
            assert_eq!(fixture.run_request(ShardRequest::Abort(spec)).unwrap(), ShardReply::Abort(()));
        }
        assert_eq!(timeout_at(&fixture, 0), TIMEOUT_S, "resumed: {resumes}");
    }
}
