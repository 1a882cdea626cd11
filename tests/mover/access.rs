//! A copy that is not opened yet lets no user of the application write, whatever its name.

use dunlin::wire::shard::{Credentials, Request};

use crate::child::Agent;
use crate::moves::{copy, switch};
use crate::places::{Places, admin, app, connect};

/// A second user of the application, which the shard map does not know.
fn batch() -> Credentials {
    Credentials { user: "batch".to_owned(), password: "batchword".to_owned() }
}

fn with_two_users(count: u8) -> Places {
    let line = "user batch on >batchword ~* resetchannels -@all +@read +@write +ping\nuser s017 on";
    let mut places = Places::edited(count, "always", vec![("user s017 on", line)]);
    places.provision(0).unwrap();
    places
}

/// Writes as one of the users.
fn write(places: &Places, n: u8, user: &Credentials) -> redis::RedisResult<()> {
    redis::cmd("INCR").arg("by-batch").exec(&mut connect(&places.address(n), user)?)
}

#[test]
fn a_target_that_stands_by_and_is_restarted_lets_no_user_write() {
    let mut places = with_two_users(2);
    write(&places, 0, &batch()).unwrap();
    let spec = places.spec(0, 1);
    let requests = [Request::Copy(spec.clone()), Request::Switch(spec.clone())];
    Agent::start(&places, &requests, Some("pause:before")).wait();
    places.kill(1);
    places.restart(1);
    places.await_answer(1);
    let role: Vec<redis::Value> = redis::cmd("ROLE").query(&mut admin(&places.address(1)).unwrap()).unwrap();
    assert_eq!(role[0], redis::Value::BulkString(b"master".to_vec()), "it stands by as a primary");
    for user in [app(), batch()] {
        assert!(connect(&places.address(1), &user).is_err(), "{} is let in", user.user);
    }
    places.recover(0, 1);
    copy(&places, spec.clone()).unwrap();
    switch(&places, spec).unwrap();
    for user in [app(), batch()] {
        write(&places, 1, &user).unwrap();
        write(&places, 0, &user).unwrap_err();
    }
    // By its file too.
    places.kill(1);
    places.restart(1);
    places.await_answer(1);
    write(&places, 1, &batch()).unwrap();
}

#[test]
fn a_new_replica_is_open_to_all_users_once_it_is_made() {
    let mut places = with_two_users(2);
    let spec = places.replica_spec(0, 1, None);
    places.handle(Request::Replicate(spec)).unwrap();
    for user in [app(), batch()] {
        let read = |user: &Credentials| redis::cmd("GET").arg("x").exec(&mut connect(&places.address(1), user)?);
        read(&user).unwrap();
    }
}
