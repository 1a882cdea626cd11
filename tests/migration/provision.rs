//! The resource: what a move leaves behind is what provisioning wants.

use std::path::Path;

use dunlin::plan::{Action, Digest};
use dunlin::protocol::shard::failover::InstanceRef;
use dunlin::protocol::shard::{Credentials, PreflightRequest, PreflightRule, ShardReply, ShardRequest};
use dunlin::resources::redis_shard::acl::{self, AclFile};
use dunlin::resources::{HostView, ReadOutcome, find_kind};

use crate::fixture::{MoveFixture, app_credentials, connect_admin, connect_as, server_program};
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

/// Edits the templates: the application has another password, and there are fewer databases.
fn rotate_password(fixture: &mut MoveFixture) -> Credentials {
    let rotated = Credentials { password: "rotated".to_owned(), ..app_credentials() };
    let hash = |login: &Credentials| -> &'static str {
        Box::leak(Digest::of_bytes(login.password.as_bytes()).as_str().to_owned().into_boxed_str())
    };
    fixture.set_conf_edits(vec![(hash(&app_credentials()), hash(&rotated)), ("port ", "databases 8\nport ")]);
    rotated
}

fn filled_primary(instances: u8) -> MoveFixture {
    let mut fixture = MoveFixture::with_instances(instances);
    fixture.provision_primary(0).unwrap();
    let mut admin = connect_admin(&fixture.address(0)).unwrap();
    redis::cmd("SET").arg("key").arg("value").exec(&mut admin).unwrap();
    fixture
}

#[test]
fn changed_passwords_and_databases_reach_a_running_primary() {
    let mut fixture = filled_primary(2);
    let rotated = rotate_password(&mut fixture);
    let diff = fixture.provision_primary(0).unwrap();
    assert!(diff.changes.iter().any(|change| change.attribute == "ACL user s017"), "{diff:?}");
    for login in [&app_credentials(), &rotated] {
        connect_as(&fixture.address(0), login).unwrap();
    }
    let diff = fixture.provision_primary(0).unwrap();
    assert_eq!(diff.action, Action::RestartRequired, "{diff:?}");
    assert!(diff.reason.unwrap().starts_with("ACL user s017, databases changed: run dunlin shards restart"));

    let spec = fixture.move_spec(0, 1);
    let mut request = PreflightRequest::for_relocation(spec.clone());
    let preflight = |request: &PreflightRequest| match fixture.run_request(ShardRequest::Preflight(request.clone())) {
        Ok(ShardReply::Preflight(result)) => result.issues.into_iter().map(|issue| issue.rule).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(preflight(&request), [PreflightRule::Acl, PreflightRule::Setting]);
    let source = InstanceRef {
        header: fixture.job_for(0),
        address: fixture.instance_address(0),
        primary: fixture.instance_address(0),
        epoch: 8,
        instance: fixture.instance_spec(0),
    };
    match fixture.run_request(ShardRequest::ListPendingChanges(source)).unwrap() {
        ShardReply::ListPendingChanges(names) => request.pending_changes = names,
        other => panic!("{other:?}"),
    }
    let preflight = |request: &PreflightRequest| match fixture.run_request(ShardRequest::Preflight(request.clone())) {
        Ok(ShardReply::Preflight(result)) => result.issues,
        other => panic!("{other:?}"),
    };
    assert_eq!(preflight(&request), []);
    run_copy(&fixture, spec.clone()).unwrap();
    run_switch(&fixture, spec).unwrap();
    connect_as(&fixture.address(1), &rotated).unwrap();
    assert!(connect_as(&fixture.address(1), &app_credentials()).is_err());
}

#[test]
fn users_that_one_run_could_not_set_in_memory_are_set_by_the_next() {
    let mut fixture = filled_primary(1);
    fixture.stop(0);
    let acl_text = std::fs::read_to_string(fixture.acl_path(0)).unwrap();
    let old_line = "user default off resetchannels -@all";
    std::fs::write(fixture.acl_path(0), acl_text.replace(acl::DEFAULT_USER_LINE, old_line)).unwrap();
    fixture.restart_instance(0);
    fixture.wait_until_ready(0);
    let missing_rights = |fixture: &MoveFixture| {
        let mut admin = connect_admin(&fixture.address(0)).unwrap();
        let users: Vec<String> = redis::cmd("ACL").arg("LIST").query(&mut admin).unwrap();
        AclFile::parse(&users.join("\n")).unwrap().missing_replay_rights()
    };
    let rotated = rotate_password(&mut fixture);
    // A wrong password, and none: the file is written all the same, and the memory stays as it is.
    let mut without_login = fixture.instance_spec(0);
    without_login["admin_password"] = fixture.add_content(b"guessed");
    let error = fixture.provision_instance(0, without_login.clone()).unwrap_err();
    messages::check("provision-with-a-wrong-password", [("provision", format!("{error:#}"))]);
    without_login["admin_password"] = serde_json::Value::Null;
    let diff = fixture.provision_instance(0, without_login).unwrap();
    assert_eq!(diff.action, Action::RestartRequired, "{diff:?}");
    assert!(!missing_rights(&fixture).is_empty());
    assert!(connect_as(&fixture.address(0), &rotated).is_err());

    let diff = fixture.provision_primary(0).unwrap();
    let shown: Vec<_> = diff.changes.iter().map(|change| change.attribute.as_str()).collect();
    assert_eq!(shown, ["ACL users in memory"], "{diff:?}");
    assert_eq!(missing_rights(&fixture), Vec::<&str>::new());
    connect_as(&fixture.address(0), &rotated).unwrap();
    let diff = fixture.provision_primary(0).unwrap();
    assert_eq!(diff.action, Action::RestartRequired, "{diff:?}");
    assert!(diff.reason.unwrap().starts_with("ACL user s017, databases changed: "));
}
