//! A service that was on the host before dunlin: kept as a release, and restored where the first deploy fails.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use dunlin::deploy::host::ServiceManager;
use dunlin::protocol::deploy::{CompareWith, ObserveService, Rejection, ReleaseVersion, StageRelease, SwitchOutcome};

use crate::fixture::{DEMO_UNIT, DeployFixture, DesiredRelease, desired_release};
use crate::messages;
use crate::model::{CrashPoint, FakeServices};

/// A host whose service was set up by hand: unit, configuration and `current`, as Capistrano leaves them.
fn host_with_service() -> DeployFixture {
    let fixture = DeployFixture::new_fixture();
    let program = fixture.root().join("releases/20260101/bin/demo");
    fs::create_dir_all(program.parent().unwrap()).unwrap();
    fs::write(&program, "by hand").unwrap();
    symlink(fixture.root().join("releases/20260101"), fixture.root().join("current")).unwrap();
    fs::create_dir(fixture.config_path().parent().unwrap()).unwrap();
    fs::write(fixture.config_path(), "old settings").unwrap();
    fs::set_permissions(fixture.config_path(), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(unit_path(&fixture), old_unit(&fixture)).unwrap();
    let machine = FakeServices {
        machine: fixture.machine.clone(),
        folder: fixture.folder.path().join("units"),
        fuse: CrashPoint::never(),
    };
    machine.reload_units().unwrap();
    machine.set_enabled(DEMO_UNIT, true).unwrap();
    machine.restart_unit(DEMO_UNIT).unwrap();
    fixture
}

fn unit_path(fixture: &DeployFixture) -> PathBuf {
    fixture.folder.path().join("units").join(DEMO_UNIT)
}

fn old_unit(fixture: &DeployFixture) -> String {
    let (root, config) = (fixture.root(), fixture.config_path());
    format!("# by hand\nExecStart={}/current/bin/demo\nEnvironmentFile={}\n", root.display(), config.display())
}

/// Asserts that unit, configuration, link and process are those from before dunlin, and nothing of the release is left.
fn assert_old_service_serves(fixture: &DeployFixture, case: &str) {
    assert_eq!(fs::read_to_string(unit_path(fixture)).unwrap(), old_unit(fixture), "{case}");
    assert_eq!(fs::read_to_string(fixture.config_path()).unwrap(), "old settings", "{case}");
    assert_eq!(fs::metadata(fixture.config_path()).unwrap().permissions().mode() & 0o777, 0o600, "{case}");
    let link = fs::read_link(fixture.root().join("current")).unwrap();
    assert_eq!(link, fixture.root().join("releases/20260101"), "{case}");
    let units = fs::read_dir(fixture.folder.path().join("units")).unwrap().count();
    assert_eq!(units, 1, "{case}: units of the release are left");
    let machine = fixture.lock_machine();
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
    let mut fixture = host_with_service();
    let desired = Box::new(fixture.desired_state(&desired_release("1.0")));
    let host = fixture.host_agent(&CrashPoint::never());
    let observation = fixture.observe_host(&host, CompareWith::Desired(desired.clone()));
    assert_eq!(observation.unmanaged_paths, [unit_path(&fixture), fixture.root().join("current")]);
    let calls = fixture.lock_machine().calls.clone();
    let scope = fixture.service_scope("test");
    let stage = StageRelease { scope, desired, expected_changes: Vec::new(), adopt: false };
    let reply = fixture.handle_request(&host, &stage);
    let Err(Rejection::Refused(text)) = reply else { panic!("{reply:?}") };
    let folder = fixture.folder.path().display().to_string();
    messages::check("adopt-refused", [("unit and link", text.replace(&folder, ""))]);
    assert!(!fixture.root().join("releases/1.0").exists());
    assert_eq!(fixture.lock_machine().calls, calls);
    assert_old_service_serves(&fixture, "refused");
}

#[test]
fn a_failed_first_release_returns_to_the_service_from_before() {
    let mut fixture = host_with_service();
    let outcome = fixture.deploy_release(&broken_release(), &CrashPoint::never()).unwrap();
    let SwitchOutcome::RolledBack { restored, restored_failure: None, .. } = outcome else { panic!("{outcome:?}") };
    assert!(restored.is_adopted());
    assert_old_service_serves(&fixture, "failed");
    let host = fixture.host_agent(&CrashPoint::never());
    let observation = fixture.observe_host(&host, CompareWith::Nothing);
    assert_eq!(observation.confirmed.unwrap().version, ReleaseVersion::adopted());
    drop(host);
    fixture.deploy_release(&desired_release("1.1"), &CrashPoint::never());
    fixture.assert_serves(&desired_release("1.1"));
}

#[test]
fn a_moved_root_returns_to_the_release_of_the_old_root() {
    let mut fixture = DeployFixture::new_fixture();
    fixture.deploy_release(&desired_release("1.0"), &CrashPoint::never());
    let unit = fs::read_to_string(unit_path(&fixture)).unwrap();
    // The unit of the old root stays; the new root is empty.
    let moved = fixture.folder.path().join("srv/old");
    fs::rename(fixture.root(), &moved).unwrap();
    let unit = unit.replace(&fixture.root().display().to_string(), &moved.display().to_string());
    fs::write(unit_path(&fixture), &unit).unwrap();
    let outcome = fixture.deploy_release(&broken_release(), &CrashPoint::never()).unwrap();
    assert!(matches!(&outcome, SwitchOutcome::RolledBack { restored_failure: None, .. }), "{outcome:?}");
    assert_eq!(fs::read_to_string(unit_path(&fixture)).unwrap(), unit);
    assert!(!fixture.root().join("current").exists(), "there was no link in the new root");
    assert_eq!(fixture.lock_machine().find_process(DEMO_UNIT).unwrap().program, "1.0");
}

#[test]
fn a_rollback_restores_the_service_from_before() {
    let mut fixture = host_with_service();
    fixture.deploy_release(&desired_release("1.0"), &CrashPoint::never());
    fixture.assert_serves(&desired_release("1.0"));
    let host = fixture.host_agent(&CrashPoint::never());
    let observation = fixture.observe_host(&host, CompareWith::RetainedRelease(None));
    let retained = observation.retained_release.clone().unwrap();
    assert!(retained.manifest.version.is_adopted());
    let request = fixture.plan_rollback(&host, None).unwrap();
    let reply = fixture.handle_request(&host, &request);
    assert!(matches!(reply, Ok(SwitchOutcome::Healthy { .. })), "{reply:?}");
    drop(host);
    assert_old_service_serves(&fixture, "rollback");
    assert_eq!(fixture.pending_rows(&retained), Vec::<String>::new());
}

#[test]
fn failed_first_releases_return_after_a_crash_at_any_point() {
    for point in 0.. {
        assert!(point < 500, "the run has an end");
        let mut fixture = host_with_service();
        let is_complete = fixture.deploy_release(&broken_release(), &CrashPoint::crash_at(point)).is_some();
        let outcome = fixture.deploy_release(&broken_release(), &CrashPoint::never()).unwrap();
        assert!(
            matches!(&outcome, SwitchOutcome::RolledBack { restored_failure: None, .. }),
            "point {point}: {outcome:?}"
        );
        assert_old_service_serves(&fixture, &format!("point {point}"));
        if is_complete {
            return;
        }
    }
}

#[test]
fn a_release_with_the_name_of_the_active_folder_is_refused() {
    let mut fixture = host_with_service();
    fs::remove_file(fixture.root().join("current")).unwrap();
    symlink("releases/20260101", fixture.root().join("current")).unwrap();
    let desired = fixture.desired_state(&desired_release("20260101"));
    let host = fixture.host_agent(&CrashPoint::never());
    let observation = fixture.observe_host(&host, CompareWith::Desired(Box::new(desired.clone())));
    let error = dunlin::deploy::plan::plan_host("host-1", &desired, &observation, &[], &|_| None).unwrap_err();
    messages::check("adopt-same-version", [("20260101", error)]);
}

const WORKER_UNIT: &str = "worker.service";
const WORKER_BY_HAND: &str = "# by hand\nExecStart=/opt/worker\n";

/// A host with release 1.0, to which somebody added a unit that 2.0 has too.
fn host_with_extra_unit() -> DeployFixture {
    let mut fixture = DeployFixture::new_fixture();
    fixture.deploy_release(&desired_release("1.0"), &CrashPoint::never());
    fs::write(fixture.folder.path().join("units").join(WORKER_UNIT), WORKER_BY_HAND).unwrap();
    fixture
}

fn release_with_worker(program: &'static str) -> DesiredRelease {
    DesiredRelease { program, units: vec![DEMO_UNIT, WORKER_UNIT], ..desired_release("2.0") }
}

fn assert_worker_by_hand(fixture: &DeployFixture, case: &str) {
    let text = fs::read_to_string(fixture.folder.path().join("units").join(WORKER_UNIT)).unwrap_or_default();
    assert_eq!(text, WORKER_BY_HAND, "{case}");
    let link = fs::read_link(fixture.root().join("current")).unwrap();
    assert_eq!(link, PathBuf::from("releases/1.0"), "{case}");
    let machine = fixture.lock_machine();
    assert_eq!(machine.find_process(DEMO_UNIT).unwrap().program, "1.0", "{case}");
    assert!(machine.find_process(WORKER_UNIT).is_none() && !machine.is_enabled(WORKER_UNIT), "{case}");
}

#[test]
fn a_unit_that_a_later_release_adds_is_refused_without_adopt() {
    let mut fixture = host_with_extra_unit();
    let desired = Box::new(fixture.desired_state(&release_with_worker("2.0")));
    let host = fixture.host_agent(&CrashPoint::never());
    let observation = fixture.observe_host(&host, CompareWith::Desired(desired.clone()));
    assert_eq!(observation.unmanaged_paths, [fixture.folder.path().join("units").join(WORKER_UNIT)]);
    let scope = fixture.service_scope("test");
    let stage = StageRelease { scope, desired, expected_changes: Vec::new(), adopt: false };
    let reply = fixture.handle_request(&host, &stage);
    let Err(Rejection::Refused(text)) = reply else { panic!("{reply:?}") };
    let folder = fixture.folder.path().display().to_string();
    messages::check("adopt-later-refused", [("unit", text.replace(&folder, ""))]);
    assert_worker_by_hand(&fixture, "refused");
}

#[test]
fn a_unit_that_a_later_release_adds_is_restored_by_failure_and_rollback() {
    let mut fixture = host_with_extra_unit();
    let outcome = fixture.deploy_release(&release_with_worker("broken"), &CrashPoint::never()).unwrap();
    assert!(matches!(&outcome, SwitchOutcome::RolledBack { restored_failure: None, .. }), "{outcome:?}");
    assert_worker_by_hand(&fixture, "failed");
    let outcome = fixture.deploy_release(&release_with_worker("2.0"), &CrashPoint::never()).unwrap();
    assert!(matches!(&outcome, SwitchOutcome::Healthy { .. }), "{outcome:?}");
    fixture.assert_serves(&release_with_worker("2.0"));
    let host = fixture.host_agent(&CrashPoint::never());
    let request = fixture.plan_rollback(&host, None).unwrap();
    let reply = fixture.handle_request(&host, &request);
    assert!(matches!(reply, Ok(SwitchOutcome::Healthy { .. })), "{reply:?}");
    assert_worker_by_hand(&fixture, "rollback");
}

#[test]
fn a_kept_unit_is_restored_after_a_crash_at_any_point() {
    for point in 0.. {
        assert!(point < 500, "the run has an end");
        let mut fixture = host_with_extra_unit();
        let is_complete =
            fixture.deploy_release(&release_with_worker("broken"), &CrashPoint::crash_at(point)).is_some();
        let outcome = fixture.deploy_release(&release_with_worker("broken"), &CrashPoint::never()).unwrap();
        assert!(
            matches!(&outcome, SwitchOutcome::RolledBack { restored_failure: None, .. }),
            "point {point}: {outcome:?}"
        );
        assert_worker_by_hand(&fixture, &format!("point {point}"));
        if is_complete {
            return;
        }
    }
}

#[test]
fn a_release_with_the_name_of_a_folder_that_dunlin_did_not_make_is_refused() {
    let mut fixture = host_with_service();
    fixture.deploy_release(&desired_release("1.0"), &CrashPoint::never());
    let desired = Box::new(fixture.desired_state(&desired_release("20260101")));
    let host = fixture.host_agent(&CrashPoint::never());
    let scope = fixture.service_scope("test");
    let compare_with = CompareWith::Desired(desired.clone());
    let observe = ObserveService { scope: scope.clone(), compare_with };
    let stage = StageRelease { scope, desired, expected_changes: Vec::new(), adopt: false };
    let rejections =
        [fixture.handle_request(&host, &observe).unwrap_err(), fixture.handle_request(&host, &stage).unwrap_err()];
    for rejection in rejections {
        let Rejection::Refused(text) = rejection else { panic!("{rejection:?}") };
        messages::check("release-folder-of-another-tool", [("both requests", text)]);
    }
    let program = fixture.root().join("releases/20260101/bin/demo");
    assert_eq!(fs::read_to_string(program).unwrap(), "by hand");
}
