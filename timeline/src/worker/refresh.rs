//! Shards that do not answer for long: instead of parking more and more deliveries, the worker drops them, and the shard's
//! timelines are rebuilt from the databases once it answers.
//!
//! Before a delivery is dropped, the request for a refresh is stored in the users database. The refresh first removes all
//! lists of the shard: from then on readers get complete pages, because a list that is missing is built when it is read.
//! Nothing is lost: lists are removed after the request, and so built from what the delivery's event has committed. A
//! delivery that fails while a refresh is in progress makes it void (see [`crate::database`]), and a new one begins. A
//! worker that ends in between leaves the request, and another one begins again. The timelines that existed are then built
//! at a rate, so that not all of their readers wait for that.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::MissedTickBehavior};

use super::{WorkError, Worker, stopped};
use crate::{
    database::Range,
    ids::Id,
    lists::{List, PUBLIC_PARTS},
    telemetry::new_unique_id,
    timelines::RebuildReason,
};

const INTERVAL: Duration = Duration::from_secs(1);
/// Time that a shard may take to answer before its refresh begins.
const HEALTH_LIMIT: Duration = Duration::from_secs(1);
/// Number of users whose lists are removed at a time.
const CHUNK: usize = 500;

/// The shards whose refresh is requested, as far as this process knows. It decides only whether more deliveries are parked.
#[derive(Debug, Default)]
pub(super) struct RequestedRefreshes {
    shards: Mutex<BTreeSet<u16>>,
}

impl RequestedRefreshes {
    pub(super) fn contains(&self, shard: u16) -> bool {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner).contains(&shard)
    }

    fn insert(&self, shard: u16) -> bool {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner).insert(shard)
    }

    fn remove(&self, shard: u16) {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner).remove(&shard);
    }

    fn replace(&self, shards: BTreeSet<u16>) {
        *self.shards.lock().unwrap_or_else(PoisonError::into_inner) = shards;
    }
}

/// Requests refreshes instead of deliveries: one shard for each that is dropped. They are dropped once this returns.
pub(super) async fn drop_deliveries(worker: &Worker, dropped: &[u16]) -> Result<(), WorkError> {
    if dropped.is_empty() {
        return Ok(());
    }
    let shards: BTreeSet<u16> = dropped.iter().copied().collect();
    worker.databases().users.request_refresh(&shards).await?;
    for shard in shards {
        if worker.refreshes.insert(shard) {
            tracing::warn!(shard, "deliveries to the shard are dropped: its timelines are rebuilt when it answers");
        }
    }
    for shard in dropped {
        metrics::counter!("tl_dropped_total", "shard" => shard.to_string()).increment(1);
    }
    Ok(())
}

/// Refreshes shards that answer again, until `stop` becomes true.
pub(super) async fn run(worker: Worker, mut stop: watch::Receiver<bool>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // timelines that a refresh has removed
    let mut removed: VecDeque<Id> = VecDeque::new();
    let work = async {
        loop {
            ticks.tick().await;
            if let Err(error) = refresh_shards(&worker, &mut removed).await {
                tracing::warn!(error = crate::describe_error(&error), "cannot refresh shards yet");
            }
            rebuild_some(&worker, &mut removed).await;
        }
    };
    tokio::select! {
        () = work => {}
        () = stopped(&mut stop) => {}
    }
}

async fn refresh_shards(worker: &Worker, removed: &mut VecDeque<Id>) -> Result<(), WorkError> {
    let requested = worker.databases().users.requested_refreshes().await?;
    worker.refreshes.replace(requested.clone());
    for route in &worker.lists.shards().routing().shards {
        let is_pending = if requested.contains(&route.id.0) { 1.0 } else { 0.0 };
        metrics::gauge!("tl_refresh_pending", "shard" => route.id.to_string()).set(is_pending);
    }
    if requested.is_empty() {
        return Ok(());
    }
    let health = worker.lists.shards().check_health(HEALTH_LIMIT).await;
    let silent: BTreeSet<u16> =
        health.iter().filter(|shard| shard.failure.is_some()).map(|shard| shard.shard.0).collect();
    for shard in requested.difference(&silent) {
        refresh_shard(worker, *shard, removed).await?;
    }
    Ok(())
}

async fn refresh_shard(worker: &Worker, shard: u16, removed: &mut VecDeque<Id>) -> Result<(), WorkError> {
    let users = &worker.databases().users;
    let token = new_unique_id();
    if !users.begin_refresh(shard, &token, worker.options.refresh_lease).await? {
        return Ok(());
    }
    let before = removed.len();
    let routing = worker.lists.shards().routing();
    match remove_lists(worker, shard, &token, removed).await {
        // where the map has divided slots differently meanwhile, lists may be left
        Ok(true) if worker.lists.has_slots_of(&routing) && users.end_refresh(shard, &token).await? => {
            worker.refreshes.remove(shard);
            tracing::info!(shard, timelines = removed.len() - before, "the shard's timelines are removed, and rebuilt");
        }
        Ok(_) => tracing::info!(shard, "deliveries to the shard were dropped again: it is refreshed once more"),
        Err(error) => {
            tracing::warn!(shard, error = crate::describe_error(&error), "cannot refresh the shard yet");
            // for the next look, which need not wait for the lease
            users.request_refresh(&BTreeSet::from([shard])).await?;
        }
    }
    Ok(())
}

/// Removes the lists of a shard, and adds the users whose timelines existed to `removed`; `false` where the refresh is void.
async fn remove_lists(worker: &Worker, shard: u16, token: &str, removed: &mut VecDeque<Id>) -> Result<bool, WorkError> {
    let lists = &worker.lists;
    let is_here = |list: &List| lists.shard_of(*list).0 == shard;
    let public: Vec<List> = (0..PUBLIC_PARTS).map(List::Public).filter(is_here).collect();
    lists.forget(&public).await?;
    let users = &worker.databases().users;
    let mut range = Range::newest(CHUNK);
    while users.extend_refresh(shard, token, worker.options.refresh_lease).await? {
        let page = users.profiles_page(range).await?;
        let Some(last) = page.last() else { return Ok(true) };
        range.max_id = last.id - 1;
        let of_users: Vec<List> =
            page.iter().flat_map(|user| [List::Home(user.id), List::Author(user.id)]).filter(is_here).collect();
        let existed = lists.forget(&of_users).await?;
        for (list, existed) in of_users.into_iter().zip(existed) {
            if let (List::Home(user), true) = (list, existed) {
                removed.push_back(user);
            }
        }
    }
    Ok(false)
}

/// Builds the next removed timelines, as many as the rate allows for. Those that were read meanwhile exist already.
async fn rebuild_some(worker: &Worker, removed: &mut VecDeque<Id>) {
    let count = (worker.options.refresh_rate * INTERVAL.as_secs_f64()).ceil() as usize;
    for user in removed.drain(..count.min(removed.len())) {
        if worker.refreshes.contains(worker.lists.shard_of(List::Home(user)).0) {
            continue;
        }
        if let Err(error) = worker.timelines.rebuild(List::Home(user), RebuildReason::Refreshed).await {
            tracing::warn!(user, error = crate::describe_error(&error), "the timeline is built when it is read");
        }
    }
}
