//! A restart of a primary under writes: the shard moves to another host and back, where an instance with the changed
//! file starts. The agent, the source or the target is killed in both moves.

use crate::fault_injection::{FaultInjector, Victim};
use crate::fixture::connect_admin;
use crate::mixed_load::PUBSUB_EDIT;

/// The changed line of the file, for each restart.
const CHANGES: [&str; 6] =
    ["tcp-backlog 400", "tcp-backlog 401", "tcp-backlog 402", "tcp-backlog 403", "tcp-backlog 404", "tcp-backlog 405"];

/// The steps at which something is killed on the way there and on the way back, and what is killed.
const KILLS: [[(&str, Victim); 2]; 6] = [
    [("copy:after", Victim::Agent), ("demote_source:after", Victim::Target)],
    [("require_replicas:after", Victim::Source), ("promote:before", Victim::Agent)],
    [("pause:after", Victim::Target), ("verify:before", Victim::Source)],
    [("demote_source:after", Victim::Agent), ("finalize:before", Victim::Source)],
    [("promote:after", Victim::Source), ("copy:before", Victim::Target)],
    [("open_target:after", Victim::Target), ("drain:before", Victim::Agent)],
];

#[test]
fn kills_in_both_moves_of_a_restart_lose_no_write() {
    let mut injector = FaultInjector::without_replica();
    for (number, (change, kills)) in CHANGES.into_iter().zip(KILLS).enumerate() {
        // `dunlin provision` writes the file, and leaves the running primary alone.
        injector.fixture.set_conf_edits(vec![PUBSUB_EDIT, ("tcp-backlog 511", change)]);
        injector.fixture.provision_primary(0).unwrap();
        let setting_before = read_backlog(&injector);
        for (step, (at, victim)) in kills.into_iter().enumerate() {
            let round = 2 * number + step;
            injector.run_round(round, at, victim, round % 2 == 1);
        }
        assert_eq!(injector.owner, 0, "the shard is back");
        let setting = read_backlog(&injector);
        assert!(setting != setting_before && change.ends_with(&setting), "{change}: {setting_before}, {setting}");
    }
    injector.finish(2 * KILLS.len() as u64);
}

/// Returns `tcp-backlog` of the instance at the place of the restarted primary.
fn read_backlog(injector: &FaultInjector) -> String {
    let mut connection = connect_admin(&injector.fixture.address(0)).unwrap();
    let setting: Vec<String> = redis::cmd("CONFIG").arg("GET").arg("tcp-backlog").query(&mut connection).unwrap();
    setting[1].clone()
}
