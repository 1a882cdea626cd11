//! Maintenance: out of rotation by the hooks, and what a deploy does meanwhile.

use std::fs;

use dunlin::plan::{Digest, ResourceChange};
use dunlin::protocol::deploy::{
    CompareWith, DeployFailure, DeployReply, DeployRequest, ServiceChange, SwitchHooks, SwitchOutcome,
};

use crate::fixture::{DEMO_UNIT, DeployFixture, DesiredRelease, desired_release};
use crate::model::CrashPoint;

/// Plans a change; returns its rows.
pub fn plan_change(world: &DeployFixture, change: ServiceChange) -> Result<Vec<ResourceChange>, String> {
    let host = world.host_agent(&CrashPoint::never());
    match world.handle_request(&host, &DeployRequest::PlanChange { scope: world.service_scope("test"), change }) {
        DeployReply::ChangePlanned(rows) => Ok(rows),
        DeployReply::Refused(reason) => Err(reason),
        other => panic!("{other:?}"),
    }
}

/// The pending rows of a change, in short.
pub fn pending(world: &DeployFixture, change: ServiceChange) -> Vec<String> {
    let rows = plan_change(world, change).unwrap();
    let rows = rows.iter().filter(|row| row.action.is_pending());
    rows.map(|row| format!("{} {}", row.action.symbol_char(), row.resource)).collect()
}

/// Plans and applies a change.
pub fn apply_change(world: &DeployFixture, change: ServiceChange) -> Option<DeployFailure> {
    let rows = plan_change(world, change).unwrap();
    let expected_changes: Vec<(String, Digest)> = rows.into_iter().map(|row| (row.resource, row.fingerprint)).collect();
    let request = DeployRequest::ApplyChange { scope: world.service_scope("test"), change, expected_changes };
    match world.handle_request(&world.host_agent(&CrashPoint::never()), &request) {
        DeployReply::ChangeApplied(failure) => failure,
        other => panic!("{other:?}"),
    }
}

/// Hooks that write each of their runs to the file `hooks`.
fn recorded_hooks(world: &DeployFixture) -> SwitchHooks {
    let log = world.folder.path().join("hooks");
    let hook = |word: &str| {
        let line = format!("echo {word} >>{}; ! test -e {}.{word}-fails", log.display(), log.display());
        vec!["/bin/sh".to_owned(), "-c".to_owned(), line]
    };
    SwitchHooks { before: vec![hook("out")], after: vec![hook("in")], ..SwitchHooks::default() }
}

fn hook_runs(world: &DeployFixture) -> String {
    let path = world.folder.path().join("hooks");
    let runs = fs::read_to_string(&path).unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
    fs::remove_file(path).ok();
    runs
}

fn release(world: &DeployFixture, version: &'static str) -> DesiredRelease {
    DesiredRelease { drain: recorded_hooks(world), ..desired_release(version) }
}

fn is_out_of_rotation(world: &DeployFixture) -> bool {
    world.observe_host(&world.host_agent(&CrashPoint::never()), CompareWith::Nothing).out_of_rotation
}

#[test]
fn a_host_in_maintenance_stays_out_of_rotation_after_a_deploy() {
    let mut world = DeployFixture::new_fixture();
    let (first, second) = (release(&world, "1.0"), release(&world, "1.1"));
    world.deploy_release(&first, &CrashPoint::never());
    hook_runs(&world);
    assert_eq!(pending(&world, ServiceChange::StartMaintenance), ["~ rotation demo"]);
    assert_eq!(apply_change(&world, ServiceChange::StartMaintenance), None);
    assert_eq!(hook_runs(&world), "out");
    assert!(is_out_of_rotation(&world));
    assert_eq!(pending(&world, ServiceChange::StartMaintenance), Vec::<String>::new());
    world.assert_serves(&first);
    let outcome = world.deploy_release(&second, &CrashPoint::never()).unwrap();
    assert!(matches!(outcome, SwitchOutcome::Healthy { in_maintenance: true, .. }), "{outcome:?}");
    assert_eq!(hook_runs(&world), "", "it is out of rotation before and after the switch");
    assert!(is_out_of_rotation(&world));
    world.assert_serves(&second);
    assert_eq!(apply_change(&world, ServiceChange::EndMaintenance), None);
    assert_eq!(hook_runs(&world), "in");
    assert!(!is_out_of_rotation(&world));
    assert_eq!(pending(&world, ServiceChange::EndMaintenance), Vec::<String>::new());
}

#[test]
fn a_failed_release_in_maintenance_returns_out_of_rotation() {
    let mut world = DeployFixture::new_fixture();
    let first = release(&world, "1.0");
    let broken = DesiredRelease { program: "broken", ..release(&world, "1.1") };
    world.deploy_release(&first, &CrashPoint::never());
    apply_change(&world, ServiceChange::StartMaintenance);
    hook_runs(&world);
    let outcome = world.deploy_release(&broken, &CrashPoint::never()).unwrap();
    assert!(matches!(outcome, SwitchOutcome::RolledBack { restored_failure: None, .. }), "{outcome:?}");
    assert_eq!(hook_runs(&world), "");
    assert!(is_out_of_rotation(&world));
}

#[test]
fn a_hook_that_fails_ends_the_start_and_is_repeated_at_the_end() {
    let mut world = DeployFixture::new_fixture();
    let first = release(&world, "1.0");
    world.deploy_release(&first, &CrashPoint::never());
    hook_runs(&world);
    let fails = |word: &str| world.folder.path().join(format!("hooks.{word}-fails"));
    fs::write(fails("out"), "").unwrap();
    let failure = apply_change(&world, ServiceChange::StartMaintenance).unwrap();
    assert!(failure.detail.contains("the host is back in rotation"), "{failure:?}");
    assert_eq!(hook_runs(&world), "out in");
    assert!(!is_out_of_rotation(&world));
    fs::remove_file(fails("out")).unwrap();
    assert_eq!(apply_change(&world, ServiceChange::StartMaintenance), None);
    fs::write(fails("in"), "").unwrap();
    assert!(apply_change(&world, ServiceChange::EndMaintenance).is_some());
    assert!(is_out_of_rotation(&world), "the hook after a switch failed");
    fs::remove_file(fails("in")).unwrap();
    assert_eq!(apply_change(&world, ServiceChange::EndMaintenance), None);
    assert!(!is_out_of_rotation(&world));
}

#[test]
fn an_unhealthy_release_does_not_return_into_rotation() {
    let mut world = DeployFixture::new_fixture();
    let first = release(&world, "1.0");
    world.deploy_release(&first, &CrashPoint::never());
    apply_change(&world, ServiceChange::StartMaintenance);
    hook_runs(&world);
    world.lock_machine().crash_process(DEMO_UNIT);
    let failure = apply_change(&world, ServiceChange::EndMaintenance).unwrap();
    assert!(failure.detail.contains(DEMO_UNIT), "{failure:?}");
    assert_eq!(hook_runs(&world), "");
    assert!(is_out_of_rotation(&world));
}

#[test]
fn maintenance_needs_an_active_release_with_hooks() {
    let mut world = DeployFixture::new_fixture();
    let error = plan_change(&world, ServiceChange::StartMaintenance).unwrap_err();
    assert!(error.contains("no release of demo is active"), "{error}");
    assert_eq!(pending(&world, ServiceChange::EndMaintenance), Vec::<String>::new());
    world.deploy_release(&desired_release("1.0"), &CrashPoint::never());
    let error = plan_change(&world, ServiceChange::StartMaintenance).unwrap_err();
    assert!(error.contains("`before_switch`"), "{error}");
}
