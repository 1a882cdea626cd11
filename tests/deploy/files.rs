//! Owners, folders and links of a release's files on the host.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use dunlin::protocol::deploy::{
    CheckRelease, DesiredState, FileChunk, FileOwner, Rejection, ReleaseFile, ReleaseFolder, ReleaseLink, ReleasePath,
    StageRelease, StagedRelease,
};

use dunlin::deploy::signature::sign_manifest;
use dunlin::plan::Digest;
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
fn owned_release(fixture: &mut DeployFixture, version: &'static str) -> DesiredState {
    let mut desired = fixture.desired_state(&desired_release(version));
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
    let mut fixture = DeployFixture::new_fixture();
    let first = owned_release(&mut fixture, "1.0");
    fixture.deploy_desired(&first, &CrashPoint::never());
    let second = owned_release(&mut fixture, "1.1");
    fixture.deploy_desired(&second, &CrashPoint::never());
    let releases = fixture.root().join("releases");
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
    assert_eq!(fixture.pending_rows(&second), Vec::<String>::new());
    chown(fixture.root().join("releases/1.1/share/same"), Some(0), Some(0)).unwrap();
    fs::remove_dir(fixture.root().join("releases/1.1/share/cache")).unwrap();
    assert_eq!(fixture.pending_rows(&second)[0], "~ release 1.1");
    fixture.deploy_desired(&second, &CrashPoint::never());
    assert_eq!(fixture.pending_rows(&second), Vec::<String>::new());
    assert_eq!(stat("1.1", "share/same").uid(), 65534);
}

#[test]
fn missing_accounts_and_link_targets_are_found_before_any_change() {
    let mut fixture = DeployFixture::new_fixture();
    let mut desired = owned_release(&mut fixture, "1.0");
    desired.manifest.files[0].owner = owner("no-such-user", "nogroup");
    let link = |path: &str, target: &str| ReleaseLink { path: release_path(path), target: target.to_owned() };
    desired.manifest.links = vec![link("bin/env", "/usr/bin/env"), link("bin/python3", "/usr/bin/no-such-python")];
    let host = fixture.host_agent(&CrashPoint::never());
    let request =
        CheckRelease { scope: fixture.service_scope("test"), desired: Box::new(desired), listen_ports: Vec::new() };
    let Ok(problems) = fixture.handle_request(&host, &request) else { panic!("no preflight") };
    assert_eq!(
        problems,
        [
            "files of the release: there is no user no-such-user",
            "bin/python3 leads to /usr/bin/no-such-python, which does not exist",
        ]
    );
    assert!(!fixture.root().join("releases/1.0").exists());
}

#[test]
fn links_to_what_a_service_can_replace_are_refused() {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "continuous integration runs as root");
        eprintln!("NOT TESTED: only root can give files away");
        return;
    }
    let opt = tempfile::Builder::new().prefix("dunlin-links-").tempdir_in("/opt").unwrap();
    let file = |name: &str| {
        fs::write(opt.path().join(name), "").unwrap();
        opt.path().join(name)
    };
    // A folder and a file of a service, a writable file, and a link of root whose way leads through the service's
    // folder.
    let folder = opt.path().join("agent");
    fs::create_dir(&folder).unwrap();
    let in_folder = file("agent/tool");
    let (own, writable, good) = (file("own"), file("writable"), file("good"));
    for path in [&folder, &own] {
        chown(path, Some(65534), Some(65534)).unwrap();
    }
    fs::set_permissions(&writable, fs::Permissions::from_mode(0o666)).unwrap();
    let (way, hop) = (opt.path().join("way"), folder.join("hop"));
    std::os::unix::fs::symlink(&good, &hop).unwrap();
    std::os::unix::fs::symlink(&hop, &way).unwrap();
    let mut fixture = DeployFixture::new_fixture();
    let mut desired = fixture.desired_state(&desired_release("1.0"));
    for (target, reason) in [
        (&in_folder, Some("agent belongs to user nobody")),
        (&own, Some("own belongs to user nobody")),
        (&writable, Some("writable has mode 0666")),
        (&way, Some("agent belongs to user nobody")),
        (&good, None),
    ] {
        let target = target.display().to_string();
        desired.manifest.links = vec![ReleaseLink { path: release_path("bin/tool"), target: target.clone() }];
        let host = fixture.host_agent(&CrashPoint::never());
        let (scope, desired) = (fixture.service_scope("test"), Box::new(desired.clone()));
        let request = CheckRelease { scope, desired, listen_ports: Vec::new() };
        let Ok(problems) = fixture.handle_request(&host, &request) else { panic!("{target}") };
        let fits =
            |problem: &String| reason.is_some_and(|reason| problem.contains(reason) && problem.contains(&target));
        assert_eq!(problems.len(), usize::from(reason.is_some()), "{problems:?}");
        assert!(problems.iter().all(fits), "{problems:?}");
    }
}

#[test]
fn a_plan_says_that_units_are_not_verified() {
    let mut fixture = DeployFixture::new_fixture();
    let desired = fixture.desired_state(&desired_release("1.0"));
    let reasons = |fixture: &mut DeployFixture| -> Vec<String> {
        let (_, plan) = fixture.plan_host(&fixture.host_agent(&CrashPoint::never()), &desired);
        plan.rows.into_iter().filter(|row| row.resource.starts_with("unit ")).filter_map(|row| row.reason).collect()
    };
    assert_eq!(reasons(&mut fixture), Vec::<String>::new());
    fixture.lock_machine().lacks_verification = true;
    assert_eq!(reasons(&mut fixture)[0], "not verified: the host has no systemd-analyze");
    fixture.deploy_desired(&desired, &CrashPoint::never());
    assert_eq!(reasons(&mut fixture), Vec::<String>::new(), "nothing changes");
}

#[test]
fn a_host_refuses_a_release_without_a_valid_signature() {
    let mut fixture = DeployFixture::new_fixture();
    let mut desired = fixture.desired_state(&desired_release("1.0"));
    let [own, other] = [0, 1].map(|_| minisign::KeyPair::generate_unencrypted_keypair().unwrap());
    let signature =
        |pair: &minisign::KeyPair, desired: &DesiredState| sign_manifest(&desired.manifest, &pair.sk).unwrap();
    let host = fixture.host_agent(&CrashPoint::never());
    let refusals = |desired: &DesiredState| {
        let (scope, desired) = (fixture.service_scope("test"), Box::new(desired.clone()));
        let preflight = CheckRelease { scope: scope.clone(), desired: desired.clone(), listen_ports: Vec::new() };
        let stage = StageRelease { scope, desired, expected_changes: Vec::new(), adopt: false };
        let Ok(mut problems) = fixture.handle_request(&host, &preflight) else { panic!("no preflight") };
        match fixture.handle_request(&host, &stage) {
            Err(Rejection::Refused(reason)) => problems.push(reason),
            Ok(_) => assert_eq!(problems, Vec::<String>::new()),
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
    assert!(!fixture.root().join("releases/1.0").exists());
    assert_eq!(refusals(&desired), Vec::<String>::new());
    assert!(fixture.root().join("releases/1.0").exists());
}

/// Gives a release a file of these chunks.
fn add_chunked_file(fixture: &mut DeployFixture, desired: &mut DesiredState, chunks: &[&[u8]]) {
    let bytes = chunks.concat();
    let chunks = chunks
        .iter()
        .map(|chunk| FileChunk { sha256: fixture.store.add_blob(chunk), size: chunk.len() as u64 })
        .collect();
    desired.manifest.files.push(ReleaseFile {
        path: release_path("var/data"),
        mode: 0o644,
        size: bytes.len() as u64,
        sha256: Digest::of_bytes(&bytes),
        chunks,
        owner: None,
    });
}

#[test]
fn only_the_chunks_that_the_host_lacks_are_sent() {
    let mut fixture = DeployFixture::new_fixture();
    let mut stage = |version: &'static str, chunks: &[&[u8]]| {
        let mut desired =
            fixture.desired_state(&crate::fixture::DesiredRelease { program: "same", ..desired_release(version) });
        add_chunked_file(&mut fixture, &mut desired, chunks);
        let host = fixture.host_agent(&CrashPoint::never());
        let request = StageRelease {
            adopt: false,
            scope: fixture.service_scope("test"),
            desired: Box::new(desired.clone()),
            expected_changes: Vec::new(),
        };
        let reply = fixture.handle_request(&host, &request);
        assert!(host.missing_blobs(&request).unwrap().is_empty());
        let staged = fs::read(fixture.root().join("releases").join(version).join("var/data")).unwrap();
        assert_eq!(staged, chunks.concat());
        let Ok(StagedRelease { reused, written, bytes }) = reply else { panic!("{reply:?}") };
        (reused, written, bytes)
    };
    // The program and another file are sent with the first release; a repeated chunk is sent once.
    let others = "same".len() as u64 + "the same in all releases".len() as u64;
    assert_eq!(stage("1.0", &[b"first", b"second", b"first"]), (0, 3, 5 + 6 + others));
    assert_eq!(stage("1.1", &[b"first", b"changed", b"first"]), (2, 1, 7));
    // Chunks of two releases, in another order.
    assert_eq!(stage("1.2", &[b"changed", b"second"]), (2, 1, 0));
    assert_eq!(stage("1.3", &[b"changed", b"second"]), (3, 0, 0));
}

#[test]
fn a_damaged_chunk_of_a_file_with_its_recorded_time_is_sent_when_it_is_used() {
    let mut fixture = DeployFixture::new_fixture();
    let mut first = fixture.desired_state(&desired_release("1.0"));
    add_chunked_file(&mut fixture, &mut first, &[b"first", b"second"]);
    fixture.deploy_desired(&first, &CrashPoint::never());
    let path = fixture.root().join("releases/1.0/var/data");
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, b"fir?tsecond").unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    let mut second =
        fixture.desired_state(&crate::fixture::DesiredRelease { program: "1.0", ..desired_release("1.1") });
    add_chunked_file(&mut fixture, &mut second, &[b"first", b"third"]);
    let (host, scope) = (fixture.host_agent(&CrashPoint::never()), fixture.service_scope("test"));
    let (desired, expected_changes) = (Box::new(second), Vec::new());
    let request = StageRelease { adopt: false, scope, desired, expected_changes };
    // The records do not show the damage.
    assert_eq!(host.missing_blobs(&request).unwrap(), [Digest::of_bytes(b"third")]);
    let sent = "first".len() + "third".len();
    let reply = fixture.handle_request(&host, &request);
    assert_eq!(reply, Ok(StagedRelease { reused: 2, written: 1, bytes: sent as u64 }));
    assert_eq!(fs::read(fixture.root().join("releases/1.1/var/data")).unwrap(), b"firstthird");
}

#[test]
fn a_damaged_chunk_of_an_earlier_release_is_sent_again() {
    let mut fixture = DeployFixture::new_fixture();
    let mut first = fixture.desired_state(&desired_release("1.0"));
    add_chunked_file(&mut fixture, &mut first, &[b"first", b"second"]);
    fixture.deploy_desired(&first, &CrashPoint::never());
    fs::write(fixture.root().join("releases/1.0/var/data"), b"fir?tsecond").unwrap();
    let mut second = fixture.desired_state(&desired_release("1.1"));
    add_chunked_file(&mut fixture, &mut second, &[b"first", b"third"]);
    fixture.deploy_desired(&second, &CrashPoint::never());
    assert_eq!(fs::read(fixture.root().join("releases/1.1/var/data")).unwrap(), b"firstthird");
}
