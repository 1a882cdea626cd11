//! The operator chooses an instance, where recovery cannot decide which one has all writes.

use std::time::Duration;

use dunlin::protocol::shard::failover::InstanceRef;
use dunlin::protocol::shard::{InstanceChoice, RecoveryResult, ShardReply, ShardRequest};

use crate::agent_process::AgentProcess;
use crate::fixture::{MoveFixture, app_credentials, connect_admin, connect_as, wait_until};
use crate::messages;
use crate::moves::{run_copy, run_switch};

/// Keys that both instances have.
const KEYS: usize = 50;
/// A key that only the target has.
const TARGET_KEY: &str = "only-at-the-target";

/// A move whose source was demoted; both instances were restarted before the target was opened.
fn undecided_move() -> MoveFixture {
    let mut fixture = MoveFixture::with_instances(2);
    fixture.provision_primary(0).unwrap();
    let mut client = connect_as(&fixture.address(0), &app_credentials()).unwrap();
    for n in 0..KEYS {
        redis::cmd("SET").arg(format!("key:{n}")).arg(n).exec(&mut client).unwrap();
    }
    let spec = fixture.move_spec(0, 1);
    run_copy(&fixture, spec.clone()).unwrap();
    let mut agent = AgentProcess::start_agent(&fixture, &[ShardRequest::CutOver(spec)], Some("demote_source:after"));
    assert!(!agent.wait_for_exit().success());
    redis::cmd("CONFIG").arg("REWRITE").exec(&mut connect_admin(&fixture.address(0)).unwrap()).unwrap();
    for n in [0, 1] {
        fixture.kill_instance(n);
        fixture.restart_instance(n);
        fixture.wait_until_ready(n);
    }
    redis::cmd("SET").arg(TARGET_KEY).arg(1).exec(&mut connect_admin(&fixture.address(1)).unwrap()).unwrap();
    fixture
}

fn choice(fixture: &mut MoveFixture, chosen: u8) -> InstanceChoice {
    InstanceChoice { spec: fixture.move_spec(0, 1), chosen: fixture.instance_address(chosen) }
}

fn discard(fixture: &mut MoveFixture, chosen: u8) -> ShardRequest {
    let other = 1 - chosen;
    ShardRequest::DiscardInstance(InstanceRef {
        header: fixture.job_for(other),
        address: fixture.instance_address(other),
        primary: fixture.instance_address(chosen),
        epoch: 7,
        instance: fixture.instance_spec(other),
    })
}

fn error_of(fixture: &MoveFixture, request: ShardRequest) -> String {
    format!("{:#}", fixture.run_request(request).unwrap_err())
}

#[test]
fn the_chosen_instance_is_opened_and_the_other_one_archived() {
    for chosen in [0, 1] {
        let mut fixture = undecided_move();
        let choice = choice(&mut fixture, chosen);
        let refused = error_of(&fixture, ShardRequest::OpenChosenInstance(choice.clone()));
        messages::check(&format!("open-before-the-choice-{chosen}"), [("open", refused)]);
        let undecided = fixture.run_request(ShardRequest::AssessChoice(choice.clone())).unwrap();
        let ShardReply::AssessChoice(RecoveryResult::Undecided { reason }) = undecided else { panic!("{undecided:?}") };
        messages::check("undecided-move", [("assess", reason)]);
        assert_eq!(fixture.writable_instances(), Vec::<u8>::new());

        let recorded = fixture.run_request(ShardRequest::ChooseInstance(choice.clone())).unwrap();
        assert!(matches!(recorded, ShardReply::ChooseInstance(RecoveryResult::Undecided { .. })), "{recorded:?}");
        // Recovery leaves the move alone from here on, and the other instance cannot be chosen any more.
        let RecoveryResult::Undecided { reason } = fixture.run_recover(0, 1) else { panic!("recovered") };
        messages::check(&format!("recovery-of-a-chosen-instance-{chosen}"), [("recover", reason)]);
        let other = InstanceChoice { chosen: choice.discarded().clone(), ..choice.clone() };
        let refused = error_of(&fixture, ShardRequest::ChooseInstance(other));
        messages::check(&format!("second-choice-{chosen}"), [("choose", refused)]);
        let refused = error_of(&fixture, ShardRequest::OpenChosenInstance(choice.clone()));
        messages::check(&format!("open-beside-a-running-instance-{chosen}"), [("open", refused)]);

        let request = discard(&mut fixture, chosen);
        let ShardReply::DiscardInstance(archived) = fixture.run_request(request.clone()).unwrap() else { panic!() };
        let folder = archived.archive_dir.unwrap();
        assert!(folder.join("appendonlydir").is_dir() && folder.join("DISCARDED").is_file(), "{}", folder.display());
        assert_eq!(fixture.run_request(request).unwrap(), ShardReply::DiscardInstance(Default::default()));
        assert_eq!(fixture.writable_instances(), Vec::<u8>::new());

        // Each request may be repeated.
        for _ in 0..2 {
            let opened = fixture.run_request(ShardRequest::OpenChosenInstance(choice.clone())).unwrap();
            let ShardReply::OpenChosenInstance(result) = &opened else { panic!("{opened:?}") };
            match result {
                RecoveryResult::AtTarget { follow_ups, .. } => assert_eq!((chosen, follow_ups.len()), (1, 0)),
                RecoveryResult::AtSource { .. } => assert_eq!(chosen, 0),
                RecoveryResult::Undecided { reason } => panic!("{reason}"),
            }
        }
        wait_until(Duration::from_secs(10), || fixture.writable_instances() == [chosen]);
        let mut client = connect_as(&fixture.address(chosen), &app_credentials()).unwrap();
        for n in 0..KEYS {
            let value: Option<usize> = redis::cmd("GET").arg(format!("key:{n}")).query(&mut client).unwrap();
            assert_eq!(value, Some(n), "key:{n} at {chosen}");
        }
        let has_target_key: bool = redis::cmd("EXISTS").arg(TARGET_KEY).query(&mut client).unwrap();
        assert_eq!(has_target_key, chosen == 1);
        // The move is over: the shard can be moved again.
        let again = fixture.move_spec(chosen, 1 - chosen);
        run_copy(&fixture, again.clone()).unwrap();
        run_switch(&fixture, again).unwrap();
        assert_eq!(fixture.writable_instances(), [1 - chosen]);
    }
}

#[test]
fn no_choice_is_recorded_for_a_move_that_recovery_can_decide() {
    let mut fixture = MoveFixture::with_instances(2);
    fixture.provision_primary(0).unwrap();
    let spec = fixture.move_spec(0, 1);
    run_copy(&fixture, spec.clone()).unwrap();
    let choice = choice(&mut fixture, 1);
    let reply = fixture.run_request(ShardRequest::ChooseInstance(choice.clone())).unwrap();
    assert!(matches!(reply, ShardReply::ChooseInstance(RecoveryResult::AtSource { .. })), "{reply:?}");
    assert!(matches!(fixture.run_recover(0, 1), RecoveryResult::AtSource { .. }));
    run_switch(&fixture, spec).unwrap();
    let finished = error_of(&fixture, ShardRequest::ChooseInstance(choice));
    messages::check("choice-without-a-move", [("choose", finished)]);
}

#[test]
fn both_instances_must_answer_before_one_is_chosen() {
    let mut fixture = undecided_move();
    fixture.kill_instance(0);
    let choice = choice(&mut fixture, 1);
    let refused = error_of(&fixture, ShardRequest::ChooseInstance(choice));
    messages::check("choice-without-an-answer", [("choose", refused)]);
}
