//! Owners, folders and links of a release's files on the host.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use dunlin::protocol::deploy::{
    DeployReply, DeployRequest, DesiredState, FileOwner, ReleaseFolder, ReleaseLink, ReleasePath,
};

use dunlin::deploy::signature::sign_manifest;
use dunlin::protocol::deploy::SignatureCheck;

use crate::fixture::{DeployFixture, desired_release};
use crate::model::CrashPoint;

fn owner(user: &str, group: &str) -> Option<FileOwner> {
    Some(FileOwner { user: user.to_owned(), group: group.to_owned() })
}

fn release_path(path: &str) -> ReleasePath {
    ReleasePath::new(path).unwrap()
}

/// A release with a file and an empty folder of another account.
fn owned_release(world: &mut DeployFixture, version: &'static str) -> DesiredState {
    let mut desired = world.desired_state(&desired_release(version));
    let key = &mut desired.manifest.files[1];
    (key.mode, key.owner) = (0o600, owner("nobody", "nogroup"));
    desired.manifest.folders =
        vec![ReleaseFolder { path: release_path("share/cache"), owner: owner("nobody", "nogroup") }];
    desired
}

#[test]
fn files_and_folders_get_their_owner_and_are_never_shared() {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "continuous integration runs as root");
        eprintln!("NOT TESTED: only root can give files away");
        return;
    }
    let mut world = DeployFixture::new_fixture();
    let first = owned_release(&mut world, "1.0");
    world.deploy_desired(&first, &CrashPoint::never());
    let second = owned_release(&mut world, "1.1");
    world.deploy_desired(&second, &CrashPoint::never());
    let releases = world.root().join("releases");
    let stat = |version: &str, path: &str| fs::metadata(releases.join(version).join(path)).unwrap();
    for version in ["1.0", "1.1"] {
        let (key, cache, program) =
            (stat(version, "share/same"), stat(version, "share/cache"), stat(version, "bin/demo"));
        assert_eq!(
            (key.uid(), key.permissions().mode() & 0o7777, cache.uid(), program.uid()),
            (65534, 0o600, 65534, 0)
        );
        assert!(cache.is_dir());
    }
    // The owner may write to the file: another release must not have the same one.
    assert_ne!(stat("1.0", "share/same").ino(), stat("1.1", "share/same").ino());
    assert_eq!(world.pending_rows(&second), Vec::<String>::new());
    chown(world.root().join("releases/1.1/share/same"), Some(0), Some(0)).unwrap();
    fs::remove_dir(world.root().join("releases/1.1/share/cache")).unwrap();
    assert_eq!(world.pending_rows(&second)[0], "~ release 1.1");
    world.deploy_desired(&second, &CrashPoint::never());
    assert_eq!(world.pending_rows(&second), Vec::<String>::new());
    assert_eq!(stat("1.1", "share/same").uid(), 65534);
}

#[test]
fn missing_accounts_and_link_targets_are_found_before_any_change() {
    let mut world = DeployFixture::new_fixture();
    let mut desired = owned_release(&mut world, "1.0");
    desired.manifest.files[0].owner = owner("no-such-user", "nogroup");
    let link = |path: &str, target: &str| ReleaseLink { path: release_path(path), target: target.to_owned() };
    desired.manifest.links = vec![link("bin/env", "/usr/bin/env"), link("bin/python3", "/usr/bin/no-such-python")];
    let host = world.host_agent(&CrashPoint::never());
    let request = DeployRequest::Preflight {
        scope: world.service_scope("test"),
        desired: Box::new(desired),
        listen_ports: Vec::new(),
    };
    let DeployReply::PreflightDone(problems) = world.handle_request(&host, &request) else { panic!("no preflight") };
    assert_eq!(
        problems,
        [
            "files of the release: there is no user no-such-user",
            "bin/python3 leads to /usr/bin/no-such-python, which does not exist",
        ]
    );
    assert!(!world.root().join("releases/1.0").exists());
}

#[test]
fn a_host_refuses_a_release_without_a_valid_signature() {
    let mut world = DeployFixture::new_fixture();
    let mut desired = world.desired_state(&desired_release("1.0"));
    let [own, other] = [0, 1].map(|_| minisign::KeyPair::generate_unencrypted_keypair().unwrap());
    let signature =
        |pair: &minisign::KeyPair, desired: &DesiredState| sign_manifest(&desired.manifest, &pair.sk).unwrap();
    let host = world.host_agent(&CrashPoint::never());
    let refusals = |desired: &DesiredState| {
        let (scope, desired) = (world.service_scope("test"), Box::new(desired.clone()));
        let preflight =
            DeployRequest::Preflight { scope: scope.clone(), desired: desired.clone(), listen_ports: Vec::new() };
        let stage = DeployRequest::Stage { scope, desired, expected_changes: Vec::new(), adopt: false };
        let DeployReply::PreflightDone(mut problems) = world.handle_request(&host, &preflight) else {
            panic!("no preflight")
        };
        match world.handle_request(&host, &stage) {
            DeployReply::Refused(reason) => problems.push(reason),
            DeployReply::Staged { .. } => assert_eq!(problems, Vec::<String>::new()),
            reply => panic!("{reply:?}"),
        }
        problems
    };
    let public_keys = vec![own.pk.to_base64()];
    desired.signature_check = SignatureCheck { public_keys: public_keys.clone(), signature: None };
    assert_eq!(refusals(&desired), ["the release is not signed"; 2]);
    let invalid = "the signature of the release is not valid for any of the public keys of the recipe";
    desired.signature_check.signature = Some(signature(&other, &desired));
    assert_eq!(refusals(&desired), [invalid; 2]);
    desired.signature_check.signature = Some(signature(&own, &desired));
    let mut changed = desired.clone();
    changed.manifest.files[0].mode = 0o777;
    assert_eq!(refusals(&changed), [invalid; 2]);
    assert!(!world.root().join("releases/1.0").exists());
    assert_eq!(refusals(&desired), Vec::<String>::new());
    assert!(world.root().join("releases/1.0").exists());
}
