//! Deploys, failures, ways back, and what is told of them.

use std::fs;
use std::os::unix::fs::MetadataExt;

use dunlin::deploy::plan::plan_host;
use dunlin::wire::deploy::{About, Drain, Once, Outcome, Reply, Request, Version, When};

use crate::messages;
use crate::model::Fuse;
use crate::world::{UNIT, World, wish};

fn version(text: &str) -> Version {
    Version::new(text).unwrap()
}

#[test]
fn a_second_deploy_of_the_same_release_does_nothing() {
    let mut world = World::new();
    let first = world.deploy(&wish("1.0"), &Fuse::none()).unwrap();
    assert!(matches!(&first, Outcome::Healthy { before: None, restarted, .. } if *restarted == [UNIT]), "{first:?}");
    world.assert_serves(&wish("1.0"));
    let calls = world.machine().calls.clone();
    assert_eq!(world.deploy(&wish("1.0"), &Fuse::none()).unwrap(), Outcome::Unchanged);
    assert_eq!(world.machine().calls, calls, "the service manager was not asked to do anything");
}

#[test]
fn what_earlier_releases_have_does_not_travel() {
    let mut world = World::new();
    world.deploy(&wish("1.0"), &Fuse::none());
    let desired = Box::new(world.desired(&wish("1.1")));
    let host = world.host(&Fuse::none());
    let stage = Request::Stage { scope: world.scope("test"), desired: desired.clone(), expected: Vec::new() };
    let program = desired.manifest.files.iter().find(|file| file.path.as_str() == "bin/demo").unwrap();
    assert_eq!(host.missing(&stage).unwrap(), std::slice::from_ref(&program.sha256));
    assert_eq!(world.ask(&host, &stage), Reply::Staged { reused: 1, written: 1, bytes: 3 });
    assert_eq!(host.missing(&stage).unwrap(), []);
    let inode = |version: &str| fs::metadata(world.root().join(format!("releases/{version}/share/same"))).unwrap();
    assert_eq!(inode("1.0").nlink(), inode("1.1").nlink());
    assert_eq!(fs::read(world.root().join("releases/1.1/share/same")).unwrap(), b"the same in all releases");
}

#[test]
fn a_release_that_fails_is_taken_back_with_its_units_and_configuration() {
    let mut world = World::new();
    world.deploy(&wish("1.0"), &Fuse::none());
    let mut bad = wish("1.1");
    bad.program = "broken";
    bad.config = "new";
    bad.units = vec![UNIT, "more.service"];
    let outcome = world.deploy(&bad, &Fuse::none()).unwrap();
    let Outcome::Returned { version: failed_version, failed, to, unhealthy: None } = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!((failed_version, to), (version("1.1"), version("1.0")));
    assert_eq!(failed.step, "health");
    messages::check("release-unhealthy", [(&failed.step, &failed.detail)]);
    assert!(failed.log.contains(&"I am broken".to_owned()), "{failed:?}");
    world.assert_serves(&wish("1.0"));
    let seen = world.observe(&world.host(&Fuse::none()), About::Nothing);
    messages::check("release-failed-before", [("1.1", seen.releases[1].failed.as_ref().unwrap())]);
    assert_eq!(seen.unfinished, None);
    // A release that was repaired under the same version may replace the failed one, which nobody uses.
    let mut good = bad;
    good.program = "1.1 repaired";
    assert!(matches!(world.deploy(&good, &Fuse::none()).unwrap(), Outcome::Healthy { .. }));
    world.assert_serves(&good);
}

#[test]
fn a_configuration_that_fails_is_taken_back_too() {
    let mut world = World::new();
    world.deploy(&wish("1.0"), &Fuse::none());
    let mut bad = wish("1.0");
    bad.config = "broken";
    let outcome = world.deploy(&bad, &Fuse::none()).unwrap();
    assert!(matches!(&outcome, Outcome::Returned { unhealthy: None, .. }), "{outcome:?}");
    world.assert_serves(&wish("1.0"));
}

#[test]
fn a_first_release_that_fails_is_stopped() {
    let mut world = World::new();
    let mut bad = wish("1.0");
    bad.program = "broken";
    let outcome = world.deploy(&bad, &Fuse::none()).unwrap();
    assert!(matches!(&outcome, Outcome::Stopped { failed, .. } if failed.step == "health"), "{outcome:?}");
    assert!(world.machine().process(UNIT).is_none() && !world.machine().is_enabled(UNIT));
    assert!(!world.root().join("current").exists());
    world.deploy(&wish("1.1"), &Fuse::none());
    world.assert_serves(&wish("1.1"));
}

#[test]
fn a_rollback_goes_to_the_release_before_and_shows_what_it_changes() {
    let mut world = World::new();
    world.deploy(&wish("1.0"), &Fuse::none());
    let mut new = wish("1.1");
    new.config = "new";
    world.deploy(&new, &Fuse::none());
    let host = world.host(&Fuse::none());
    let seen = world.observe(&host, About::Kept(None));
    let kept = seen.kept.clone().unwrap();
    let plan = plan_host("host-1", &kept, &seen, &[], &|_| None).unwrap();
    let config = plan.pending().find(|row| row.resource.starts_with("config")).unwrap();
    let diff = config.changes[0].diff.as_ref().unwrap();
    assert!(diff.contains("-new") && diff.contains("+same"), "{diff}");
    let rollback = |to| Request::Rollback { scope: world.scope("test"), to, from: seen.confirmed.clone() };
    let reply = world.ask(&host, &rollback(None));
    assert!(matches!(reply, Reply::Switched(Outcome::Healthy { .. })), "{reply:?}");
    let refused = world.ask(&host, &rollback(Some(version("0.1"))));
    let Reply::Refused(why) = refused else { panic!("{refused:?}") };
    messages::check("rollback-unknown-release", [("0.1", why)]);
    drop(host);
    world.assert_serves(&wish("1.0"));
}

#[test]
fn a_service_that_died_is_started_again_and_left_if_it_stays_dead() {
    let mut world = World::new();
    world.deploy(&wish("1.0"), &Fuse::none());
    world.machine().crash(UNIT);
    let desired = world.desired(&wish("1.0"));
    assert_eq!(world.pending(&desired), [format!("! service {UNIT}")]);
    assert!(matches!(world.deploy(&wish("1.0"), &Fuse::none()).unwrap(), Outcome::Healthy { .. }));
    world.assert_serves(&wish("1.0"));
    world.machine().crash(UNIT);
    world.machine().barren = true;
    let outcome = world.deploy(&wish("1.0"), &Fuse::none()).unwrap();
    assert!(matches!(&outcome, Outcome::Unhealthy { failed, .. } if failed.step == "health"), "{outcome:?}");
    assert!(world.root().join("current").exists() && world.machine().is_enabled(UNIT));
}

#[test]
fn what_served_before_may_be_unhealthy_too_and_the_journal_keeps_that() {
    let mut world = World::new();
    world.deploy(&wish("1.0"), &Fuse::none());
    world.machine().barren = true;
    let outcome = world.deploy(&wish("1.1"), &Fuse::none()).unwrap();
    let Outcome::Returned { to, unhealthy: Some(_), .. } = &outcome else { panic!("{outcome:?}") };
    assert_eq!(*to, version("1.0"));
    let seen = world.observe(&world.host(&Fuse::none()), About::Nothing);
    assert_eq!((seen.unfinished.unwrap().version, seen.current.unwrap()), (version("1.1"), "1.0".to_owned()));
    world.machine().barren = false;
    let back = world.deploy(&wish("1.0"), &Fuse::none()).unwrap();
    assert!(matches!(back, Outcome::Healthy { .. }), "{back:?}");
    world.assert_serves(&wish("1.0"));
}

#[test]
fn damage_is_found_and_repaired() {
    let mut world = World::new();
    world.deploy(&wish("1.0"), &Fuse::none());
    let program = world.root().join("releases/1.0/bin/demo");
    fs::write(&program, "bad").unwrap();
    let desired = world.desired(&wish("1.0"));
    assert_eq!(world.pending(&desired), ["~ release 1.0".to_owned(), format!("! service {UNIT}")]);
    assert!(matches!(world.deploy(&wish("1.0"), &Fuse::none()).unwrap(), Outcome::Healthy { .. }));
    assert_eq!(fs::read(&program).unwrap(), b"1.0");
    world.assert_serves(&wish("1.0"));
    fs::remove_file(&program).unwrap();
    world.deploy(&wish("1.0"), &Fuse::none());
    world.assert_serves(&wish("1.0"));
}

#[test]
fn hooks_stand_around_the_switch_and_a_refusal_leaves_everything() {
    let mut world = World::new();
    world.deploy(&wish("1.0"), &Fuse::none());
    let note = world.folder.path().join("note");
    let sh = |text: String| vec!["/bin/sh".to_owned(), "-c".to_owned(), text];
    let tell =
        |what: &str| sh(format!("echo {what} $DUNLIN_VERSION $(readlink $DUNLIN_ROOT/current) >> {}", note.display()));
    let mut new = wish("1.1");
    new.drain = Drain { before: vec![tell("before")], after: vec![tell("after")] };
    world.deploy(&new, &Fuse::none());
    assert_eq!(fs::read_to_string(&note).unwrap(), "before 1.1 releases/1.0\nafter 1.1 releases/1.1\n");
    let mut next = wish("1.2");
    next.drain = Drain { before: vec![sh("echo the pool is empty; exit 1".to_owned())], after: vec![] };
    let calls = world.machine().calls.clone();
    let outcome = world.deploy(&next, &Fuse::none()).unwrap();
    let Outcome::Returned { failed, unhealthy: None, .. } = &outcome else { panic!("{outcome:?}") };
    assert_eq!(failed.step, "drain", "{failed:?}");
    messages::check("drain-failed", [("exit 1", &failed.detail)]);
    assert_eq!(world.machine().calls, calls);
    world.assert_serves(&new);
}

#[test]
fn a_once_step_runs_once_for_a_release() {
    let mut world = World::new();
    world.deploy(&wish("1.0"), &Fuse::none());
    let note = world.folder.path().join("note");
    let argv =
        |end: &str| ["/bin/sh", "-c", &format!("echo $DUNLIN_VERSION >> {}{end}", note.display())].map(str::to_owned);
    let target = world.desired(&wish("1.0")).target();
    let host = world.host(&Fuse::none());
    let ask = |end: &str| {
        let step =
            Once { name: "migrate".to_owned(), argv: argv(end).to_vec(), when: When::Before, timeout_ms: 20_000 };
        world.ask(&host, &Request::Once { scope: world.scope("test"), target: target.clone(), step })
    };
    let failed = ask("; echo no table >&2; exit 7");
    let Reply::Once { ran: true, failed: Some(why) } = failed else { panic!("{failed:?}") };
    messages::check("once-step-failed", [("exit 7", why)]);
    assert_eq!(ask(""), Reply::Once { ran: true, failed: None });
    assert_eq!(ask(""), Reply::Once { ran: false, failed: None });
    assert_eq!(fs::read_to_string(&note).unwrap(), "1.0\n1.0\n");
}

#[test]
fn pruning_keeps_what_serves_and_what_served() {
    let mut world = World::new();
    for version in ["1.0", "1.1", "1.2", "1.3"] {
        world.deploy(&wish(version), &Fuse::none());
    }
    world.deploy(&wish("1.0"), &Fuse::none());
    fs::create_dir(world.root().join("releases/2.0.partial")).unwrap();
    let host = world.host(&Fuse::none());
    let prune = |keep| world.ask(&host, &Request::Prune { scope: world.scope("test"), keep });
    assert_eq!(prune(3), Reply::Pruned(vec!["1.1".to_owned(), "2.0.partial".to_owned()]));
    assert_eq!(prune(1), Reply::Pruned(vec!["1.2".to_owned()]), "1.0 serves, 1.3 served before");
    assert_eq!(prune(1), Reply::Pruned(Vec::new()));
    let left: Vec<Version> = world.observe(&host, About::Nothing).releases.into_iter().map(|r| r.version).collect();
    assert_eq!(left, [version("1.0"), version("1.3")]);
    drop(host);
    world.assert_serves(&wish("1.0"));
}
