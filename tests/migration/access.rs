//! A copy that is not opened yet lets no user of the application write, whatever its name.

use dunlin::protocol::shard::{Credentials, ShardRequest};

use crate::agent_process::AgentProcess;
use crate::fixture::{MoveFixture, app_credentials, connect_admin, connect_as};
use crate::moves::{run_copy, run_switch};

/// A second user of the application, which the shard map does not know.
fn batch() -> Credentials {
    Credentials { user: "batch".to_owned(), password: "batchword".to_owned(), tls_ca: None }
}

fn with_two_users(count: u8) -> MoveFixture {
    let line = "user batch on >batchword ~* resetchannels -@all +@read +@write +ping\nuser s017 on";
    let mut fixture = MoveFixture::with_conf_edits(count, "always", vec![("user s017 on", line)]);
    fixture.provision_primary(0).unwrap();
    fixture
}

/// Writes as one of the users.
fn write(fixture: &MoveFixture, n: u8, user: &Credentials) -> redis::RedisResult<()> {
    redis::cmd("INCR").arg("by-batch").exec(&mut connect_as(&fixture.address(n), user)?)
}

#[test]
fn a_target_that_stands_by_and_is_restarted_lets_no_user_write() {
    let mut fixture = with_two_users(2);
    write(&fixture, 0, &batch()).unwrap();
    let spec = fixture.move_spec(0, 1);
    let requests = [ShardRequest::Copy(spec.clone()), ShardRequest::CutOver(spec.clone())];
    AgentProcess::start_agent(&fixture, &requests, Some("pause:before")).wait_for_exit();
    fixture.kill_instance(1);
    fixture.restart_instance(1);
    fixture.wait_until_ready(1);
    let role: Vec<redis::Value> = redis::cmd("ROLE").query(&mut connect_admin(&fixture.address(1)).unwrap()).unwrap();
    assert_eq!(role[0], redis::Value::BulkString(b"master".to_vec()), "it stands by as a primary");
    for user in [app_credentials(), batch()] {
        assert!(connect_as(&fixture.address(1), &user).is_err(), "{} is let in", user.user);
    }
    fixture.run_recover(0, 1);
    run_copy(&fixture, spec.clone()).unwrap();
    run_switch(&fixture, spec).unwrap();
    for user in [app_credentials(), batch()] {
        write(&fixture, 1, &user).unwrap();
        write(&fixture, 0, &user).unwrap_err();
    }
    // By its file too.
    fixture.kill_instance(1);
    fixture.restart_instance(1);
    fixture.wait_until_ready(1);
    write(&fixture, 1, &batch()).unwrap();
}

#[test]
fn a_new_replica_is_open_to_all_users_once_it_is_made() {
    let mut fixture = with_two_users(2);
    let spec = fixture.replica_spec(0, 1, None);
    fixture.run_request(ShardRequest::CreateReplica(spec)).unwrap();
    for user in [app_credentials(), batch()] {
        let read = |user: &Credentials| redis::cmd("GET").arg("x").exec(&mut connect_as(&fixture.address(1), user)?);
        read(&user).unwrap();
    }
}

#[test]
fn a_user_that_exists_in_memory_only_cannot_use_a_target_on_standby() {
    let mut fixture = with_two_users(2);
    let spec = fixture.move_spec(0, 1);
    run_copy(&fixture, spec.clone()).unwrap();
    let extra = Credentials { user: "extra".to_owned(), password: "p".to_owned(), tls_ca: None };
    redis::cmd("ACL")
        .arg(&["SETUSER", "extra", "on", ">p", "~*", "+@all"])
        .exec(&mut connect_admin(&fixture.address(1)).unwrap())
        .unwrap();
    assert!(connect_as(&fixture.address(1), &extra).is_ok());
    AgentProcess::start_agent(&fixture, &[ShardRequest::CutOver(spec)], Some("pause:before")).wait_for_exit();
    assert!(connect_as(&fixture.address(1), &extra).is_err());
}
