//! Links, hard links and mounts that lie in the way, without a race.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use dunlin::host_fs::{self, PathError};
use dunlin::plan::Action;
use dunlin::resources::ApplyContext;
use dunlin::resources::redis_shard::RedisShard;
use dunlin_shards::InstanceAddress;
use serde_json::{Value, json};

use crate::messages;
use crate::support::{ResourceBlobs, apply_step, plan_steps};
use crate::user::{HostileHome, NOBODY};

/// Plans and applies a step; both must refuse it, with the same reason.
fn refusal(home: &HostileHome, kind: &str, table: Value) -> String {
    let mut blobs = ResourceBlobs::default();
    let steps = [blobs.parse_step(kind, table).unwrap()];
    let planned = plan_steps(&steps, &blobs).remove(0).unwrap_err();
    let applied = apply_step(&*steps[0], &mut ApplyContext::new(&blobs), &blobs).unwrap_err();
    assert_eq!(format!("{applied:#}"), planned);
    home.assert_unharmed();
    let root = home.home().parent().unwrap().display().to_string();
    planned.replace(&root, "/srv")
}

#[test]
fn a_link_of_a_user_to_what_is_not_theirs_is_refused() {
    let home = HostileHome::create();
    home.plant_link("conf", &home.victim_folder());
    home.plant_link("up", Path::new("../victim.d"));
    let inside = home.home().join("conf/app.service");
    let folder = home.home().join("conf/deep");
    let upward = home.home().join("up/file");
    messages::check(
        "unsafe-link",
        [
            (
                "a file",
                refusal(
                    &home,
                    "file",
                    json!({ "dest": inside, "content": "x", "owner": "nobody", "group": "nogroup" }),
                ),
            ),
            (
                "a folder",
                refusal(
                    &home,
                    "directory",
                    json!({ "path": folder, "owner": "nobody", "group": "nogroup", "parents": true }),
                ),
            ),
            ("a line", refusal(&home, "line", json!({ "path": inside, "line": "x", "create": true }))),
            ("a link", refusal(&home, "link", json!({ "path": inside, "target": "/etc/shadow" }))),
            ("a relative link", refusal(&home, "file", json!({ "dest": upward, "content": "x" }))),
        ],
    );
}

#[test]
fn links_of_root_and_links_to_the_users_own_folders_are_followed() {
    let home = HostileHome::create();
    let own = home.home().join("own");
    fs::create_dir(&own).unwrap();
    chown(&own, Some(NOBODY), Some(NOBODY)).unwrap();
    home.plant_link("theirs", &own);
    let by_root = home.home().parent().unwrap().join("by-root");
    symlink(home.victim_folder(), &by_root).unwrap();
    let mut blobs = ResourceBlobs::default();
    for dest in [home.home().join("theirs/a"), by_root.join("b")] {
        let step = blobs.parse_step("file", json!({ "dest": dest, "content": "x" })).unwrap();
        let row = apply_step(&*step, &mut ApplyContext::new(&blobs), &blobs).unwrap();
        assert_eq!(row.action, Action::Add);
    }
    assert!(own.join("a").is_file() && home.victim_folder().join("b").is_file());
}

/// `cap_net_bind_service=ep`, as `setcap` writes it.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// The access control list of a file with mode 0640 that `nobody` may read, as `setfacl` writes it.
fn access_control_list() -> Vec<u8> {
    let entry =
        |tag: u16, rights: u16, id: u32| [&tag.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat();
    let none = u32::MAX;
    let entries = [entry(1, 6, none), entry(2, 4, NOBODY), entry(4, 4, none), entry(16, 4, none), entry(32, 0, none)];
    [&2_u32.to_le_bytes()[..], &entries.concat()].concat()
}

#[test]
fn capabilities_and_access_control_lists_are_kept() {
    let home = HostileHome::create();
    let dest = home.victim_folder().join("program");
    fs::write(&dest, "old").unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    let attributes = [("system.posix_acl_access", access_control_list()), ("security.capability", CAPABILITY.to_vec())];
    for (name, value) in &attributes {
        rustix::fs::setxattr(&dest, *name, value, flags).unwrap();
    }
    let mut blobs = ResourceBlobs::default();
    let table = json!({ "dest": dest, "content": "new", "owner": "root", "group": "root", "mode": "0640" });
    let step = blobs.parse_step("file", table).unwrap();
    let row = apply_step(&*step, &mut ApplyContext::new(&blobs), &blobs).unwrap();
    assert_eq!(row.action, Action::Change, "{row:?}");
    assert_eq!(fs::read_to_string(&dest).unwrap(), "new");
    for (name, value) in attributes {
        let mut found = vec![0; 1024];
        let length = rustix::fs::getxattr(&dest, name, &mut found).unwrap();
        assert_eq!(found[..length], value, "{name}");
    }
}

#[test]
fn a_second_name_of_a_file_of_root_is_not_given_away() {
    let home = HostileHome::create();
    // Where fs.protected_hardlinks is off, a user can do this.
    fs::hard_link(home.victim(), home.home().join("app.ini")).unwrap();
    let mut blobs = ResourceBlobs::default();
    let table = json!({ "dest": home.home().join("app.ini"), "content": "root's own\n", "owner": "nobody", "group": "nogroup" });
    let step = blobs.parse_step("file", table).unwrap();
    let error = apply_step(&*step, &mut ApplyContext::new(&blobs), &blobs).unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(PathError::HardLink { .. })), "{error:#}");
    assert_eq!(fs::metadata(home.victim()).unwrap().uid(), 0);
}

#[test]
fn what_root_acts_upon_is_read_from_its_own_and_the_expected_users_files_only() {
    let home = HostileHome::create();
    let read = |name: &str| host_fs::read_trusted(&home.home().join(name), Some(rustix::fs::Uid::from_raw(NOBODY)));
    home.plant_link("link.conf", &home.victim());
    assert!(matches!(read("link.conf"), Err(PathError::WrongType { found: "a symbolic link", .. })));
    fs::hard_link(home.victim(), home.home().join("hard.conf")).unwrap();
    assert!(matches!(read("hard.conf"), Err(PathError::HardLink { .. })));
    fs::write(home.home().join("other.conf"), "theirs").unwrap();
    chown(home.home().join("other.conf"), Some(1), Some(1)).unwrap();
    assert!(matches!(read("other.conf"), Err(PathError::WrongOwner { .. })));
    // A pipe without a writer would hold up whoever opens it.
    let pipe = home.home().join("pipe.conf");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert!(matches!(read("pipe.conf"), Err(PathError::WrongType { found: "a device or a pipe", .. })));
    fs::write(home.home().join("good.conf"), "port 1").unwrap();
    chown(home.home().join("good.conf"), Some(NOBODY), Some(NOBODY)).unwrap();
    assert_eq!(read("good.conf").unwrap(), "port 1");
}

#[test]
fn a_link_in_place_of_a_configuration_leaks_nothing() {
    let home = HostileHome::create();
    let (conf, acl) = (home.home().join("redis.conf"), home.home().join("users.acl"));
    home.plant_link("redis.conf", &home.victim());
    home.plant_link("users.acl", &home.victim());
    let content = json!({ "digest": "0".repeat(64), "len": 0 });
    let shard: RedisShard = serde_json::from_value(json!({
        "id": "1", "port": "7001", "conf": content, "acl": content, "data_dir": home.home().join("data"),
        "conf_dir": home.home(), "user": "nobody",
    }))
    .unwrap();
    let is_refused = |result: anyhow::Result<()>| {
        let error = result.unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(PathError::WrongType { .. })), "{error:#}");
    };
    is_refused(shard.set_replicaof(&InstanceAddress::new("10.0.0.1", 7001)));
    is_refused(shard.remove_replicaof());
    is_refused(shard.set_min_replicas(1));
    is_refused(shard.set_users_enabled(&["app".to_owned()], false));
    is_refused(shard.read_conf().map(drop));
    is_refused(shard.current_acl().map(drop));
    for path in [conf, acl] {
        assert!(fs::symlink_metadata(&path).unwrap().is_symlink(), "{} was written", path.display());
    }
    home.assert_unharmed();
}

/// A bind mount for the time of a test.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        Command::new("umount").arg(self.0).status().ok();
    }
}

#[test]
fn a_recursion_stops_before_it_leaves_its_file_system() {
    let home = HostileHome::create();
    let (top, elsewhere) = (home.home().join("top"), home.home().join("elsewhere"));
    let mount_point = top.join("a/mounted");
    fs::create_dir_all(&mount_point).unwrap();
    fs::write(top.join("first"), "stays").unwrap();
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("data"), "precious").unwrap();
    let bound = Command::new("mount").arg("--bind").args([&elsewhere, &mount_point]).status().unwrap();
    assert!(bound.success(), "this test needs the right to mount");
    let mounted = Mounted(&mount_point);
    let refused = refusal(&home, "directory", json!({ "path": top, "state": "absent", "recurse": true }));
    messages::check("mount-point-in-the-way", [("below", refused)]);
    let itself = host_fs::remove_tree(&mount_point);
    assert!(matches!(itself, Err(PathError::MountPoint { .. })), "{itself:?}");
    assert_eq!(fs::read_to_string(elsewhere.join("data")).unwrap(), "precious");
    assert_eq!(fs::read_to_string(top.join("first")).unwrap(), "stays");
    drop(mounted);
    host_fs::remove_tree(&top).unwrap();
    assert!(!top.exists() && elsewhere.join("data").exists());
}

#[test]
fn a_folder_that_others_control_is_not_relied_upon() {
    let home = HostileHome::create();
    assert!(matches!(host_fs::ensure_private(&home.home()), Err(PathError::WrongOwner { .. })));
    let below = home.home().join("records");
    fs::create_dir(&below).unwrap();
    assert!(matches!(host_fs::ensure_private(&below), Err(PathError::WrongOwner { .. })), "it can be renamed away");
    host_fs::ensure_private(&home.victim_folder()).unwrap();
    fs::set_permissions(home.victim_folder(), std::os::unix::fs::PermissionsExt::from_mode(0o775)).unwrap();
    assert!(matches!(host_fs::ensure_private(&home.victim_folder()), Err(PathError::Writable { .. })));
}
