//! Links between a target and its source that are slow to be heard of, or dead: the target makes a new one. And instances
//! that say nothing at all.

use std::fs;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use dunlin::wire::shard::{Moves, Reply, Request, Role};

use crate::moves::copy;
use crate::places::{Places, SHARD, admin, app, connect, credentials};
use crate::relay::{Loss, Relay};

/// So many full and partial syncs a source has given.
fn syncs(places: &Places, n: u8) -> [u64; 2] {
    let info: String = redis::cmd("INFO").arg("stats").query(&mut admin(&places.address(n)).unwrap()).unwrap();
    let number = |name| info.lines().find_map(|line| line.strip_prefix(name)).unwrap().parse().unwrap();
    [number("sync_full:"), number("sync_partial_ok:")]
}

/// A source that has sent something to a replica before, which is gone: offsets of its stream tell nothing while they are 0.
fn ready() -> Places {
    let mut places = Places::new(2);
    places.provision(0).unwrap();
    let spec = places.spec(0, 1);
    copy(&places, spec.clone()).unwrap();
    write(&places, 0, "first");
    assert_eq!(places.handle(Request::Abort(spec)).unwrap(), Reply::Aborted);
    places
}

fn write(places: &Places, n: u8, key: &str) {
    redis::cmd("SET").arg(key).arg(1).exec(&mut connect(&places.address(n), &app()).unwrap()).unwrap();
}

fn has(places: &Places, n: u8, key: &str) -> bool {
    redis::cmd("EXISTS").arg(key).query(&mut admin(&places.address(n)).unwrap()).unwrap()
}

/// It takes a target up to a second to say that it has its data, and a source counts it as online only then. Here it never
/// hears of it on that link.
#[test]
fn a_target_that_has_its_data_connects_again_instead_of_waiting_to_be_heard() {
    let mut places = ready();
    let [full, partial] = syncs(&places, 0);
    let relay = Relay::open(&places.address(0));
    relay.lose_of_the_first(Loss::Words);
    let mut spec = places.spec(0, 1);
    spec.from.clone_from(&relay.address);
    let copied = copy(&places, spec).unwrap();
    assert!(copied.verified.is_equal());
    assert_eq!(syncs(&places, 0), [full + 1, partial + 1], "a full sync, and one in part over a new link");
    assert_eq!(relay.links(), 2);
}

/// Neither side is told that the link is dead. Where the target's acknowledgements still arrive, it looks alive to the
/// source as well.
#[test]
fn a_dead_link_is_given_up_and_made_anew_before_anything_is_compared_over_it() {
    for loss in [Loss::All, Loss::Stream] {
        let mut places = ready();
        let relay = Relay::open(&places.address(0));
        let mut spec = places.spec(0, 1);
        spec.from.clone_from(&relay.address);
        copy(&places, spec.clone()).unwrap();
        let ([full, partial], links) = (syncs(&places, 0), relay.links());
        relay.lose(loss);
        write(&places, 0, "later");
        assert!(!has(&places, 1, "later"), "{loss:?}: nothing of the link was lost");
        copy(&places, spec).unwrap();
        assert!(has(&places, 1, "later"), "{loss:?}: it goes on over a link that brings nothing");
        assert_eq!(syncs(&places, 0), [full, partial + 1], "{loss:?}");
        assert_eq!(relay.links(), links + 1, "{loss:?}");
    }
}

/// A host that died has a source or a target of many shards, each of which is given up after two seconds.
#[test]
fn instances_that_are_silent_are_waited_for_all_at_once() {
    let mut places = Places::new(2);
    places.provision(0).unwrap();
    let spec = places.spec(0, 1);
    copy(&places, spec.clone()).unwrap();
    // The kernel accepts, and nobody answers.
    let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let journal = |shard: u32| spec.job.journals.join(format!("shard-{shard}.jsonl"));
    let text = fs::read_to_string(journal(SHARD)).unwrap();
    let text = text.replace(&spec.from, &silent.local_addr().unwrap().to_string());
    for shard in 100..120 {
        fs::write(journal(shard), &text).unwrap();
    }
    let begin = Instant::now();
    let what = Moves { credentials: credentials(), journals: spec.job.journals.clone() };
    let Reply::Moves(moves) = places.handle(Request::Moves(what)).unwrap() else { panic!() };
    let took = begin.elapsed();
    assert_eq!(
        moves.iter().map(|told| told.shard).collect::<Vec<_>>(),
        [17].into_iter().chain(100..120).collect::<Vec<_>>()
    );
    assert!(matches!(moves[0].source, Role::Master { .. }));
    assert!(moves[1..].iter().all(|told| told.source == Role::Unreachable), "{moves:?}");
    assert!(took < Duration::from_secs(20), "{took:?}: one after the other takes forty seconds");
}
