//! What the journals of this host say about its moves, beside the roles that the instances have now.

use std::fs;
use std::io::ErrorKind;
use std::panic::resume_unwind;
use std::thread;

use anyhow::{Context, Result, bail};
use dunlin_shards::ShardId;

use super::move_journal::{self, JournalEntry, entries_since_roll_back, is_finished, last_move_entries};
use super::probe::MAX_CONCURRENT_PROBES;
use super::redis_client::probe_role;
use crate::journal;
use crate::protocol::shard::{
    JournalQuery, MoveHistoryEntry, MoveOutcome, MovePhase, MoveRecord, MoveState, Operation, PhaseState,
};

/// Returns the last move of each shard, by shard number.
///
/// # Errors
/// Returns an error if the folder or a journal cannot be read.
pub fn list_moves(request: &JournalQuery) -> Result<Vec<MoveState>> {
    let last_moves: Vec<(ShardId, Vec<JournalEntry>)> = read_journals(request)?
        .into_iter()
        .map(|(shard, entries)| (shard, last_move_entries(&entries).to_vec()))
        .collect();
    let probe_chunk = |some: &[(ShardId, Vec<JournalEntry>)]| -> Vec<Option<MoveState>> {
        thread::scope(|scope| {
            let probes: Vec<_> =
                some.iter().map(|(id, records)| scope.spawn(|| move_state(*id, records, request))).collect();
            probes.into_iter().map(|look| look.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
        })
    };
    Ok(last_moves.chunks(MAX_CONCURRENT_PROBES).flat_map(probe_chunk).flatten().collect())
}

/// Lists every move, oldest first.
///
/// # Errors
/// Returns an error if the folder or a journal could not be read.
pub fn list_history(request: &JournalQuery) -> Result<Vec<MoveHistoryEntry>> {
    let mut moves = Vec::new();
    for (shard, entries) in read_journals(request)? {
        let begins: Vec<usize> = (0..entries.len()).filter(|&at| entries[at].phase == MovePhase::Begin).collect();
        let ends = begins.iter().skip(1).copied().chain([entries.len()]);
        moves.extend(begins.iter().zip(ends).filter_map(|(&begin, end)| history_entry(shard, &entries[begin..end])));
    }
    moves.sort_by(|a, b| a.started_at.cmp(&b.started_at));
    Ok(moves)
}

/// Reads the journals of all shards, ascending.
///
/// # Errors
/// Fails where one is damaged, and names each that is: a move that is left out would look like one that never was.
fn read_journals(what: &JournalQuery) -> Result<Vec<(ShardId, Vec<JournalEntry>)>> {
    let (mut journals, mut damaged) = (Vec::new(), Vec::new());
    for shard in journaled_shards(what)? {
        match journal::read_entries(&move_journal::journal_path(&what.journal_dir, shard)) {
            Ok(records) => journals.push((shard, records)),
            Err(error) => damaged.push(format!("shard {shard}: {:#}", anyhow::Error::new(error))),
        }
    }
    if !damaged.is_empty() {
        bail!("cannot read the moves of this host: {}", damaged.join("; "));
    }
    Ok(journals)
}

fn history_entry(shard: ShardId, entries: &[JournalEntry]) -> Option<MoveHistoryEntry> {
    let (first, last) = (entries.first()?, entries.last()?);
    let begun: MoveRecord = serde_json::from_value(first.detail.clone()).ok()?;
    let done = |step| entries.iter().any(|record| record.phase == step && record.state == PhaseState::Done);
    let outcome = match begun.operation {
        _ if done(MovePhase::Abort) && !done(MovePhase::Finalize) => MoveOutcome::Aborted,
        _ if !done(MovePhase::Finalize) => MoveOutcome::Open,
        Operation::Relocate { .. } => MoveOutcome::Moved,
        Operation::CreateReplica { .. } => MoveOutcome::ReplicaCreated,
        Operation::Failover { .. } => MoveOutcome::FailedOver,
    };
    Some(MoveHistoryEntry {
        run: first.run.clone(),
        operator: begun.operator,
        shard,
        from: begun.from,
        to: begun.to,
        epoch: begun.epoch,
        started_at: first.recorded_at.clone(),
        last_recorded_at: last.recorded_at.clone(),
        outcome,
    })
}

/// Returns the shards that have journals, ascending.
fn journaled_shards(request: &JournalQuery) -> Result<Vec<ShardId>> {
    let mut shards = Vec::new();
    match fs::read_dir(&request.journal_dir) {
        Ok(entries) => {
            for entry in entries {
                let name = entry?.file_name().to_string_lossy().into_owned();
                let number = name.strip_prefix("shard-").and_then(|name| name.strip_suffix(".jsonl"));
                shards.extend(number.and_then(|number| number.parse::<ShardId>().ok()));
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("reading {}", request.journal_dir.display())),
    }
    shards.sort_unstable();
    Ok(shards)
}

fn move_state(shard: ShardId, entries: &[JournalEntry], request: &JournalQuery) -> Option<MoveState> {
    let (first, last) = (entries.first()?, entries.last()?);
    let begun: MoveRecord = serde_json::from_value(first.detail.clone()).ok()?;
    let finalized =
        entries.iter().rev().find(|record| record.phase == MovePhase::Finalize && record.state == PhaseState::Done);
    let published_epoch = finalized.and_then(|record| record.detail["epoch"].as_u64());
    Some(MoveState {
        run: first.run.clone(),
        shard,
        source_role: probe_role(&begun.from, &request.credentials),
        target_role: probe_role(&begun.to, &request.credentials),
        record: MoveRecord { epoch: published_epoch.unwrap_or(begun.epoch), ..begun },
        phase: last.phase,
        phase_state: last.state,
        recorded_at: last.recorded_at.clone(),
        is_finished: is_finished(entries),
        promotion_started: entries_since_roll_back(entries)
            .iter()
            .any(|entry| entry.phase == MovePhase::Promote && entry.state == PhaseState::Intent),
        failover: move_journal::recorded_failover(entries).map(|(begun, _)| begun),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::shard::Credentials;

    #[test]
    fn each_damaged_journal_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let credentials = Credentials { user: String::new(), password: String::new(), tls_ca: None };
        let what = JournalQuery { credentials, journal_dir: folder.path().to_owned() };
        assert_eq!(list_moves(&what).unwrap(), []);
        for shard in [2, 10] {
            fs::write(folder.path().join(format!("shard-{shard}.jsonl")), "{}\n{}\n").unwrap();
        }
        for error in [list_moves(&what).unwrap_err(), list_history(&what).unwrap_err()] {
            let error = format!("{error:#}");
            assert!(error.contains("shard-2.jsonl:1: ") && error.contains("shard-10.jsonl:1: "), "{error}");
        }
    }
}
