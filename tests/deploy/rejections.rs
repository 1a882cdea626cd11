//! Requests that are rejected before any change, and their messages.

use std::fs;
use std::path::PathBuf;

use dunlin::deploy::plan::planned_rows;
use dunlin::protocol::deploy::{
    CheckHealth, CheckRelease, CompareWith, DesiredState, LockService, ObserveService, PruneReleases, Rejection,
    RollBack, ServiceRef, StageRelease, SwitchOutcome, SwitchPurpose, SwitchRelease,
};

use crate::fixture::{DEMO_UNIT, DeployFixture, DesiredRelease, call_agent, desired_release};
use crate::messages;
use crate::model::{CrashPoint, CrashingSink};

#[test]
fn concurrent_operators_do_not_interfere() {
    let mut fixture = DeployFixture::new_fixture();
    fixture.deploy_release(&desired_release("1.0"), &CrashPoint::never());
    let desired = Box::new(fixture.desired_state(&desired_release("1.1")));
    let (alice, bob) = (fixture.host_agent(&CrashPoint::never()), fixture.host_agent(&CrashPoint::never()));
    let stage = |by: &str| StageRelease {
        scope: fixture.service_scope(by),
        desired: desired.clone(),
        expected_changes: Vec::new(),
        adopt: false,
    };
    assert!(fixture.handle_request(&alice, &stage("alice")).is_ok());
    let locked = fixture.handle_request(&bob, &stage("bob"));
    assert!(
        matches!(&locked, Err(Rejection::Locked(holder)) if holder.operator == "alice" && holder.pid == std::process::id())
    );
    assert_eq!(fixture.observe_host(&bob, CompareWith::Nothing).lock_holder.unwrap().operator, "alice");
    assert_eq!(fixture.observe_host(&alice, CompareWith::Nothing).lock_holder, None, "one's own lock is no hindrance");
    // Between two requests of one rollout the lock stays.
    assert!(matches!(
        fixture.handle_request(&bob, &PruneReleases { scope: fixture.service_scope("bob"), keep_releases: 1 }),
        Err(Rejection::Locked(_))
    ));
    drop(alice);
    assert!(fixture.handle_request(&bob, &stage("bob")).is_ok());
}

#[test]
fn stale_plans_are_rejected_with_the_changes() {
    let mut fixture = DeployFixture::new_fixture();
    fixture.deploy_release(&desired_release("1.0"), &CrashPoint::never());
    let desired = Box::new(fixture.desired_state(&desired_release("1.1")));
    let host = fixture.host_agent(&CrashPoint::never());
    let (seen, plan) = fixture.plan_host(&host, &desired);
    let stage = StageRelease {
        scope: fixture.service_scope("test"),
        desired: desired.clone(),
        expected_changes: planned_rows(&plan),
        adopt: false,
    };
    fs::write(fixture.config_path(), "by hand").unwrap();
    let reply = fixture.handle_request(&host, &stage);
    let path = fixture.config_path().display().to_string();
    assert!(
        matches!(&reply, Err(Rejection::PlanOutdated(lines)) if lines.len() == 1 && lines[0].contains(&path)),
        "{reply:?}"
    );
    assert!(!fixture.root().join("releases/1.1").exists());
    // Somebody else's deploy between plan and switch.
    fs::write(fixture.config_path(), "same").unwrap();
    assert!(fixture.handle_request(&host, &stage).is_ok());
    drop(host);
    fixture.deploy_release(&desired_release("1.0.1"), &CrashPoint::never());
    let host = fixture.host_agent(&CrashPoint::never());
    let switch = SwitchRelease {
        scope: fixture.service_scope("test"),
        target: desired.to_release_target(),
        expected_current: seen.confirmed,
        purpose: SwitchPurpose::Plan { expected_changes: planned_rows(&plan) },
    };
    let reply = fixture.handle_request(&host, &switch);
    let Err(Rejection::PlanOutdated(lines)) = reply else { panic!("{reply:?}") };
    messages::check("switch-stale", lines.iter().map(|line| ("another release serves", line)));
}

/// Changes a host by hand, as an operator or another tool may at any time.
type ByHand = fn(&DeployFixture);

/// Changes that contradict a plan, each with its case.
fn changes_by_hand() -> [(&'static str, ByHand); 5] {
    [
        ("configuration", |fixture| fs::write(fixture.config_path(), "by hand").unwrap()),
        ("no configuration", |fixture| fs::remove_file(fixture.config_path()).unwrap()),
        ("unit", |fixture| fs::write(fixture.folder.path().join("units").join(DEMO_UNIT), "# by hand\n").unwrap()),
        ("link", |fixture| {
            fs::remove_file(fixture.root().join("current")).unwrap();
            std::os::unix::fs::symlink("releases/0.9", fixture.root().join("current")).unwrap();
        }),
        ("no link", |fixture| fs::remove_file(fixture.root().join("current")).unwrap()),
    ]
}

#[test]
fn a_host_that_changed_before_the_switch_is_rejected() {
    let mut rejected = Vec::new();
    for (case, change) in changes_by_hand() {
        let mut fixture = DeployFixture::new_fixture();
        for version in ["0.9", "1.0"] {
            fixture.deploy_release(&desired_release(version), &CrashPoint::never());
        }
        let mut new = desired_release("1.1");
        (new.config, new.units) = ("new", vec![DEMO_UNIT, "more.service"]);
        let desired = fixture.desired_state(&new);
        let host = fixture.host_agent(&CrashPoint::never());
        let (seen, plan) = fixture.plan_host(&host, &desired);
        let (scope, expected_changes) = (fixture.service_scope("test"), planned_rows(&plan));
        let stage = StageRelease {
            scope: scope.clone(),
            desired: Box::new(desired.clone()),
            expected_changes: expected_changes.clone(),
            adopt: false,
        };
        fixture.handle_request(&host, &stage).unwrap();
        change(&fixture);
        let calls = fixture.lock_machine().calls.clone();
        let switch = SwitchRelease {
            scope,
            target: desired.to_release_target(),
            expected_current: seen.confirmed,
            purpose: SwitchPurpose::Plan { expected_changes },
        };
        let reply = fixture.handle_request(&host, &switch);
        let Err(Rejection::PlanOutdated(lines)) = reply else { panic!("{case}: {reply:?}") };
        rejected.push((format!("switch, {case}"), lines.join("\n")));
        assert_eq!(fixture.lock_machine().calls, calls, "{case}: no unit was touched");
        let now = fixture.observe_host(&host, CompareWith::Nothing);
        assert_eq!((now.confirmed.unwrap().version.as_str(), now.unfinished_switch), ("1.0", None), "{case}");
    }
    for (case, change) in changes_by_hand() {
        let mut fixture = DeployFixture::new_fixture();
        for (version, config) in [("0.9", "old"), ("1.0", "new")] {
            let units = vec![DEMO_UNIT];
            fixture.deploy_release(&DesiredRelease { config, units, ..desired_release(version) }, &CrashPoint::never());
        }
        let host = fixture.host_agent(&CrashPoint::never());
        let rollback = fixture.plan_rollback(&host, None).unwrap();
        change(&fixture);
        let reply = fixture.handle_request(&host, &rollback);
        let Err(Rejection::PlanOutdated(lines)) = reply else { panic!("{case}: {reply:?}") };
        rejected.push((format!("rollback, {case}"), lines.join("\n")));
        let now = fixture.observe_host(&host, CompareWith::Nothing);
        assert_eq!((now.confirmed.unwrap().version.as_str(), now.unfinished_switch), ("1.0", None), "{case}");
    }
    messages::check("switch-after-a-change-by-hand", rejected);
}

#[test]
fn a_service_that_dies_before_its_restart_is_switched() {
    let mut fixture = DeployFixture::new_fixture();
    fixture.deploy_release(&desired_release("1.0"), &CrashPoint::never());
    let desired = fixture.desired_state(&desired_release("1.1"));
    let host = fixture.host_agent(&CrashPoint::never());
    let (seen, plan) = fixture.plan_host(&host, &desired);
    let (scope, expected_changes) = (fixture.service_scope("test"), planned_rows(&plan));
    let stage =
        StageRelease { scope: scope.clone(), desired: Box::new(desired.clone()), expected_changes, adopt: false };
    fixture.handle_request(&host, &stage).unwrap();
    fixture.lock_machine().crash_process(DEMO_UNIT);
    let (target, purpose) =
        (desired.to_release_target(), SwitchPurpose::Plan { expected_changes: stage.expected_changes });
    let switch = SwitchRelease { scope, target, expected_current: seen.confirmed, purpose };
    let reply = fixture.handle_request(&host, &switch);
    assert!(matches!(reply, Ok(SwitchOutcome::Healthy { .. })), "{reply:?}");
    // What serves now is not compared with the plan: the request may be repeated.
    assert_eq!(fixture.handle_request(&host, &switch), Ok(SwitchOutcome::Unchanged));
}

#[test]
fn switches_to_unstaged_releases_are_rejected() {
    let mut fixture = DeployFixture::new_fixture();
    let desired = fixture.desired_state(&desired_release("1.0"));
    let host = fixture.host_agent(&CrashPoint::never());
    let switch = SwitchRelease {
        scope: fixture.service_scope("test"),
        target: desired.to_release_target(),
        expected_current: None,
        purpose: SwitchPurpose::Return,
    };
    let rollback = RollBack {
        scope: fixture.service_scope("test"),
        version: None,
        expected_current: None,
        purpose: SwitchPurpose::Return,
    };
    let health = CheckHealth { scope: fixture.service_scope("test"), expected_pids: None };
    let refused = [
        ("switch", fixture.handle_request(&host, &switch).unwrap_err()),
        ("rollback", fixture.handle_request(&host, &rollback).unwrap_err()),
        ("health", fixture.handle_request(&host, &health).unwrap_err()),
    ]
    .map(|(case, rejection)| {
        let Rejection::Refused(why) = rejection else { panic!("{case}: {rejection:?}") };
        (case, why)
    });
    messages::check("no-release-there", refused);
}

#[test]
fn missing_contents_leave_the_host_unchanged() {
    let mut fixture = DeployFixture::new_fixture();
    fixture.deploy_release(&desired_release("1.0"), &CrashPoint::never());
    let desired = Box::new(fixture.desired_state(&desired_release("1.1")));
    let empty = crate::fixture::DeployBlobs::default();
    let host = fixture.host_agent(&CrashPoint::never());
    let stage =
        StageRelease { scope: fixture.service_scope("test"), desired, expected_changes: Vec::new(), adopt: false };
    let error = call_agent(&host, &stage, &empty, &CrashingSink(CrashPoint::never())).unwrap_err();
    messages::check("content-did-not-come", [("bin/demo", format!("{error:#}"))]);
    assert!(!fixture.root().join("releases/1.1.partial").exists(), "the space is free again");
    drop(host);
    fixture.assert_serves(&desired_release("1.0"));
    fixture.deploy_release(&desired_release("1.1"), &CrashPoint::never());
    fixture.assert_serves(&desired_release("1.1"));
}

#[test]
fn unsuitable_folders_are_rejected() {
    let fixture = DeployFixture::new_fixture();
    let host = fixture.host_agent(&CrashPoint::never());
    for root in ["/", "relative", "/srv/../etc"] {
        let scope = ServiceRef { base_dir: PathBuf::from(root), ..fixture.service_scope("test") };
        let request = PruneReleases { scope, keep_releases: 1 };
        assert!(fixture.try_request(&host, &request, &CrashPoint::never()).is_err(), "{root}");
    }
}

#[test]
fn folders_that_another_user_can_change_are_rejected() {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "continuous integration runs as root");
        eprintln!("NOT TESTED: only root can give folders away");
        return;
    }
    let mut fixture = DeployFixture::new_fixture();
    fixture.deploy_release(&desired_release("1.0"), &CrashPoint::never());
    let host = fixture.host_agent(&CrashPoint::never());
    let rejection = || {
        let request = PruneReleases { scope: fixture.service_scope("test"), keep_releases: 1 };
        let result = fixture.try_request(&host, &request, &CrashPoint::never());
        result.err().map(|error| format!("{error:#}").replace(&fixture.root().display().to_string(), "/srv/shop"))
    };
    assert_eq!(rejection(), None);
    let releases = fixture.root().join("releases");
    fs::set_permissions(&releases, fs::Permissions::from_mode(0o777)).unwrap();
    let writable = rejection().unwrap();
    fs::set_permissions(&releases, fs::Permissions::from_mode(0o755)).unwrap();
    chown(&releases, Some(65534), Some(65534)).unwrap();
    let owned = rejection().unwrap();
    chown(&releases, Some(0), Some(0)).unwrap();
    // A link of that user in place of the folder.
    let aside = fixture.root().join("aside");
    fs::rename(&releases, &aside).unwrap();
    symlink("aside", &releases).unwrap();
    std::os::unix::fs::lchown(&releases, Some(65534), Some(65534)).unwrap();
    let link = rejection().unwrap();
    messages::check("service-folder-of-another-user", [("writable", writable), ("owned", owned), ("link", link)]);
}

#[test]
fn nothing_is_created_in_a_folder_of_another_user() {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "continuous integration runs as root");
        eprintln!("NOT TESTED: only root can give folders away");
        return;
    }
    let fixture = DeployFixture::new_fixture();
    let home = fixture.folder.path().join("home");
    fs::create_dir(&home).unwrap();
    std::os::unix::fs::chown(&home, Some(65534), Some(65534)).unwrap();
    let scope = ServiceRef { base_dir: home.join("apps/shop"), ..fixture.service_scope("test") };
    let request = LockService { scope };
    let host = fixture.host_agent(&CrashPoint::never());
    let refused = fixture.try_request(&host, &request, &CrashPoint::never()).unwrap_err();
    let text = format!("{refused:#}").replace(&home.display().to_string(), "/home/shop");
    messages::check("service-folder-below-a-user", [("missing", text)]);
    assert_eq!(fs::read_dir(&home).unwrap().count(), 0);
}

#[test]
fn records_are_readable_by_the_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let mut fixture = DeployFixture::new_fixture();
    fixture.deploy_release(&desired_release("1.0"), &CrashPoint::never());
    for folder in [".dunlin", "releases/1.0/.dunlin"] {
        let mode = fs::metadata(fixture.root().join(folder)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o700, "{folder}");
    }
    let mode = fs::metadata(fixture.root().join("releases/1.0")).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o755);
}

#[test]
fn a_folder_of_another_service_is_rejected() {
    let mut fixture = DeployFixture::new_fixture();
    fixture.deploy_release(&desired_release("1.0"), &CrashPoint::never());
    let host = fixture.host_agent(&CrashPoint::never());
    let service = dunlin::protocol::deploy::ServiceName::new("other").unwrap();
    let scope = ServiceRef { service, ..fixture.service_scope("test") };
    let request = ObserveService { scope, compare_with: CompareWith::Nothing };
    let error = fixture.try_request(&host, &request, &CrashPoint::never()).unwrap_err();
    let text = format!("{error:#}").replace(&fixture.root().display().to_string(), "/srv/shop");
    messages::check("service-folder-of-another-service", [("demo", text)]);
}

#[test]
fn a_host_that_cannot_take_the_release_is_found_before_any_change() {
    let mut fixture = DeployFixture::new_fixture();
    let mut desired = fixture.desired_state(&desired_release("1.0"));
    let host = fixture.host_agent(&CrashPoint::never());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let problems = |fixture: &DeployFixture, desired: &DesiredState, port: u16| {
        let request = CheckRelease {
            scope: fixture.service_scope("test"),
            desired: Box::new(desired.clone()),
            listen_ports: vec![port],
        };
        match fixture.handle_request(&host, &request) {
            Ok(problems) => problems,
            other => panic!("{other:?}"),
        }
    };
    drop(listener);
    assert_eq!(problems(&fixture, &desired, port), Vec::<String>::new());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    desired.config.configs[0].owner = "no-such-owner".to_owned();
    desired.config.user = Some("no-such-user".to_owned());
    desired.manifest.files[0].size = 1 << 60;
    desired.config.units[0].digest = fixture.store.add_blob(b"[Service]\nExecStart=bin/demo\n");
    let found = problems(&fixture, &desired, port);
    assert_eq!(found.len(), 5, "{found:?}");
    messages::check("preflight-of-a-release", found[..4].iter().map(|problem| ("problem", problem)));
    assert!(found[4].starts_with(&format!("port {port} is in use by ")), "{found:?}");
    assert!(!fixture.root().join("releases/1.0").exists());
}

#[test]
fn free_space_is_that_of_the_file_system_of_the_releases() {
    let mut fixture = DeployFixture::new_fixture();
    let mut desired = fixture.desired_state(&desired_release("1.0"));
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    std::fs::create_dir_all(fixture.root()).unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), fixture.root().join("releases")).unwrap();
    let free = |folder: &std::path::Path| {
        let stat = rustix::fs::statvfs(folder).unwrap();
        stat.f_bavail * stat.f_frsize
    };
    let (of_root, of_releases) = (free(&fixture.root()), free(elsewhere.path()));
    // What fits into one of the two file systems only, even if other programs write to both meanwhile.
    desired.manifest.files[0].size = of_root / 2 + of_releases / 2;
    let request =
        CheckRelease { scope: fixture.service_scope("test"), desired: Box::new(desired), listen_ports: Vec::new() };
    let host = fixture.host_agent(&CrashPoint::never());
    let Ok(problems) = fixture.handle_request(&host, &request) else { panic!("no preflight") };
    let is_refused = problems.iter().any(|problem| problem.contains("bytes free"));
    assert_eq!(is_refused, of_releases < of_root, "root {of_root}, releases {of_releases}: {problems:?}");
}
