//! What is refused before anything is done, and what is told.

use std::fs;
use std::path::PathBuf;

use dunlin::deploy::plan::expected;
use dunlin::wire::deploy::{About, Reply, Request, Scope};

use crate::messages;
use crate::model::{Fuse, Quiet};
use crate::world::{World, wish};

#[test]
fn two_operators_do_not_interfere() {
    let mut world = World::new();
    world.deploy(&wish("1.0"), &Fuse::none());
    let desired = Box::new(world.desired(&wish("1.1")));
    let (alice, bob) = (world.host(&Fuse::none()), world.host(&Fuse::none()));
    let stage = |by: &str| Request::Stage { scope: world.scope(by), desired: desired.clone(), expected: Vec::new() };
    assert!(matches!(world.ask(&alice, &stage("alice")), Reply::Staged { .. }));
    let locked = world.ask(&bob, &stage("bob"));
    assert!(matches!(&locked, Reply::Locked(holder) if holder.by == "alice" && holder.pid == std::process::id()));
    assert_eq!(world.observe(&bob, About::Nothing).locked.unwrap().by, "alice");
    assert_eq!(world.observe(&alice, About::Nothing).locked, None, "one's own lock is no hindrance");
    // Between two requests of one rollout the lock stays.
    assert!(matches!(world.ask(&bob, &Request::Prune { scope: world.scope("bob"), keep: 1 }), Reply::Locked(_)));
    drop(alice);
    assert!(matches!(world.ask(&bob, &stage("bob")), Reply::Staged { .. }));
}

#[test]
fn a_stale_plan_is_refused_and_says_what_changed() {
    let mut world = World::new();
    world.deploy(&wish("1.0"), &Fuse::none());
    let desired = Box::new(world.desired(&wish("1.1")));
    let host = world.host(&Fuse::none());
    let (seen, plan) = world.plan(&host, &desired);
    let stage = Request::Stage { scope: world.scope("test"), desired: desired.clone(), expected: expected(&plan) };
    fs::write(world.config_path(), "by hand").unwrap();
    let reply = world.ask(&host, &stage);
    let path = world.config_path().display().to_string();
    assert!(matches!(&reply, Reply::Stale(lines) if lines.len() == 1 && lines[0].contains(&path)), "{reply:?}");
    assert!(!world.root().join("releases/1.1").exists());
    // Somebody else's deploy between plan and switch.
    fs::write(world.config_path(), "same").unwrap();
    assert!(matches!(world.ask(&host, &stage), Reply::Staged { .. }));
    drop(host);
    world.deploy(&wish("1.0.1"), &Fuse::none());
    let host = world.host(&Fuse::none());
    let switch = Request::Switch { scope: world.scope("test"), target: desired.target(), from: seen.confirmed };
    let reply = world.ask(&host, &switch);
    let Reply::Stale(lines) = reply else { panic!("{reply:?}") };
    messages::check("switch-stale", lines.iter().map(|line| ("another release serves", line)));
}

#[test]
fn a_switch_to_what_is_not_staged_is_refused() {
    let mut world = World::new();
    let desired = world.desired(&wish("1.0"));
    let host = world.host(&Fuse::none());
    let switch = Request::Switch { scope: world.scope("test"), target: desired.target(), from: None };
    let rollback = Request::Rollback { scope: world.scope("test"), to: None, from: None };
    let health = Request::Health { scope: world.scope("test") };
    let refused = [("switch", switch), ("rollback", rollback), ("health", health)].map(|(case, request)| {
        let Reply::Refused(why) = world.ask(&host, &request) else { panic!("{case} was done") };
        (case, why)
    });
    messages::check("no-release-there", refused);
}

#[test]
fn contents_that_do_not_come_leave_the_host_as_it_was() {
    let mut world = World::new();
    world.deploy(&wish("1.0"), &Fuse::none());
    let desired = Box::new(world.desired(&wish("1.1")));
    let empty = crate::world::Store::default();
    let host = world.host(&Fuse::none());
    let stage = Request::Stage { scope: world.scope("test"), desired, expected: Vec::new() };
    let error = host.handle(&stage, &empty, &Quiet(Fuse::none())).unwrap_err();
    messages::check("content-did-not-come", [("bin/demo", format!("{error:#}"))]);
    drop(host);
    world.assert_serves(&wish("1.0"));
    world.deploy(&wish("1.1"), &Fuse::none());
    world.assert_serves(&wish("1.1"));
}

#[test]
fn a_folder_that_is_none_for_a_service_is_refused() {
    let world = World::new();
    let host = world.host(&Fuse::none());
    for root in ["/", "relative", "/srv/../etc"] {
        let scope = Scope { root: PathBuf::from(root), ..world.scope("test") };
        let request = Request::Prune { scope, keep: 1 };
        assert!(host.handle(&request, &world.store, &Quiet(Fuse::none())).is_err(), "{root}");
    }
}

#[test]
fn records_are_for_the_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let mut world = World::new();
    world.deploy(&wish("1.0"), &Fuse::none());
    for folder in [".dunlin", "releases/1.0/.dunlin"] {
        let mode = fs::metadata(world.root().join(folder)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o700, "{folder}");
    }
    let mode = fs::metadata(world.root().join("releases/1.0")).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o755);
}
