//! The resource: what a move leaves behind is what provisioning wants.

use std::path::Path;

use dunlin::plan::Action;
use dunlin::resources::{HostView, ReadOutcome, find_kind};

use crate::fixture::{MoveFixture, connect_admin, server_program};
use crate::messages;
use crate::moves::{run_copy, run_retire, run_switch};

#[test]
fn provisioning_after_a_move_changes_nothing() {
    let mut fixture = MoveFixture::with_instances(2);
    assert_eq!(fixture.provision_primary(0).unwrap().action, Action::Add);
    assert_eq!(fixture.provision_primary(0).unwrap().action, Action::None);
    let spec = fixture.move_spec(0, 1);
    run_copy(&fixture, spec.clone()).unwrap();
    // Half way, the new map's plan for the target is refused: it still follows.
    let error = fixture.provision_primary(1).unwrap_err();
    messages::check("provision-during-a-move", [("target", format!("{error:#}"))]);
    run_switch(&fixture, spec).unwrap();
    let diff = fixture.provision_primary(1).unwrap();
    assert_eq!(diff.action, Action::None, "{diff:?}");
    run_retire(&mut fixture, 0, 1);
    assert_eq!(fixture.provision_primary(1).unwrap().action, Action::None);
}

#[test]
fn a_primary_with_data_waits_for_a_restart_by_moves() {
    let mut fixture = MoveFixture::with_conf_edits(2, "everysec", vec![("tcp-backlog 511", "tcp-backlog 400")]);
    fixture.provision_primary(0).unwrap();
    assert!(!refuses_restart(&mut fixture, 0), "an empty instance is restarted by its handler");
    let mut admin = connect_admin(&fixture.address(0)).unwrap();
    redis::cmd("SET").arg("key").arg("value").exec(&mut admin).unwrap();
    assert!(refuses_restart(&mut fixture, 0));
    assert_eq!(fixture.provision_primary(0).unwrap().action, Action::None);

    fixture.set_conf_edits(Vec::new());
    let diff = fixture.provision_primary(0).unwrap();
    assert_eq!((diff.action, diff.changes[0].attribute.as_str()), (Action::Change, "tcp-backlog"));
    messages::check("restart-required", [("tcp-backlog", diff.reason.unwrap())]);
    // The row remains until the instance has read the file.
    for _ in 0..2 {
        let diff = fixture.provision_primary(0).unwrap();
        assert_eq!(diff.action, Action::RestartRequired, "{diff:?}");
        let reason = diff.reason.unwrap();
        assert!(reason.starts_with("tcp-backlog changed: run dunlin shards restart"), "{reason}");
    }
    // The running instance writes back what it has in memory, and the change is planned again.
    redis::cmd("CONFIG").arg("REWRITE").exec(&mut admin).unwrap();
    assert_eq!(fixture.provision_primary(0).unwrap().action, Action::Change);
    assert_eq!(fixture.provision_primary(0).unwrap().action, Action::RestartRequired);
    for (from, to) in [(0, 1), (1, 0)] {
        let spec = fixture.move_spec(from, to);
        run_copy(&fixture, spec.clone()).unwrap();
        run_switch(&fixture, spec).unwrap();
        run_retire(&mut fixture, from, to);
    }
    assert!(refuses_restart(&mut fixture, 0));
    assert_eq!(fixture.provision_primary(0).unwrap().action, Action::None);
    let mut admin = connect_admin(&fixture.address(0)).unwrap();
    let read: Vec<String> = redis::cmd("CONFIG").arg("GET").arg("tcp-backlog").query(&mut admin).unwrap();
    assert_eq!(read[1], "511");
}

#[test]
fn a_replaced_server_program_needs_a_restart() {
    let mut fixture = MoveFixture::with_instances(1);
    let installed = std::process::Command::new("sh")
        .args(["-c", "command -v \"$0\"", &server_program()])
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap();
    let program = fixture.folder.path().join("redis-server");
    let install_program = |folder: &Path| {
        std::fs::copy(&installed, folder.join("new")).unwrap();
        std::fs::rename(folder.join("new"), folder.join("redis-server")).unwrap();
    };
    install_program(fixture.folder.path());
    let path = program.display().to_string();
    fixture.set_server(0, &path);
    fixture.provision_primary(0).unwrap();
    let mut admin = connect_admin(&fixture.address(0)).unwrap();
    redis::cmd("SET").arg("key").arg("value").exec(&mut admin).unwrap();
    assert_eq!(fixture.provision_primary(0).unwrap().action, Action::None);
    install_program(fixture.folder.path());
    let diff = fixture.provision_primary(0).unwrap();
    assert_eq!(diff.action, Action::RestartRequired, "{diff:?}");
    assert!(diff.reason.unwrap().starts_with("server program changed"));
}

/// Returns whether the step keeps handlers from restarting its instance.
fn refuses_restart(fixture: &mut MoveFixture, n: u8) -> bool {
    let step = (find_kind("redis_shard").unwrap().parse)(fixture.instance_spec(n)).unwrap();
    let ReadOutcome::Known(observed) = step.read(&mut HostView::current()).unwrap() else { return false };
    step.refuses_restart(&observed).unwrap()
}

#[test]
fn config_rewrite_makes_no_change_but_edits_do() {
    let mut fixture = MoveFixture::with_instances(1);
    fixture.provision_primary(0).unwrap();
    let mut connection = connect_admin(&fixture.address(0)).unwrap();
    redis::cmd("CONFIG").arg("SET").arg("min-replicas-to-write").arg(0).exec(&mut connection).unwrap();
    redis::cmd("CONFIG").arg("REWRITE").exec(&mut connection).unwrap();
    assert_eq!(fixture.provision_primary(0).unwrap().action, Action::None);
    // No content is asked for where nothing differs.
    let step = (find_kind("redis_shard").unwrap().parse)(fixture.instance_spec(0)).unwrap();
    let dunlin::resources::ReadOutcome::Known(observed) =
        step.read(&mut dunlin::resources::HostView::current()).unwrap()
    else {
        panic!()
    };
    assert_eq!(step.required_blobs(&observed).unwrap(), []);

    redis::cmd("CONFIG").arg("SET").arg("maxmemory-policy").arg("allkeys-lru").exec(&mut connection).unwrap();
    redis::cmd("CONFIG").arg("REWRITE").exec(&mut connection).unwrap();
    let diff = fixture.provision_primary(0).unwrap();
    assert_eq!(diff.action, Action::Change);
    assert_eq!(diff.changes[0].attribute, "maxmemory-policy");
    messages::check("restart-of-an-empty-instance", [("maxmemory-policy", diff.reason.unwrap())]);
    assert_eq!(fixture.provision_primary(0).unwrap().action, Action::None);
}
