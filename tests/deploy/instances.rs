//! Instances of template units.

use std::fs;

use dunlin::protocol::deploy::{DesiredState, SwitchOutcome};

use crate::fixture::{DeployFixture, DesiredRelease, desired_release};
use crate::model::CrashPoint;

const TEMPLATE: &str = "demo@.service";

/// The state of a release whose unit has these instances.
fn with_instances(fixture: &mut DeployFixture, wish: &DesiredRelease, instances: &[&str]) -> DesiredState {
    let mut desired = fixture.desired_state(wish);
    let unit = desired.config.units.remove(0);
    let units = instances.iter().map(|instance| {
        let mut unit = unit.clone();
        (unit.name, unit.template) = (format!("demo@{instance}.service"), Some(TEMPLATE.to_owned()));
        unit
    });
    desired.config.units = units.collect();
    desired
}

/// Deploys, and returns the calls to the service manager.
fn deploy(fixture: &mut DeployFixture, desired: &DesiredState) -> (SwitchOutcome, Vec<String>) {
    let calls_before = fixture.lock_machine().calls.len();
    let outcome = fixture.deploy_desired(desired, &CrashPoint::never());
    let calls = fixture.lock_machine().calls[calls_before..].to_vec();
    (outcome, calls.into_iter().filter(|call| call.contains('@')).collect())
}

fn running(fixture: &DeployFixture) -> Vec<String> {
    let machine = fixture.lock_machine();
    let names = (1..=4).map(|number| format!("demo@{number}.service"));
    names.filter(|name| machine.find_process(name).is_some() && machine.is_enabled(name)).collect()
}

#[test]
fn each_instance_is_planned_started_and_restarted() {
    let mut fixture = DeployFixture::new_fixture();
    let first = with_instances(&mut fixture, &desired_release("1.0"), &["1", "2"]);
    let rows = fixture.pending_rows(&first);
    let units: Vec<&String> = rows.iter().filter(|row| row.contains("unit ") || row.contains("service ")).collect();
    assert_eq!(units.len(), 5, "one file, and two rows per instance: {rows:?}");
    for row in ["~ unit demo@1.service", "~ unit demo@2.service"] {
        assert!(rows.iter().any(|planned| planned == row), "{rows:?}");
    }
    deploy(&mut fixture, &first);
    assert_eq!(running(&fixture), ["demo@1.service", "demo@2.service"]);
    assert!(fixture.folder.path().join("units").join(TEMPLATE).exists());
    assert_eq!(fixture.pending_rows(&first), Vec::<String>::new());
    let next = with_instances(&mut fixture, &desired_release("1.1"), &["1", "2"]);
    let (outcome, calls) = deploy(&mut fixture, &next);
    assert!(matches!(outcome, SwitchOutcome::Healthy { .. }), "{outcome:?}");
    assert_eq!(calls, ["restart demo@1.service", "restart demo@2.service"]);
}

#[test]
fn added_and_removed_instances_leave_the_others_alone() {
    let mut fixture = DeployFixture::new_fixture();
    let two = with_instances(&mut fixture, &desired_release("1.0"), &["1", "2"]);
    deploy(&mut fixture, &two);
    let three = with_instances(&mut fixture, &desired_release("1.0"), &["1", "2", "3"]);
    let (_, calls) = deploy(&mut fixture, &three);
    assert_eq!(calls, ["enable demo@3.service true", "restart demo@3.service"]);
    assert_eq!(running(&fixture).len(), 3);
    let one = with_instances(&mut fixture, &desired_release("1.0"), &["1"]);
    let rows = fixture.pending_rows(&one);
    assert_eq!(rows, ["- unit demo@2.service", "- unit demo@3.service"]);
    let (_, calls) = deploy(&mut fixture, &one);
    let stopped = ["stop demo@2.service", "enable demo@2.service false"];
    assert_eq!(calls[..2], stopped);
    assert_eq!(calls.len(), 4, "{calls:?}");
    assert_eq!(running(&fixture), ["demo@1.service"]);
    assert_eq!(fixture.pending_rows(&one), Vec::<String>::new());
}

#[test]
fn a_failed_release_restores_the_instances_of_the_previous_one() {
    let mut fixture = DeployFixture::new_fixture();
    let two = with_instances(&mut fixture, &desired_release("1.0"), &["1", "2"]);
    deploy(&mut fixture, &two);
    let broken = DesiredRelease { program: "broken", ..desired_release("1.1") };
    let other = with_instances(&mut fixture, &broken, &["2", "3"]);
    let (outcome, _) = deploy(&mut fixture, &other);
    assert!(matches!(&outcome, SwitchOutcome::RolledBack { restored_failure: None, .. }), "{outcome:?}");
    assert_eq!(running(&fixture), ["demo@1.service", "demo@2.service"]);
    assert_eq!(fixture.pending_rows(&two), Vec::<String>::new());
}

#[test]
fn a_release_without_the_template_removes_its_file_and_all_instances() {
    let mut fixture = DeployFixture::new_fixture();
    let two = with_instances(&mut fixture, &desired_release("1.0"), &["1", "2"]);
    deploy(&mut fixture, &two);
    fixture.deploy_release(&desired_release("1.1"), &CrashPoint::never());
    fixture.assert_serves(&desired_release("1.1"));
    assert_eq!(running(&fixture), Vec::<String>::new());
    assert!(fs::read_dir(fixture.folder.path().join("units")).unwrap().count() == 1);
}
