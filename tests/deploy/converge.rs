//! A run that is killed at any step: the next one brings the host to where it was asked to be.

use dunlin::wire::deploy::{Outcome, Reply, Request};

use crate::model::{Fuse, Quiet};
use crate::world::{World, wish};

/// Kills a run at each of its points in turn, on a fresh world each time; returns how many points there were.
fn at_every_point(prepare: impl Fn(&mut World), run: impl Fn(&mut World, usize) -> bool) -> usize {
    for point in 0.. {
        assert!(point < 500, "the run has an end");
        let mut world = World::new();
        prepare(&mut world);
        if run(&mut world, point) {
            return point;
        }
    }
    unreachable!("the loop has no end of its own")
}

#[test]
fn the_next_deploy_of_the_same_release_converges() {
    let (old, mut new) = (wish("1.0"), wish("1.1"));
    new.config = "changed";
    new.units = vec!["demo.service", "more.service"];
    let points = at_every_point(
        |world| drop(world.deploy(&old, &Fuse::none())),
        |world, point| {
            let whole = world.deploy(&new, &Fuse::at(point)).is_some();
            let outcome = world.deploy(&new, &Fuse::none()).unwrap();
            assert!(matches!(outcome, Outcome::Healthy { .. } | Outcome::Unchanged), "point {point}: {outcome:?}");
            world.assert_serves(&new);
            whole
        },
    );
    assert!(points > 20, "{points} points");
}

#[test]
fn a_return_to_the_old_release_converges() {
    let (old, mut new) = (wish("1.0"), wish("1.1"));
    new.config = "changed";
    new.units = vec!["demo.service", "more.service"];
    at_every_point(
        |world| drop(world.deploy(&old, &Fuse::none())),
        |world, point| {
            let whole = world.deploy(&new, &Fuse::at(point)).is_some();
            world.deploy(&old, &Fuse::none()).unwrap();
            world.assert_serves(&old);
            whole
        },
    );
}

#[test]
fn a_first_deploy_converges() {
    let new = wish("1.0");
    at_every_point(
        |_| (),
        |world, point| {
            let whole = world.deploy(&new, &Fuse::at(point)).is_some();
            world.deploy(&new, &Fuse::none()).unwrap();
            world.assert_serves(&new);
            whole
        },
    );
}

#[test]
fn a_return_by_itself_that_is_killed_is_finished_by_the_next_run() {
    let (old, mut bad) = (wish("1.0"), wish("1.1"));
    bad.program = "broken";
    bad.units = vec!["demo.service", "more.service"];
    at_every_point(
        |world| drop(world.deploy(&old, &Fuse::none())),
        |world, point| {
            let whole = world.deploy(&bad, &Fuse::at(point)).is_some();
            // The same broken release again: the host must end up with the old one by itself.
            let outcome = world.deploy(&bad, &Fuse::none()).unwrap();
            assert!(matches!(&outcome, Outcome::Returned { unhealthy: None, .. }), "point {point}: {outcome:?}");
            world.assert_serves(&old);
            whole
        },
    );
}

#[test]
fn a_rollback_that_is_killed_is_finished_by_the_next_one() {
    let (old, new) = (wish("1.0"), wish("1.1"));
    at_every_point(
        |world| {
            world.deploy(&old, &Fuse::none());
            world.deploy(&new, &Fuse::none());
        },
        |world, point| {
            let to = world.desired(&old).manifest.version;
            let mut back = |fuse| {
                world.killable(|world| {
                    let host = world.host(&fuse);
                    let from = world.observe(&host, dunlin::wire::deploy::About::Nothing).confirmed;
                    let request = Request::Rollback { scope: world.scope("test"), to: Some(to.clone()), from };
                    host.handle(&request, &world.store, &Quiet(fuse.clone())).unwrap()
                })
            };
            let whole = back(Fuse::at(point)).is_some();
            let reply = back(Fuse::none()).unwrap();
            assert!(matches!(reply, Reply::Switched(Outcome::Healthy { .. } | Outcome::Unchanged)), "{reply:?}");
            world.assert_serves(&old);
            whole
        },
    );
}
