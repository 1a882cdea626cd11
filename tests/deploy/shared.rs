//! Files and folders that all releases share.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use dunlin::deploy::plan::plan_host;
use dunlin::protocol::deploy::{
    CompareWith, PruneReleases, Rejection, ReleasePath, SharedPath, StageRelease, SwitchOutcome,
};

use crate::fixture::{DeployFixture, DesiredRelease, desired_release};
use crate::model::CrashPoint;

fn shared(path: &str, is_folder: bool) -> SharedPath {
    SharedPath { path: ReleasePath::new(path).unwrap(), is_folder }
}

fn release_with_uploads(version: &'static str) -> DesiredRelease {
    let shared = vec![shared("uploads", true), shared("config/local.toml", false)];
    DesiredRelease { shared, ..desired_release(version) }
}

#[test]
fn shared_content_survives_releases_and_rollbacks() {
    let mut fixture = DeployFixture::new_fixture();
    let first = fixture.desired_state(&release_with_uploads("1.0"));
    let rows = fixture.pending_rows(&first);
    assert!(rows.contains(&"+ shared uploads".to_owned()) && rows.contains(&"+ shared config/local.toml".to_owned()));
    fixture.deploy_release(&release_with_uploads("1.0"), &CrashPoint::never()).unwrap();
    fixture.assert_serves(&release_with_uploads("1.0"));
    let root = fixture.root();
    fs::write(root.join("current/uploads/photo"), "photo").unwrap();
    fs::write(root.join("current/config/local.toml"), "key = 1").unwrap();
    assert_eq!(fs::metadata(root.join("shared/config/local.toml")).unwrap().mode() & 0o7777, 0o640);

    fixture.deploy_release(&release_with_uploads("1.1"), &CrashPoint::never()).unwrap();
    fixture.assert_serves(&release_with_uploads("1.1"));
    assert_eq!(fs::read_to_string(root.join("current/uploads/photo")).unwrap(), "photo");
    let mut bad = release_with_uploads("1.2");
    bad.program = "broken";
    let outcome = fixture.deploy_release(&bad, &CrashPoint::never()).unwrap();
    assert!(matches!(outcome, SwitchOutcome::RolledBack { .. }), "{outcome:?}");
    assert_eq!(fs::read_to_string(root.join("current/config/local.toml")).unwrap(), "key = 1");

    let prune = PruneReleases { scope: fixture.service_scope("test"), keep_releases: 1 };
    fixture.handle_request(&fixture.host_agent(&CrashPoint::never()), &prune).unwrap();
    assert_eq!(fs::read_to_string(root.join("shared/uploads/photo")).unwrap(), "photo");
}

#[test]
fn a_path_that_becomes_shared_restarts_nothing() {
    let mut fixture = DeployFixture::new_fixture();
    fixture.deploy_release(&desired_release("1.0"), &CrashPoint::never()).unwrap();
    let calls = fixture.lock_machine().calls.clone();
    let with_uploads = release_with_uploads("1.0");
    let desired = fixture.desired_state(&with_uploads);
    assert_eq!(
        fixture.pending_rows(&desired),
        ["+ shared uploads", "+ shared config/local.toml", "~ settings demo"],
        "the plan shows what happens"
    );
    fixture.deploy_release(&with_uploads, &CrashPoint::never()).unwrap();
    assert_eq!(fixture.lock_machine().calls, calls, "no unit was touched");
    fixture.assert_serves(&with_uploads);
    assert!(fixture.root().join("current/uploads").is_dir());
}

#[test]
fn what_exists_is_kept_and_a_missing_link_is_repaired() {
    let mut fixture = DeployFixture::new_fixture();
    let root = fixture.root();
    fs::create_dir_all(root.join("shared/uploads")).unwrap();
    fs::write(root.join("shared/uploads/old"), "old").unwrap();
    fixture.deploy_release(&release_with_uploads("1.0"), &CrashPoint::never()).unwrap();
    assert_eq!(fs::read_to_string(root.join("current/uploads/old")).unwrap(), "old");
    fs::remove_file(root.join("current/uploads")).unwrap();
    let desired = fixture.desired_state(&release_with_uploads("1.0"));
    assert_eq!(fixture.pending_rows(&desired), ["~ shared uploads"]);
    fixture.deploy_release(&release_with_uploads("1.0"), &CrashPoint::never()).unwrap();
    fixture.assert_serves(&release_with_uploads("1.0"));
}

#[test]
fn content_at_a_shared_path_is_refused_by_name() {
    let mut fixture = DeployFixture::new_fixture();
    for (path, content) in [("bin", "bin/demo"), ("bin/demo/cache", "bin/demo"), ("bin/demo-link", "bin/demo-link")] {
        let desired =
            fixture.desired_state(&DesiredRelease { shared: vec![shared(path, true)], ..desired_release("1.0") });
        let host = fixture.host_agent(&CrashPoint::never());
        let seen = fixture.observe_host(&host, CompareWith::Desired(Box::new(desired.clone())));
        let reason = plan_host("host-1", &desired, &seen, &[], &|_| None).unwrap_err();
        assert!(reason.contains(path) && reason.contains(&format!("has {content};")), "{reason}");
        // The host does not rely on the plan.
        let stage = StageRelease {
            scope: fixture.service_scope("test"),
            desired: Box::new(desired),
            expected_changes: Vec::new(),
            adopt: false,
        };
        assert_eq!(fixture.handle_request(&host, &stage), Err(Rejection::Refused(reason)));
        assert!(!fixture.root().join("shared").exists());
    }
}

#[test]
fn a_link_in_the_shared_folder_is_not_followed() {
    let mut fixture = DeployFixture::new_fixture();
    let (root, victim) = (fixture.root(), fixture.folder.path().join("victim"));
    fs::create_dir_all(root.join("shared")).unwrap();
    fs::write(&victim, "of root").unwrap();
    symlink(&victim, root.join("shared/uploads")).unwrap();
    let mode = fs::metadata(&victim).unwrap().mode();
    fixture.deploy_release(&release_with_uploads("1.0"), &CrashPoint::never()).unwrap();
    assert_eq!(fs::read_link(root.join("shared/uploads")).unwrap(), victim, "the link stays, and is not opened");
    let after = fs::metadata(&victim).unwrap();
    assert_eq!((after.mode(), fs::read_to_string(&victim).unwrap()), (mode, "of root".to_owned()));
}
