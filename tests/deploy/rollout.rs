//! Deploys, failures and rollbacks, and their reports.

use std::fs;
use std::os::unix::fs::MetadataExt;

use dunlin::deploy::plan::plan_host;
use dunlin::protocol::deploy::{
    CheckHealth, CompareWith, HealthProbe, ObserveService, PruneReleases, Rejection, ReleaseOrigin, ReleaseVersion,
    RollBack, StageRelease, StagedRelease, SwitchHooks, SwitchOutcome, SwitchPurpose, SwitchResult, SwitchStep,
};

use crate::fixture::{DEMO_UNIT, DeployFixture, DesiredRelease, desired_release};
use crate::messages;
use crate::model::CrashPoint;

fn parse_version(text: &str) -> ReleaseVersion {
    ReleaseVersion::new(text).unwrap()
}

#[test]
fn repeated_deploys_change_nothing() {
    let mut fixture = DeployFixture::new_fixture();
    let first = fixture.deploy_release(&desired_release("1.0"), &CrashPoint::never()).unwrap();
    assert!(
        matches!(&first, SwitchOutcome::Healthy { previous: None, restarted, .. } if *restarted == [DEMO_UNIT]),
        "{first:?}"
    );
    fixture.assert_serves(&desired_release("1.0"));
    let calls = fixture.lock_machine().calls.clone();
    assert_eq!(
        fixture.deploy_release(&desired_release("1.0"), &CrashPoint::never()).unwrap(),
        SwitchOutcome::Unchanged
    );
    assert_eq!(fixture.lock_machine().calls, calls, "the service manager was not asked to do anything");
}

#[test]
fn files_of_earlier_releases_are_not_sent_again() {
    let mut fixture = DeployFixture::new_fixture();
    fixture.deploy_release(&desired_release("1.0"), &CrashPoint::never());
    let desired = Box::new(fixture.desired_state(&desired_release("1.1")));
    let host = fixture.host_agent(&CrashPoint::never());
    let stage = StageRelease {
        scope: fixture.service_scope("test"),
        desired: desired.clone(),
        expected_changes: Vec::new(),
        adopt: false,
    };
    let program = desired.manifest.files.iter().find(|file| file.path.as_str() == "bin/demo").unwrap();
    assert_eq!(host.missing_blobs(&stage).unwrap(), std::slice::from_ref(&program.sha256));
    assert_eq!(fixture.handle_request(&host, &stage), Ok(StagedRelease { reused: 1, written: 1, bytes: 3 }));
    assert_eq!(host.missing_blobs(&stage).unwrap(), []);
    let inode = |version: &str| fs::metadata(fixture.root().join(format!("releases/{version}/share/same"))).unwrap();
    assert_eq!(inode("1.0").nlink(), inode("1.1").nlink());
    assert_eq!(fs::read(fixture.root().join("releases/1.1/share/same")).unwrap(), b"the same in all releases");
}

#[test]
fn failed_releases_are_rolled_back_with_units_and_configuration() {
    let mut fixture = DeployFixture::new_fixture();
    fixture.deploy_release(&desired_release("1.0"), &CrashPoint::never());
    let mut bad = desired_release("1.1");
    bad.program = "broken";
    bad.config = "new";
    bad.units = vec![DEMO_UNIT, "more.service"];
    let outcome = fixture.deploy_release(&bad, &CrashPoint::never()).unwrap();
    let SwitchOutcome::RolledBack { version: failed_version, failure: failed, restored: to, restored_failure: None } =
        outcome
    else {
        panic!("{outcome:?}")
    };
    assert_eq!((failed_version, to), (parse_version("1.1"), parse_version("1.0")));
    assert_eq!(failed.step, SwitchStep::Health);
    messages::check("release-unhealthy", [(failed.step, &failed.detail)]);
    assert!(failed.journal_lines.contains(&"I am broken".to_owned()), "{failed:?}");
    fixture.assert_serves(&desired_release("1.0"));
    let seen = fixture.observe_host(&fixture.host_agent(&CrashPoint::never()), CompareWith::Nothing);
    messages::check("release-failed-before", [("1.1", seen.releases[1].last_failure.as_ref().unwrap())]);
    assert_eq!(seen.unfinished_switch, None);
    // A release that was repaired under the same version may replace the failed one, which nobody uses.
    let mut good = bad;
    good.program = "1.1 repaired";
    assert!(matches!(fixture.deploy_release(&good, &CrashPoint::never()).unwrap(), SwitchOutcome::Healthy { .. }));
    fixture.assert_serves(&good);
}

#[test]
fn failed_configurations_are_rolled_back() {
    let mut fixture = DeployFixture::new_fixture();
    fixture.deploy_release(&desired_release("1.0"), &CrashPoint::never());
    let mut bad = desired_release("1.0");
    bad.config = "broken";
    let outcome = fixture.deploy_release(&bad, &CrashPoint::never()).unwrap();
    assert!(matches!(&outcome, SwitchOutcome::RolledBack { restored_failure: None, .. }), "{outcome:?}");
    fixture.assert_serves(&desired_release("1.0"));
}

#[test]
fn failed_first_releases_are_stopped() {
    let mut fixture = DeployFixture::new_fixture();
    let mut bad = desired_release("1.0");
    bad.program = "broken";
    let outcome = fixture.deploy_release(&bad, &CrashPoint::never()).unwrap();
    assert!(
        matches!(&outcome, SwitchOutcome::Stopped { failure, .. } if failure.step == SwitchStep::Health),
        "{outcome:?}"
    );
    assert!(fixture.lock_machine().find_process(DEMO_UNIT).is_none() && !fixture.lock_machine().is_enabled(DEMO_UNIT));
    assert!(!fixture.root().join("current").exists());
    fixture.deploy_release(&desired_release("1.1"), &CrashPoint::never());
    fixture.assert_serves(&desired_release("1.1"));
}

#[test]
fn rollbacks_return_to_the_previous_release() {
    let mut fixture = DeployFixture::new_fixture();
    fixture.deploy_release(&desired_release("1.0"), &CrashPoint::never());
    let mut new = desired_release("1.1");
    new.config = "new";
    fixture.deploy_release(&new, &CrashPoint::never());
    let host = fixture.host_agent(&CrashPoint::never());
    let seen = fixture.observe_host(&host, CompareWith::RetainedRelease(None));
    let kept = seen.retained_release.clone().unwrap();
    let plan = plan_host("host-1", &kept, &seen, &[], &|_| None).unwrap();
    let config = plan.pending_rows().find(|row| row.resource.starts_with("config")).unwrap();
    let diff = config.changes[0].diff.as_ref().unwrap();
    assert!(diff.contains("-new") && diff.contains("+same"), "{diff}");
    let reply = fixture.handle_request(&host, &fixture.plan_rollback(&host, None).unwrap());
    assert!(matches!(reply, Ok(SwitchOutcome::Healthy { .. })), "{reply:?}");
    let scope = fixture.service_scope("test");
    let (version, purpose) = (Some(parse_version("0.1")), SwitchPurpose::Return);
    let refused =
        fixture.handle_request(&host, &RollBack { scope, version, expected_current: seen.confirmed, purpose });
    let Err(Rejection::Refused(why)) = refused else { panic!("{refused:?}") };
    messages::check("rollback-unknown-release", [("0.1", why)]);
    drop(host);
    fixture.assert_serves(&desired_release("1.0"));
}

#[test]
fn dead_services_are_restarted_once() {
    let mut fixture = DeployFixture::new_fixture();
    fixture.deploy_release(&desired_release("1.0"), &CrashPoint::never());
    fixture.lock_machine().crash_process(DEMO_UNIT);
    let desired = fixture.desired_state(&desired_release("1.0"));
    assert_eq!(fixture.pending_rows(&desired), [format!("! service {DEMO_UNIT}")]);
    assert!(matches!(
        fixture.deploy_release(&desired_release("1.0"), &CrashPoint::never()).unwrap(),
        SwitchOutcome::Healthy { .. }
    ));
    fixture.assert_serves(&desired_release("1.0"));
    fixture.lock_machine().crash_process(DEMO_UNIT);
    fixture.lock_machine().barren = true;
    let outcome = fixture.deploy_release(&desired_release("1.0"), &CrashPoint::never()).unwrap();
    assert!(
        matches!(&outcome, SwitchOutcome::Unhealthy { failure, .. } if failure.step == SwitchStep::Health),
        "{outcome:?}"
    );
    assert!(fixture.root().join("current").exists() && fixture.lock_machine().is_enabled(DEMO_UNIT));
}

#[test]
fn unhealthy_previous_releases_are_recorded() {
    let mut fixture = DeployFixture::new_fixture();
    fixture.deploy_release(&desired_release("1.0"), &CrashPoint::never());
    fixture.lock_machine().barren = true;
    let outcome = fixture.deploy_release(&desired_release("1.1"), &CrashPoint::never()).unwrap();
    let SwitchOutcome::RolledBack { restored: to, restored_failure: Some(_), .. } = &outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(*to, parse_version("1.0"));
    let seen = fixture.observe_host(&fixture.host_agent(&CrashPoint::never()), CompareWith::Nothing);
    assert_eq!(
        (seen.unfinished_switch.unwrap().version, seen.current_link.unwrap()),
        (parse_version("1.1"), "1.0".to_owned())
    );
    fixture.lock_machine().barren = false;
    let back = fixture.deploy_release(&desired_release("1.0"), &CrashPoint::never()).unwrap();
    assert!(matches!(back, SwitchOutcome::Healthy { .. }), "{back:?}");
    fixture.assert_serves(&desired_release("1.0"));
}

#[test]
fn damaged_files_are_repaired() {
    let mut fixture = DeployFixture::new_fixture();
    fixture.deploy_release(&desired_release("1.0"), &CrashPoint::never());
    let program = fixture.root().join("releases/1.0/bin/demo");
    fs::write(&program, "bad").unwrap();
    let desired = fixture.desired_state(&desired_release("1.0"));
    assert_eq!(fixture.pending_rows(&desired), ["~ release 1.0".to_owned(), format!("! service {DEMO_UNIT}")]);
    assert!(matches!(
        fixture.deploy_release(&desired_release("1.0"), &CrashPoint::never()).unwrap(),
        SwitchOutcome::Healthy { .. }
    ));
    assert_eq!(fs::read(&program).unwrap(), b"1.0");
    fixture.assert_serves(&desired_release("1.0"));
    fs::remove_file(&program).unwrap();
    fixture.deploy_release(&desired_release("1.0"), &CrashPoint::never());
    fixture.assert_serves(&desired_release("1.0"));
    let link = fixture.root().join("releases/1.0/bin/demo-link");
    assert_eq!(fs::read(&link).unwrap(), b"1.0", "a link inside the release");
    fs::remove_file(&link).unwrap();
    fixture.deploy_release(&desired_release("1.0"), &CrashPoint::never());
    assert_eq!(fs::read(&link).unwrap(), b"1.0");
    fixture.assert_serves(&desired_release("1.0"));
}

#[test]
fn failing_hooks_stop_the_switch() {
    let mut fixture = DeployFixture::new_fixture();
    fixture.deploy_release(&desired_release("1.0"), &CrashPoint::never());
    let note = fixture.folder.path().join("note");
    let sh = |text: String| vec!["/bin/sh".to_owned(), "-c".to_owned(), text];
    let tell =
        |what: &str| sh(format!("echo {what} $DUNLIN_VERSION $(readlink $DUNLIN_ROOT/current) >> {}", note.display()));
    let mut new = desired_release("1.1");
    new.drain = SwitchHooks { before: vec![tell("before")], after: vec![tell("after")], ..SwitchHooks::default() };
    fixture.deploy_release(&new, &CrashPoint::never());
    assert_eq!(fs::read_to_string(&note).unwrap(), "before 1.1 releases/1.0\nafter 1.1 releases/1.1\n");
    let mut next = desired_release("1.2");
    next.drain =
        SwitchHooks { before: vec![sh("echo the pool is empty; exit 1".to_owned())], ..SwitchHooks::default() };
    let calls = fixture.lock_machine().calls.clone();
    let outcome = fixture.deploy_release(&next, &CrashPoint::never()).unwrap();
    let SwitchOutcome::RolledBack { failure: failed, restored_failure: None, .. } = &outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(failed.step, SwitchStep::Drain, "{failed:?}");
    messages::check("drain-failed", [("exit 1", &failed.detail)]);
    assert_eq!(fixture.lock_machine().calls, calls);
    fixture.assert_serves(&new);
}

#[test]
fn root_runs_no_program_that_another_user_can_change() {
    let mut fixture = DeployFixture::new_fixture();
    fixture.deploy_release(&desired_release("0.9"), &CrashPoint::never());
    let hook = SwitchHooks { before: vec![vec!["bin/demo".to_owned()]], ..SwitchHooks::default() };
    let mut release = DesiredRelease { drain: hook, ..desired_release("1.0") };
    release.program = "#!/bin/sh\necho ran >> $DUNLIN_ROOT/../ran\n";
    let ran = fixture.root().join("../ran");
    for (version, mode, is_run) in [("1.0", 0o755, true), ("1.1", 0o777, false)] {
        release.version = version;
        let mut desired = fixture.desired_state(&release);
        desired.manifest.files[0].mode = mode;
        let outcome = fixture.deploy_desired(&desired, &CrashPoint::never());
        assert_eq!(ran.exists(), is_run, "{outcome:?}");
        assert_eq!(format!("{outcome:?}").contains("is not run as root"), !is_run, "{outcome:?}");
        fs::remove_file(&ran).ok();
    }
}

/// Hooks that keep a file while the host is out of rotation; the way back fails while `stuck` exists.
fn rotation_hooks(fixture: &DeployFixture) -> SwitchHooks {
    let path = |name: &str| fixture.folder.path().join(name).display().to_string();
    let sh = |text: String| vec!["/bin/sh".to_owned(), "-c".to_owned(), text];
    SwitchHooks {
        before: vec![sh(format!("touch {}", path("drained")))],
        after: vec![sh(format!("test ! -e {} && rm -f {}", path("stuck"), path("drained")))],
        ..SwitchHooks::default()
    }
}

#[test]
fn a_host_that_is_not_back_in_rotation_is_not_done() {
    let mut fixture = DeployFixture::new_fixture();
    let (stuck, drained) = (fixture.folder.path().join("stuck"), fixture.folder.path().join("drained"));
    fixture.deploy_release(&desired_release("1.0"), &CrashPoint::never());
    fs::write(&stuck, "").unwrap();
    let mut new = desired_release("1.1");
    new.drain = rotation_hooks(&fixture);
    let outcome = fixture.deploy_release(&new, &CrashPoint::never()).unwrap();
    let SwitchOutcome::Healthy { rotation_failure: Some(why), .. } = outcome else { panic!("{outcome:?}") };
    messages::check("host-not-back-in-rotation", [("failure", why)]);
    assert!(drained.exists());
    let desired = fixture.desired_state(&new);
    assert_eq!(fixture.pending_rows(&desired), ["! rotation demo"]);
    let calls = fixture.lock_machine().calls.clone();
    let again = fixture.deploy_release(&new, &CrashPoint::never()).unwrap();
    assert!(matches!(again, SwitchOutcome::Healthy { rotation_failure: Some(_), .. }), "{again:?}");
    fs::remove_file(&stuck).unwrap();
    let back = fixture.deploy_release(&new, &CrashPoint::never()).unwrap();
    assert!(matches!(back, SwitchOutcome::Healthy { rotation_failure: None, .. }), "{back:?}");
    assert!(!drained.exists());
    assert_eq!(fixture.lock_machine().calls, calls, "nothing is restarted to return into rotation");
    fixture.assert_serves(&new);
}

#[test]
fn a_rollback_that_is_not_back_in_rotation_is_reported() {
    let mut fixture = DeployFixture::new_fixture();
    let (stuck, drained) = (fixture.folder.path().join("stuck"), fixture.folder.path().join("drained"));
    let mut old = desired_release("1.0");
    old.drain = rotation_hooks(&fixture);
    fixture.deploy_release(&old, &CrashPoint::never());
    fs::write(&stuck, "").unwrap();
    let mut bad = desired_release("1.1");
    bad.program = "broken";
    bad.drain = rotation_hooks(&fixture);
    let outcome = fixture.deploy_release(&bad, &CrashPoint::never()).unwrap();
    let SwitchOutcome::RolledBack { restored_failure: Some(failure), .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!(failure.step, SwitchStep::Rotation);
    fs::remove_file(&stuck).unwrap();
    fixture.deploy_release(&old, &CrashPoint::never());
    assert!(!drained.exists());
    fixture.assert_serves(&old);
}

#[test]
fn a_change_of_settings_neither_drains_nor_restarts() {
    let mut fixture = DeployFixture::new_fixture();
    fixture.deploy_release(&desired_release("1.0"), &CrashPoint::never());
    let calls = fixture.lock_machine().calls.clone();
    let mut settings = desired_release("1.0");
    settings.drain = SwitchHooks { before: vec![vec!["/bin/false".to_owned()]], ..SwitchHooks::default() };
    let outcome = fixture.deploy_release(&settings, &CrashPoint::never()).unwrap();
    assert!(matches!(outcome, SwitchOutcome::Healthy { .. }), "{outcome:?}");
    assert_eq!(fixture.lock_machine().calls, calls);
    fixture.lock_machine().crash_process(DEMO_UNIT);
    let mut worse = desired_release("1.0");
    worse.drain = rotation_hooks(&fixture);
    fixture.lock_machine().barren = true;
    let outcome = fixture.deploy_release(&worse, &CrashPoint::never()).unwrap();
    assert!(matches!(outcome, SwitchOutcome::RolledBack { .. }), "{outcome:?}");
}

#[test]
fn each_switch_is_recorded_with_its_result() {
    let mut fixture = DeployFixture::new_fixture();
    fixture.deploy_release(&desired_release("1.0"), &CrashPoint::never());
    fixture.deploy_release(&desired_release("1.0"), &CrashPoint::never());
    let mut bad = desired_release("1.1");
    bad.program = "broken";
    fixture.deploy_release(&bad, &CrashPoint::never());
    let mut from_git = fixture.desired_state(&desired_release("1.2"));
    from_git.manifest.origin =
        Some(ReleaseOrigin { revision: Some("4b825dc642cb".to_owned()), ..ReleaseOrigin::default() });
    fixture.deploy_desired(&from_git, &CrashPoint::never());
    let observation = fixture.observe_host(&fixture.host_agent(&CrashPoint::never()), CompareWith::Nothing);
    let records: Vec<_> = observation
        .switch_records
        .iter()
        .map(|record| (record.from.as_ref().map(ReleaseVersion::as_str), record.to.as_str(), record.result))
        .collect();
    let expected = [
        (None, "1.0", SwitchResult::Healthy),
        (Some("1.0"), "1.1", SwitchResult::RolledBack),
        (Some("1.0"), "1.2", SwitchResult::Healthy),
    ];
    assert_eq!(records, expected, "a deploy that changes nothing is no switch");
    let failed = &observation.switch_records[1];
    assert_eq!((failed.operator.as_str(), failed.run.as_str(), &failed.revision), ("test", "r1", &None));
    assert_eq!(observation.switch_records[2].revision.as_deref(), Some("4b825dc642cb"));
    assert!(failed.failure.as_ref().unwrap().starts_with("health: "), "{failed:?}");
}

#[test]
fn a_host_returns_to_what_served_before_a_run() {
    let mut fixture = DeployFixture::new_fixture();
    for (run, version) in [("r1", "1.0"), ("r2", "1.1"), ("r2", "1.2"), ("r3", "1.3")] {
        fixture.run = run;
        fixture.deploy_release(&desired_release(version), &CrashPoint::never());
    }
    let host = fixture.host_agent(&CrashPoint::never());
    let before = |run: &str| {
        let (scope, compare_with) = (fixture.service_scope("test"), CompareWith::BeforeRun(run.to_owned()));
        let observed = fixture.handle_request(&host, &ObserveService { scope, compare_with })?;
        Ok(observed.retained_release.unwrap().manifest.version.to_string())
    };
    assert_eq!((before("r2"), before("r3")), (Ok("1.0".to_owned()), Ok("1.2".to_owned())));
    let refused = ["r1", "r9"].map(|run| {
        let Err(Rejection::Refused(reason)) = before(run) else { panic!("{run}") };
        (run, reason)
    });
    messages::check("rollback-before-a-run", refused);
    fixture.handle_request(&host, &fixture.plan_rollback(&host, Some("1.0")).unwrap()).unwrap();
    let observed = fixture.observe_host(&host, CompareWith::Nothing);
    assert_eq!(observed.switch_records.last().unwrap().run, "r3", "the run of the request");
    drop(host);
    fixture.assert_serves(&desired_release("1.0"));
}

#[test]
fn a_failed_change_of_settings_restarts_nothing() {
    let mut fixture = DeployFixture::new_fixture();
    fixture.deploy_release(&desired_release("1.0"), &CrashPoint::never());
    let mut settings = fixture.desired_state(&desired_release("1.0"));
    settings.config.health.probe = Some(HealthProbe::Command { argv: vec!["/bin/false".to_owned()] });
    settings.config.health.timeout_ms = 50;
    let calls = fixture.lock_machine().calls.clone();
    let outcome = fixture.deploy_desired(&settings, &CrashPoint::never());
    assert!(matches!(outcome, SwitchOutcome::RolledBack { restored_failure: None, .. }), "{outcome:?}");
    let restarts =
        fixture.lock_machine().calls[calls.len()..].iter().filter(|call| call.starts_with("restart")).count();
    assert_eq!(restarts, 0, "{:?}", fixture.lock_machine().calls);
    fixture.assert_serves(&desired_release("1.0"));
}

#[test]
fn a_failed_hook_after_a_crash_restores_the_old_release() {
    for point in 0.. {
        assert!(point < 500, "the run has an end");
        let mut fixture = DeployFixture::new_fixture();
        fixture.deploy_release(&desired_release("1.0"), &CrashPoint::never());
        let mut new = desired_release("1.1");
        new.config = "changed";
        let is_complete = fixture.deploy_release(&new, &CrashPoint::crash_at(point)).is_some();
        if is_complete {
            return;
        }
        if fixture
            .observe_host(&fixture.host_agent(&CrashPoint::never()), CompareWith::Nothing)
            .confirmed
            .unwrap()
            .version
            == parse_version("1.1")
        {
            continue;
        }
        new.drain = SwitchHooks { before: vec![vec!["/bin/false".to_owned()]], ..SwitchHooks::default() };
        let outcome = fixture.deploy_release(&new, &CrashPoint::never()).unwrap();
        assert!(
            matches!(&outcome, SwitchOutcome::RolledBack { restored_failure: None, .. }),
            "point {point}: {outcome:?}"
        );
        fixture.assert_serves(&desired_release("1.0"));
    }
}

#[test]
fn a_return_restarts_only_what_was_touched() {
    let mut fixture = DeployFixture::new_fixture();
    fixture.deploy_release(&desired_release("1.0"), &CrashPoint::never());
    let mut bad = desired_release("1.1");
    bad.config = "new";
    let mut desired = fixture.desired_state(&bad);
    desired.config.configs[0].owner = "no-such-account".to_owned();
    let calls = fixture.lock_machine().calls.clone();
    let outcome = fixture.catch_crash(|fixture| fixture.deploy_desired(&desired, &CrashPoint::never())).unwrap();
    let SwitchOutcome::RolledBack { failure, restored_failure: None, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!(failure.step, SwitchStep::Configuration);
    let restarts =
        fixture.lock_machine().calls[calls.len()..].iter().filter(|call| call.starts_with("restart")).count();
    assert_eq!(restarts, 0, "{:?}", fixture.lock_machine().calls);
    fixture.assert_serves(&desired_release("1.0"));
}

#[test]
fn a_release_that_crashes_within_the_steady_time_is_rolled_back() {
    let mut fixture = DeployFixture::new_fixture();
    fixture.deploy_release(&desired_release("1.0"), &CrashPoint::never());
    let mut crashing = desired_release("1.1");
    crashing.steady_ms = 10_000;
    let machine = fixture.machine.clone();
    let crash = std::thread::spawn(move || {
        let runs = || machine.lock().unwrap().find_process(DEMO_UNIT).is_some_and(|process| process.program == "1.1");
        while !runs() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        std::thread::sleep(std::time::Duration::from_millis(300));
        machine.lock().unwrap().crash_process(DEMO_UNIT);
    });
    let outcome = fixture.deploy_release(&crashing, &CrashPoint::never()).unwrap();
    crash.join().unwrap();
    let SwitchOutcome::RolledBack { failure, restored_failure: None, .. } = outcome else { panic!("{outcome:?}") };
    assert!(failure.detail.starts_with("healthy for "), "{failure:?}");
    assert!(failure.detail.ends_with("then unhealthy: demo.service failed"), "{failure:?}");
    fixture.assert_serves(&desired_release("1.0"));
}

#[test]
fn a_restarted_unit_fails_the_second_check() {
    let mut fixture = DeployFixture::new_fixture();
    let outcome = fixture.deploy_release(&desired_release("1.0"), &CrashPoint::never()).unwrap();
    let SwitchOutcome::Healthy { main_pids, .. } = outcome else { panic!("{outcome:?}") };
    let host = fixture.host_agent(&CrashPoint::never());
    let check = |expected_pids| {
        let request = CheckHealth { scope: fixture.service_scope("test"), expected_pids };
        match fixture.handle_request(&host, &request) {
            Ok(failure) => failure.map(|failure| failure.detail),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(check(Some(main_pids.clone())), None);
    assert_eq!(check(None), None);
    let restarted = check(Some(main_pids.iter().map(|pid| pid + 1).collect())).unwrap();
    fixture.lock_machine().crash_process(DEMO_UNIT);
    let failed = check(Some(main_pids)).unwrap();
    messages::check("second-health-check", [("other processes", restarted), ("a crash", failed)]);
}

#[test]
fn a_long_interval_does_not_fail_the_second_check() {
    let mut fixture = DeployFixture::new_fixture();
    let mut desired = fixture.desired_state(&desired_release("1.0"));
    (desired.config.health.interval_ms, desired.config.health.timeout_ms) = (700, 10_000);
    let outcome = fixture.deploy_desired(&desired, &CrashPoint::never());
    let SwitchOutcome::Healthy { main_pids, .. } = outcome else { panic!("{outcome:?}") };
    let host = fixture.host_agent(&CrashPoint::never());
    for expected_pids in [Some(main_pids), None] {
        let request = CheckHealth { scope: fixture.service_scope("test"), expected_pids };
        assert_eq!(fixture.handle_request(&host, &request), Ok(None));
    }
}

/// Rolls back; the reply of the host.
fn roll_back(fixture: &DeployFixture, to: Option<&str>) -> Result<SwitchOutcome, Rejection> {
    let host = fixture.host_agent(&CrashPoint::never());
    let request = fixture.plan_rollback(&host, to)?;
    fixture.handle_request(&host, &request)
}

#[test]
fn each_rollback_goes_further_back() {
    let mut fixture = DeployFixture::new_fixture();
    for version in ["1.0", "1.1", "1.2"] {
        fixture.deploy_release(&desired_release(version), &CrashPoint::never());
    }
    for version in ["1.1", "1.0"] {
        assert!(matches!(roll_back(&fixture, None), Ok(SwitchOutcome::Healthy { .. })));
        fixture.assert_serves(&desired_release(version));
    }
    assert!(matches!(roll_back(&fixture, None), Err(Rejection::Refused(_))), "nothing served before 1.0");
    assert!(matches!(roll_back(&fixture, Some("1.2")), Ok(SwitchOutcome::Healthy { .. })));
    fixture.assert_serves(&desired_release("1.2"));
}

#[test]
fn a_rollback_goes_past_other_configurations_of_the_same_release() {
    let mut fixture = DeployFixture::new_fixture();
    for (version, config) in [("1.0", "a"), ("1.1", "b"), ("1.1", "c")] {
        fixture.deploy_release(&DesiredRelease { config, ..desired_release(version) }, &CrashPoint::never());
    }
    let host = fixture.host_agent(&CrashPoint::never());
    let scope = fixture.service_scope("test");
    fixture.handle_request(&host, &PruneReleases { scope, keep_releases: 1 }).unwrap();
    drop(host);
    assert!(matches!(roll_back(&fixture, None), Ok(SwitchOutcome::Healthy { .. })));
    fixture.assert_serves(&DesiredRelease { config: "a", ..desired_release("1.0") });
}

#[test]
fn rollbacks_to_releases_that_were_never_healthy_are_refused() {
    let mut fixture = DeployFixture::new_fixture();
    fixture.deploy_release(&desired_release("1.0"), &CrashPoint::never());
    let mut bad = desired_release("1.1");
    bad.program = "broken";
    fixture.deploy_release(&bad, &CrashPoint::never());
    let desired = Box::new(fixture.desired_state(&desired_release("1.2")));
    let host = fixture.host_agent(&CrashPoint::never());
    let scope = fixture.service_scope("test");
    fixture
        .handle_request(&host, &StageRelease { scope, desired, expected_changes: Vec::new(), adopt: false })
        .unwrap();
    drop(host);
    let refused = [("failed", "1.1"), ("never tried", "1.2")].map(|(case, version)| {
        let Err(Rejection::Refused(why)) = roll_back(&fixture, Some(version)) else {
            panic!("{version} was activated")
        };
        (case, why)
    });
    messages::check("rollback-never-healthy", refused);
    fixture.assert_serves(&desired_release("1.0"));
}

#[test]
fn rollbacks_keep_the_secrets_of_today() {
    let mut fixture = DeployFixture::new_fixture();
    let secret_release = |version, config| {
        let mut release = desired_release(version);
        (release.config, release.sensitive) = (config, true);
        release
    };
    fixture.deploy_release(&secret_release("1.0", "old secret"), &CrashPoint::never());
    fixture.deploy_release(&secret_release("1.1", "new secret"), &CrashPoint::never());
    let host = fixture.host_agent(&CrashPoint::never());
    let seen = fixture.observe_host(&host, CompareWith::RetainedRelease(None));
    let plan = plan_host("host-1", seen.retained_release.as_ref().unwrap(), &seen, &[], &|_| None).unwrap();
    assert!(plan.pending_rows().all(|row| !row.resource.starts_with("config")), "{plan:?}");
    drop(host);
    assert!(matches!(roll_back(&fixture, None), Ok(SwitchOutcome::Healthy { .. })));
    fixture.assert_serves(&secret_release("1.0", "new secret"));
}

#[test]
fn failed_releases_are_pruned_first_and_untried_ones_never() {
    let mut fixture = DeployFixture::new_fixture();
    for version in ["1.0", "1.1"] {
        fixture.deploy_release(&desired_release(version), &CrashPoint::never());
    }
    let mut bad = desired_release("1.2");
    bad.program = "broken";
    fixture.deploy_release(&bad, &CrashPoint::never());
    fixture.deploy_release(&desired_release("1.3"), &CrashPoint::never());
    let desired = Box::new(fixture.desired_state(&desired_release("1.4")));
    let host = fixture.host_agent(&CrashPoint::never());
    let scope = fixture.service_scope("test");
    let stage = StageRelease { scope: scope.clone(), desired, expected_changes: Vec::new(), adopt: false };
    fixture.handle_request(&host, &stage).unwrap();
    let prune = |keep_releases| fixture.handle_request(&host, &PruneReleases { scope: scope.clone(), keep_releases });
    assert_eq!(prune(4), Ok(vec!["1.2".to_owned()]));
    assert_eq!(prune(1), Ok(vec!["1.0".to_owned()]), "1.4 was never tried");
}

#[test]
fn pruning_keeps_the_current_and_previous_release() {
    let mut fixture = DeployFixture::new_fixture();
    for version in ["1.0", "1.1", "1.2", "1.3"] {
        fixture.deploy_release(&desired_release(version), &CrashPoint::never());
    }
    fixture.deploy_release(&desired_release("1.0"), &CrashPoint::never());
    fs::create_dir(fixture.root().join("releases/2.0.partial")).unwrap();
    let host = fixture.host_agent(&CrashPoint::never());
    let prune = |keep| {
        fixture.handle_request(&host, &PruneReleases { scope: fixture.service_scope("test"), keep_releases: keep })
    };
    assert_eq!(prune(3), Ok(vec!["1.1".to_owned(), "2.0.partial".to_owned()]));
    assert_eq!(prune(1), Ok(vec!["1.2".to_owned()]), "1.0 serves, 1.3 served before");
    assert_eq!(prune(1), Ok(Vec::new()));
    let left: Vec<ReleaseVersion> =
        fixture.observe_host(&host, CompareWith::Nothing).releases.into_iter().map(|r| r.version).collect();
    assert_eq!(left, [parse_version("1.0"), parse_version("1.3")]);
    drop(host);
    fixture.assert_serves(&desired_release("1.0"));
}
