//! A service that was on the host before dunlin: kept as a release, and restored where the first deploy fails.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use dunlin::deploy::host::ServiceManager;
use dunlin::protocol::deploy::{CompareWith, DeployReply, DeployRequest, ReleaseVersion, SwitchOutcome};

use crate::fixture::{DEMO_UNIT, DeployFixture, DesiredRelease, desired_release};
use crate::messages;
use crate::model::{CrashPoint, FakeServices};

/// A host whose service was set up by hand: unit, configuration and `current`, as Capistrano leaves them.
fn host_with_service() -> DeployFixture {
    let world = DeployFixture::new_fixture();
    let program = world.root().join("releases/20260101/bin/demo");
    fs::create_dir_all(program.parent().unwrap()).unwrap();
    fs::write(&program, "by hand").unwrap();
    symlink(world.root().join("releases/20260101"), world.root().join("current")).unwrap();
    fs::create_dir(world.config_path().parent().unwrap()).unwrap();
    fs::write(world.config_path(), "old settings").unwrap();
    fs::set_permissions(world.config_path(), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(unit_path(&world), old_unit(&world)).unwrap();
    let machine = FakeServices {
        machine: world.machine.clone(),
        folder: world.folder.path().join("units"),
        fuse: CrashPoint::never(),
    };
    machine.reload_units().unwrap();
    machine.set_enabled(DEMO_UNIT, true).unwrap();
    machine.restart_unit(DEMO_UNIT).unwrap();
    world
}

fn unit_path(world: &DeployFixture) -> PathBuf {
    world.folder.path().join("units").join(DEMO_UNIT)
}

fn old_unit(world: &DeployFixture) -> String {
    let (root, config) = (world.root(), world.config_path());
    format!("# by hand\nExecStart={}/current/bin/demo\nEnvironmentFile={}\n", root.display(), config.display())
}

/// Asserts that unit, configuration, link and process are those from before dunlin, and nothing of the release is left.
fn assert_old_service_serves(world: &DeployFixture, case: &str) {
    assert_eq!(fs::read_to_string(unit_path(world)).unwrap(), old_unit(world), "{case}");
    assert_eq!(fs::read_to_string(world.config_path()).unwrap(), "old settings", "{case}");
    assert_eq!(fs::metadata(world.config_path()).unwrap().permissions().mode() & 0o777, 0o600, "{case}");
    let link = fs::read_link(world.root().join("current")).unwrap();
    assert_eq!(link, world.root().join("releases/20260101"), "{case}");
    let units = fs::read_dir(world.folder.path().join("units")).unwrap().count();
    assert_eq!(units, 1, "{case}: units of the release are left");
    let machine = world.lock_machine();
    let process = machine.find_process(DEMO_UNIT).unwrap_or_else(|| panic!("{case}: it runs"));
    assert_eq!((process.program.as_str(), process.config.as_str()), ("by hand", "old settings"), "{case}");
    assert!(machine.is_enabled(DEMO_UNIT), "{case}");
}

fn broken_release() -> DesiredRelease {
    let mut bad = desired_release("1.0");
    bad.program = "broken";
    bad.config = "new settings";
    bad.units = vec![DEMO_UNIT, "more.service"];
    bad
}

#[test]
fn a_service_that_dunlin_did_not_make_is_refused_without_adopt() {
    let mut world = host_with_service();
    let desired = Box::new(world.desired_state(&desired_release("1.0")));
    let host = world.host_agent(&CrashPoint::never());
    let observation = world.observe_host(&host, CompareWith::Desired(desired.clone()));
    assert_eq!(observation.unmanaged_paths, [unit_path(&world), world.root().join("current")]);
    let calls = world.lock_machine().calls.clone();
    let scope = world.service_scope("test");
    let stage = DeployRequest::Stage { scope, desired, expected_changes: Vec::new(), adopt: false };
    let reply = world.handle_request(&host, &stage);
    let DeployReply::Refused(text) = reply else { panic!("{reply:?}") };
    let folder = world.folder.path().display().to_string();
    messages::check("adopt-refused", [("unit and link", text.replace(&folder, ""))]);
    assert!(!world.root().join("releases/1.0").exists());
    assert_eq!(world.lock_machine().calls, calls);
    assert_old_service_serves(&world, "refused");
}

#[test]
fn a_failed_first_release_returns_to_the_service_from_before() {
    let mut world = host_with_service();
    let outcome = world.deploy_release(&broken_release(), &CrashPoint::never()).unwrap();
    let SwitchOutcome::RolledBack { restored, restored_failure: None, .. } = outcome else { panic!("{outcome:?}") };
    assert!(restored.is_adopted());
    assert_old_service_serves(&world, "failed");
    let host = world.host_agent(&CrashPoint::never());
    let observation = world.observe_host(&host, CompareWith::Nothing);
    assert_eq!(observation.confirmed.unwrap().version, ReleaseVersion::adopted());
    drop(host);
    world.deploy_release(&desired_release("1.1"), &CrashPoint::never());
    world.assert_serves(&desired_release("1.1"));
}

#[test]
fn a_moved_root_returns_to_the_release_of_the_old_root() {
    let mut world = DeployFixture::new_fixture();
    world.deploy_release(&desired_release("1.0"), &CrashPoint::never());
    let unit = fs::read_to_string(unit_path(&world)).unwrap();
    // The unit of the old root stays; the new root is empty.
    let moved = world.folder.path().join("srv/old");
    fs::rename(world.root(), &moved).unwrap();
    let unit = unit.replace(&world.root().display().to_string(), &moved.display().to_string());
    fs::write(unit_path(&world), &unit).unwrap();
    let outcome = world.deploy_release(&broken_release(), &CrashPoint::never()).unwrap();
    assert!(matches!(&outcome, SwitchOutcome::RolledBack { restored_failure: None, .. }), "{outcome:?}");
    assert_eq!(fs::read_to_string(unit_path(&world)).unwrap(), unit);
    assert!(!world.root().join("current").exists(), "there was no link in the new root");
    assert_eq!(world.lock_machine().find_process(DEMO_UNIT).unwrap().program, "1.0");
}

#[test]
fn a_rollback_restores_the_service_from_before() {
    let mut world = host_with_service();
    world.deploy_release(&desired_release("1.0"), &CrashPoint::never());
    world.assert_serves(&desired_release("1.0"));
    let host = world.host_agent(&CrashPoint::never());
    let observation = world.observe_host(&host, CompareWith::RetainedRelease(None));
    let retained = observation.retained_release.clone().unwrap();
    assert!(retained.manifest.version.is_adopted());
    let scope = world.service_scope("test");
    let request = DeployRequest::Rollback { scope, version: None, expected_current: observation.confirmed };
    let reply = world.handle_request(&host, &request);
    assert!(matches!(reply, DeployReply::Switched(SwitchOutcome::Healthy { .. })), "{reply:?}");
    drop(host);
    assert_old_service_serves(&world, "rollback");
    assert_eq!(world.pending_rows(&retained), Vec::<String>::new());
}

#[test]
fn failed_first_releases_return_after_a_crash_at_any_point() {
    for point in 0.. {
        assert!(point < 500, "the run has an end");
        let mut world = host_with_service();
        let is_complete = world.deploy_release(&broken_release(), &CrashPoint::crash_at(point)).is_some();
        let outcome = world.deploy_release(&broken_release(), &CrashPoint::never()).unwrap();
        assert!(
            matches!(&outcome, SwitchOutcome::RolledBack { restored_failure: None, .. }),
            "point {point}: {outcome:?}"
        );
        assert_old_service_serves(&world, &format!("point {point}"));
        if is_complete {
            return;
        }
    }
}

#[test]
fn a_release_with_the_name_of_the_active_folder_is_refused() {
    let mut world = host_with_service();
    fs::remove_file(world.root().join("current")).unwrap();
    symlink("releases/20260101", world.root().join("current")).unwrap();
    let desired = world.desired_state(&desired_release("20260101"));
    let host = world.host_agent(&CrashPoint::never());
    let observation = world.observe_host(&host, CompareWith::Desired(Box::new(desired.clone())));
    let error = dunlin::deploy::plan::plan_host("host-1", &desired, &observation, &[], &|_| None).unwrap_err();
    messages::check("adopt-same-version", [("20260101", error)]);
}

const WORKER_UNIT: &str = "worker.service";
const WORKER_BY_HAND: &str = "# by hand\nExecStart=/opt/worker\n";

/// A host with release 1.0, to which somebody added a unit that 2.0 has too.
fn host_with_extra_unit() -> DeployFixture {
    let mut world = DeployFixture::new_fixture();
    world.deploy_release(&desired_release("1.0"), &CrashPoint::never());
    fs::write(world.folder.path().join("units").join(WORKER_UNIT), WORKER_BY_HAND).unwrap();
    world
}

fn release_with_worker(program: &'static str) -> DesiredRelease {
    DesiredRelease { program, units: vec![DEMO_UNIT, WORKER_UNIT], ..desired_release("2.0") }
}

fn assert_worker_by_hand(world: &DeployFixture, case: &str) {
    let text = fs::read_to_string(world.folder.path().join("units").join(WORKER_UNIT)).unwrap_or_default();
    assert_eq!(text, WORKER_BY_HAND, "{case}");
    let link = fs::read_link(world.root().join("current")).unwrap();
    assert_eq!(link, PathBuf::from("releases/1.0"), "{case}");
    let machine = world.lock_machine();
    assert_eq!(machine.find_process(DEMO_UNIT).unwrap().program, "1.0", "{case}");
    assert!(machine.find_process(WORKER_UNIT).is_none() && !machine.is_enabled(WORKER_UNIT), "{case}");
}

#[test]
fn a_unit_that_a_later_release_adds_is_refused_without_adopt() {
    let mut world = host_with_extra_unit();
    let desired = Box::new(world.desired_state(&release_with_worker("2.0")));
    let host = world.host_agent(&CrashPoint::never());
    let observation = world.observe_host(&host, CompareWith::Desired(desired.clone()));
    assert_eq!(observation.unmanaged_paths, [world.folder.path().join("units").join(WORKER_UNIT)]);
    let scope = world.service_scope("test");
    let stage = DeployRequest::Stage { scope, desired, expected_changes: Vec::new(), adopt: false };
    let reply = world.handle_request(&host, &stage);
    let DeployReply::Refused(text) = reply else { panic!("{reply:?}") };
    let folder = world.folder.path().display().to_string();
    messages::check("adopt-later-refused", [("unit", text.replace(&folder, ""))]);
    assert_worker_by_hand(&world, "refused");
}

#[test]
fn a_unit_that_a_later_release_adds_is_restored_by_failure_and_rollback() {
    let mut world = host_with_extra_unit();
    let outcome = world.deploy_release(&release_with_worker("broken"), &CrashPoint::never()).unwrap();
    assert!(matches!(&outcome, SwitchOutcome::RolledBack { restored_failure: None, .. }), "{outcome:?}");
    assert_worker_by_hand(&world, "failed");
    let outcome = world.deploy_release(&release_with_worker("2.0"), &CrashPoint::never()).unwrap();
    assert!(matches!(&outcome, SwitchOutcome::Healthy { .. }), "{outcome:?}");
    world.assert_serves(&release_with_worker("2.0"));
    let host = world.host_agent(&CrashPoint::never());
    let observation = world.observe_host(&host, CompareWith::RetainedRelease(None));
    let scope = world.service_scope("test");
    let request = DeployRequest::Rollback { scope, version: None, expected_current: observation.confirmed };
    let reply = world.handle_request(&host, &request);
    assert!(matches!(reply, DeployReply::Switched(SwitchOutcome::Healthy { .. })), "{reply:?}");
    assert_worker_by_hand(&world, "rollback");
}

#[test]
fn a_kept_unit_is_restored_after_a_crash_at_any_point() {
    for point in 0.. {
        assert!(point < 500, "the run has an end");
        let mut world = host_with_extra_unit();
        let is_complete = world.deploy_release(&release_with_worker("broken"), &CrashPoint::crash_at(point)).is_some();
        let outcome = world.deploy_release(&release_with_worker("broken"), &CrashPoint::never()).unwrap();
        assert!(
            matches!(&outcome, SwitchOutcome::RolledBack { restored_failure: None, .. }),
            "point {point}: {outcome:?}"
        );
        assert_worker_by_hand(&world, &format!("point {point}"));
        if is_complete {
            return;
        }
    }
}

#[test]
fn a_release_with_the_name_of_a_folder_that_dunlin_did_not_make_is_refused() {
    let mut world = host_with_service();
    world.deploy_release(&desired_release("1.0"), &CrashPoint::never());
    let desired = Box::new(world.desired_state(&desired_release("20260101")));
    let host = world.host_agent(&CrashPoint::never());
    let scope = world.service_scope("test");
    let compare_with = CompareWith::Desired(desired.clone());
    let observe = DeployRequest::Observe { scope: scope.clone(), compare_with };
    let stage = DeployRequest::Stage { scope, desired, expected_changes: Vec::new(), adopt: false };
    for request in [observe, stage] {
        let reply = world.handle_request(&host, &request);
        let DeployReply::Refused(text) = reply else { panic!("{reply:?}") };
        assert!(text.contains("releases/20260101 exists, and dunlin did not make it"), "{text}");
    }
    let program = world.root().join("releases/20260101/bin/demo");
    assert_eq!(fs::read_to_string(program).unwrap(), "by hand");
}
