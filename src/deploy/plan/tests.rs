//! Observations in, rows out; read them as an operator would.

use std::path::PathBuf;

use super::{expected, plan_host};
use crate::messages;
use crate::plan::Digest;
use crate::wire::deploy::{
    Config, Desired, Drain, FORMAT, Health, Leftover, Manifest, Observation, Once, RelPath, Release, ReleaseFile, Seen,
    Service, Setup, TextSeen, Unit, UnitSeen, Version, When,
};

const UNIT: &str = "[Service]\nExecStart=/srv/demo/current/bin/demo\n";

fn desired(version: &str) -> Desired {
    let file = |path: &str, text: &str| ReleaseFile {
        path: RelPath::new(path).unwrap(),
        mode: 0o755,
        size: text.len() as u64,
        sha256: Digest::of(text.as_bytes()),
    };
    let unit = Unit {
        name: "demo.service".to_owned(),
        digest: Digest::of(UNIT.as_bytes()),
        size: UNIT.len() as u64,
        enable: true,
        restart: true,
    };
    let config = Config {
        dest: PathBuf::from("/etc/demo.env"),
        digest: Digest::of(b"KEY=secret\n"),
        size: 11,
        mode: 0o640,
        owner: "demo".to_owned(),
        group: "demo".to_owned(),
        sensitive: true,
    };
    Desired {
        manifest: Manifest {
            format_version: FORMAT,
            service: Service::new("demo").unwrap(),
            version: Version::new(version).unwrap(),
            files: vec![file("bin/demo", version), file("share/same", "same")],
        },
        setup: Setup {
            units: vec![unit],
            configs: vec![config],
            health: Health { probe: None, timeout_ms: 1000, interval_ms: 10 },
            drain: Drain::default(),
            user: None,
        },
    }
}

/// A host that never saw the service.
fn bare() -> Observation {
    let absent = |path: &str| TextSeen { path: PathBuf::from(path), state: Seen::Absent, text: None, wanted: None };
    Observation {
        account: ("root".to_owned(), "root".to_owned()),
        units: vec![UnitSeen {
            file: absent("/etc/systemd/system/demo.service"),
            enabled: false,
            active: "inactive".to_owned(),
        }],
        configs: vec![absent("/etc/demo.env")],
        ..Observation::default()
    }
}

/// A host on which a state serves, as `of` asks for it.
fn serving(of: &Desired) -> Observation {
    let file = |digest: &Digest, mode, owner: &str| Seen::File {
        digest: digest.clone(),
        mode,
        owner: owner.to_owned(),
        group: owner.to_owned(),
    };
    let mut seen = bare();
    seen.releases = vec![Release {
        version: of.manifest.version.clone(),
        manifest: of.manifest.digest(),
        staged_at: 1,
        damage: Vec::new(),
        bytes: of.manifest.bytes(),
        failed: None,
    }];
    seen.current = Some(of.manifest.version.to_string());
    seen.confirmed = Some(of.target());
    seen.configs[0].state = file(&of.setup.configs[0].digest, 0o640, "demo");
    seen.units[0].file.state = file(&of.setup.units[0].digest, 0o644, "root");
    seen.units[0].enabled = true;
    seen.units[0].active = "active".to_owned();
    seen.has = of.contents();
    seen
}

fn show(desired: &Desired, seen: &Observation, once: &[Once]) -> Vec<String> {
    let texts = |digest: &Digest| (*digest == Digest::of(UNIT.as_bytes())).then(|| UNIT.to_owned());
    let plan = plan_host("app-1", desired, seen, once, &texts).unwrap();
    assert!(!format!("{plan:?}").contains("secret"), "a sensitive text is never in a plan");
    let line = |row: &crate::plan::Row| {
        let mut line = format!("{} {}", row.action.sign(), row.resource);
        for change in &row.changes {
            let (from, to) = (change.from.as_deref().unwrap_or("-"), change.to.as_deref().unwrap_or("-"));
            line.push_str(&format!("; {} {from} → {to}", change.what));
        }
        row.reason.iter().for_each(|reason| line.push_str(&format!(" ({reason})")));
        line
    };
    plan.pending().map(line).collect()
}

#[test]
fn a_bare_host_gets_everything() {
    let digest = |text: &str| Digest::of(text.as_bytes()).short().to_owned();
    assert_eq!(
        show(&desired("1.0"), &bare(), &[]),
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
fn a_second_deploy_of_the_same_plans_nothing() {
    let desired = desired("1.0");
    assert_eq!(show(&desired, &serving(&desired), &[]), Vec::<String>::new());
}

#[test]
fn a_new_version_sends_only_what_is_new() {
    let seen = serving(&desired("1.0"));
    assert_eq!(
        show(&desired("1.1"), &seen, &[]),
        [
            "+ release 1.1; content - → 2 files, 7 bytes, 3 to send",
            "~ link current; release 1.0 → 1.1",
            "! service demo.service (release 1.1 starts to serve)",
        ]
    );
}

#[test]
fn drift_is_repaired_and_told() {
    let desired = desired("1.0");
    let mut seen = serving(&desired);
    seen.units[0].active = "failed".to_owned();
    assert_eq!(show(&desired, &seen, &[]), ["! service demo.service (it is failed)"]);
    let mut seen = serving(&desired);
    seen.units[0].enabled = false;
    assert_eq!(show(&desired, &seen, &[]), ["~ unit /etc/systemd/system/demo.service; enabled false → true"]);
    let mut seen = serving(&desired);
    seen.units[0].file.state = Seen::Link { target: PathBuf::from("/dev/null") };
    assert_eq!(show(&desired, &seen, &[]).len(), 2, "the unit and the restart");
    let mut seen = serving(&desired);
    seen.releases[0].damage = vec!["bin/demo".to_owned()];
    let shown = show(&desired, &seen, &[]);
    assert_eq!(shown.len(), 2, "{shown:?}");
    messages::check("deploy-plan-repair", shown.iter().map(|row| ("damage", row)));
}

#[test]
fn what_a_killed_run_left_is_told() {
    let (old, new) = (desired("1.0"), desired("1.1"));
    let mut seen = serving(&new);
    seen.confirmed = Some(old.target());
    seen.unfinished = Some(new.target());
    assert_eq!(
        show(&new, &seen, &[]),
        [
            "! link current (a switch to 1.1 was not confirmed healthy; if it fails, the host returns to 1.0)",
            "! service demo.service (a switch to 1.1 was not confirmed healthy)",
        ]
    );
    let mut seen = bare();
    seen.partial = vec!["1.1".to_owned()];
    messages::check("deploy-plan-partial", [("a partial release", &show(&new, &seen, &[])[0])]);
}

#[test]
fn what_the_new_release_lacks_is_removed() {
    let mut seen = serving(&desired("1.0"));
    let path = PathBuf::from("/etc/systemd/system/old.service");
    seen.leftover = vec![Leftover { path, unit: Some("old.service".to_owned()) }];
    let shown = show(&desired("1.1"), &seen, &[]);
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
    let error = plan_host("app-1", &other, &serving(&used), &[], &|_| None).unwrap_err();
    messages::check("deploy-plan-version-in-use", [("a release in use", error)]);
    let mut unused = serving(&used);
    unused.confirmed = None;
    unused.current = None;
    assert!(plan_host("app-1", &other, &unused, &[], &|_| None).is_ok());
}

#[test]
fn once_steps_run_once_for_a_version() {
    let step = Once { name: "migrate".to_owned(), argv: vec!["x".to_owned()], when: When::Before, timeout_ms: 1000 };
    let desired = desired("1.0");
    let mut seen = serving(&desired);
    assert_eq!(
        show(&desired, &seen, std::slice::from_ref(&step)),
        ["! once migrate (it did not run for release 1.0 yet)"]
    );
    seen.once = vec![("migrate".to_owned(), desired.manifest.version.clone())];
    assert_eq!(show(&desired, &seen, &[step]), Vec::<String>::new());
}

#[test]
fn fingerprints_follow_the_world_and_nothing_else() {
    let desired = desired("1.0");
    let of = |seen: &Observation| expected(&plan_host("app-1", &desired, seen, &[], &|_| None).unwrap());
    let seen = serving(&desired);
    let mut same = seen.clone();
    same.releases[0].staged_at = 99;
    assert_eq!(of(&same), of(&seen));
    for change in [
        |seen: &mut Observation| seen.current = Some("0.9".to_owned()),
        |seen: &mut Observation| seen.configs[0].state = Seen::Absent,
        |seen: &mut Observation| seen.units[0].enabled = false,
        |seen: &mut Observation| seen.releases.clear(),
        |seen: &mut Observation| seen.confirmed = None,
    ] {
        let mut other = seen.clone();
        change(&mut other);
        assert_ne!(of(&other), of(&seen));
    }
}
