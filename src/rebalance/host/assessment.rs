//! Decides which instance of an interrupted move is the primary, by the roles of both and the journal.

use anyhow::Result;
use dunlin_shards::InstanceAddress;

use super::boot_id::read_boot_id;
use super::move_journal::{JournalEntry, entries_since_roll_back};
use super::redis_client::RedisClient;
use super::replication_proxy;
use crate::protocol::shard::{MovePhase, MoveSpec, PhaseState, ReplicationRole};

/// Holds the facts from journal and processes that recovery decides by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct RecoveryFacts {
    /// The target was prepared as a standby during this move: its file may make it a primary.
    standby_was_prepared: bool,
    /// A demotion was logged and not rolled back, or its entry may be lost.
    source_may_be_demoted: bool,
    /// The promotion was logged: from then on the target may hold writes that only it has.
    promotion_was_started: bool,
    /// The host was rebooted since writes were paused: journal entries may be lost.
    host_was_rebooted: bool,
    /// The source's process is the same as when `min-replicas-to-write` was set.
    source_is_same_process: bool,
    /// The target's process is the same as when the source's `min-replicas-to-write` was set.
    target_is_same_process: bool,
    /// The target syncs every write before it acknowledges (`appendfsync always`).
    target_syncs_always: bool,
}

/// Decision from roles and journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The source stays the primary.
    KeepSource,
    /// The target becomes the primary; recovery runs the remaining steps.
    UseTarget,
    /// Left to the operator; holds the reason.
    Undecidable(&'static str),
}

/// Decides which instance is the primary. An instance that follows a third one is left to the operator.
///
/// Two rules determine the table. A target that was never promoted has no write that the source lacks. A source that
/// follows the target was demoted after the target had caught up: a target that is still the same process, or that
/// syncs every write, has all writes.
fn decide_primary(
    spec: &MoveSpec,
    source: &ReplicationRole,
    target: &ReplicationRole,
    facts: RecoveryFacts,
) -> Decision {
    use ReplicationRole::{Primary, Replica, Unreachable};
    if follows_third_instance(spec, source, target) {
        return Decision::Undecidable("an instance follows a third one: another tool moved or failed over this shard");
    }
    match (source, target) {
        (Primary { .. }, Replica { .. }) if facts.promotion_was_started && !facts.target_is_same_process => {
            Decision::Undecidable(
                "the target was promoted, but follows the source: either may have writes that the other lacks",
            )
        }
        (Primary { .. }, Replica { .. }) => Decision::KeepSource,
        (Replica { offset: at_source, .. }, Replica { offset: at_target, .. }) => {
            // The target's file makes it a primary before the demotion: a target that follows was never promoted.
            if facts.target_is_same_process && (at_target >= at_source || !facts.source_is_same_process) {
                Decision::UseTarget
            } else if facts.source_is_same_process {
                Decision::KeepSource
            } else {
                Decision::Undecidable(
                    "both instances were restarted while neither was a primary: either may have writes that the other lacks",
                )
            }
        }
        (Replica { .. }, Primary { .. })
            if facts.promotion_was_started || facts.target_is_same_process || facts.target_syncs_always =>
        {
            Decision::UseTarget
        }
        (Replica { .. }, Primary { .. }) if facts.source_is_same_process && !facts.host_was_rebooted => {
            Decision::KeepSource
        }
        (Replica { .. }, Primary { .. }) => {
            Decision::Undecidable("the target was restarted and may lack its last second of writes")
        }
        (Primary { .. } | Unreachable, Primary { .. })
            if facts.promotion_was_started || facts.target_is_same_process =>
        {
            Decision::UseTarget
        }
        (Primary { .. }, Primary { .. })
            if facts.standby_was_prepared && (facts.source_is_same_process || !facts.host_was_rebooted) =>
        {
            Decision::KeepSource
        }
        (Primary { .. }, Primary { .. }) => {
            Decision::Undecidable("both are primaries, and the journal does not say whether the target was opened")
        }
        (Unreachable, Primary { .. }) => {
            Decision::Undecidable("the source does not answer, and the target was not opened")
        }
        (Primary { .. }, Unreachable) if !facts.source_may_be_demoted => Decision::KeepSource,
        (Primary { .. } | Replica { .. }, Unreachable) => {
            Decision::Undecidable("the target does not answer and may hold writes: start it, or discard it")
        }
        (Unreachable, _) => Decision::Undecidable("the source does not answer: start it, or fail over to the target"),
    }
}

/// Returns true if the source or the target follows an instance that is not part of the move.
pub fn follows_third_instance(spec: &MoveSpec, source: &ReplicationRole, target: &ReplicationRole) -> bool {
    let follows_other = |role: &ReplicationRole, partner: &InstanceAddress| matches!(role, ReplicationRole::Replica { primary, .. } if primary != partner);
    follows_other(source, &spec.record.to) || follows_other(target, &spec.record.from)
}

/// The roles of both instances, and the decision that follows from them and the journal.
pub struct Assessment {
    /// The decision.
    pub decision: Decision,
    /// Connection to the source, if it answers.
    pub source: Option<RedisClient>,
    /// Role of the source.
    pub source_role: ReplicationRole,
    /// Connection to the target, if it answers.
    pub target: Option<RedisClient>,
    /// Role of the target.
    pub target_role: ReplicationRole,
}

/// Probes both instances, and decides which one is the primary by their roles and the entries of the move.
///
/// # Errors
/// Returns an error if the boot ID of the host cannot be read.
pub fn assess_roles(spec: &MoveSpec, entries: &[JournalEntry]) -> Result<Assessment> {
    let (source, source_role, source_id) = probe_instance(&spec.record.from, spec);
    let (mut target, mut target_role, target_id) = probe_instance(&spec.record.to, spec);
    // The copy may go through the replication proxy; its source is a primary then, or does not answer.
    if !matches!(source_role, ReplicationRole::Replica { .. }) {
        target_role = replication_proxy::proxied_role(target_role, spec);
    }
    let syncs_always =
        target.as_mut().is_some_and(|target| target.fetch_setting("appendfsync").is_ok_and(|when| when == "always"));
    let facts = gather_facts(entries, &source_id, &target_id, syncs_always)?;
    let decision = decide_primary(spec, &source_role, &target_role, facts);
    Ok(Assessment { decision, source, source_role, target, target_role })
}

fn gather_facts(
    entries: &[JournalEntry],
    source: &str,
    target: &str,
    target_syncs_always: bool,
) -> Result<RecoveryFacts> {
    let since = entries_since_roll_back(entries);
    let is_standby_intent =
        |entry: &JournalEntry| entry.phase == MovePhase::PrepareStandby && entry.state == PhaseState::Intent;
    let last_intent =
        |step| since.iter().rev().find(|record| record.phase == step && record.state == PhaseState::Intent);
    let (require_replicas_entry, pause_entry) =
        (last_intent(MovePhase::RequireReplicas), last_intent(MovePhase::Pause));
    let is_same_process =
        |name: &str, id: &str| require_replicas_entry.is_some_and(|armed| armed.detail[name].as_str() == Some(id));
    let boot = read_boot_id()?;
    let rebooted = pause_entry.is_some_and(|paused| paused.detail["boot"].as_str() != Some(&boot));
    Ok(RecoveryFacts {
        standby_was_prepared: entries.iter().any(is_standby_intent),
        source_may_be_demoted: rebooted || last_intent(MovePhase::DemoteSource).is_some(),
        promotion_was_started: last_intent(MovePhase::Promote).is_some(),
        host_was_rebooted: rebooted,
        source_is_same_process: is_same_process("source", source),
        target_is_same_process: is_same_process("target", target),
        target_syncs_always,
    })
}

fn probe_instance(address: &InstanceAddress, spec: &MoveSpec) -> (Option<RedisClient>, ReplicationRole, String) {
    let Ok(mut link) = RedisClient::open(address, &spec.header.credentials) else {
        return (None, ReplicationRole::Unreachable, String::new());
    };
    // While it loads its data, an instance answers INFO with the role from its file.
    match link.fetch_role().and_then(|role| Ok((role, link.fetch_run_id()?))) {
        Ok((role, id)) => (Some(link), role, id),
        Err(_) => (None, ReplicationRole::Unreachable, String::new()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::Value;

    use super::*;
    use crate::protocol::shard::{MoveLimits, MoveRecord, Operation};
    use crate::protocol::throttle::ThrottleLimits;
    use crate::rebalance::host::move_journal::tests::test_header;

    pub fn test_spec() -> MoveSpec {
        MoveSpec {
            header: test_header(std::path::Path::new(""), 17, "r", 0),
            record: MoveRecord {
                operation: Operation::Relocate { other_replicas: Vec::new() },
                from: InstanceAddress::new("a", 1),
                to: InstanceAddress::new("b", 1),
                epoch: 8,
                app_user: "s017".to_owned(),
                instance: Value::Null,
                min_replicas: None,
                operator: String::new(),
                throttle: ThrottleLimits::default(),
            },
            source_file_requires_replicas: false,
            limits: MoveLimits::default(),
        }
    }

    #[test]
    fn the_instance_that_may_lack_writes_is_never_chosen() {
        use Decision::{KeepSource, Undecidable, UseTarget};
        let primary = ReplicationRole::Primary { offset: 5, replicas: 0 };
        let follows = |of: &str, offset| ReplicationRole::Replica {
            primary: InstanceAddress::new(of, 1),
            link_is_up: false,
            offset,
        };
        let (at_target, at_source) = (follows("b", 5), follows("a", 5));
        let gone = ReplicationRole::Unreachable;
        let prepared = RecoveryFacts {
            standby_was_prepared: true,
            source_is_same_process: true,
            target_is_same_process: true,
            ..RecoveryFacts::default()
        };
        let demoted = RecoveryFacts { source_may_be_demoted: true, ..prepared };
        let promoted = RecoveryFacts { promotion_was_started: true, ..demoted };
        let restarted = |known: RecoveryFacts| RecoveryFacts { target_is_same_process: false, ..known };
        let neither = Undecidable("");
        for (source, target, known, wanted) in [
            // Before the demotion the source stays the primary, regardless of the target.
            (&primary, &at_source, prepared, KeepSource),
            (&primary, &at_source, restarted(prepared), KeepSource),
            (&primary, &primary, restarted(prepared), KeepSource),
            (&primary, &gone, prepared, KeepSource),
            // Demoted: the target, if it has all.
            (&at_target, &at_source, demoted, UseTarget),
            (&at_target, &follows("a", 4), demoted, KeepSource),
            (&at_target, &follows("a", 4), RecoveryFacts { source_is_same_process: false, ..demoted }, UseTarget),
            (&at_target, &at_source, restarted(demoted), KeepSource),
            (
                &at_target,
                &at_source,
                RecoveryFacts { source_is_same_process: false, ..restarted(demoted) },
                neither.clone(),
            ),
            (&at_target, &primary, demoted, UseTarget),
            // Restarted, it is a closed primary; it has all if it keeps what it applies, else the source is asked back.
            (&at_target, &primary, restarted(demoted), KeepSource),
            (&at_target, &primary, RecoveryFacts { target_syncs_always: true, ..restarted(demoted) }, UseTarget),
            (&at_target, &primary, RecoveryFacts { host_was_rebooted: true, ..restarted(demoted) }, neither.clone()),
            (
                &at_target,
                &primary,
                RecoveryFacts { host_was_rebooted: true, target_syncs_always: true, ..restarted(demoted) },
                UseTarget,
            ),
            // Promoted: only the target, also restarted; a source that came back is a primary that needs its replicas.
            (&at_target, &primary, restarted(promoted), UseTarget),
            (&primary, &primary, restarted(promoted), UseTarget),
            (&gone, &primary, restarted(promoted), UseTarget),
            (&primary, &gone, promoted, neither.clone()),
            (&at_target, &gone, promoted, neither.clone()),
            (&primary, &at_source, restarted(promoted), neither.clone()),
            // Logged as intended, but not done: the same process still follows.
            (&primary, &at_source, RecoveryFacts { source_is_same_process: false, ..promoted }, KeepSource),
            // Nothing is known: nothing is done.
            (&primary, &primary, RecoveryFacts::default(), neither.clone()),
            (&gone, &primary, restarted(demoted), neither.clone()),
            (&gone, &at_source, demoted, neither.clone()),
            (&follows("c", 9), &primary, promoted, neither.clone()),
        ] {
            let decided = decide_primary(&test_spec(), source, target, known);
            let as_wanted = decided == wanted || matches!((&decided, &wanted), (Undecidable(_), Undecidable(_)));
            assert!(as_wanted, "source {source:?}, target {target:?}, {known:?}: {decided:?}, not {wanted:?}");
        }
    }
}
