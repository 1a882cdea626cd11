//! The resource: what a move leaves behind is what provisioning wants.

use dunlin::plan::Action;
use dunlin::resources::find_kind;

use crate::fixture::{MoveFixture, connect_admin};
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
    assert!(format!("{error:#}").contains("the map says it is primary here"), "{error:#}");
    run_switch(&fixture, spec).unwrap();
    let diff = fixture.provision_primary(1).unwrap();
    assert_eq!(diff.action, Action::None, "{diff:?}");
    run_retire(&mut fixture, 0, 1);
    assert_eq!(fixture.provision_primary(1).unwrap().action, Action::None);
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
    assert!(diff.reason.unwrap().contains("restarted"));
    assert_eq!(fixture.provision_primary(0).unwrap().action, Action::None);
}
