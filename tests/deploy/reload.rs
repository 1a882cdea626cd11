//! Units that a switch reloads.

use dunlin::protocol::deploy::{DesiredState, SwitchOutcome};

use crate::fixture::{DEMO_UNIT, DeployFixture, DesiredRelease, desired_release};
use crate::model::CrashPoint;

/// The state of a release whose unit can be reloaded.
fn reloading(world: &mut DeployFixture, wish: &DesiredRelease) -> DesiredState {
    let mut desired = world.desired_state(wish);
    let program = world.root().join("current/bin/demo");
    let text = format!(
        "[Service]\nExecStart={}\nExecReload=/bin/kill -HUP $MAINPID\nEnvironmentFile={}\n",
        program.display(),
        world.config_path().display()
    );
    let unit = &mut desired.config.units[0];
    (unit.digest, unit.size, unit.reload_on_release) = (world.store.add_blob(text.as_bytes()), text.len() as u64, true);
    desired
}

fn deploy(world: &mut DeployFixture, wish: &DesiredRelease) -> (SwitchOutcome, Vec<String>) {
    let desired = reloading(world, wish);
    let calls_before = world.lock_machine().calls.len();
    let outcome = world.deploy_desired(&desired, &CrashPoint::never());
    let calls = world.lock_machine().calls[calls_before..].to_vec();
    (outcome, calls.into_iter().filter(|call| call.contains(DEMO_UNIT)).collect())
}

#[test]
fn a_release_reloads_the_unit_and_keeps_its_process() {
    let mut world = DeployFixture::new_fixture();
    let (_, calls) = deploy(&mut world, &desired_release("1.0"));
    assert!(calls.contains(&format!("restart {DEMO_UNIT}")), "the first start: {calls:?}");
    let next = reloading(&mut world, &desired_release("1.1"));
    let (_, plan) = world.plan_host(&world.host_agent(&CrashPoint::never()), &next);
    let row = plan.rows.iter().find(|row| row.resource == format!("service {DEMO_UNIT}")).unwrap();
    assert_eq!(row.reason.as_deref(), Some("release 1.1 starts to serve; the unit is reloaded"));
    let (outcome, calls) = deploy(&mut world, &desired_release("1.1"));
    assert!(matches!(&outcome, SwitchOutcome::Healthy { restarted, .. } if restarted.is_empty()), "{outcome:?}");
    assert_eq!(calls, [format!("reload {DEMO_UNIT}")]);
    assert_eq!(world.lock_machine().find_process(DEMO_UNIT).unwrap().program, "1.1");
    assert_eq!(world.pending_rows(&next), Vec::<String>::new());
}

#[test]
fn another_configuration_restarts_the_unit() {
    let mut world = DeployFixture::new_fixture();
    deploy(&mut world, &desired_release("1.0"));
    let (_, calls) = deploy(&mut world, &DesiredRelease { config: "new", ..desired_release("1.1") });
    assert_eq!(calls, [format!("restart {DEMO_UNIT}")]);
    world.lock_machine().crash_process(DEMO_UNIT);
    let (_, calls) = deploy(&mut world, &DesiredRelease { config: "new", ..desired_release("1.2") });
    assert_eq!(calls, [format!("restart {DEMO_UNIT}")], "a unit that does not run cannot be reloaded");
}

#[test]
fn a_failed_reload_returns_with_a_restart() {
    let mut world = DeployFixture::new_fixture();
    deploy(&mut world, &desired_release("1.0"));
    let (outcome, calls) = deploy(&mut world, &DesiredRelease { program: "broken", ..desired_release("1.1") });
    assert!(matches!(outcome, SwitchOutcome::RolledBack { restored_failure: None, .. }), "{outcome:?}");
    assert_eq!(calls, [format!("reload {DEMO_UNIT}"), format!("restart {DEMO_UNIT}")]);
    assert_eq!(world.lock_machine().find_process(DEMO_UNIT).unwrap().program, "1.0");
}
