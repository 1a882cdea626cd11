//! Verification: source and target hold the same keys with the same contents and expiry times.
//!
//! The files of a new copy are compared with the snapshot it received (`compare_files`); keys written since then,
//! and keys that seem to differ, are queried at both servers (`compare_live`). Every key is queried if the files are
//! not conclusive, and on an explicit `verify`: a `SCAN` at the source, then one at the target for keys that only it
//! has. No command needs `DEBUG`.

pub mod aof;
mod canonical_content;
mod compare_files;
mod compare_live;
mod digest_reader;
mod functions;
mod key_sizes;
mod key_state;
mod large_key;
mod list_windows;
mod piece;
pub mod rdb;
mod stream_groups;

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use serde_json::json;

use super::move_journal::{MoveJournal, is_finished};
use super::redis_client::{RedisClient, redis_command};
use super::replication_progress;
use crate::plan::format_count;
use crate::protocol::shard::{MovePhase, MoveSpec, PhaseState, ReplicationRole, VerifyResult};
use crate::protocol::{Event, ProgressSink};
use compare_files::CandidateKeys;
use compare_live::LiveComparison;

/// Selects the keys to query at both servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CompareMethod {
    /// The target's files, where they do.
    Files,
    /// Every key.
    Live,
}

/// Compares again. The result for a running move decides whether it may be cut over.
///
/// # Errors
/// Returns an error if an instance does not answer, or the target does not follow the source.
pub fn verify_copy(spec: &MoveSpec, sink: &dyn ProgressSink) -> Result<VerifyResult> {
    let mut journal = MoveJournal::open(&spec.header)?;
    let mut source = RedisClient::open(&spec.record.from, &spec.header.credentials)?;
    let mut target = RedisClient::open(&spec.record.to, &spec.header.credentials)?;
    match (source.fetch_role()?, target.fetch_role()?) {
        (ReplicationRole::Primary { .. }, role) if replication_progress::is_replica_of(&role, &spec.record.from) => {
            replication_progress::wait_until_caught_up(&mut source, &mut target, spec, sink)?;
            if journal.move_record().is_none() || is_finished(journal.current_entries()) {
                return compare_instances(&mut source, &mut target, None, spec, sink);
            }
            verify_again(&mut journal, &mut source, &mut target, CompareMethod::Live, spec, sink)
        }
        (role, ReplicationRole::Primary { .. }) if replication_progress::is_replica_of(&role, &spec.record.to) => {
            compare_instances(&mut target, &mut source, None, spec, sink)
        }
        (source, target) => bail!("neither follows the other: source {source:?}, target {target:?}"),
    }
}

/// Ensures that the journal records the copy as equal. Compares both servers, unless the same two processes were found
/// equal and no full sync has happened since. A cutover requires it.
///
/// # Errors
/// Returns an error that names the keys if the copy differs, or if a server does not answer.
pub fn ensure_verified(
    journal: &mut MoveJournal,
    source: &mut RedisClient,
    target: &mut RedisClient,
    spec: &MoveSpec,
    sink: &dyn ProgressSink,
) -> Result<VerifyResult> {
    let key = comparison_key(source, target)?;
    let last =
        journal.current_entries().iter().rev().find(|r| r.phase == MovePhase::Verify && r.state != PhaseState::Intent);
    if last.is_some_and(|record| record.state == PhaseState::Done && record.detail["of"] == key) {
        return Ok(VerifyResult::default());
    }
    let verified = verify_again(journal, source, target, CompareMethod::Files, spec, sink)?;
    if !verified.is_equal() {
        bail!("{}", describe_differences(&verified, spec));
    }
    Ok(verified)
}

fn verify_again(
    journal: &mut MoveJournal,
    source: &mut RedisClient,
    target: &mut RedisClient,
    method: CompareMethod,
    spec: &MoveSpec,
    sink: &dyn ProgressSink,
) -> Result<VerifyResult> {
    let key = comparison_key(source, target)?;
    journal.log_intent(MovePhase::Verify, json!({ "of": key }))?;
    let candidates = match method {
        CompareMethod::Files => candidates_from_files(source, target, spec, sink)?,
        CompareMethod::Live => None,
    };
    let verified = compare_instances(source, target, candidates, spec, sink)?;
    if verified.is_equal() {
        journal
            .log_done(MovePhase::Verify, json!({ "of": key, "keys": verified.keys, "live": verified.compared_live }))?;
        let (shard, live) = (spec.header.shard, verified.compared_live);
        let keys = format_count(verified.keys, "key");
        sink.emit(Event::Note {
            text: format!(
                "shard {shard}: source and target are equal: {keys}, {live} of them compared at both servers"
            ),
        });
    } else {
        journal.log_failure(MovePhase::Verify, "the copy differs from the source")?;
    }
    Ok(verified)
}

/// Returns the scope of a comparison: two processes, and no full sync since.
fn comparison_key(source: &mut RedisClient, target: &mut RedisClient) -> Result<serde_json::Value> {
    let full_syncs = source.fetch_info("stats")?.number_field("sync_full");
    Ok(json!({ "source": source.fetch_run_id()?, "target": target.fetch_run_id()?, "full_syncs": full_syncs }))
}

/// Returns the keys that the target's files leave to compare; `None` if the files are not conclusive.
fn candidates_from_files(
    source: &mut RedisClient,
    target: &mut RedisClient,
    spec: &MoveSpec,
    sink: &dyn ProgressSink,
) -> Result<Option<CandidateKeys>> {
    let mut total = 0;
    for database in list_databases(&mut [source])? {
        total += count_keys(source, database)?;
    }
    let shard = spec.header.shard;
    sink.emit(Event::shard_progress(shard, "verify", 0, total));
    replication_progress::wait_until_durable(target, spec, sink)?;
    match compare_files::find_candidate_keys(target, &|| !sink.is_cancelled()) {
        Ok(candidates) => Ok(Some(candidates)),
        Err(_) if sink.is_cancelled() => bail!(compare_live::cancelled_message(spec)),
        Err(reason) => {
            let text = format!(
                "shard {shard}: all keys are compared live; the files of {} are not conclusive: {reason:#}",
                spec.record.to
            );
            sink.emit(Event::Note { text });
            Ok(None)
        }
    }
}

/// Compares two instances, the second of which follows the first: the suspects, or all keys.
///
/// # Errors
/// Returns an error if an instance does not answer, or the run was cancelled.
fn compare_instances(
    source: &mut RedisClient,
    target: &mut RedisClient,
    mut candidates: Option<CandidateKeys>,
    spec: &MoveSpec,
    sink: &dyn ProgressSink,
) -> Result<VerifyResult> {
    let mut verified = VerifyResult::default();
    // What was asked before does not belong to the comparison.
    source.take_longest_reply();
    for database in list_databases(&mut [source, target])?.into_iter().rev() {
        target.run_command(&["SELECT", &database.to_string()])?;
        let total = count_keys(source, database)?;
        let mut comparison = LiveComparison::new(source, target, spec, sink, total, &mut verified);
        match &mut candidates {
            None => comparison.compare_all()?,
            Some(suspects) => comparison.compare_only(suspects.remove(&database).unwrap_or_default())?,
        }
    }
    functions::compare_functions(source, target, &mut verified)?;
    verified.longest_wait_us = u64::try_from(source.take_longest_reply().as_micros()).unwrap_or(u64::MAX);
    Ok(verified)
}

/// The databases that hold anything, and the first.
fn list_databases(links: &mut [&mut RedisClient]) -> Result<BTreeSet<u32>> {
    let mut databases = BTreeSet::from([0]);
    for link in links {
        let info = link.fetch_info("keyspace")?;
        databases.extend(info.iter().filter_map(|(name, _)| name.strip_prefix("db")?.parse::<u32>().ok()));
    }
    Ok(databases)
}

/// Selects a database and returns its number of keys.
fn count_keys(link: &mut RedisClient, database: u32) -> Result<u64> {
    link.run_command(&["SELECT", &database.to_string()])?;
    link.query(&redis_command(&["DBSIZE"]))
}

/// Describes the differences that a comparison found.
pub fn describe_differences(verified: &VerifyResult, spec: &MoveSpec) -> String {
    let list = |what: &str, keys: &[String]| match keys {
        [] => String::new(),
        keys => format!("; {what}: {}", keys.join(", ")),
    };
    format!(
        "shard {}: the copy at {} differs from {}{}{}{}; no cutover",
        spec.header.shard,
        spec.record.to,
        spec.record.from,
        list("differing", &verified.differing),
        list("missing", &verified.missing),
        list("extra", &verified.extra)
    )
}
