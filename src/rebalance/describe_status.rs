//! Describes an open move: which side serves, what clients see, and what resume does.

use super::resume::MoveStatus;
use crate::protocol::shard::{MovePhase, MoveState, PhaseState, ReplicationRole};

/// Phases in which the source needs its replicas to accept writes.
const PHASES_WITH_REQUIRED_REPLICAS: &[MovePhase] = &[
    MovePhase::RequireReplicas,
    MovePhase::PrepareStandby,
    MovePhase::Pause,
    MovePhase::Drain,
    MovePhase::DemoteSource,
    MovePhase::Promote,
];

/// Returns a sentence about a move with this status, from the roles of both sides.
pub fn describe_status(state: &MoveState, status: MoveStatus) -> &'static str {
    use ReplicationRole::{Primary, Replica, Unreachable};
    if state.phase == MovePhase::ChooseInstance {
        return "undecided: the operator chose an instance; run the same dunlin shards resume --keep again";
    }
    match (status, &state.source_role) {
        (MoveStatus::Finished, _) => "finished",
        (MoveStatus::FinishedElsewhere, _) => "moved from another machine; this map does not have it yet",
        (MoveStatus::SourceKept, _) => "moved; the old instance is kept as a replica",
        (MoveStatus::CutOver, Primary { .. }) => {
            "cut over: the target serves, BUT THE SOURCE IS A PRIMARY TOO; run dunlin shards resume now"
        }
        (MoveStatus::CutOver, _) => {
            "cut over: the target serves; the map is not published or the old instance not retired"
        }
        (MoveStatus::TargetNotOpened, Primary { .. }) => {
            "undecided: both are primaries; the source serves, the target was never opened to clients; resume decides"
        }
        (MoveStatus::TargetNotOpened, Replica { .. }) => {
            "undecided: no instance accepts writes; the source is a replica, the target was never opened to clients; \
             resume decides"
        }
        (MoveStatus::TargetNotOpened, Unreachable) => {
            "undecided: the source does not answer, the target was never opened to clients; resume decides"
        }
        (MoveStatus::Copying, Primary { replicas, .. })
            if has_required_replicas(state) && is_any_replica_missing(state, *replicas) =>
        {
            "the source refuses writes with NOREPLICAS, because its copy is not connected; resume or abort opens it"
        }
        (MoveStatus::Copying, _) => "copying: the source serves",
        (MoveStatus::ReplicaBuilding, _) => "creating a replica; the map does not name it yet",
        (MoveStatus::ReplicaReady, _) if state.record.operation.replaced_replica().is_none() => {
            "new replica created; a consumer may not have the map that names it"
        }
        (MoveStatus::ReplicaReady, _) => "new replica created; the replica that it replaces is not retired yet",
        (MoveStatus::Undecided, Replica { .. }) if state.target_role == Unreachable => {
            "undecided: the source is a replica and refuses writes, the target does not answer; resume decides"
        }
        (MoveStatus::Undecided, Replica { .. }) => {
            "undecided: no instance accepts writes, both are replicas; resume decides"
        }
        (MoveStatus::Undecided, _) if state.target_role == Unreachable => {
            "undecided: neither side answers; start them, then resume decides"
        }
        (MoveStatus::Undecided, _) => {
            "undecided: the source does not answer, the target refuses writes as a replica; resume decides"
        }
        (MoveStatus::FailoverInterrupted, _) => {
            "failover interrupted; resume finishes it, or rolls it back if the source answers again"
        }
        (MoveStatus::Promoted, _) => "failed over: the target serves; the map is not published yet",
    }
}

/// Returns true if the copy, or one of the replicas that the shard has, is not connected: the source requires all of
/// them.
fn is_any_replica_missing(state: &MoveState, connected: u64) -> bool {
    connected <= state.record.operation.other_replicas().len() as u64
}

fn has_required_replicas(state: &MoveState) -> bool {
    let is_begun = state.phase != MovePhase::RequireReplicas || state.phase_state == PhaseState::Done;
    is_begun && PHASES_WITH_REQUIRED_REPLICAS.contains(&state.phase)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rebalance::resume::primary_move_status;

    fn primary(replicas: u64) -> ReplicationRole {
        ReplicationRole::Primary { offset: 9, replicas }
    }

    fn replica_of(primary: &str) -> ReplicationRole {
        ReplicationRole::Replica { primary: primary.parse().unwrap_or_default(), link_is_up: true, offset: 9 }
    }

    fn describe(source: ReplicationRole, target: ReplicationRole, phase: &str, promoted: bool) -> &'static str {
        let value = serde_json::json!({
            "run": "1", "shard": 0, "from": "a:1", "to": "b:1", "other_replicas": [], "epoch": 1, "app_user": "app",
            "instance": null, "phase": phase, "phase_state": "done", "recorded_at": "", "is_finished": false,
            "source_role": source, "target_role": target, "promotion_started": promoted,
        });
        let state: MoveState = serde_json::from_value(value).unwrap();
        describe_status(&state, primary_move_status(&state, false))
    }

    /// Each pair of roles, before and after the promotion is in the journal.
    #[test]
    fn each_pair_of_roles_is_described_as_it_is() {
        let down = || ReplicationRole::Unreachable;
        for (source, target, before, after) in [
            (primary(1), primary(0), "undecided: both are primaries; the source serves", "BUT THE SOURCE IS A PRIMARY"),
            (replica_of("b:1"), primary(0), "undecided: no instance accepts writes", "cut over: the target serves"),
            (down(), primary(0), "undecided: the source does not answer", "cut over: the target serves"),
            (primary(1), replica_of("a:1"), "copying: the source serves", "copying: the source serves"),
            (primary(1), down(), "copying: the source serves", "copying: the source serves"),
            (primary(0), down(), "the source refuses writes with NOREPLICAS", "the source refuses writes"),
            (replica_of("b:1"), replica_of("a:1"), "both are replicas", "both are replicas"),
            (replica_of("b:1"), down(), "the target does not answer", "the target does not answer"),
            (down(), replica_of("a:1"), "the target refuses writes", "the target refuses writes"),
            (down(), down(), "neither side answers", "neither side answers"),
        ] {
            for (promoted, expected) in [(false, before), (true, after)] {
                let text = describe(source.clone(), target.clone(), "pause", promoted);
                assert!(text.contains(expected), "{source:?}, {target:?}, promoted: {promoted}: {text}");
            }
        }
    }

    #[test]
    fn a_source_requires_the_copy_and_all_replicas_until_it_is_demoted() {
        let text = |phase: &str, replicas: u64| {
            let value = serde_json::json!({
                "run": "1", "shard": 0, "from": "a:1", "to": "b:1", "other_replicas": ["c:1"], "epoch": 1,
                "app_user": "app", "instance": null, "phase": phase, "phase_state": "done", "recorded_at": "",
                "is_finished": false, "source_role": primary(replicas), "target_role": ReplicationRole::Unreachable,
                "promotion_started": false,
            });
            let state: MoveState = serde_json::from_value(value).unwrap();
            describe_status(&state, primary_move_status(&state, false))
        };
        for phase in ["require_replicas", "pause", "demote_source"] {
            assert!(text(phase, 1).contains("NOREPLICAS"), "{phase}: {}", text(phase, 1));
            assert_eq!(text(phase, 2), "copying: the source serves");
        }
        assert_eq!(text("copy", 1), "copying: the source serves");
    }

    #[test]
    fn a_choice_that_was_not_completed_names_the_command() {
        let text = describe(ReplicationRole::Unreachable, primary(0), "choose_instance", false);
        assert!(text.contains("resume --keep"), "{text}");
    }

    #[test]
    fn a_source_without_replicas_refuses_writes_only_while_it_requires_them() {
        assert_eq!(describe(primary(0), ReplicationRole::Unreachable, "copy", false), "copying: the source serves");
        assert_eq!(
            describe(primary(0), ReplicationRole::Unreachable, "roll_back", false),
            "copying: the source serves"
        );
    }
}
