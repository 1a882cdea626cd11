//! Replicas: made, replaced, taken back under writes; and what a primary without them accepts.

use std::fs;
use std::time::Duration;

use dunlin::plan::Action;
use dunlin::wire::shard::{Arm, Copied, MoveSpec, Moves, Reply, Request};
use redis::Connection;
use rustix::process::{Signal, kill_process};

use crate::child::{Agent, replies};
use crate::moves::{copy, retire};
use crate::places::{Places, admin, app, connect, credentials, within};
use crate::writers::{Writers, stop_and_check};

fn replicate(places: &Places, spec: &MoveSpec) -> anyhow::Result<Copied> {
    match places.handle(Request::Replicate(spec.clone()))? {
        Reply::Copied(copied) => Ok(copied),
        other => panic!("{other:?}"),
    }
}

/// Hosts whose primary needs one replica, from the beginning; host 1 has it, and it is attached.
fn with_a_replica(count: u8) -> Places {
    let mut places = Places::new(count);
    places.needed = 1;
    places.provision_replica(1, 0).unwrap();
    places.provision(0).unwrap();
    attached(&places, 0, 1);
    places
}

fn setting(places: &Places, n: u8, name: &str) -> String {
    let pair: Vec<String> =
        redis::cmd("CONFIG").arg("GET").arg(name).query(&mut admin(&places.address(n)).unwrap()).unwrap();
    pair[1].clone()
}

/// What a primary needs: in memory, and is it 1 in its file?
pub fn needed(places: &Places, n: u8) -> (String, bool) {
    let file = fs::read_to_string(places.conf_path(n)).unwrap();
    (setting(places, n, "min-replicas-to-write"), file.contains("\nmin-replicas-to-write 1"))
}

/// Waits until a primary counts so many replicas as good.
fn attached(places: &Places, n: u8, count: usize) {
    let mut connection = admin(&places.address(n)).unwrap();
    within(Duration::from_secs(20), || {
        let info: String = redis::cmd("INFO").arg("replication").query(&mut connection).unwrap();
        info.lines().filter(|line| line.contains("state=online") && line.contains("lag=")).count() == count
    });
}

fn write(places: &Places, n: u8) -> Result<(), String> {
    let mut client = connect(&places.address(n), &app()).unwrap();
    let written = redis::cmd("SET").arg("probe").arg(n).exec(&mut client);
    written.map_err(|error| error.code().unwrap_or_default().to_owned())
}

/// What was acknowledged is at the replica once it has caught up.
pub fn has_everything(places: &Places, replica: u8, owner: u8, writers: &Writers) {
    let size = |n| redis::cmd("DBSIZE").query::<u64>(&mut admin(&places.address(n)).unwrap()).unwrap();
    let offset = |connection: &mut Connection| {
        let info: String = redis::cmd("INFO").arg("replication").query(connection).unwrap();
        info.lines().find_map(|line| line.strip_prefix("master_repl_offset:")?.parse::<u64>().ok()).unwrap()
    };
    let (mut one, mut other) = (admin(&places.address(replica)).unwrap(), admin(&places.address(owner)).unwrap());
    within(Duration::from_secs(20), || offset(&mut one) == offset(&mut other));
    assert_eq!(size(replica), size(owner));
    assert_eq!(writers.lost(&places.address(replica)), Vec::<String>::new());
}

#[test]
fn a_replica_is_made_and_takes_the_place_of_another_and_no_write_is_held() {
    let mut places = with_a_replica(3);
    let mut writers = Writers::start(2, &places.address(0));
    writers.write_on(100);
    let spec = places.replica_spec(0, 2, Some(1));
    let copied = replicate(&places, &spec).unwrap();
    assert!(copied.verified.keys >= 2 && copied.verified.is_equal(), "{copied:?}");
    assert_eq!(replicate(&places, &spec).unwrap().verified, Default::default(), "it was found equal already");
    // Open to readers, closed to writers, and as provisioning wants it.
    assert_eq!(write(&places, 2).unwrap_err(), "READONLY");
    assert_eq!(places.provision_replica(2, 0).unwrap().action, Action::None);
    // The map names it now.
    for _ in 0..2 {
        let kept = places.handle(Request::Keep(MoveSpec { epoch: 11, ..spec.clone() })).unwrap();
        assert_eq!(kept, Reply::Kept);
    }
    assert_eq!(replicate(&places, &spec).unwrap(), Copied::default());
    let what = Moves { credentials: credentials(), journals: spec.job.journals.clone() };
    let Reply::Moves(moves) = places.handle(Request::Moves(what)).unwrap() else { panic!() };
    assert_eq!((moves[0].finished, moves[0].epoch), (true, 11), "the epoch that named it");
    let named = places.handle(Request::Abort(spec)).unwrap_err();
    assert!(format!("{named:#}").contains("the map names the replica"), "{named:#}");
    assert!(retire(&mut places, 1, 0).kept.is_some());
    writers.write_on(100);
    assert_eq!(needed(&places, 0), ("1".to_owned(), true));
    // Generous, since the tests share their machine.
    assert!(writers.longest_gap() < Duration::from_secs(1), "{:?}", writers.longest_gap());
    stop_and_check(&mut writers, &places, 0);
    has_everything(&places, 2, 0, &writers);
}

#[test]
fn a_replica_spares_its_primary_where_that_is_asked_for() {
    let mut places = with_a_replica(3);
    let mut writers = Writers::start(1, &places.address(0));
    let mut client = connect(&places.address(0), &app()).unwrap();
    for n in 0..8 {
        redis::cmd("SET").arg(format!("large:{n}")).arg(vec![b'x'; 1 << 20]).exec(&mut client).unwrap();
    }
    let mut spec = places.replica_spec(0, 2, Some(1));
    // Two seconds of copying, in the middle of which it is killed; what it began is removed, and made anew.
    spec.limits.sparing.bandwidth = 4 << 20;
    let mut agent = Agent::start(&places, &[Request::Replicate(spec.clone())], None);
    within(Duration::from_secs(20), || places.pid(2).is_some());
    kill_process(agent.pid(), Signal::KILL).unwrap();
    agent.wait();
    assert_eq!(places.handle(Request::Abort(spec.clone())).unwrap(), Reply::Aborted);
    assert!(!places.conf_path(2).exists() && places.pid(2).is_none());
    replicate(&places, &spec).unwrap();
    places.handle(Request::Keep(spec)).unwrap();
    assert_eq!(places.provision_replica(2, 0).unwrap().action, Action::None);
    writers.write_on(50);
    stop_and_check(&mut writers, &places, 0);
    has_everything(&places, 2, 0, &writers);
}

#[test]
fn a_replica_cut_short_is_finished_or_taken_back() {
    for at in
        ["birth:before", "birth:after", "copy:after", "verify:before", "verify:after", "open:before", "open:after"]
    {
        let mut places = with_a_replica(3);
        let mut writers = Writers::start(1, &places.address(0));
        writers.write_on(20);
        let spec = places.replica_spec(0, 2, Some(1));
        for then_abort in [true, false] {
            let mut agent = Agent::start(&places, &[Request::Replicate(spec.clone())], Some(at));
            assert!(!agent.wait().success(), "{at}: {:?}", replies(&places));
            let what = Moves { credentials: credentials(), journals: spec.job.journals.clone() };
            let Reply::Moves(moves) = places.handle(Request::Moves(what)).unwrap() else { panic!() };
            assert!(moves[0].replica && !moves[0].finished && moves[0].others == [places.address(1)], "{moves:?}");
            // The journal is no other move's.
            for other in [Request::Copy(spec.clone()), Request::Switch(spec.clone())] {
                let refused = places.handle(other).unwrap_err();
                assert!(format!("{refused:#}").contains("an unfinished replica in the making"), "{refused:#}");
            }
            if then_abort {
                assert_eq!(places.handle(Request::Abort(spec.clone())).unwrap(), Reply::Aborted);
                assert!(!places.data(2).exists() && !places.conf_path(2).exists() && places.pid(2).is_none(), "{at}");
            }
        }
        replicate(&places, &spec).unwrap();
        places.handle(Request::Keep(spec)).unwrap();
        writers.write_on(20);
        assert_eq!(needed(&places, 0), ("1".to_owned(), true), "{at}: the primary was not touched");
        stop_and_check(&mut writers, &places, 0);
        has_everything(&places, 2, 0, &writers);
    }
}

#[test]
fn a_primary_that_comes_back_alone_refuses_writes() {
    let mut places = with_a_replica(2);
    write(&places, 0).unwrap();
    places.kill(1);
    within(Duration::from_secs(20), || write(&places, 0).is_err_and(|code| code == "NOREPLICAS"));
    places.kill(0);
    places.restart(0);
    places.await_answer(0);
    for _ in 0..50 {
        assert_eq!(write(&places, 0).unwrap_err(), "NOREPLICAS");
    }
    // With its replica, it serves.
    places.restart(1);
    within(Duration::from_secs(20), || write(&places, 0).is_ok());
    assert_eq!(places.provision(0).unwrap().action, Action::None);
    assert_eq!(places.provision_replica(1, 0).unwrap().action, Action::None);
}

#[test]
fn a_moved_primary_needs_its_replicas_too() {
    let mut places = with_a_replica(3);
    let mut writers = Writers::start(2, &places.address(0));
    writers.write_on(50);
    let spec = MoveSpec { others: vec![places.address(1)], ..places.spec(0, 2) };
    assert_eq!(places.handle(Request::Preflight(spec.clone())).unwrap(), Reply::Preflight(Vec::new()));
    copy(&places, spec.clone()).unwrap();
    // The replicas come over after the promotion; the new owner does not wait for them.
    let mut agent = Agent::start(&places, &[Request::Switch(spec.clone())], Some("promote:after:stop"));
    assert!(agent.stopped());
    assert_eq!(places.writable(), [2]);
    kill_process(agent.pid(), Signal::CONT).unwrap();
    agent.wait();
    let Ok(Reply::Switched(switched)) = &replies(&places)[0] else { panic!("{:?}", replies(&places)) };
    assert!(switched.pending.is_empty(), "{switched:?}");
    writers.publish(&places.address(2));
    writers.write_on(50);
    // In memory and in the file, once the replicas have come over; the source as it was.
    assert_eq!((needed(&places, 2), needed(&places, 0)), (("1".to_owned(), true), ("1".to_owned(), true)));
    retire(&mut places, 0, 2);
    writers.write_on(50);
    stop_and_check(&mut writers, &places, 2);
    has_everything(&places, 1, 2, &writers);
    assert_eq!(places.provision(2).unwrap().action, Action::None);
    assert_eq!(places.provision_replica(1, 2).unwrap().action, Action::None);
    for n in [1, 2] {
        places.kill(n);
    }
    places.restart(2);
    places.await_answer(2);
    assert_eq!(write(&places, 2).unwrap_err(), "NOREPLICAS");
}

#[test]
fn the_way_back_takes_the_replica_along() {
    let mut places = with_a_replica(3);
    let mut writers = Writers::start(2, &places.address(0));
    writers.write_on(50);
    for (from, to) in [(0, 2), (2, 0)] {
        let spec = MoveSpec { others: vec![places.address(1)], ..places.spec(from, to) };
        copy(&places, spec.clone()).unwrap();
        let Reply::Switched(switched) = places.handle(Request::Switch(spec)).unwrap() else { panic!() };
        assert_eq!(switched.pending, Vec::<String>::new());
        writers.publish(&places.address(to));
        writers.write_on(50);
        assert_eq!(needed(&places, to), ("1".to_owned(), true));
        // The old instance soaks as one more replica.
        attached(&places, to, 2);
    }
    retire(&mut places, 2, 0);
    writers.write_on(50);
    stop_and_check(&mut writers, &places, 0);
    has_everything(&places, 1, 0, &writers);
    assert_eq!(places.provision(0).unwrap().action, Action::None);
    assert_eq!(places.provision_replica(1, 0).unwrap().action, Action::None);
}

#[test]
fn preflight_names_a_replica_that_is_down_and_one_that_the_map_does_not_know() {
    let mut places = with_a_replica(3);
    let stranger = places.spec(0, 2);
    let spec = MoveSpec { others: vec![places.address(1)], ..stranger.clone() };
    let rules = |places: &Places, spec: &MoveSpec| match places.handle(Request::Preflight(spec.clone())).unwrap() {
        Reply::Preflight(refusals) => {
            refusals.into_iter().map(|refusal| format!("{}: {}", refusal.rule, refusal.reason)).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    let unknown = rules(&places, &stranger);
    assert!(
        unknown.len() == 1 && unknown[0].contains("stranger: ") && unknown[0].contains("has 1 replicas"),
        "{unknown:?}"
    );
    places.kill(1);
    attached(&places, 0, 0);
    let down = rules(&places, &spec);
    assert!(down.len() == 1 && down[0].contains("replica: the replica 127.0.0.3:"), "{down:?}");
}

#[test]
fn a_primary_is_guarded_only_with_its_replicas_attached() {
    let mut places = Places::new(2);
    places.provision(0).unwrap();
    let guard = |places: &mut Places, replicas| {
        let instance = places.instance(0);
        let arm = Arm { job: places.job(0), address: places.address(0), replicas, instance };
        places.handle(Request::Guard(arm))
    };
    let alone = guard(&mut places, 1).unwrap_err();
    assert!(format!("{alone:#}").contains("has 0 replicas attached, 1 are needed"), "{alone:#}");
    assert_eq!(needed(&places, 0), ("0".to_owned(), false));
    write(&places, 0).unwrap();
    places.provision_replica(1, 0).unwrap();
    assert_eq!(guard(&mut places, 1).unwrap(), Reply::Armed);
    assert_eq!(needed(&places, 0), ("1".to_owned(), true));
    write(&places, 0).unwrap();
    assert_eq!(guard(&mut places, 0).unwrap(), Reply::Armed);
    assert_eq!(needed(&places, 0), ("0".to_owned(), false));
    assert_eq!(places.provision(0).unwrap().action, Action::None);
}
