//! Maintenance: out of rotation by the hooks, and what a deploy does meanwhile.

use std::fs;

use dunlin::plan::{PlannedRow, ResourceChange};
use dunlin::protocol::deploy::{
    ApplyChange, CompareWith, DeployFailure, PlanChange, Rejection, ServiceChange, SwitchHooks, SwitchOutcome,
};

use crate::fixture::{DEMO_UNIT, DeployFixture, DesiredRelease, desired_release};
use crate::messages;
use crate::model::CrashPoint;

/// Plans a change; returns its rows.
pub fn plan_change(fixture: &DeployFixture, change: ServiceChange) -> Result<Vec<ResourceChange>, String> {
    let host = fixture.host_agent(&CrashPoint::never());
    match fixture.handle_request(&host, &PlanChange { scope: fixture.service_scope("test"), change }) {
        Ok(rows) => Ok(rows),
        Err(Rejection::Refused(reason)) => Err(reason),
        other => panic!("{other:?}"),
    }
}

/// The pending rows of a change, in short.
pub fn pending(fixture: &DeployFixture, change: ServiceChange) -> Vec<String> {
    let rows = plan_change(fixture, change).unwrap();
    let rows = rows.iter().filter(|row| row.action.is_pending());
    rows.map(|row| format!("{} {}", row.action.symbol_char(), row.resource)).collect()
}

/// Plans and applies a change.
pub fn apply_change(fixture: &DeployFixture, change: ServiceChange) -> Option<DeployFailure> {
    let rows = plan_change(fixture, change).unwrap();
    let expected_changes = rows.iter().map(PlannedRow::from).collect();
    let request = ApplyChange { scope: fixture.service_scope("test"), change, expected_changes };
    match fixture.handle_request(&fixture.host_agent(&CrashPoint::never()), &request) {
        Ok(failure) => failure,
        other => panic!("{other:?}"),
    }
}

/// Hooks that write each of their runs to the file `hooks`.
fn recorded_hooks(fixture: &DeployFixture) -> SwitchHooks {
    let log = fixture.folder.path().join("hooks");
    let hook = |word: &str| {
        let line = format!("echo {word} >>{}; ! test -e {}.{word}-fails", log.display(), log.display());
        vec!["/bin/sh".to_owned(), "-c".to_owned(), line]
    };
    SwitchHooks { before: vec![hook("out")], after: vec![hook("in")], ..SwitchHooks::default() }
}

fn hook_runs(fixture: &DeployFixture) -> String {
    let path = fixture.folder.path().join("hooks");
    let runs = fs::read_to_string(&path).unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
    fs::remove_file(path).ok();
    runs
}

fn release(fixture: &DeployFixture, version: &'static str) -> DesiredRelease {
    DesiredRelease { drain: recorded_hooks(fixture), ..desired_release(version) }
}

fn is_out_of_rotation(fixture: &DeployFixture) -> bool {
    fixture.observe_host(&fixture.host_agent(&CrashPoint::never()), CompareWith::Nothing).out_of_rotation
}

#[test]
fn a_host_in_maintenance_stays_out_of_rotation_after_a_deploy() {
    let mut fixture = DeployFixture::new_fixture();
    let (first, second) = (release(&fixture, "1.0"), release(&fixture, "1.1"));
    fixture.deploy_release(&first, &CrashPoint::never());
    hook_runs(&fixture);
    assert_eq!(pending(&fixture, ServiceChange::StartMaintenance), ["~ rotation demo"]);
    assert_eq!(apply_change(&fixture, ServiceChange::StartMaintenance), None);
    assert_eq!(hook_runs(&fixture), "out");
    assert!(is_out_of_rotation(&fixture));
    assert_eq!(pending(&fixture, ServiceChange::StartMaintenance), Vec::<String>::new());
    fixture.assert_serves(&first);
    let outcome = fixture.deploy_release(&second, &CrashPoint::never()).unwrap();
    assert!(matches!(outcome, SwitchOutcome::Healthy { in_maintenance: true, .. }), "{outcome:?}");
    assert_eq!(hook_runs(&fixture), "", "it is out of rotation before and after the switch");
    assert!(is_out_of_rotation(&fixture));
    fixture.assert_serves(&second);
    assert_eq!(apply_change(&fixture, ServiceChange::EndMaintenance), None);
    assert_eq!(hook_runs(&fixture), "in");
    assert!(!is_out_of_rotation(&fixture));
    assert_eq!(pending(&fixture, ServiceChange::EndMaintenance), Vec::<String>::new());
}

#[test]
fn a_failed_release_in_maintenance_returns_out_of_rotation() {
    let mut fixture = DeployFixture::new_fixture();
    let first = release(&fixture, "1.0");
    let broken = DesiredRelease { program: "broken", ..release(&fixture, "1.1") };
    fixture.deploy_release(&first, &CrashPoint::never());
    apply_change(&fixture, ServiceChange::StartMaintenance);
    hook_runs(&fixture);
    let outcome = fixture.deploy_release(&broken, &CrashPoint::never()).unwrap();
    assert!(matches!(outcome, SwitchOutcome::RolledBack { restored_failure: None, .. }), "{outcome:?}");
    assert_eq!(hook_runs(&fixture), "");
    assert!(is_out_of_rotation(&fixture));
}

#[test]
fn a_hook_that_fails_ends_the_start_and_is_repeated_at_the_end() {
    let mut fixture = DeployFixture::new_fixture();
    let first = release(&fixture, "1.0");
    fixture.deploy_release(&first, &CrashPoint::never());
    hook_runs(&fixture);
    let fails = |word: &str| fixture.folder.path().join(format!("hooks.{word}-fails"));
    fs::write(fails("out"), "").unwrap();
    let failure = apply_change(&fixture, ServiceChange::StartMaintenance).unwrap();
    messages::check("maintenance-hook-failed", [("start", failure.detail)]);
    assert_eq!(hook_runs(&fixture), "out in");
    assert!(!is_out_of_rotation(&fixture));
    fs::remove_file(fails("out")).unwrap();
    assert_eq!(apply_change(&fixture, ServiceChange::StartMaintenance), None);
    fs::write(fails("in"), "").unwrap();
    assert!(apply_change(&fixture, ServiceChange::EndMaintenance).is_some());
    assert!(is_out_of_rotation(&fixture), "the hook after a switch failed");
    fs::remove_file(fails("in")).unwrap();
    assert_eq!(apply_change(&fixture, ServiceChange::EndMaintenance), None);
    assert!(!is_out_of_rotation(&fixture));
}

#[test]
fn an_unhealthy_release_does_not_return_into_rotation() {
    let mut fixture = DeployFixture::new_fixture();
    let first = release(&fixture, "1.0");
    fixture.deploy_release(&first, &CrashPoint::never());
    apply_change(&fixture, ServiceChange::StartMaintenance);
    hook_runs(&fixture);
    fixture.lock_machine().crash_process(DEMO_UNIT);
    let failure = apply_change(&fixture, ServiceChange::EndMaintenance).unwrap();
    messages::check("maintenance-end-of-an-unhealthy-release", [("end", failure.detail)]);
    assert_eq!(hook_runs(&fixture), "");
    assert!(is_out_of_rotation(&fixture));
}

#[test]
fn maintenance_needs_an_active_release_with_hooks() {
    let mut fixture = DeployFixture::new_fixture();
    let idle = plan_change(&fixture, ServiceChange::StartMaintenance).unwrap_err();
    assert_eq!(pending(&fixture, ServiceChange::EndMaintenance), Vec::<String>::new());
    fixture.deploy_release(&desired_release("1.0"), &CrashPoint::never());
    let hookless = plan_change(&fixture, ServiceChange::StartMaintenance).unwrap_err();
    messages::check("maintenance-refused", [("no active release", idle), ("no hooks", hookless)]);
}
