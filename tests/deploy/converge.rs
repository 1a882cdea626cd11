//! A run that is killed at any step: the next one brings the host to where it was asked to be.

use dunlin::protocol::deploy::{DeployReply, DeployRequest, SwitchOutcome};

use crate::fixture::{DeployFixture, desired_release};
use crate::model::{CrashPoint, CrashingSink};

/// Kills a run at each of its points in turn, on a fresh world each time; returns how many points there were.
fn crash_at_every_point(
    prepare: impl Fn(&mut DeployFixture),
    run: impl Fn(&mut DeployFixture, usize) -> bool,
) -> usize {
    for point in 0.. {
        assert!(point < 500, "the run has an end");
        let mut world = DeployFixture::new_fixture();
        prepare(&mut world);
        if run(&mut world, point) {
            return point;
        }
    }
    unreachable!("the loop has no end of its own")
}

#[test]
fn deploys_of_the_same_release_converge_after_a_crash() {
    let (old, mut new) = (desired_release("1.0"), desired_release("1.1"));
    new.config = "changed";
    new.units = vec!["demo.service", "more.service"];
    let points = crash_at_every_point(
        |world| drop(world.deploy_release(&old, &CrashPoint::never())),
        |world, point| {
            let whole = world.deploy_release(&new, &CrashPoint::crash_at(point)).is_some();
            let outcome = world.deploy_release(&new, &CrashPoint::never()).unwrap();
            assert!(
                matches!(outcome, SwitchOutcome::Healthy { .. } | SwitchOutcome::Unchanged),
                "point {point}: {outcome:?}"
            );
            world.assert_serves(&new);
            whole
        },
    );
    assert!(points > 20, "{points} points");
}

#[test]
fn deploys_of_the_old_release_converge_after_a_crash() {
    let (old, mut new) = (desired_release("1.0"), desired_release("1.1"));
    new.config = "changed";
    new.units = vec!["demo.service", "more.service"];
    crash_at_every_point(
        |world| drop(world.deploy_release(&old, &CrashPoint::never())),
        |world, point| {
            let whole = world.deploy_release(&new, &CrashPoint::crash_at(point)).is_some();
            world.deploy_release(&old, &CrashPoint::never()).unwrap();
            world.assert_serves(&old);
            whole
        },
    );
}

#[test]
fn first_deploys_converge_after_a_crash() {
    let new = desired_release("1.0");
    crash_at_every_point(
        |_| (),
        |world, point| {
            let whole = world.deploy_release(&new, &CrashPoint::crash_at(point)).is_some();
            world.deploy_release(&new, &CrashPoint::never()).unwrap();
            world.assert_serves(&new);
            whole
        },
    );
}

#[test]
fn interrupted_automatic_rollbacks_are_finished_by_the_next_run() {
    let (old, mut bad) = (desired_release("1.0"), desired_release("1.1"));
    bad.program = "broken";
    bad.units = vec!["demo.service", "more.service"];
    crash_at_every_point(
        |world| drop(world.deploy_release(&old, &CrashPoint::never())),
        |world, point| {
            let whole = world.deploy_release(&bad, &CrashPoint::crash_at(point)).is_some();
            // The same broken release again: the host must end up with the old one by itself.
            let outcome = world.deploy_release(&bad, &CrashPoint::never()).unwrap();
            assert!(
                matches!(&outcome, SwitchOutcome::RolledBack { restored_failure: None, .. }),
                "point {point}: {outcome:?}"
            );
            world.assert_serves(&old);
            whole
        },
    );
}

#[test]
fn interrupted_rollbacks_are_finished_by_the_next_one() {
    let (old, new) = (desired_release("1.0"), desired_release("1.1"));
    crash_at_every_point(
        |world| {
            world.deploy_release(&old, &CrashPoint::never());
            world.deploy_release(&new, &CrashPoint::never());
        },
        |world, point| {
            let to = world.desired_state(&old).manifest.version;
            let mut back = |fuse| {
                world.catch_crash(|world| {
                    let host = world.host_agent(&fuse);
                    let from = world.observe_host(&host, dunlin::protocol::deploy::CompareWith::Nothing).confirmed;
                    let request = DeployRequest::Rollback {
                        scope: world.service_scope("test"),
                        version: Some(to.clone()),
                        expected_current: from,
                    };
                    host.handle_request(&request, &world.store, &CrashingSink(fuse.clone())).unwrap()
                })
            };
            let whole = back(CrashPoint::crash_at(point)).is_some();
            let reply = back(CrashPoint::never()).unwrap();
            assert!(
                matches!(reply, DeployReply::Switched(SwitchOutcome::Healthy { .. } | SwitchOutcome::Unchanged)),
                "{reply:?}"
            );
            world.assert_serves(&old);
            whole
        },
    );
}

#[test]
fn hosts_are_back_in_rotation_after_a_crash() {
    let path = |world: &DeployFixture, name: &str| world.folder.path().join(name).display().to_string();
    let hooks = |world: &DeployFixture| dunlin::protocol::deploy::SwitchHooks {
        before: vec![vec!["/usr/bin/touch".to_owned(), path(world, "drained")]],
        after: vec![vec!["/bin/rm".to_owned(), "-f".to_owned(), path(world, "drained")]],
        ..Default::default()
    };
    crash_at_every_point(
        |world| drop(world.deploy_release(&desired_release("1.0"), &CrashPoint::never())),
        |world, point| {
            let mut new = desired_release("1.1");
            new.drain = hooks(world);
            let whole = world.deploy_release(&new, &CrashPoint::crash_at(point)).is_some();
            world.deploy_release(&new, &CrashPoint::never()).unwrap();
            assert!(!world.folder.path().join("drained").exists(), "point {point}: the host is out of rotation");
            world.assert_serves(&new);
            whole
        },
    );
}
