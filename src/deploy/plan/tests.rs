//! Observations in, rows out; read them as an operator would.

use std::path::PathBuf;

use super::{plan_host, planned_rows};
use crate::messages;
use crate::plan::{Digest, DigestKey};
use crate::protocol::deploy::{
    ConfigFile, DesiredState, HealthCheck, LeftoverFile, MANIFEST_FORMAT, ObservedPath, ObservedRelease, ObservedText,
    ObservedUnit, ReleaseFile, ReleaseManifest, ReleasePath, ReleaseTask, ReleaseVersion, ServiceConfig, ServiceName,
    ServiceObservation, SwitchHooks, TaskPhase, UnitFile,
};

const UNIT: &str = "[Service]\nExecStart=/srv/demo/current/bin/demo\n";

fn desired(version: &str) -> DesiredState {
    let file = |path: &str, text: &str| ReleaseFile {
        path: ReleasePath::new(path).unwrap(),
        mode: 0o755,
        size: text.len() as u64,
        sha256: Digest::of_bytes(text.as_bytes()),
        chunks: Vec::new(),
        owner: None,
    };
    let unit = UnitFile {
        template: None,
        name: "demo.service".to_owned(),
        digest: Digest::of_bytes(UNIT.as_bytes()),
        size: UNIT.len() as u64,
        start_at_boot: true,
        restart_on_release: true,
        reload_on_release: false,
    };
    let config = ConfigFile {
        dest: PathBuf::from("/etc/demo.env"),
        digest: Digest::of_bytes(b"KEY=secret\n"),
        size: 11,
        mode: 0o640,
        owner: "demo".to_owned(),
        group: "demo".to_owned(),
        sensitive: true,
    };
    DesiredState {
        manifest: ReleaseManifest {
            format_version: MANIFEST_FORMAT,
            service: ServiceName::new("demo").unwrap(),
            version: ReleaseVersion::new(version).unwrap(),
            origin: None,
            files: vec![file("bin/demo", version), file("share/same", "same")],
            links: Vec::new(),
            folders: Vec::new(),
        },
        config: ServiceConfig {
            units: vec![unit],
            configs: vec![config],
            health: HealthCheck { probe: None, timeout_ms: 1000, interval_ms: 10, steady_ms: 0 },
            hooks: SwitchHooks::default(),
            user: None,
            adopted: None,
            shared: Vec::new(),
        },
        signature_check: crate::protocol::deploy::SignatureCheck::default(),
    }
}

/// A host that never saw the service.
fn bare_host() -> ServiceObservation {
    let absent = |path: &str| ObservedText {
        path: PathBuf::from(path),
        state: ObservedPath::Absent,
        text: None,
        desired_text: None,
    };
    ServiceObservation {
        agent_account: ("root".to_owned(), "root".to_owned()),
        units: vec![ObservedUnit {
            file: absent("/etc/systemd/system/demo.service"),
            is_enabled: false,
            active_state: "inactive".to_owned(),
            can_reload: false,
        }],
        configs: vec![absent("/etc/demo.env")],
        ..ServiceObservation::default()
    }
}

/// A host on which a state serves, as `of` asks for it.
fn serving_host(of: &DesiredState) -> ServiceObservation {
    let file = |digest: &Digest, mode, owner: &str| ObservedPath::File {
        digest: digest.clone(),
        mode,
        owner: owner.to_owned(),
        group: owner.to_owned(),
    };
    let mut seen = bare_host();
    seen.releases = vec![ObservedRelease {
        revision_time: None,
        version: of.manifest.version.clone(),
        manifest_digest: of.manifest.digest(),
        staged_at: 1,
        damaged_files: Vec::new(),
        bytes: of.manifest.total_bytes(),
        last_failure: None,
    }];
    seen.current_link = Some(of.manifest.version.to_string());
    seen.confirmed = Some(of.to_release_target());
    seen.configs[0].state = file(&of.config.configs[0].digest, 0o640, "demo");
    seen.units[0].file.state = file(&of.config.units[0].digest, 0o644, "root");
    seen.units[0].is_enabled = true;
    seen.units[0].active_state = "active".to_owned();
    seen.present_blobs = of.blob_digests();
    seen
}

fn show_plan(desired: &DesiredState, seen: &ServiceObservation, once: &[ReleaseTask]) -> Vec<String> {
    let texts = |digest: &Digest| (*digest == Digest::of_bytes(UNIT.as_bytes())).then(|| UNIT.to_owned());
    let plan = plan_host("app-1", desired, seen, once, &texts).unwrap();
    assert!(!format!("{plan:?}").contains("secret"), "a sensitive text is never in a plan");
    let line = |row: &crate::plan::ResourceChange| {
        let mut line = format!("{} {}", row.action.symbol_char(), row.resource);
        for change in &row.changes {
            let (from, to) = (change.from.as_deref().unwrap_or("-"), change.to.as_deref().unwrap_or("-"));
            line.push_str(&format!("; {} {from} → {to}", change.attribute));
        }
        row.reason.iter().for_each(|reason| line.push_str(&format!(" ({reason})")));
        line
    };
    plan.pending_rows().map(line).collect()
}

#[test]
fn digests_of_sensitive_files_are_shown_under_a_key() {
    let desired = desired("1.0");
    let mut seen = serving_host(&desired);
    seen.configs[0].state = ObservedPath::File {
        digest: Digest::of_bytes(b"old"),
        mode: 0o640,
        owner: "demo".into(),
        group: "demo".into(),
    };
    let keys = [Some(DigestKey::from_random(b"1")), Some(DigestKey::from_random(b"2")), None];
    let shown = keys.map(|key| {
        let mut plan = plan_host("app-1", &desired, &seen, &[], &|_| None).unwrap();
        super::hide_sensitive_digests(&mut plan, &desired, &seen, key.as_ref());
        let change = plan.rows.iter().flat_map(|row| &row.changes).find(|change| change.attribute == "content");
        let change = change.cloned().unwrap();
        for guess in ["old", "KEY=secret\n"] {
            let digest = Digest::of_bytes(guess.as_bytes());
            assert!(!format!("{change:?}").contains(digest.short_hex()), "a guess can be tested: {change:?}");
        }
        (change.from.unwrap(), change.to.unwrap())
    });
    assert_ne!(shown[0], shown[1]);
    assert_eq!(shown[2], ("hidden".to_owned(), "hidden, 11 bytes".to_owned()));
}

#[test]
fn a_bare_host_receives_everything() {
    let digest = |text: &str| Digest::of_bytes(text.as_bytes()).short_hex().to_owned();
    assert_eq!(
        show_plan(&desired("1.0"), &bare_host(), &[]),
        [
            "+ release 1.0; content - → 2 files, 7 bytes, 7 to send".to_owned(),
            format!(
                "+ config /etc/demo.env; content - → {}, 11 bytes; mode - → 0640; owner - → demo:demo",
                digest("KEY=secret\n")
            ),
            format!(
                "+ unit /etc/systemd/system/demo.service; content - → {}, {} bytes; mode - → 0644; owner - → root:root; enabled false → true",
                digest(UNIT),
                UNIT.len()
            ),
            "+ link current; release - → 1.0".to_owned(),
            "! service demo.service (release 1.0 starts to serve)".to_owned(),
        ]
    );
}

#[test]
fn a_second_deploy_of_the_same_release_plans_nothing() {
    let desired = desired("1.0");
    assert_eq!(show_plan(&desired, &serving_host(&desired), &[]), Vec::<String>::new());
}

#[test]
fn a_new_version_sends_only_what_is_new() {
    let seen = serving_host(&desired("1.0"));
    assert_eq!(
        show_plan(&desired("1.1"), &seen, &[]),
        [
            "+ release 1.1; content - → 2 files, 7 bytes, 3 to send",
            "~ link current; release 1.0 → 1.1",
            "! service demo.service (release 1.1 starts to serve)",
        ]
    );
}

#[test]
fn drift_is_repaired_and_reported() {
    let desired = desired("1.0");
    let mut seen = serving_host(&desired);
    seen.units[0].active_state = "failed".to_owned();
    assert_eq!(show_plan(&desired, &seen, &[]), ["! service demo.service (it is failed)"]);
    let mut seen = serving_host(&desired);
    seen.units[0].is_enabled = false;
    assert_eq!(show_plan(&desired, &seen, &[]), ["~ unit /etc/systemd/system/demo.service; enabled false → true"]);
    let mut seen = serving_host(&desired);
    seen.units[0].file.state = ObservedPath::Link { target: PathBuf::from("/dev/null") };
    assert_eq!(show_plan(&desired, &seen, &[]).len(), 2, "the unit and the restart");
    let mut seen = serving_host(&desired);
    seen.releases[0].damaged_files = vec!["bin/demo".to_owned()];
    let shown = show_plan(&desired, &seen, &[]);
    assert_eq!(shown.len(), 2, "{shown:?}");
    messages::check("deploy-plan-repair", shown.iter().map(|row| ("damage", row)));
}

#[test]
fn leftovers_of_a_killed_run_are_reported() {
    let (old, new) = (desired("1.0"), desired("1.1"));
    let mut seen = serving_host(&new);
    seen.confirmed = Some(old.to_release_target());
    seen.unfinished_switch = Some(new.to_release_target());
    assert_eq!(
        show_plan(&new, &seen, &[]),
        [
            "! link current (a switch to 1.1 was not confirmed healthy; if it fails, the host returns to 1.0)",
            "! service demo.service (a switch to 1.1 was not confirmed healthy)",
        ]
    );
    let mut seen = bare_host();
    seen.incomplete_releases = vec!["1.1".to_owned()];
    messages::check("deploy-plan-partial", [("a partial release", &show_plan(&new, &seen, &[])[0])]);
}

#[test]
fn files_missing_from_the_new_release_are_removed() {
    let mut seen = serving_host(&desired("1.0"));
    let path = PathBuf::from("/etc/systemd/system/old.service");
    seen.leftover_files = vec![LeftoverFile { path, unit: Some("old.service".to_owned()) }];
    let shown = show_plan(&desired("1.1"), &seen, &[]);
    assert!(
        shown.contains(&"- file /etc/systemd/system/old.service (release 1.1 does not have it)".to_owned()),
        "{shown:?}"
    );
}

#[test]
fn a_version_in_use_cannot_change_its_contents() {
    let used = desired("1.0");
    let mut other = used.clone();
    other.manifest.files.pop();
    let error = plan_host("app-1", &other, &serving_host(&used), &[], &|_| None).unwrap_err();
    messages::check("deploy-plan-version-in-use", [("a release in use", error)]);
    let mut unused = serving_host(&used);
    unused.confirmed = None;
    unused.current_link = None;
    assert!(plan_host("app-1", &other, &unused, &[], &|_| None).is_ok());
}

#[test]
fn due_tasks_are_planned() {
    let step = ReleaseTask {
        name: "migrate".to_owned(),
        argv: vec!["x".to_owned()],
        phase: TaskPhase::BeforeSwitch,
        timeout_ms: 1000,
    };
    let desired = desired("1.0");
    assert_eq!(
        show_plan(&desired, &serving_host(&desired), &[step]),
        ["! task migrate (it did not run for release 1.0 yet)"]
    );
}

#[test]
fn rows_are_in_the_order_in_which_things_happen() {
    let task =
        |name: &str, phase| ReleaseTask { name: name.to_owned(), argv: vec!["x".to_owned()], phase, timeout_ms: 1000 };
    let tasks = [task("reindex", TaskPhase::AfterSwitch), task("migrate", TaskPhase::BeforeSwitch)];
    let mut observation = bare_host();
    observation.leftover_files = vec![LeftoverFile { path: PathBuf::from("/etc/old.env"), unit: None }];
    let plan = plan_host("app-1", &desired("1.0"), &observation, &tasks, &|_| None).unwrap();
    let resources: Vec<&str> = plan.rows.iter().map(|row| row.resource.as_str()).collect();
    assert_eq!(
        resources,
        [
            "release 1.0",
            "task migrate",
            "config /etc/demo.env",
            "file /etc/old.env",
            "unit /etc/systemd/system/demo.service",
            "link current",
            "service demo.service",
            "task reindex",
        ]
    );
}

#[test]
fn fingerprints_depend_only_on_the_host_state() {
    let desired = desired("1.0");
    let of = |seen: &ServiceObservation| planned_rows(&plan_host("app-1", &desired, seen, &[], &|_| None).unwrap());
    let seen = serving_host(&desired);
    let mut same = seen.clone();
    same.releases[0].staged_at = 99;
    assert_eq!(of(&same), of(&seen));
    for change in [
        |seen: &mut ServiceObservation| seen.current_link = Some("0.9".to_owned()),
        |seen: &mut ServiceObservation| seen.configs[0].state = ObservedPath::Absent,
        |seen: &mut ServiceObservation| seen.units[0].is_enabled = false,
        |seen: &mut ServiceObservation| seen.releases.clear(),
        |seen: &mut ServiceObservation| seen.confirmed = None,
    ] {
        let mut other = seen.clone();
        change(&mut other);
        assert_ne!(of(&other), of(&seen));
    }
}

#[test]
fn a_release_older_than_the_active_one_is_named() {
    let mut older = desired("1.0");
    older.manifest.origin = Some(crate::protocol::deploy::ReleaseOrigin {
        revision_time: Some(100),
        ..crate::protocol::deploy::ReleaseOrigin::default()
    });
    let mut observation = serving_host(&desired("1.1"));
    observation.releases[0].revision_time = Some(200);
    let reason = |observation: &ServiceObservation| {
        let plan = plan_host("host-1", &older, observation, &[], &|_| None).unwrap();
        plan.rows.into_iter().find(|row| row.resource == "link current").unwrap().reason
    };
    assert_eq!(reason(&observation).as_deref(), Some("1.0 is older than 1.1, which serves now"));
    observation.releases[0].revision_time = Some(50);
    assert_eq!(reason(&observation), None);
}
