//! Removal of a service from its host.

use std::fs;

use dunlin::plan::PlannedRow;
use dunlin::protocol::deploy::{
    ApplyChange, Rejection, ReleasePath, ServiceChange, SharedPath, SwitchHooks, SwitchOutcome,
};

use crate::fixture::{DEMO_UNIT, DeployFixture, DesiredRelease, desired_release};
use crate::maintenance::{apply_change, pending, plan_change};
use crate::messages;
use crate::model::CrashPoint;

const UNDEPLOY: ServiceChange = ServiceChange::Undeploy { delete_shared: false };
const UNDEPLOY_ALL: ServiceChange = ServiceChange::Undeploy { delete_shared: true };

fn release(version: &'static str) -> DesiredRelease {
    let shared = vec![SharedPath { path: ReleasePath::new("uploads").unwrap(), is_folder: true }];
    DesiredRelease { shared, ..desired_release(version) }
}

/// A host with two releases, and a file in the shared folder.
fn deployed() -> DeployFixture {
    let mut fixture = DeployFixture::new_fixture();
    fixture.deploy_release(&release("1.0"), &CrashPoint::never());
    fixture.deploy_release(&release("1.1"), &CrashPoint::never());
    fs::write(fixture.root().join("shared/uploads/cat.jpg"), "cat").unwrap();
    fixture
}

fn assert_removed(fixture: &DeployFixture) {
    let machine = fixture.lock_machine();
    assert!(machine.find_process(DEMO_UNIT).is_none() && !machine.is_enabled(DEMO_UNIT));
    assert_eq!(fs::read_dir(fixture.folder.path().join("units")).unwrap().count(), 0);
    assert!(!fixture.config_path().exists());
    for name in ["current", "releases", ".dunlin"] {
        assert!(fixture.root().join(name).symlink_metadata().is_err(), "{name}");
    }
}

#[test]
fn the_plan_names_all_that_is_removed_and_a_second_run_shows_nothing() {
    let fixture = deployed();
    let unit = fixture.folder.path().join("units").join(DEMO_UNIT);
    let expected = [
        format!("- service {DEMO_UNIT}"),
        format!("- unit {}", unit.display()),
        format!("- config {}", fixture.config_path().display()),
        "- link current".to_owned(),
        "- release 1.0".to_owned(),
        "- release 1.1".to_owned(),
        format!("- state {}", fixture.root().join(".dunlin").display()),
    ];
    assert_eq!(pending(&fixture, UNDEPLOY), expected);
    assert!(unit.exists(), "a plan changes nothing");
    assert_eq!(apply_change(&fixture, UNDEPLOY), None);
    assert_removed(&fixture);
    assert_eq!(fs::read_to_string(fixture.root().join("shared/uploads/cat.jpg")).unwrap(), "cat");
    assert_eq!(pending(&fixture, UNDEPLOY), Vec::<String>::new());
    assert_eq!(pending(&fixture, UNDEPLOY_ALL), Vec::<String>::new(), "nothing says any more that dunlin made it");
}

#[test]
fn a_failed_unit_is_forgotten() {
    let fixture = deployed();
    fixture.lock_machine().crash_process(DEMO_UNIT);
    assert_eq!(apply_change(&fixture, UNDEPLOY), None);
    assert_removed(&fixture);
    assert!(!fixture.lock_machine().is_known(DEMO_UNIT));
}

#[test]
fn shared_content_is_deleted_on_request() {
    let fixture = deployed();
    apply_change(&fixture, UNDEPLOY_ALL);
    assert_removed(&fixture);
    assert!(!fixture.root().exists());
}

#[test]
fn files_of_others_stay() {
    let fixture = deployed();
    fs::write(fixture.root().join("notes.txt"), "").unwrap();
    fs::create_dir(fixture.root().join("releases/by-hand")).unwrap();
    apply_change(&fixture, UNDEPLOY);
    assert!(fixture.root().join("notes.txt").exists() && fixture.root().join("releases/by-hand").exists());
    assert!(!fixture.root().join(".dunlin").exists() && !fixture.root().join("releases/1.1").exists());
}

#[test]
fn a_service_can_be_deployed_again() {
    let mut fixture = deployed();
    apply_change(&fixture, UNDEPLOY);
    let outcome = fixture.deploy_release(&release("1.0"), &CrashPoint::never()).unwrap();
    assert!(matches!(outcome, SwitchOutcome::Healthy { previous: None, .. }), "{outcome:?}");
    fixture.assert_serves(&release("1.0"));
    assert!(fixture.root().join("releases/1.0/uploads/cat.jpg").exists());
}

#[test]
fn the_host_leaves_rotation_first() {
    let mut fixture = DeployFixture::new_fixture();
    let hook = |line: &str| vec![vec!["/bin/sh".to_owned(), "-c".to_owned(), line.to_owned()]];
    let fails = fixture.folder.path().join("fails");
    let drain = SwitchHooks {
        before: hook(&format!("! test -e {}", fails.display())),
        after: hook("true"),
        ..SwitchHooks::default()
    };
    let wish = DesiredRelease { drain, ..desired_release("1.0") };
    fixture.deploy_release(&wish, &CrashPoint::never());
    assert_eq!(pending(&fixture, UNDEPLOY)[0], "! rotation demo");
    fs::write(&fails, "").unwrap();
    let failure = apply_change(&fixture, UNDEPLOY).unwrap();
    messages::check("undeploy-hook-failed", [("undeploy", failure.detail)]);
    fixture.assert_serves(&wish);
    fs::remove_file(&fails).unwrap();
    assert_eq!(apply_change(&fixture, UNDEPLOY), None);
    assert_removed(&fixture);
}

#[test]
fn a_killed_run_is_finished_by_the_next() {
    for point in 0.. {
        let mut fixture = deployed();
        let fuse = CrashPoint::crash_at(point);
        let expected_changes = plan_change(&fixture, UNDEPLOY).unwrap();
        let expected_changes = expected_changes.iter().map(PlannedRow::from).collect();
        let scope = fixture.service_scope("test");
        let request = ApplyChange { scope, change: UNDEPLOY, expected_changes };
        let done =
            fixture.catch_crash(|fixture| fixture.try_request(&fixture.host_agent(&fuse), &request, &fuse).unwrap());
        if let Some(reply) = done {
            assert_eq!(reply, Ok(None));
            assert!(point > 5, "only {point} points were passed");
            return;
        }
        apply_change(&fixture, UNDEPLOY);
        assert_removed(&fixture);
        assert_eq!(pending(&fixture, UNDEPLOY), Vec::<String>::new(), "killed at point {point}");
    }
}

#[test]
fn a_change_after_the_plan_is_refused() {
    let mut fixture = deployed();
    let expected_changes = plan_change(&fixture, UNDEPLOY).unwrap();
    let expected_changes = expected_changes.iter().map(PlannedRow::from).collect();
    fixture.deploy_release(&release("1.2"), &CrashPoint::never());
    let scope = fixture.service_scope("test");
    let request = ApplyChange { scope, change: UNDEPLOY, expected_changes };
    let reply = fixture.handle_request(&fixture.host_agent(&CrashPoint::never()), &request);
    assert!(matches!(&reply, Err(Rejection::PlanOutdated(lines)) if !lines.is_empty()), "{reply:?}");
    fixture.assert_serves(&release("1.2"));
}

#[test]
fn a_file_that_was_edited_after_the_plan_is_not_deleted() {
    let fixture = deployed();
    let expected_changes = plan_change(&fixture, UNDEPLOY).unwrap();
    let expected_changes = expected_changes.iter().map(PlannedRow::from).collect();
    std::fs::write(fixture.config_path(), "edited by hand, and not saved elsewhere").unwrap();
    let scope = fixture.service_scope("test");
    let request = ApplyChange { scope, change: UNDEPLOY, expected_changes };
    let reply = fixture.handle_request(&fixture.host_agent(&CrashPoint::never()), &request);
    assert!(matches!(&reply, Err(Rejection::PlanOutdated(lines)) if lines.len() == 1), "{reply:?}");
    assert!(fixture.config_path().exists());
}
