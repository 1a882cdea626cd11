//! Carrying a failover out: old primaries are silenced where their hosts answer, copies promoted, primaries freed of
//! dead replicas; then one epoch for all of it, and what is left of the old primaries is set aside.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use dunlin_shards::{Placement, ShardMap};
use tokio::sync::Mutex;

use super::{FailoverPlan, Freed, Promotion, Repair};
use crate::rebalance::ground::{Watch, read_map, shard_id};
use crate::rebalance::replica::{self, Change};
use crate::rebalance::run::{How, Moved, Settling, refusals};
use crate::rebalance::{Ground, publish};
use crate::wire::shard::failover::{Aside, Free, Handle, Promote, Promoted};
use crate::wire::shard::{MoveState, Reply, Request, Role};

/// So many replicas are made on one host at a time, as the planner has it for moves.
const SLOTS: usize = 2;

/// How a failover ended.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The shards that have a new primary, with how it went.
    pub promoted: BTreeMap<u32, Promoted>,
    /// The shards whose primary goes on without the dead replica.
    pub freed: Vec<u32>,
    /// What failed, by shard.
    pub failed: BTreeMap<u32, String>,
    /// Why the new map did not reach everybody, where that is so.
    pub unpublished: Option<String>,
    /// The epoch that was published, where there was anything to publish.
    pub epoch: Option<u64>,
}

/// Promotes, frees and publishes. What failed for one shard does not hold up the others.
///
/// # Errors
/// The map cannot be read.
pub async fn run(ground: &Ground<'_>, plan: &FailoverPlan, run: &str, watch: Watch<'_>) -> Result<Outcome> {
    let (map, _) = read_map(&ground.map_file)?;
    let mut outcome = Outcome::default();
    let mut places = Vec::new();
    let promoted = ground.fleet.each(&plan.promotions, |p| promote(ground, &map, p, (run, watch))).await;
    for (promotion, result) in plan.promotions.iter().zip(promoted) {
        match result {
            Ok(promoted) => {
                outcome.promoted.insert(promotion.shard, promoted);
                places.push(promotion.placement()?);
            }
            Err(error) => drop(outcome.failed.insert(promotion.shard, format!("{error:#}"))),
        }
    }
    let freed = ground.fleet.each(&plan.freed, |freed| free(ground, &map, freed, run)).await;
    for (freed, result) in plan.freed.iter().zip(freed) {
        match result {
            Ok(()) => {
                outcome.freed.push(freed.shard);
                places.push(freed.placement()?);
            }
            Err(error) => drop(outcome.failed.insert(freed.shard, format!("{error:#}"))),
        }
    }
    if !places.is_empty() {
        match publish::publish_asking(ground, &places, plan.asks_for).await {
            Ok(map) => outcome.epoch = Some(map.epoch.0),
            Err(error) => outcome.unpublished = Some(format!("{error:#}")),
        }
    }
    Ok(outcome)
}

impl Promotion {
    /// Where the shard's copies are afterwards.
    ///
    /// # Errors
    /// There is no such shard.
    pub fn placement(&self) -> Result<Placement> {
        Ok(Placement { shard: shard_id(self.shard)?, host: self.to.clone(), replicas: self.others.clone() })
    }
}

impl Freed {
    /// Where the shard's copies are afterwards.
    ///
    /// # Errors
    /// There is no such shard.
    pub fn placement(&self) -> Result<Placement> {
        Ok(Placement { shard: shard_id(self.shard)?, host: self.host.clone(), replicas: self.replicas.clone() })
    }
}

async fn promote(
    ground: &Ground<'_>,
    map: &ShardMap,
    promotion: &Promotion,
    (run, watch): (&str, Watch<'_>),
) -> Result<Promoted> {
    let (shard, from) = (promotion.shard, promotion.from.as_str());
    if let Some(host) = &promotion.given_up {
        let what = handle(ground, map, (shard, host), run)?;
        ground.ask(host, Request::Forget(what), &|_, _| {}).await?;
    }
    let silenced = if promotion.done { false } else { silence(ground, map, (shard, from), run).await? };
    let after = placed(map, &promotion.placement()?);
    let address = |host: &str| ground.address(map, shard, host);
    let what = Promote {
        job: ground.job(&promotion.to, shard, run),
        by: ground.by.clone(),
        from: address(from)?,
        to: address(&promotion.to)?,
        others: promotion.others.iter().chain(&promotion.strays).map(|host| address(host)).collect::<Result<_>>()?,
        epoch: after.epoch.0,
        app_user: shard_id(shard)?.user(),
        instance: ground.instance(&after, shard, &promotion.to, ground.session(&promotion.to)?)?,
        offset: promotion.offset,
        silenced,
    };
    promoted(ground, &promotion.to, what, watch).await
}

async fn promoted(ground: &Ground<'_>, host: &str, what: Promote, watch: Watch<'_>) -> Result<Promoted> {
    match ground.ask(host, Request::Promote(what), watch).await? {
        Reply::Promoted(promoted) => Ok(promoted),
        _ => bail!("an answer that does not fit"),
    }
}

/// Has a host that answers stop the old primary for good; says whether it did.
async fn silence(ground: &Ground<'_>, map: &ShardMap, (shard, host): (u32, &str), run: &str) -> Result<bool> {
    if ground.absent.contains(host) {
        return Ok(false);
    }
    let what = handle(ground, map, (shard, host), run)?;
    match ground.ask(host, Request::Silence(what), &|_, _| {}).await? {
        Reply::Silenced => Ok(true),
        _ => bail!("an answer that does not fit"),
    }
}

async fn free(ground: &Ground<'_>, map: &ShardMap, freed: &Freed, run: &str) -> Result<()> {
    let primary = handle(ground, map, (freed.shard, &freed.host), run)?;
    let what = Free { primary, replicas: u32::try_from(freed.replicas.len())? };
    ground.ask(&freed.host, Request::Free(what), &|_, _| {}).await.map(drop)
}

/// A shard's instance on a host, whether or not the map has one there.
fn handle(ground: &Ground<'_>, map: &ShardMap, (shard, host): (u32, &str), run: &str) -> Result<Handle> {
    let id = shard_id(shard)?;
    let entry = map.shard(id).with_context(|| format!("there is no shard {shard}"))?;
    let there = placed(map, &Placement { shard: id, host: host.to_owned(), replicas: Vec::new() });
    Ok(Handle {
        job: ground.job(host, shard, run),
        address: ground.address(map, shard, host)?,
        owner: ground.address(map, shard, &entry.host)?,
        epoch: map.epoch.0,
        instance: ground.instance(&there, shard, host, ground.session(host)?)?,
    })
}

/// The map with a shard's copies at other places, one epoch later.
fn placed(map: &ShardMap, place: &Placement) -> ShardMap {
    let mut after = map.clone();
    for entry in after.shards.iter_mut().filter(|entry| entry.id == place.shard) {
        entry.host.clone_from(&place.host);
        entry.replicas.clone_from(&place.replicas);
    }
    after.epoch = after.epoch.next();
    after
}

/// Stops an instance that the map does not know, and keeps its files.
///
/// # Errors
/// The shard's owner does not answer, or the host's journal knows a later map: nothing is stopped then.
pub async fn set_aside(ground: &Ground<'_>, (shard, host): (u32, &str), run: &str) -> Result<Aside> {
    let (map, _) = read_map(&ground.map_file)?;
    let what = handle(ground, &map, (shard, host), run)?;
    match ground.ask(host, Request::SetAside(what), &|_, _| {}).await? {
        Reply::SetAside(aside) => Ok(aside),
        _ => bail!("an answer that does not fit"),
    }
}

/// Makes replicas: one of a shard after the other, two at a time for each host that receives some, at most `concurrent`
/// where that is not 0. Each primary needs its replica once it has it. Returns how each of them went, in their order.
pub async fn repair(
    ground: &Ground<'_>,
    repairs: &[Repair],
    (run, concurrent): (&str, usize),
    watch: Watch<'_>,
) -> Vec<Result<Moved>> {
    let settling = Settling { publishing: &Mutex::new(()), how: How::default(), watch };
    let of_shards: Vec<&[Repair]> = repairs.chunk_by(|a, b| a.shard == b.shard).collect();
    let hosts: BTreeSet<&str> = repairs.iter().map(|repair| repair.host.as_str()).collect();
    let usual = SLOTS * hosts.len();
    let at_a_time = if concurrent == 0 { usual } else { concurrent.min(usual) };
    let one = async |repairs: &&[Repair]| {
        let mut results = Vec::new();
        for repair in *repairs {
            results.push(remake(ground, repair, run, &settling).await);
        }
        results
    };
    ground.fleet.few(&of_shards, at_a_time, one).await.into_iter().flatten().collect()
}

async fn remake(ground: &Ground<'_>, repair: &Repair, run: &str, settling: &Settling<'_>) -> Result<Moved> {
    if ground.fleet.stop.is_cancelled() {
        bail!("interrupted before it was begun");
    }
    let change = Change { shard: repair.shard, old: None, new: &repair.host };
    let (map, _) = read_map(&ground.map_file)?;
    let found = refusals(ground, replica::asked(ground, &map, run, change)?, change.new, settling.watch).await?;
    // A primary counts the replica of a dead host until that link has timed out.
    let reasons: Vec<String> = found.iter().filter(|one| one.rule != "stranger").map(ToString::to_string).collect();
    if !reasons.is_empty() {
        bail!("preflight refuses: {}", reasons.join("; "));
    }
    let moved = replica::change(ground, change, run, settling).await?;
    let (map, _) = read_map(&ground.map_file)?;
    replica::guard(ground, &map, repair.shard, run).await?;
    Ok(moved)
}

/// How a failover that was cut short was brought to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The copy is the primary, and the map says so.
    Promoted,
    /// The primary was there again: it serves, the copy follows.
    TakenBack,
}

/// Brings failovers to their end that were cut short: on, unless their primary is there again and nothing was opened. One
/// epoch for all that went on. Returns how each of them ended, in their order.
///
/// # Errors
/// A consumer did not take the map.
pub async fn resume(ground: &Ground<'_>, states: &[&MoveState], watch: Watch<'_>) -> Result<Vec<Result<Ended>>> {
    let (map, _) = read_map(&ground.map_file)?;
    let results = ground.fleet.each(states, |state| end(ground, &map, state, watch)).await;
    let mut places = Vec::new();
    for (state, result) in states.iter().zip(&results) {
        if let Ok(Ended::Promoted) = result {
            places.push(place(ground, &map, state)?);
        }
    }
    if !places.is_empty() {
        let asks_for = super::asks_for(map.replicas, map.shards.iter().map(|entry| entry.replicas.len()));
        publish::publish_asking(ground, &places, asks_for).await?;
    }
    Ok(results)
}

async fn end(ground: &Ground<'_>, map: &ShardMap, state: &MoveState, watch: Watch<'_>) -> Result<Ended> {
    let place = place(ground, map, state)?;
    let to = &place.host;
    let what = Promote {
        job: ground.job(to, state.shard, &state.run),
        by: ground.by.clone(),
        from: state.from.clone(),
        to: state.to.clone(),
        others: state.others.clone(),
        epoch: state.epoch,
        app_user: state.app_user.clone(),
        instance: ground.instance(&placed(map, &place), state.shard, to, ground.session(to)?)?,
        offset: 0,
        silenced: false,
    };
    let opened = state.failover.as_ref().is_some_and(|failover| failover.promoted);
    if !opened && matches!(state.source, Role::Master { .. }) {
        return ground.ask(to, Request::TakeBack(what), watch).await.map(|_| Ended::TakenBack);
    }
    promoted(ground, to, what, watch).await.map(|_| Ended::Promoted)
}

/// Where the shard's copies are after a failover that is in a journal: the map's replicas stay; what else followed was no
/// copy of the map's.
fn place(ground: &Ground<'_>, map: &ShardMap, state: &MoveState) -> Result<Placement> {
    let host = |address: &String| {
        let name = ground.host_at(address).with_context(|| format!("{address} is not in the inventory"))?;
        Ok::<_, anyhow::Error>(name.to_owned())
    };
    let shard = shard_id(state.shard)?;
    let entry = map.shard(shard).with_context(|| format!("there is no shard {shard}"))?;
    let others = state.others.iter().map(host).collect::<Result<Vec<String>>>()?;
    let replicas = others.into_iter().filter(|other| entry.replicas.contains(other)).collect();
    Ok(Placement { shard, host: host(&state.to)?, replicas })
}
