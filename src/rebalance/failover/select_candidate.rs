//! Selects the copy of a shard to promote: the eligible one with the most data.

use super::{CopyView, DataLossBound, FailoverBlocker, FailoverScope, MoveStage, Promotion, ShardView};
use crate::plan::format_count;
use crate::protocol::shard::ReplicationRole;

/// Maximum difference, in seconds, between the times since the copies of a host's shards last received data. Links to
/// one host break together, but replicas notice it at different times, after `repl-timeout` at the latest.
const MAX_SILENCE_SPREAD_S: u64 = 60;

/// Reason why no candidate was selected.
pub enum NoCandidate {
    /// No copy is eligible; the shard waits for its primary.
    Unavailable(String),
    /// Promotion would not be safe now.
    Blocked(FailoverBlocker),
}

/// Returns whether this copy was opened in place of that primary, by its journal and its role.
pub fn is_promoted(copy: &CopyView, primary: &CopyView) -> bool {
    let record = copy.probe.failover.as_ref().filter(|begun| begun.from == primary.address && begun.promotion_started);
    record.is_some() && is_primary_role(&copy.probe.role)
}

/// Returns whether a failover to this copy was started that left the primary and did not open the copy.
pub fn is_detached(copy: &CopyView, primary: &CopyView) -> bool {
    let record = copy.probe.failover.as_ref().filter(|begun| begun.from == primary.address);
    record.is_some_and(|begun| !begun.promotion_started && !begun.is_finished) && is_primary_role(&copy.probe.role)
}

fn is_primary_role(role: &ReplicationRole) -> bool {
    matches!(role, ReplicationRole::Primary { .. })
}

/// Returns the seconds since any copy last heard of a lost primary: about when the host died.
pub fn least_silence(affected: &[&ShardView], scope: &FailoverScope) -> Option<u64> {
    let without_primary = affected.iter().filter(|shard| scope.includes_copy(shard.id, shard.primary()));
    let living =
        without_primary.flat_map(|shard| shard.replicas().iter().filter(|copy| !scope.includes_copy(shard.id, copy)));
    living.filter_map(|copy| copy.probe.silent_for_s).min()
}

/// Rules by which a copy may be promoted.
#[derive(Clone, Copy, Debug)]
pub struct CandidateRules {
    /// Seconds since any copy last heard of a lost primary.
    pub least_silence: Option<u64>,
    /// Allow a copy that may lack the last writes.
    pub allow_stale: bool,
}

/// Selects the copy of a shard that replaces its primary.
pub fn select_candidate(
    shard: &ShardView,
    scope: &FailoverScope,
    rules: CandidateRules,
) -> Result<Promotion, NoCandidate> {
    let primary = shard.primary();
    let living: Vec<&CopyView> = shard.replicas().iter().filter(|copy| !scope.includes_copy(shard.id, copy)).collect();
    if let Some(copy) = living.iter().find(|copy| is_promoted(copy, primary)) {
        return Ok(build_promotion(shard, copy, &living));
    }
    if let Some(silent) = living.iter().find(|copy| !copy.is_reachable()) {
        return Err(NoCandidate::Blocked(unreachable_blocker(shard, silent)));
    }
    if let Some(open_move) = shard.open_move.as_ref().filter(|moving| moving.stage == MoveStage::CutOver) {
        let reason = format!(
            "a move already cut over to {}, which serves the shard; dunlin shards resume publishes the map",
            open_move.to
        );
        return Err(NoCandidate::Unavailable(reason));
    }
    if let Some(moving) = shard.open_move.as_ref().filter(|moving| moving.stage == MoveStage::Undecided) {
        let why = format!(
            "a move to {} was interrupted and may have all data: bring {} back, then dunlin shards resume",
            moving.to, primary.host
        );
        return Err(NoCandidate::Unavailable(why));
    }
    if living.is_empty() {
        let what = if shard.replicas().is_empty() { "it has no replica" } else { "its replicas are gone too" };
        let why = format!("{what}; its data are on {} alone: bring that host back", primary.host);
        return Err(NoCandidate::Unavailable(why));
    }
    // An interrupted run already selected this copy.
    if let Some(copy) = living.iter().find(|copy| is_detached(copy, primary)) {
        return Ok(build_promotion(shard, copy, &living));
    }
    let assessed = living.iter().map(|copy| (*copy, ineligibility_reason(copy, primary, rules, shard)));
    let (eligible, ineligible): (Vec<_>, Vec<_>) = assessed.partition(|(_, why)| why.is_none());
    let fit: Vec<&CopyView> = eligible.into_iter().map(|(copy, _)| copy).collect();
    match most_advanced(&fit) {
        Some(copy) => Ok(build_promotion(shard, copy, &living)),
        None => {
            let reasons = ineligible.into_iter().filter_map(|(copy, why)| Some(format!("{} {}", copy.host, why?)));
            let why = reasons.collect::<Vec<_>>().join("; ");
            Err(NoCandidate::Unavailable(format!("{why}: bring {} back, or add --allow-stale", primary.host)))
        }
    }
}

/// Returns the blocker for a copy that does not answer and was not abandoned: its data and its clients are unknown. A
/// replica may be ahead, and while it is attached to the old primary, that primary accepts writes.
pub fn unreachable_blocker(shard: &ShardView, copy: &CopyView) -> FailoverBlocker {
    let what = if copy.host == shard.primary().host { "primary" } else { "replica" };
    let reason = format!(
        "shard {}: its {what} on {} does not answer and is not in the scope of the failover ({})",
        shard.id,
        copy.host,
        copy.probe.error.as_deref().unwrap_or("its host cannot be reached"),
    );
    FailoverBlocker {
        reason,
        next_step: format!("bring {} back; or make sure that it is off, and name it too", copy.host),
    }
}

/// Returns the reason why a copy is not promoted.
fn ineligibility_reason(
    copy: &CopyView,
    primary: &CopyView,
    rules: CandidateRules,
    shard: &ShardView,
) -> Option<String> {
    let probe = &copy.probe;
    match &probe.role {
        ReplicationRole::Replica { primary: of, .. } if *of == primary.address => {}
        ReplicationRole::Replica { primary: of, .. } => return Some(format!("follows {of}, not {}", primary.address)),
        _ => return Some("is a primary, but its journal records no failover".to_owned()),
    }
    if probe.is_syncing {
        return Some("is in the middle of a sync".to_owned());
    }
    if !probe.is_durable {
        return Some("does not write its append-only file".to_owned());
    }
    if rules.allow_stale {
        return None;
    }
    let Some(silent_for_s) = probe.silent_for_s.filter(|_| replication_offset(copy) > 0) else {
        let uptime_s = probe.uptime_s;
        return Some(format!(
            "was started {uptime_s} s ago and has not synced with its primary since; it has {}",
            format_count(probe.keys, "key")
        ));
    };
    let late = rules.least_silence.is_some_and(|freshest| silent_for_s > freshest + MAX_SILENCE_SPREAD_S);
    let is_bounded = probe.min_replicas > 0 && shard.replicas().len() == 1;
    (late && !is_bounded).then(|| format!("lost its link {silent_for_s} s ago, long before the others"))
}

/// Returns the copy with the highest offset. Offsets compare within one history only: that of the copy with the latest
/// contact to the primary.
fn most_advanced<'c>(eligible: &[&'c CopyView]) -> Option<&'c CopyView> {
    let last = eligible.iter().min_by_key(|copy| copy.probe.silent_for_s.unwrap_or(u64::MAX))?;
    let same = eligible.iter().rev().filter(|copy| copy.probe.replication_id == last.probe.replication_id);
    // The last of equals, and so the first in the map's order.
    same.max_by_key(|copy| replication_offset(copy)).copied()
}

fn replication_offset(copy: &CopyView) -> u64 {
    match copy.probe.role {
        ReplicationRole::Primary { offset, .. } | ReplicationRole::Replica { offset, .. } => offset,
        ReplicationRole::Unreachable => 0,
    }
}

fn build_promotion(shard: &ShardView, copy: &CopyView, living: &[&CopyView]) -> Promotion {
    let others = living.iter().filter(|other| other.host != copy.host).map(|other| other.host.clone());
    Promotion {
        shard: shard.id,
        from: shard.primary().host.clone(),
        to: copy.host.clone(),
        other_replicas: others.collect(),
        orphans: shard.orphans.clone(),
        cancelled_target: shard.open_move.as_ref().map(|moving| moving.to.clone()),
        offset: replication_offset(copy),
        bytes: copy.probe.bytes,
        already_promoted: is_promoted(copy, shard.primary()),
        max_loss: bound_data_loss(copy),
    }
}

/// Estimates the bound of lost writes. With `min-replicas-to-write` the primary stops accepting writes
/// `min-replicas-max-lag` after its last replica's acknowledgement; it checks once a second, and counts in whole
/// seconds.
fn bound_data_loss(copy: &CopyView) -> DataLossBound {
    let probe = &copy.probe;
    let within_s = (probe.min_replicas > 0 && replication_offset(copy) > 0).then_some(probe.min_replicas_max_lag_s + 2);
    let about_bytes =
        within_s.or(probe.silent_for_s).map(|longest| longest * probe.stream_bytes_per_s).filter(|bytes| *bytes > 0);
    DataLossBound { silent_for_s: probe.silent_for_s, max_window_s: within_s, estimated_bytes: about_bytes }
}
