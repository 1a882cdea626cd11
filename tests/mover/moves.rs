//! Moves back and forth under writes.

use std::time::Duration;

use dunlin::wire::shard::{Copied, MoveSpec, Moves, Recovered, Reply, Request, Retired, Role, Switched};

use crate::places::{Places, credentials, within};
use crate::writers::{Writers, stop_and_check};

pub fn copy(places: &Places, spec: MoveSpec) -> anyhow::Result<Copied> {
    match places.handle(Request::Copy(spec))? {
        Reply::Copied(copied) => Ok(copied),
        other => panic!("{other:?}"),
    }
}

pub fn switch(places: &Places, spec: MoveSpec) -> anyhow::Result<Switched> {
    match places.handle(Request::Switch(spec))? {
        Reply::Switched(switched) => Ok(switched),
        other => panic!("{other:?}"),
    }
}

/// Retires a source as soon as its last clients are gone.
pub fn retire(places: &mut Places, n: u8, owner: u8) -> Retired {
    let what = places.retire(n, owner);
    let mut retired = None;
    within(Duration::from_secs(20), || match places.handle(Request::Retire(what.clone())) {
        Ok(Reply::Retired(done)) => {
            retired = Some(done);
            true
        }
        Ok(other) => panic!("{other:?}"),
        Err(error) => {
            assert!(error.to_string().contains("clients of the application"), "{error:#}");
            false
        }
    });
    retired.unwrap()
}

#[test]
fn a_shard_moves_back_and_forth_and_nothing_is_lost() {
    let mut places = Places::new(2);
    places.provision(0).unwrap();
    let mut writers = Writers::start(4, &places.address(0));
    writers.write_on(200);
    let (mut from, mut to) = (0, 1);
    let mut gaps = Vec::new();
    for _ in 0..6 {
        let spec = places.spec(from, to);
        let copied = copy(&places, spec.clone()).unwrap();
        assert!(copied.verified.keys >= 4 && copied.verified.is_equal());
        writers.forget_gaps();
        let switched = switch(&places, spec.clone()).unwrap();
        assert!(!switched.already && switched.pending.is_empty(), "{switched:?}");
        writers.publish(&places.address(to));
        writers.write_on(50);
        gaps.push((switched.gap_us, switched.retries, writers.longest_gap()));
        assert_eq!(places.writable(), [to]);
        // Asked again, both say that it is done.
        assert!(switch(&places, spec.clone()).unwrap().already);
        copy(&places, spec).unwrap();
        let kept = retire(&mut places, from, to).kept.unwrap();
        assert!(kept.join("KEPT-UNTIL").is_file() && kept.join("appendonlydir").is_dir());
        assert_eq!(retire(&mut places, from, to).kept, None);
        (from, to) = (to, from);
    }
    stop_and_check(&mut writers, &places, from);
    eprintln!("gaps (server, retries, client): {gaps:?}");
    assert!(gaps.iter().all(|(gap, ..)| *gap < 200_000), "{gaps:?}");
}

#[test]
fn status_and_abort_tell_and_keep_the_truth() {
    let mut places = Places::new(2);
    places.provision(0).unwrap();
    let mut writers = Writers::start(1, &places.address(0));
    writers.write_on(50);
    let spec = places.spec(0, 1);
    copy(&places, spec.clone()).unwrap();
    let what = Moves { credentials: credentials(), journals: spec.job.journals.clone() };
    let Reply::Moves(moves) = places.handle(Request::Moves(what)).unwrap() else { panic!() };
    assert_eq!((moves[0].shard, moves[0].step.as_str(), moves[0].finished), (spec.job.shard, "verify", false));
    assert!(matches!(moves[0].source, Role::Master { .. }) && matches!(moves[0].target, Role::Replica { .. }));
    assert!(matches!(places.recover(0, 1), Recovered::AtSource { .. }));
    assert_eq!(places.handle(Request::Abort(spec.clone())).unwrap(), Reply::Aborted);
    assert_eq!(places.handle(Request::Abort(spec.clone())).unwrap(), Reply::Aborted);
    assert!(!places.data(1).exists() && !places.conf_path(1).exists() && places.pid(1).is_none());
    // And again from the start, to the end; then there is nothing to abort.
    copy(&places, spec.clone()).unwrap();
    switch(&places, spec.clone()).unwrap();
    writers.publish(&places.address(1));
    assert!(places.handle(Request::Abort(spec)).unwrap_err().to_string().contains("reverse"));
    writers.write_on(50);
    stop_and_check(&mut writers, &places, 1);
}

#[test]
fn a_source_that_writes_its_first_file_is_retired_once_it_has() {
    let mut places = Places::new(2);
    places.provision(0).unwrap();
    let mut writers = Writers::start(1, &places.address(0));
    writers.write_on(20);
    let spec = places.spec(0, 1);
    copy(&places, spec.clone()).unwrap();
    switch(&places, spec).unwrap();
    writers.publish(&places.address(1));
    writers.write_on(20);
    stop_and_check(&mut writers, &places, 1);
    // As after a full sync: the append-only file is on, and there is none yet.
    let mut source = crate::places::admin(&places.address(0)).unwrap();
    for (name, value) in [("appendonly", "no"), ("rdb-key-save-delay", "1000000"), ("appendonly", "yes")] {
        redis::cmd("CONFIG").arg("SET").arg(name).arg(value).exec(&mut source).unwrap();
    }
    assert!(retire(&mut places, 0, 1).kept.is_some());
    assert_eq!(places.pid(0), None);
}
