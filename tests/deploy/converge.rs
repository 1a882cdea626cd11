//! A run that is killed at any step: the next one brings the host to where it was asked to be.

use dunlin::protocol::deploy::SwitchOutcome;

use crate::fixture::{DeployFixture, desired_release};
use crate::model::CrashPoint;

/// Kills a run at each of its points in turn, on a fresh host each time; returns how many points there were.
fn crash_at_every_point(
    prepare: impl Fn(&mut DeployFixture),
    run: impl Fn(&mut DeployFixture, usize) -> bool,
) -> usize {
    for point in 0.. {
        assert!(point < 500, "the run has an end");
        let mut fixture = DeployFixture::new_fixture();
        prepare(&mut fixture);
        if run(&mut fixture, point) {
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
        |fixture| drop(fixture.deploy_release(&old, &CrashPoint::never())),
        |fixture, point| {
            let whole = fixture.deploy_release(&new, &CrashPoint::crash_at(point)).is_some();
            let outcome = fixture.deploy_release(&new, &CrashPoint::never()).unwrap();
            assert!(
                matches!(outcome, SwitchOutcome::Healthy { .. } | SwitchOutcome::Unchanged),
                "point {point}: {outcome:?}"
            );
            fixture.assert_serves(&new);
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
        |fixture| drop(fixture.deploy_release(&old, &CrashPoint::never())),
        |fixture, point| {
            let whole = fixture.deploy_release(&new, &CrashPoint::crash_at(point)).is_some();
            fixture.deploy_release(&old, &CrashPoint::never()).unwrap();
            fixture.assert_serves(&old);
            whole
        },
    );
}

#[test]
fn first_deploys_converge_after_a_crash() {
    let new = desired_release("1.0");
    crash_at_every_point(
        |_| (),
        |fixture, point| {
            let whole = fixture.deploy_release(&new, &CrashPoint::crash_at(point)).is_some();
            fixture.deploy_release(&new, &CrashPoint::never()).unwrap();
            fixture.assert_serves(&new);
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
        |fixture| drop(fixture.deploy_release(&old, &CrashPoint::never())),
        |fixture, point| {
            let whole = fixture.deploy_release(&bad, &CrashPoint::crash_at(point)).is_some();
            // The same broken release again: the host must end up with the old one by itself.
            let outcome = fixture.deploy_release(&bad, &CrashPoint::never()).unwrap();
            assert!(
                matches!(&outcome, SwitchOutcome::RolledBack { restored_failure: None, .. }),
                "point {point}: {outcome:?}"
            );
            fixture.assert_serves(&old);
            whole
        },
    );
}

#[test]
fn interrupted_rollbacks_are_finished_by_the_next_one() {
    let (old, new) = (desired_release("1.0"), desired_release("1.1"));
    crash_at_every_point(
        |fixture| {
            fixture.deploy_release(&old, &CrashPoint::never());
            fixture.deploy_release(&new, &CrashPoint::never());
        },
        |fixture, point| {
            let to = fixture.desired_state(&old).manifest.version;
            let mut back = |fuse| {
                fixture.catch_crash(|fixture| {
                    let host = fixture.host_agent(&fuse);
                    let request = fixture.plan_rollback(&host, Some(to.as_str())).unwrap();
                    fixture.try_request(&host, &request, &fuse).unwrap()
                })
            };
            let whole = back(CrashPoint::crash_at(point)).is_some();
            let reply = back(CrashPoint::never()).unwrap();
            assert!(matches!(reply, Ok(SwitchOutcome::Healthy { .. } | SwitchOutcome::Unchanged)), "{reply:?}");
            fixture.assert_serves(&old);
            whole
        },
    );
}

#[test]
fn hosts_are_back_in_rotation_after_a_crash() {
    let path = |fixture: &DeployFixture, name: &str| fixture.folder.path().join(name).display().to_string();
    let hooks = |fixture: &DeployFixture| dunlin::protocol::deploy::SwitchHooks {
        before: vec![vec!["/usr/bin/touch".to_owned(), path(fixture, "drained")]],
        after: vec![vec!["/bin/rm".to_owned(), "-f".to_owned(), path(fixture, "drained")]],
        ..Default::default()
    };
    crash_at_every_point(
        |fixture| drop(fixture.deploy_release(&desired_release("1.0"), &CrashPoint::never())),
        |fixture, point| {
            let mut new = desired_release("1.1");
            new.drain = hooks(fixture);
            let whole = fixture.deploy_release(&new, &CrashPoint::crash_at(point)).is_some();
            fixture.deploy_release(&new, &CrashPoint::never()).unwrap();
            assert!(!fixture.folder.path().join("drained").exists(), "point {point}: the host is out of rotation");
            fixture.assert_serves(&new);
            whole
        },
    );
}
