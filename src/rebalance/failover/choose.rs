//! Which copy of a shard is promoted: of those that may be, the one that has come furthest.

use super::{Copy, Loss, Promotion, Refusal, Scope, Shard, Stage};
use crate::wire::shard::Role;

/// How much longer than the others a copy may have heard nothing, in seconds. Links to one host break together; a
/// timeout is noticed by some later than by others, `repl-timeout` at most.
const TOGETHER: u64 = 60;

/// Why none is.
pub enum Not {
    /// There is none that may be; the shard waits for its primary.
    Stranded(String),
    /// It would not be safe now.
    Refused(Refusal),
}

/// Is this copy open in place of that primary, by the journal there and by its role?
pub fn is_promoted(copy: &Copy, primary: &Copy) -> bool {
    let begun = copy.seen.failover.as_ref().filter(|begun| begun.from == primary.address && begun.promoted);
    begun.is_some() && is_master(&copy.seen.role)
}

/// Has a failover to this copy begun, which left the primary and was not opened?
pub fn is_closed(copy: &Copy, primary: &Copy) -> bool {
    let begun = copy.seen.failover.as_ref().filter(|begun| begun.from == primary.address);
    begun.is_some_and(|begun| !begun.promoted && !begun.finished) && is_master(&copy.seen.role)
}

fn is_master(role: &Role) -> bool {
    matches!(role, Role::Master { .. })
}

/// How long ago the last of all copies heard of a primary that is gone: about when the host died.
pub fn freshest(concerned: &[&Shard], scope: &Scope) -> Option<u64> {
    let without = concerned.iter().filter(|shard| scope.has(shard.id, shard.primary()));
    let living = without.flat_map(|shard| shard.replicas().iter().filter(|copy| !scope.has(shard.id, copy)));
    living.filter_map(|copy| copy.seen.silent_s).min()
}

/// The copy of a shard that takes its primary's place.
pub fn choose(shard: &Shard, scope: &Scope, (freshest, stale): (Option<u64>, bool)) -> Result<Promotion, Not> {
    let primary = shard.primary();
    let living: Vec<&Copy> = shard.replicas().iter().filter(|copy| !scope.has(shard.id, copy)).collect();
    if let Some(copy) = living.iter().find(|copy| is_promoted(copy, primary)) {
        return Ok(promotion(shard, copy, &living));
    }
    if let Some(silent) = living.iter().find(|copy| !copy.answers()) {
        return Err(Not::Refused(unheard(shard, silent)));
    }
    if let Some(moving) = shard.moving.as_ref().filter(|moving| moving.stage == Stage::Switched) {
        let why = format!("a move gave it to {}, which serves it: dunlin shards resume publishes that", moving.to);
        return Err(Not::Stranded(why));
    }
    if let Some(moving) = shard.moving.as_ref().filter(|moving| moving.stage == Stage::Unclear) {
        let why = format!(
            "a move of it to {} was cut short, which may have all of it: bring {} back, then dunlin shards resume",
            moving.to, primary.host
        );
        return Err(Not::Stranded(why));
    }
    if living.is_empty() {
        let what = if shard.replicas().is_empty() { "it has no replica" } else { "its replicas are gone too" };
        let why = format!("{what}; its data are on {} alone: bring that host back", primary.host);
        return Err(Not::Stranded(why));
    }
    // What stands by for this primary is the choice of a run that was cut short.
    if let Some(copy) = living.iter().find(|copy| is_closed(copy, primary)) {
        return Ok(promotion(shard, copy, &living));
    }
    let looked = living.iter().map(|copy| (*copy, unfit(copy, primary, (freshest, stale), shard)));
    let (fit, unfit): (Vec<_>, Vec<_>) = looked.partition(|(_, why)| why.is_none());
    let fit: Vec<&Copy> = fit.into_iter().map(|(copy, _)| copy).collect();
    match furthest(&fit) {
        Some(copy) => Ok(promotion(shard, copy, &living)),
        None => {
            let reasons = unfit.into_iter().filter_map(|(copy, why)| Some(format!("{} {}", copy.host, why?)));
            let why = reasons.collect::<Vec<_>>().join("; ");
            Err(Not::Stranded(format!("{why}: bring {} back, or say --stale", primary.host)))
        }
    }
}

/// A copy that does not answer and was not given up: nobody knows what it has and whom it serves. A replica may be
/// ahead, and while it is attached to the old primary, that one accepts writes.
pub fn unheard(shard: &Shard, copy: &Copy) -> Refusal {
    let what = if copy.host == shard.primary().host { "primary" } else { "replica" };
    let why = format!(
        "shard {}: its {what} on {} does not answer, and was not given up ({})",
        shard.id,
        copy.host,
        copy.seen.error.as_deref().unwrap_or("its host cannot be reached"),
    );
    Refusal { why, next: format!("bring {} back; or make sure that it is off, and name it too", copy.host) }
}

/// Why a copy is not promoted.
fn unfit(copy: &Copy, primary: &Copy, (freshest, stale): (Option<u64>, bool), shard: &Shard) -> Option<String> {
    let seen = &copy.seen;
    match &seen.role {
        Role::Replica { of, .. } if *of == primary.address => {}
        Role::Replica { of, .. } => return Some(format!("follows {of}, not {}", primary.address)),
        _ => return Some("is a master, and no failover is noted there".to_owned()),
    }
    if seen.incomplete {
        return Some("is in the middle of a sync".to_owned());
    }
    if !seen.durable {
        return Some("does not write its append-only file".to_owned());
    }
    if stale {
        return None;
    }
    let Some(silent) = seen.silent_s.filter(|_| offset(copy) > 0) else {
        let up = seen.uptime_s;
        return Some(format!("was started {up} s ago and has not been in sync since; it holds {} keys", seen.keys));
    };
    let late = freshest.is_some_and(|freshest| silent > freshest + TOGETHER);
    let is_bounded = seen.min_replicas > 0 && shard.replicas().len() == 1;
    (late && !is_bounded).then(|| format!("lost its link {silent} s ago, long before the others"))
}

/// Offsets count in one history: that of the copy which heard of the primary last.
fn furthest<'c>(fit: &[&'c Copy]) -> Option<&'c Copy> {
    let last = fit.iter().min_by_key(|copy| copy.seen.silent_s.unwrap_or(u64::MAX))?;
    let same = fit.iter().rev().filter(|copy| copy.seen.history == last.seen.history);
    // The last of equals, and so the first in the map's order.
    same.max_by_key(|copy| offset(copy)).copied()
}

fn offset(copy: &Copy) -> u64 {
    match copy.seen.role {
        Role::Master { offset, .. } | Role::Replica { offset, .. } => offset,
        Role::Unreachable => 0,
    }
}

fn promotion(shard: &Shard, copy: &Copy, living: &[&Copy]) -> Promotion {
    let others = living.iter().filter(|other| other.host != copy.host).map(|other| other.host.clone());
    Promotion {
        shard: shard.id,
        from: shard.primary().host.clone(),
        to: copy.host.clone(),
        others: others.collect(),
        strays: shard.strays.clone(),
        given_up: shard.moving.as_ref().map(|moving| moving.to.clone()),
        offset: offset(copy),
        bytes: copy.seen.bytes,
        done: is_promoted(copy, shard.primary()),
        loss: loss(copy),
    }
}

/// With `min-replicas-to-write` the primary stops accepting writes `min-replicas-max-lag` after its last replica's
/// acknowledgement; it looks once a second, and counts in whole ones.
fn loss(copy: &Copy) -> Loss {
    let seen = &copy.seen;
    let within_s = (seen.min_replicas > 0 && offset(copy) > 0).then_some(seen.max_lag_s + 2);
    let about_bytes = within_s.or(seen.silent_s).map(|longest| longest * seen.stream_per_s).filter(|bytes| *bytes > 0);
    Loss { silent_s: seen.silent_s, within_s, about_bytes }
}
