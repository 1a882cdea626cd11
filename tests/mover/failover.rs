//! A copy takes the place of a primary that is gone.

use std::thread;
use std::time::Duration;

use dunlin::rebalance::host::handle;
use dunlin::wire::shard::failover::{Free, Handle, Place, Promote, Promoted, Seen, Survey};
use dunlin::wire::shard::{Job, MoveSpec, Moves, Reply, Request, Role};
use redis::Connection;
use rustix::process::{Signal, kill_process};

use crate::child::{Agent, replies};
use crate::moves::{copy, switch};
use crate::places::{APP, Notes, Places, SHARD, admin, app, connect, credentials, within};
use crate::writers::Writers;

/// As shipped for shards with replicas, but that a primary misses its replicas sooner.
const GUARDED: (&str, &str) = ("min-replicas-max-lag 5", "min-replicas-max-lag 1\nmin-replicas-to-write 1");

/// A primary at 0, and replicas of it in sync.
fn cluster(replicas: u8) -> Places {
    with_room(replicas, 0)
}

/// The same, and places where nothing is yet.
fn with_room(replicas: u8, room: u8) -> Places {
    let mut places = Places::edited(replicas + 1 + room, "always", vec![GUARDED]);
    places.provision(0).unwrap();
    for n in 1..=replicas {
        places.provision_replica(n, 0).unwrap();
    }
    within(Duration::from_secs(20), || info(&places, 0, "replication", "connected_slaves") == replicas.to_string());
    within(Duration::from_secs(20), || {
        (1..=replicas).all(|n| info(&places, n, "persistence", "aof_rewrite_in_progress") == "0")
    });
    places
}

fn info(places: &Places, n: u8, section: &str, name: &str) -> String {
    let ask = |mut connection: Connection| redis::cmd("INFO").arg(section).query::<String>(&mut connection);
    let text = admin(&places.address(n)).and_then(ask).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_default().to_owned()
}

fn config(places: &Places, n: u8, words: &[&str]) {
    redis::cmd("CONFIG").arg(words).exec(&mut admin(&places.address(n)).unwrap()).unwrap();
}

fn role(places: &Places, n: u8) -> Role {
    look(places, n, None).role
}

fn look(places: &Places, n: u8, primary: Option<u8>) -> Seen {
    let place = Place { shard: SHARD, address: places.address(n), primary: primary.map(|n| places.address(n)) };
    let journals = places.root(n).join("moves");
    match places.handle(Request::Survey(Survey { places: vec![place], credentials: credentials(), journals })) {
        Ok(Reply::Surveyed(mut seen)) => seen.remove(0),
        other => panic!("{other:?}"),
    }
}

fn promotion(places: &mut Places, to: u8, others: &[u8]) -> Promote {
    Promote {
        job: places.job(to),
        by: "test".to_owned(),
        from: places.address(0),
        to: places.address(to),
        others: others.iter().map(|n| places.address(*n)).collect(),
        epoch: 8,
        app_user: APP.to_owned(),
        instance: places.instance(to),
        offset: 0,
        silenced: false,
    }
}

fn on(places: &mut Places, n: u8, owner: u8) -> Handle {
    Handle {
        job: places.job(n),
        address: places.address(n),
        owner: places.address(owner),
        epoch: 8,
        instance: places.instance(n),
    }
}

fn promote(places: &Places, what: &Promote) -> anyhow::Result<Promoted> {
    match places.handle(Request::Promote(what.clone()))? {
        Reply::Promoted(promoted) => Ok(promoted),
        other => panic!("{other:?}"),
    }
}

/// Writes until some are acknowledged, and waits until all replicas have all of it.
fn written(places: &Places, replicas: u8) -> Writers {
    let mut writers = Writers::start(2, &places.address(0));
    writers.write_on(100);
    writers.stop();
    let end = info(places, 0, "replication", "master_repl_offset");
    within(Duration::from_secs(20), || {
        (1..=replicas).all(|n| info(places, n, "replication", "slave_repl_offset") == end)
    });
    writers
}

#[test]
fn the_copy_takes_over_with_everything_and_the_other_one_follows_it() {
    let mut places = cluster(2);
    let written = written(&places, 2);
    // Readers at the copy are sent away; they come back to the new primary.
    let mut reader = connect(&places.address(1), &app()).unwrap();
    redis::cmd("PING").exec(&mut reader).unwrap();
    places.kill(0);
    let seen = look(&places, 1, Some(0));
    assert_eq!((seen.primary, seen.incomplete, seen.durable, seen.min_replicas), (Role::Unreachable, false, true, 1));
    let what = promotion(&mut places, 1, &[2]);
    let promoted = promote(&places, &what).unwrap();
    assert!(!promoted.already && promoted.waited_ms >= 4000, "{promoted:?}");
    assert!(redis::cmd("PING").exec(&mut reader).is_err());
    assert_eq!(places.writable(), [1]);
    assert_eq!(written.lost(&places.address(1)), Vec::<String>::new());
    written.check_counters(&places.address(1));
    within(Duration::from_secs(20), || matches!(role(&places, 2), Role::Replica { linked: true, .. }));
    assert_eq!(info(&places, 1, "stats", "sync_partial_ok"), "1", "the other copy took only what it lacked");
    assert_eq!(look(&places, 1, None).min_replicas, 1, "it goes on with one replica");
    assert!(promote(&places, &what).unwrap().already);
    // By the new map there is nothing to provision, and all of it survives restarts.
    assert!(!places.provision(1).unwrap().action.is_pending());
    places.kill(1);
    places.restart(1);
    within(Duration::from_secs(20), || places.writable() == [1]);

    // The old one comes back: it takes no write, and is set aside with its files.
    places.restart(0);
    places.await_answer(0);
    assert!(matches!(role(&places, 0), Role::Master { .. }));
    assert_eq!(places.writable(), [1]);
    let old = on(&mut places, 0, 1);
    let Reply::SetAside(aside) = places.handle(Request::SetAside(old.clone())).unwrap() else { panic!() };
    let kept = aside.kept.unwrap();
    assert!(kept.join("REPLACED-BY").is_file() && kept.join("appendonlydir").is_dir(), "{}", kept.display());
    assert_eq!((aside.ahead, places.pid(0)), (None, None), "it was started anew");
    let Reply::SetAside(again) = places.handle(Request::SetAside(old)).unwrap() else { panic!() };
    assert_eq!(again.kept, None);
    // The owner itself is never set aside, nor by somebody whose map is older than its promotion.
    let stale = Handle { epoch: 7, owner: places.address(2), ..on(&mut places, 1, 2) };
    assert!(
        places.handle(Request::SetAside(stale)).unwrap_err().to_string().contains("was made the owner for epoch 8")
    );
    let owner = on(&mut places, 1, 1);
    assert!(places.handle(Request::SetAside(owner)).unwrap_err().to_string().contains("was not stopped"));
}

#[test]
fn the_last_copy_accepts_writes_without_a_replica() {
    let mut places = cluster(1);
    let written = written(&places, 1);
    places.kill(0);
    // Its own host stops the old one for good: nobody has to wait.
    let old = on(&mut places, 0, 1);
    assert_eq!(places.handle(Request::Silence(old)).unwrap(), Reply::Silenced);
    let what = Promote { silenced: true, ..promotion(&mut places, 1, &[]) };
    // Where it is waited, that takes four seconds; a busy disk may take one to note the step.
    assert!(promote(&places, &what).unwrap().waited_ms < 3000);
    assert_eq!((places.writable(), look(&places, 1, None).min_replicas), (vec![1], 0));
    assert_eq!(written.lost(&places.address(1)), Vec::<String>::new());
    places.kill(1);
    places.restart(1);
    // Between two of its files an instance says for a moment that it has loaded.
    within(Duration::from_secs(20), || places.writable() == [1]);
}

#[test]
fn what_answers_is_neither_silenced_nor_failed_over() {
    let mut places = cluster(1);
    assert!(matches!(look(&places, 1, Some(0)).primary, Role::Master { .. }));
    let what = promotion(&mut places, 1, &[]);
    assert!(promote(&places, &what).unwrap_err().to_string().contains("it is not dead"));
    let old = on(&mut places, 0, 1);
    assert!(places.handle(Request::Silence(old)).unwrap_err().to_string().contains("was not stopped"));
    assert!(
        !what.job.journals.join(format!("shard-{SHARD}.jsonl")).exists() || look(&places, 1, None).failover.is_none()
    );
    // A copy that is not as far as the plan saw it.
    places.kill(0);
    let later = Promote { offset: u64::MAX, ..what };
    assert!(promote(&places, &later).unwrap_err().to_string().contains("look again"));
    assert!(matches!(role(&places, 1), Role::Replica { .. }));
}

#[test]
fn a_primary_that_comes_back_while_it_is_waited_for_keeps_its_shard() {
    let mut places = cluster(2);
    let written = written(&places, 2);
    places.kill(0);
    let what = promotion(&mut places, 1, &[2]);
    let contents = std::mem::take(&mut places.contents);
    let request = Request::Promote(what.clone());
    let ended = thread::scope(|scope| {
        let promoting = scope.spawn(|| handle(request, &contents, &Notes::default()));
        within(Duration::from_secs(20), || matches!(role(&places, 1), Role::Master { .. }));
        assert_eq!(places.writable(), Vec::<u8>::new(), "closed");
        let instance: dunlin::resources::redis_shard::RedisShard =
            serde_json::from_value(on(&mut places, 0, 1).instance).unwrap();
        instance.start().unwrap();
        promoting.join().unwrap()
    });
    let error = format!("{:#}", ended.unwrap_err());
    assert!(error.contains("follows it again") && error.contains("it is not dead"), "{error}");
    within(Duration::from_secs(20), || places.writable() == [0]);
    within(Duration::from_secs(20), || info(&places, 0, "replication", "connected_slaves") == "2");
    assert_eq!(written.lost(&places.address(0)), Vec::<String>::new());
    let seen = look(&places, 1, Some(0)).failover.unwrap();
    assert!(seen.finished && !seen.promoted);
    // Gone once more, and this time it stays away.
    places.kill(0);
    promote(&places, &what).unwrap();
    assert_eq!(places.writable(), [1]);
}

#[test]
fn an_agent_that_is_killed_at_any_step_leaves_one_writable_copy_at_most() {
    let steps = ["stand_by:before", "stand_by:after", "fence:before", "fence:after", "promote:before", "promote:after"];
    let later = ["settle:before", "settle:after"];
    for (number, at) in steps.into_iter().chain(later).enumerate() {
        let mut places = cluster(2);
        let written = written(&places, 2);
        places.kill(0);
        let what = promotion(&mut places, 1, &[2]);
        let mut agent = Agent::start(&places, &[Request::Promote(what.clone())], Some(at));
        assert!(!agent.wait().success(), "{at}: {:?}", replies(&places));
        // The copy is killed too, every other time; by its files it is closed or open.
        if number % 2 == 0 {
            places.kill(1);
            places.restart(1);
            places.await_answer(1);
        }
        let open = number >= 5;
        within(Duration::from_secs(20), || places.writable() == if open { vec![1] } else { vec![] });
        let seen = look(&places, 1, None).failover.unwrap();
        assert_eq!((seen.promoted, seen.from.as_str()), (number >= 4, what.from.as_str()), "{at}");
        promote(&places, &what).unwrap();
        assert_eq!(places.writable(), [1], "{at}");
        places.restart(0);
        places.await_answer(0);
        assert_eq!(places.writable(), [1], "{at}");
        assert_eq!(written.lost(&places.address(1)), Vec::<String>::new(), "{at}");
    }
}

#[test]
fn a_half_made_failover_is_taken_back_once_the_primary_is_there_again() {
    let mut places = cluster(1);
    places.kill(0);
    let what = promotion(&mut places, 1, &[]);
    let mut agent = Agent::start(&places, &[Request::Promote(what.clone())], Some("fence:before"));
    assert!(!agent.wait().success());
    let refused = places.handle(Request::TakeBack(what.clone())).unwrap_err().to_string();
    assert!(refused.contains("does not answer as a master"), "{refused}");
    places.restart(0);
    places.await_answer(0);
    assert_eq!(places.writable(), Vec::<u8>::new(), "without its replica the primary takes no write");
    assert_eq!(places.handle(Request::TakeBack(what.clone())).unwrap(), Reply::TakenBack);
    within(Duration::from_secs(20), || places.writable() == [0]);
    assert_eq!(places.handle(Request::TakeBack(what)).unwrap(), Reply::TakenBack);
    assert!(!places.provision_replica(1, 0).unwrap().action.is_pending());
}

#[test]
fn what_an_old_primary_has_alone_is_told_and_kept() {
    let mut places = cluster(1);
    let _written = written(&places, 1);
    // The copy's link breaks, while the primary goes on: as one that was never told to need replicas would.
    config(&places, 0, &["SET", "min-replicas-to-write", "0"]);
    config(&places, 1, &["SET", "masterauth", "wrong"]);
    redis::cmd("CLIENT").arg(&["KILL", "TYPE", "MASTER"]).exec(&mut admin(&places.address(1)).unwrap()).unwrap();
    within(Duration::from_secs(20), || info(&places, 0, "replication", "connected_slaves") == "0");
    let before: u64 = info(&places, 0, "replication", "master_repl_offset").parse().unwrap();
    redis::cmd("SET").arg("alone").arg(1).exec(&mut connect(&places.address(0), &app()).unwrap()).unwrap();
    let after: u64 = info(&places, 0, "replication", "master_repl_offset").parse().unwrap();
    let old = places.pid(0).unwrap();
    kill_process(old, Signal::STOP).unwrap();
    let what = promotion(&mut places, 1, &[]);
    promote(&places, &what).unwrap();
    kill_process(old, Signal::CONT).unwrap();
    let handle = on(&mut places, 0, 1);
    let Reply::SetAside(aside) = places.handle(Request::SetAside(handle)).unwrap() else { panic!() };
    assert!(after > before, "the write is in the stream");
    assert_eq!(aside.ahead, Some(after - before));
    assert_eq!(places.writable(), [1]);
}

#[test]
fn a_primary_without_its_dead_replica_is_freed() {
    let mut places = cluster(1);
    places.kill(1);
    within(Duration::from_secs(20), || places.writable().is_empty());
    let primary = on(&mut places, 0, 0);
    assert_eq!(places.handle(Request::Free(Free { primary, replicas: 0 })).unwrap(), Reply::Freed);
    assert_eq!(places.writable(), [0]);
    places.kill(0);
    places.restart(0);
    within(Duration::from_secs(20), || places.writable() == [0]);
}

#[test]
fn a_move_that_only_copied_is_given_up_and_one_that_handed_over_is_not() {
    let mut places = with_room(1, 1);
    let written = written(&places, 1);
    let spec = MoveSpec { others: vec![places.address(1)], ..places.spec(0, 2) };
    copy(&places, spec.clone()).unwrap();
    places.kill(0);
    let handle = on(&mut places, 2, 0);
    assert_eq!(places.handle(Request::Forget(handle)).unwrap(), Reply::Forgotten);
    let what = promotion(&mut places, 1, &[2]);
    promote(&places, &what).unwrap();
    assert_eq!(places.writable(), [1]);
    within(Duration::from_secs(20), || matches!(role(&places, 2), Role::Replica { linked: true, .. }));
    assert_eq!(written.lost(&places.address(1)), Vec::<String>::new());
    let moves = Moves { credentials: credentials(), journals: spec.job.journals.clone() };
    let Reply::Moves(moves) = places.handle(Request::Moves(moves)).unwrap() else { panic!() };
    assert!(moves[0].finished, "{moves:?}");

    let mut places = with_room(1, 1);
    let spec = MoveSpec { others: vec![places.address(1)], ..places.spec(0, 2) };
    copy(&places, spec.clone()).unwrap();
    let mut agent = Agent::start(&places, &[Request::Switch(spec)], Some("fence:after"));
    assert!(!agent.wait().success());
    places.kill(0);
    let handle = on(&mut places, 2, 0);
    let refused = places.handle(Request::Forget(handle)).unwrap_err().to_string();
    assert!(refused.contains("may have been given shard 17"), "{refused}");
}

#[test]
fn a_copy_is_promoted_once_more_after_the_shard_went_back() {
    let mut places = cluster(1);
    drop(written(&places, 1));
    places.kill(0);
    let what = promotion(&mut places, 1, &[]);
    assert!(!promote(&places, &what).unwrap().already);
    places.restart(0);
    places.await_answer(0);
    let old = on(&mut places, 0, 1);
    places.handle(Request::SetAside(old)).unwrap();
    let mut back = places.spec(1, 0);
    back.job.run = "back".to_owned();
    copy(&places, back.clone()).unwrap();
    switch(&places, back).unwrap();
    within(Duration::from_secs(20), || matches!(role(&places, 1), Role::Replica { linked: true, .. }));
    let written = written(&places, 1);
    places.kill(0);
    let again = Promote { job: Job { run: "again".to_owned(), ..what.job }, ..what };
    let promoted = promote(&places, &again).unwrap();
    assert!(!promoted.already && promoted.waited_ms >= 4000, "{promoted:?}");
    assert_eq!(places.writable(), [1]);
    assert_eq!(written.lost(&places.address(1)), Vec::<String>::new());
}
