//! After a host's death: which copies are promoted, what may be lost with that, what cannot be helped, and where the
//! copies that are missing then are to be made.
//!
//! [`plan`] is pure: what was seen of the shards in, a plan or everything that stands in its way out. `choose` finds the
//! copy, `repair` the places; `look` asks the hosts that live, `run` carries the plan out.

mod choose;
pub mod look;
mod repair;
pub mod run;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::observation::HostLoad;
use crate::wire::shard::Role;
use crate::wire::shard::failover::Seen;

/// What is known of the cluster without the hosts that do not answer.
#[derive(Clone, Debug, Default)]
pub struct Sight {
    /// The cluster.
    pub cluster: String,
    /// The map's epoch.
    pub epoch: u64,
    /// How many replicas the map asks for, where it does.
    pub replicas: Option<u16>,
    /// The hosts that do not answer.
    pub silent: BTreeSet<String>,
    /// All shards, in the map's order.
    pub shards: Vec<Shard>,
    /// The hosts that answer and may hold shards.
    pub hosts: Vec<HostLoad>,
}

/// A shard's copies.
#[derive(Clone, Debug)]
pub struct Shard {
    /// Its number.
    pub id: u32,
    /// The primary, then the replicas in the map's order.
    pub copies: Vec<Copy>,
    /// Other hosts that got an answer from the primary as a master.
    pub witnesses: Vec<String>,
    /// Hosts with an instance that follows the primary and that the map does not name: an old instance that was left as
    /// a replica, the copy of a move.
    pub strays: Vec<String>,
    /// The move of this shard that the journals know as open.
    pub moving: Option<Moving>,
}

/// A move of a shard that is under way or was cut short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moving {
    /// The host that it goes to.
    pub to: String,
    /// How far it came.
    pub stage: Stage,
}

/// How far a move came that is under way or was cut short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The target is a copy at most.
    Copied,
    /// The target may have been given the shard, or is named by the map as a replica.
    Unclear,
    /// The target serves the shard, and the map does not say so yet.
    Switched,
}

/// A copy by the map.
#[derive(Clone, Debug)]
pub struct Copy {
    /// Its host.
    pub host: String,
    /// `ip:port`.
    pub address: String,
    /// What was seen of it; an unreachable role where its host does not answer.
    pub seen: Seen,
}

/// What was given up: everything on hosts, or the copies of shards that do not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// These hosts, which are off.
    Hosts(Vec<String>),
    /// What does not answer of these shards.
    Shards(Vec<u32>),
}

/// How to plan.
#[derive(Clone, Copy, Debug)]
pub struct Wishes {
    /// Plan new replicas for those that are missing.
    pub repair: bool,
    /// Promote a copy also where nobody knows how much it lacks.
    pub stale: bool,
}

/// What is to be done, and what cannot be.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct FailoverPlan {
    /// The cluster.
    pub cluster: String,
    /// The epoch that this was planned at.
    pub epoch: u64,
    /// Hosts that could not be asked, and are taken to be off.
    pub off: Vec<String>,
    /// Copies that become primaries.
    pub promotions: Vec<Promotion>,
    /// Primaries that live and go without a replica that is gone.
    pub freed: Vec<Freed>,
    /// Shards that nobody can serve now.
    pub stranded: Vec<Stranded>,
    /// How many replicas the map asks for from now on, where it did not say: as many as every shard had.
    pub asks_for: Option<u16>,
    /// Replicas that are made anew.
    pub repairs: Vec<Repair>,
    /// Shards that stay short of a replica.
    pub unrepaired: Vec<Stranded>,
}

/// A copy becomes the primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Promotion {
    /// The shard.
    pub shard: u32,
    /// The host of the primary that is gone.
    pub from: String,
    /// The host of the copy.
    pub to: String,
    /// The other copies that live, in the map's order: they follow the new primary.
    pub others: Vec<String>,
    /// Instances that the map does not name and that follow the old primary: they leave it too.
    pub strays: Vec<String>,
    /// The host of a copy that a move was making; the move is given up.
    pub given_up: Option<String>,
    /// How far the copy has come.
    pub offset: u64,
    /// Bytes of its data.
    pub bytes: u64,
    /// Was it promoted by a run that was cut short? Then it is only published.
    pub done: bool,
    /// What it may lack.
    pub loss: Loss,
}

/// What a promoted copy may lack of what was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Loss {
    /// Seconds since it last heard of its primary; unknown where it was started anew since.
    pub silent_s: Option<u64>,
    /// Acknowledged in so many seconds after that at most: for longer, the primary accepted no write without its replica.
    /// Nothing where there is no such bound.
    pub within_s: Option<u64>,
    /// About so many bytes of the replication stream, by the average rate; nothing where the time or the rate is unknown.
    pub about_bytes: Option<u64>,
}

/// A primary that goes on with fewer replicas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Freed {
    /// The shard.
    pub shard: u32,
    /// Its primary's host.
    pub host: String,
    /// The hosts of the replicas that are gone.
    pub gone: Vec<String>,
    /// Those that stay.
    pub replicas: Vec<String>,
}

/// Something that is not done for a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stranded {
    /// The shard.
    pub shard: u32,
    /// Why, and what there is to decide.
    pub why: String,
}

/// A new replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// The shard.
    pub shard: u32,
    /// Where it is made.
    pub host: String,
    /// How much is copied.
    pub bytes: u64,
}

/// One reason against a failover, and the next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What was found.
    pub why: String,
    /// What to do.
    pub next: String,
}

impl FailoverPlan {
    /// Is there nothing to do?
    pub fn is_empty(&self) -> bool {
        self.promotions.is_empty() && self.freed.is_empty() && self.repairs.is_empty()
    }

    /// May writes be lost that were acknowledged?
    pub fn may_lose(&self) -> bool {
        self.promotions.iter().any(|promotion| !promotion.done)
    }
}

impl Shard {
    fn primary(&self) -> &Copy {
        &self.copies[0]
    }

    fn replicas(&self) -> &[Copy] {
        &self.copies[1..]
    }

    /// The host that got an answer from the primary as a master: its own, a replica's, or any other.
    fn heard(&self) -> Option<&str> {
        let is_master = |role: &Role| matches!(role, Role::Master { .. });
        let own = Some(self.primary()).filter(|copy| is_master(&copy.seen.role));
        let by = own.or_else(|| self.replicas().iter().find(|copy| is_master(&copy.seen.primary)));
        by.map(|copy| copy.host.as_str()).or_else(|| self.witnesses.first().map(String::as_str))
    }
}

impl Copy {
    fn answers(&self) -> bool {
        self.seen.role != Role::Unreachable
    }
}

impl Scope {
    /// Is this copy given up?
    fn has(&self, shard: u32, copy: &Copy) -> bool {
        match self {
            Self::Hosts(hosts) => hosts.contains(&copy.host),
            Self::Shards(shards) => shards.contains(&shard) && !copy.answers(),
        }
    }
}

/// Plans what the death of these hosts or instances asks for.
///
/// # Errors
/// Everything that speaks against it; nothing may be done then.
pub fn plan(sight: &Sight, scope: &Scope, wishes: Wishes) -> Result<FailoverPlan, Vec<Refusal>> {
    let mut plan = FailoverPlan { cluster: sight.cluster.clone(), epoch: sight.epoch, ..FailoverPlan::default() };
    let mut refusals = Vec::new();
    let concerned: Vec<&Shard> =
        sight.shards.iter().filter(|shard| shard.copies.iter().any(|copy| scope.has(shard.id, copy))).collect();
    let freshest = choose::freshest(&concerned, scope);
    for shard in &concerned {
        refusals.extend(alive(shard, scope));
        if scope.has(shard.id, shard.primary()) {
            match choose::choose(shard, scope, (freshest, wishes.stale)) {
                Ok(promotion) => plan.promotions.push(promotion),
                Err(choose::Not::Stranded(why)) => plan.stranded.push(Stranded { shard: shard.id, why }),
                Err(choose::Not::Refused(refusal)) => refusals.push(refusal),
            }
        } else if !shard.primary().answers() {
            refusals.push(choose::unheard(shard, shard.primary()));
        } else {
            plan.freed.push(freed(shard, scope));
        }
    }
    // A switch to the dead host was about to happen: the primary waits for a replica that nobody names.
    let waits = |shard: &&Shard| {
        let seen = &shard.primary().seen;
        let is_primary = matches!(seen.role, Role::Master { .. }) && shard.moving.is_none();
        is_primary && usize::try_from(seen.min_replicas).is_ok_and(|needs| needs > shard.replicas().len())
    };
    let others = sight.shards.iter().filter(|shard| !concerned.iter().any(|other| other.id == shard.id));
    plan.freed.extend(others.filter(waits).map(|shard| freed(shard, scope)));
    plan.off = off(&concerned, scope, sight);
    if wishes.repair && !(plan.promotions.is_empty() && plan.freed.is_empty()) {
        plan.asks_for = asks_for(sight.replicas, sight.shards.iter().map(|shard| shard.replicas().len()));
    }
    if !refusals.is_empty() {
        refusals.dedup();
        return Err(refusals);
    }
    if wishes.repair {
        repair::places(sight, &mut plan);
    }
    Ok(plan)
}

/// The replicas that shards lack by what the map asks for, with a place for each; and the shards that there is none for.
pub fn lacking(sight: &Sight) -> (Vec<Repair>, Vec<Stranded>) {
    let mut plan = FailoverPlan::default();
    repair::places(sight, &mut plan);
    (plan.repairs, plan.unrepaired)
}

/// How many replicas a map without that number asks for once some are gone: as many as every shard had. So that whoever
/// has the map knows what is to be made anew.
pub fn asks_for(asked: Option<u16>, had: impl Iterator<Item = usize>) -> Option<u16> {
    let least = had.min().and_then(|least| u16::try_from(least).ok())?;
    (asked.is_none() && least > 0).then_some(least)
}

fn freed(shard: &Shard, scope: &Scope) -> Freed {
    let names = |copies: Vec<&Copy>| copies.into_iter().map(|copy| copy.host.clone()).collect();
    let (gone, stay): (Vec<&Copy>, Vec<&Copy>) = shard.replicas().iter().partition(|copy| scope.has(shard.id, copy));
    Freed { shard: shard.id, host: shard.primary().host.clone(), gone: names(gone), replicas: names(stay) }
}

/// What lives is not failed over; the way to leave it loses nothing.
fn alive(shard: &Shard, scope: &Scope) -> Option<Refusal> {
    let primary = shard.primary();
    let opened = shard.replicas().iter().any(|copy| choose::is_promoted(copy, primary));
    if scope.has(shard.id, primary)
        && !opened
        && let Some(by) = shard.heard()
    {
        let how = if by == primary.host { String::new() } else { format!(", as {by} sees it") };
        let begun = shard.replicas().iter().any(|copy| choose::is_closed(copy, primary));
        let next = if begun {
            "dunlin shards resume takes the failover back that was begun".to_owned()
        } else {
            format!("dunlin shard-rebalance --drain {} empties the host and loses nothing", primary.host)
        };
        let why = format!("shard {}: its primary on {} answers{how}: it is not dead", shard.id, primary.host);
        return Some(Refusal { why, next });
    }
    let living = shard.replicas().iter().find(|copy| scope.has(shard.id, copy) && copy.answers())?;
    Some(Refusal {
        why: format!("shard {}: its replica on {} answers: it is not dead", shard.id, living.host),
        next: format!("dunlin shard-rebalance --drain {}, or name the shards that are dead", living.host),
    })
}

/// The hosts of given up copies that could not be asked: whether they are off, only a person can tell.
fn off(concerned: &[&Shard], scope: &Scope, sight: &Sight) -> Vec<String> {
    let gone = concerned.iter().flat_map(|shard| shard.copies.iter().filter(|copy| scope.has(shard.id, copy)));
    let names: BTreeSet<&String> = gone.map(|copy| &copy.host).filter(|host| sight.silent.contains(*host)).collect();
    names.into_iter().cloned().collect()
}

#[cfg(test)]
mod tests;
