//! The operator's choice, where recovery cannot decide which instance of a move has all writes.
//!
//! The choice is recorded in the target's journal first, and recovery changes nothing from then on. The other instance
//! is stopped and its files archived before the chosen one is opened, so that at no time two instances accept writes,
//! and no sync from the chosen one replaces the other's data.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use redis::Value;
use serde_json::json;

use super::archive::{archive_files, write_archive_note};
use super::assessment::{Assessment, Decision, assess_roles, follows_third_instance};
use super::instance::parse_instance;
use super::move_journal::{JournalEntry, MoveJournal, chosen_instance, is_finished, journal_path, last_move_entries};
use super::recover::open_target;
use super::redis_client::{RedisClient, START_TIMEOUT, probe_role, replicaof_command};
use super::replication_progress::is_replica_of;
use super::roll_back::roll_back_cutover;
use crate::journal;
use crate::poll::retry_until;
use crate::protocol::shard::failover::{ArchivedInstance, InstanceRef};
use crate::protocol::shard::{
    InstanceChoice, MovePhase, MoveRecord, MoveSpec, Operation, RecoveryResult, ReplicationRole,
};

/// Time limit for the roles to allow a decision.
const ASSESSMENT_TIMEOUT: Duration = Duration::from_secs(5);
/// Poll interval of the roles.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Returns `Undecided` if recovery cannot decide the move and the operator may choose; changes nothing.
///
/// # Errors
/// Returns an error if the journal cannot be read or has another move, an instance does not answer, or the other
/// instance was chosen before.
pub fn assess_choice(choice: &InstanceChoice) -> Result<RecoveryResult> {
    let header = &choice.spec.header;
    let entries = journal::read_entries(&journal_path(&header.journal_dir, header.shard))?;
    check_choice(choice, last_move_entries(&entries))
}

/// Records the choice if recovery cannot decide the move; returns its decision otherwise.
///
/// # Errors
/// Returns the errors of [`assess_choice`], or an error if the journal cannot be written.
pub fn choose_instance(choice: &InstanceChoice) -> Result<RecoveryResult> {
    let mut journal = MoveJournal::open(&choice.spec.header)?;
    let result = check_choice(choice, journal.current_entries())?;
    let is_undecided = matches!(result, RecoveryResult::Undecided { .. });
    if is_undecided && chosen_instance(journal.current_entries()).is_none() {
        journal.log_done(MovePhase::ChooseInstance, json!({ "chosen": choice.chosen }))?;
    }
    Ok(result)
}

/// Stops the instance that was not chosen, and archives its files: it may hold writes that the chosen one lacks.
///
/// # Errors
/// Returns an error, and stops nothing, if the chosen instance does not answer.
pub fn discard_instance(request: &InstanceRef) -> Result<ArchivedInstance> {
    let instance = parse_instance(request.header.shard, &request.instance)?;
    let mut journal = MoveJournal::open(&request.header)?;
    if instance.read_conf()?.is_none() && !instance.is_running()? {
        return Ok(ArchivedInstance::default());
    }
    RedisClient::open(&request.primary, &request.header.credentials)
        .context("cannot connect to the chosen instance; nothing was stopped")?;
    journal.log_intent(MovePhase::Retire, json!({ "owner": request.primary }))?;
    instance.stop_and_disable()?;
    let archive_dir = archive_files(&instance, "discarded")?;
    if let Some(folder) = &archive_dir {
        let note =
            format!("shard {} is at {}, whose writes the operator chose\n", request.header.shard, request.primary);
        write_archive_note(&instance, folder, "DISCARDED", &note)?;
    }
    journal.log_done(MovePhase::Retire, serde_json::Value::Null)?;
    Ok(ArchivedInstance { archive_dir, bytes_ahead: None })
}

/// Opens the chosen instance as the shard's primary.
///
/// # Errors
/// Returns an error, and opens nothing, if the choice is not in the journal or the other instance still answers.
pub fn open_chosen_instance(choice: &InstanceChoice) -> Result<RecoveryResult> {
    let InstanceChoice { spec, chosen } = choice;
    let mut journal = MoveJournal::open(&spec.header)?;
    if chosen_instance(journal.current_entries()).as_ref() != Some(chosen) {
        bail!("shard {}: the journal does not say that {chosen} was chosen", spec.header.shard);
    }
    let reason = format!("the operator chose {chosen}");
    if !is_finished(journal.current_entries()) {
        if probe_role(choice.discarded(), &spec.header.credentials) != ReplicationRole::Unreachable {
            bail!("shard {}: {} still answers; {chosen} was not opened", spec.header.shard, choice.discarded());
        }
        let mut link = RedisClient::open_with_retry(chosen, &spec.header.credentials, START_TIMEOUT)?;
        if choice.chooses_target() {
            let instance = parse_instance(spec.header.shard, &spec.record.instance)?;
            let follow_ups = open_target(spec, &mut journal, &instance, &mut link)?;
            return Ok(RecoveryResult::AtTarget { reason, follow_ups });
        }
        open_source(spec, &mut journal, &mut link)?;
    }
    Ok(if choice.chooses_target() {
        RecoveryResult::AtTarget { reason, follow_ups: Vec::new() }
    } else {
        RecoveryResult::AtSource { reason }
    })
}

fn check_choice(choice: &InstanceChoice, entries: &[JournalEntry]) -> Result<RecoveryResult> {
    let InstanceChoice { spec, chosen } = choice;
    let shard = spec.header.shard;
    ensure!(is_open_relocation(spec, entries), "shard {shard}: the journal has no open move to {}", spec.record.to);
    match chosen_instance(entries) {
        Some(earlier) if earlier == *chosen => {
            return Ok(RecoveryResult::Undecided { reason: format!("{chosen} was chosen before") });
        }
        Some(earlier) => bail!("shard {shard}: {earlier} was chosen before, and {chosen} may be archived already"),
        None => {}
    }
    let is_decided = |assessment: &Result<Assessment>| {
        !matches!(assessment, Ok(Assessment { decision: Decision::Undecidable(_), .. }))
    };
    let assess = || assess_roles(spec, entries);
    let Assessment { decision, source_role, target_role, .. } =
        retry_until(Instant::now() + ASSESSMENT_TIMEOUT, POLL_INTERVAL, assess, is_decided)?;
    let reason = match decision {
        Decision::KeepSource => {
            return Ok(RecoveryResult::AtSource { reason: format!("{} was never opened", spec.record.to) });
        }
        Decision::UseTarget => {
            let reason = format!("{} was demoted", spec.record.from);
            return Ok(RecoveryResult::AtTarget { reason, follow_ups: Vec::new() });
        }
        Decision::Undecidable(reason) => reason,
    };
    for (address, role) in [(&spec.record.from, &source_role), (&spec.record.to, &target_role)] {
        if *role == ReplicationRole::Unreachable {
            bail!("shard {shard}: {address} does not answer; start it before you choose: it may accept writes later");
        }
    }
    ensure!(!follows_third_instance(spec, &source_role, &target_role), "shard {shard}: {reason}");
    Ok(RecoveryResult::Undecided { reason: reason.to_owned() })
}

fn is_open_relocation(spec: &MoveSpec, entries: &[JournalEntry]) -> bool {
    let begun = entries.first().and_then(|first| serde_json::from_value::<MoveRecord>(first.detail.clone()).ok());
    let is_same = |begun: MoveRecord| {
        matches!(begun.operation, Operation::Relocate { .. })
            && (&begun.from, &begun.to) == (&spec.record.from, &spec.record.to)
    };
    begun.is_some_and(is_same) && !is_finished(entries)
}

/// Restores the source as the primary of the other replicas, and records the move as aborted.
fn open_source(spec: &MoveSpec, journal: &mut MoveJournal, source: &mut RedisClient) -> Result<()> {
    roll_back_cutover(spec, journal, source, None)?;
    for replica in spec.record.operation.other_replicas() {
        let mut link = RedisClient::open(replica, &spec.header.credentials)?;
        if !is_replica_of(&link.fetch_role()?, &spec.record.from) {
            link.query::<Value>(&replicaof_command(&spec.record.from))?;
        }
        link.run_command(&["CONFIG", "REWRITE"])?;
    }
    journal.log_done(MovePhase::Abort, serde_json::Value::Null)
}
