//! Units that a switch reloads.

use dunlin::protocol::deploy::{DesiredState, SwitchOutcome};

use crate::fixture::{DEMO_UNIT, DeployFixture, DesiredRelease, desired_release};
use crate::model::CrashPoint;

/// The state of a release whose unit can be reloaded.
fn reloading(fixture: &mut DeployFixture, wish: &DesiredRelease) -> DesiredState {
    let mut desired = fixture.desired_state(wish);
    let program = fixture.root().join("current/bin/demo");
    let text = format!(
        "[Service]\nExecStart={}\nExecReload=/bin/kill -HUP $MAINPID\nEnvironmentFile={}\n",
        program.display(),
        fixture.config_path().display()
    );
    let unit = &mut desired.config.units[0];
    (unit.digest, unit.size, unit.reload_on_release) =
        (fixture.store.add_blob(text.as_bytes()), text.len() as u64, true);
    desired
}

fn deploy(fixture: &mut DeployFixture, wish: &DesiredRelease) -> (SwitchOutcome, Vec<String>) {
    let desired = reloading(fixture, wish);
    let calls_before = fixture.lock_machine().calls.len();
    let outcome = fixture.deploy_desired(&desired, &CrashPoint::never());
    let calls = fixture.lock_machine().calls[calls_before..].to_vec();
    (outcome, calls.into_iter().filter(|call| call.contains(DEMO_UNIT)).collect())
}

#[test]
fn a_release_reloads_the_unit_and_keeps_its_process() {
    let mut fixture = DeployFixture::new_fixture();
    let (_, calls) = deploy(&mut fixture, &desired_release("1.0"));
    assert!(calls.contains(&format!("restart {DEMO_UNIT}")), "the first start: {calls:?}");
    let next = reloading(&mut fixture, &desired_release("1.1"));
    let (_, plan) = fixture.plan_host(&fixture.host_agent(&CrashPoint::never()), &next);
    let row = plan.rows.iter().find(|row| row.resource == format!("service {DEMO_UNIT}")).unwrap();
    assert_eq!(row.reason.as_deref(), Some("release 1.1 starts to serve; the unit is reloaded"));
    let (outcome, calls) = deploy(&mut fixture, &desired_release("1.1"));
    assert!(matches!(&outcome, SwitchOutcome::Healthy { restarted, .. } if restarted.is_empty()), "{outcome:?}");
    assert_eq!(calls, [format!("reload {DEMO_UNIT}")]);
    assert_eq!(fixture.lock_machine().find_process(DEMO_UNIT).unwrap().program, "1.1");
    assert_eq!(fixture.pending_rows(&next), Vec::<String>::new());
}

#[test]
fn another_configuration_restarts_the_unit() {
    let mut fixture = DeployFixture::new_fixture();
    deploy(&mut fixture, &desired_release("1.0"));
    let (_, calls) = deploy(&mut fixture, &DesiredRelease { config: "new", ..desired_release("1.1") });
    assert_eq!(calls, [format!("restart {DEMO_UNIT}")]);
    fixture.lock_machine().crash_process(DEMO_UNIT);
    let (_, calls) = deploy(&mut fixture, &DesiredRelease { config: "new", ..desired_release("1.2") });
    assert_eq!(calls, [format!("restart {DEMO_UNIT}")], "a unit that does not run cannot be reloaded");
}

#[test]
fn a_failed_reload_returns_with_a_restart() {
    let mut fixture = DeployFixture::new_fixture();
    deploy(&mut fixture, &desired_release("1.0"));
    let (outcome, calls) = deploy(&mut fixture, &DesiredRelease { program: "broken", ..desired_release("1.1") });
    assert!(matches!(outcome, SwitchOutcome::RolledBack { restored_failure: None, .. }), "{outcome:?}");
    assert_eq!(calls, [format!("reload {DEMO_UNIT}"), format!("restart {DEMO_UNIT}")]);
    assert_eq!(fixture.lock_machine().find_process(DEMO_UNIT).unwrap().program, "1.0");
}
