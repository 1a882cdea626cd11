//! The resource: what a move leaves behind is what provisioning wants.

use dunlin::plan::Action;
use dunlin::resources::kind;

use crate::moves::{copy, retire, switch};
use crate::places::{Places, admin};

#[test]
fn after_a_move_there_is_nothing_to_provision() {
    let mut places = Places::new(2);
    assert_eq!(places.provision(0).unwrap().action, Action::Add);
    assert_eq!(places.provision(0).unwrap().action, Action::None);
    let spec = places.spec(0, 1);
    copy(&places, spec.clone()).unwrap();
    // Half way, the new map's plan for the target is refused: it still follows.
    let error = places.provision(1).unwrap_err();
    assert!(format!("{error:#}").contains("the map says it is primary here"), "{error:#}");
    switch(&places, spec).unwrap();
    let diff = places.provision(1).unwrap();
    assert_eq!(diff.action, Action::None, "{diff:?}");
    retire(&mut places, 0, 1);
    assert_eq!(places.provision(1).unwrap().action, Action::None);
}

#[test]
fn a_rewrite_by_redis_is_no_change_and_an_edit_is() {
    let mut places = Places::new(1);
    places.provision(0).unwrap();
    let mut connection = admin(&places.address(0)).unwrap();
    redis::cmd("CONFIG").arg("SET").arg("min-replicas-to-write").arg(0).exec(&mut connection).unwrap();
    redis::cmd("CONFIG").arg("REWRITE").exec(&mut connection).unwrap();
    assert_eq!(places.provision(0).unwrap().action, Action::None);
    // No content is asked for where nothing differs.
    let step = (kind("redis_shard").unwrap().parse)(places.instance(0)).unwrap();
    let dunlin::resources::Read::Known(observed) = step.read(&mut dunlin::resources::World::now()).unwrap() else {
        panic!()
    };
    assert_eq!(step.needs(&observed).unwrap(), []);

    redis::cmd("CONFIG").arg("SET").arg("maxmemory-policy").arg("allkeys-lru").exec(&mut connection).unwrap();
    redis::cmd("CONFIG").arg("REWRITE").exec(&mut connection).unwrap();
    let diff = places.provision(0).unwrap();
    assert_eq!(diff.action, Action::Change);
    assert_eq!(diff.changes[0].what, "maxmemory-policy");
    assert!(diff.reason.unwrap().contains("restarted"));
    assert_eq!(places.provision(0).unwrap().action, Action::None);
}
