//! Publishing a new epoch: first the authored map, then the routing file of every consumer, by atomic rename. And which
//! epoch the consumers have.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use dunlin_shards::map::edit::{set_placements, set_replica_count};
use dunlin_shards::{Epoch, InstanceAddress, ShardId, ShardMap, ShardPlacement};
use tokio_util::sync::CancellationToken;

use super::RebalanceContext;
use super::instance_templates::{ShardStep, to_diagnostics_error};
use crate::plan::Action;
use crate::poll::poll_until_async;
use crate::protocol::call;
use crate::protocol::provision::{ApplyPlay, CatalogPlan};
use crate::protocol::shard::{ConsumerService, ConsumerState, MapConsumer, MoveState, PublishedShard};

/// Time limit for services to notice a new map.
const MAP_NOTICE_TIMEOUT: Duration = Duration::from_secs(10);
const SERVICE_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Returns the hosts whose plays have a `shard_map` step, without those that the run continues without.
///
/// # Errors
/// Returns an error if the map, the inventory or the playbook has mistakes.
pub fn reachable_consumers(context: &RebalanceContext<'_>, map: &ShardMap) -> Result<Vec<String>> {
    let mut hosts = context.templates.list_consumers(map)?;
    hosts.retain(|host| !context.hosts.unreachable.contains(host));
    Ok(hosts)
}

/// Returns the consumers that do not answer: they keep the map that they have.
///
/// # Errors
/// Returns an error under the same conditions as [`reachable_consumers`].
pub fn unreachable_consumers(context: &RebalanceContext<'_>, map: &ShardMap) -> Result<Vec<String>> {
    let mut hosts = context.templates.list_consumers(map)?;
    hosts.retain(|host| context.hosts.unreachable.contains(host));
    Ok(hosts)
}

/// Observes each consumer: its host's name, its file, its state, and its placements only `with_placements`.
///
/// # Errors
/// Returns an error under the same conditions as [`reachable_consumers`], or if a host does not answer.
pub async fn consumer_states(
    context: &RebalanceContext<'_>,
    map: &ShardMap,
    with_placements: bool,
) -> Result<Vec<(String, PathBuf, ConsumerState)>> {
    let hosts = reachable_consumers(context, map)?;
    let compiler = context.templates.compiler(map, ShardStep::Map)?;
    let observe_host = async |host: &String| -> Result<Vec<(String, PathBuf, ConsumerState)>> {
        let facts = &context.hosts.get_session(host)?.hello.facts;
        let compiled = compiler.compile_host(host, facts).map_err(|found| to_diagnostics_error(&found))?;
        let steps = compiled.catalog.plays.iter().flat_map(|play| &play.steps);
        let map_consumers: Vec<MapConsumer> = steps
            .filter_map(|step| {
                let url = step.desired.get("status_url").and_then(|url| url.as_str()).map(str::to_owned);
                Some(MapConsumer { file: step.desired.get("dest")?.as_str()?.into(), status_url: url, with_placements })
            })
            .collect();
        let states = context.hosts.call_host(host, call::ObserveConsumers(map_consumers.clone()), &|_, _| {}).await?;
        Ok(map_consumers.into_iter().zip(states).map(|(asked, state)| (host.clone(), asked.file, state)).collect())
    };
    let mut found = Vec::new();
    for answer in context.hosts.fleet.map_parallel(&hosts, observe_host).await {
        found.extend(answer?);
    }
    Ok(found)
}

/// Returns the highest epoch that any consumer has; 0 if none has a map.
///
/// # Errors
/// Returns an error under the same conditions as [`consumer_states`], or if a consumer has the map of another cluster.
pub async fn published_epoch(context: &RebalanceContext<'_>, map: &ShardMap) -> Result<u64> {
    let mut highest = 0;
    for (host, path, state) in consumer_states(context, map, false).await? {
        if let Some((cluster, epoch)) = state.map_version {
            if cluster != map.cluster {
                bail!("{host}: {} is the map of cluster {cluster}, not of {}", path.display(), map.cluster);
            }
            highest = highest.max(epoch);
        }
    }
    Ok(highest)
}

/// Returns the shards that a consumer has under a newer epoch on hosts that neither the map nor an open move names.
/// Another operator published them and has a newer map, which must not be overwritten.
///
/// # Errors
/// Returns an error under the same conditions as [`consumer_states`].
pub async fn find_unaccounted_shards(
    context: &RebalanceContext<'_>,
    map: &ShardMap,
    open_moves: &[&MoveState],
) -> Result<Vec<ShardId>> {
    let states = consumer_states(context, map, true).await?;
    let epoch = |state: &ConsumerState| state.map_version.as_ref().map_or(0, |(_, epoch)| *epoch);
    let latest = states.into_iter().map(|(_, _, state)| state).max_by_key(epoch);
    let Some(latest) = latest.filter(|state| epoch(state) > map.epoch.0) else { return Ok(Vec::new()) };
    let mut unknown = Vec::new();
    for PublishedShard { shard, primary, replicas } in latest.placements {
        let Some(entry) = map.find_shard(shard) else { continue };
        let address = |host: &String| context.hosts.instance_address(map, shard, host);
        let (primary_address, replica_addresses) =
            (address(&entry.host)?, entry.replicas.iter().map(address).collect::<Result<Vec<_>>>()?);
        let moves: Vec<&MoveState> = open_moves.iter().copied().filter(|state| state.shard == shard).collect();
        let was_moved_to = |to: &InstanceAddress, replica: bool| {
            moves.iter().any(|state| state.record.operation.creates_replica() == replica && state.record.to == *to)
        };
        let is_known = (primary == primary_address || was_moved_to(&primary, false))
            && replicas.iter().all(|replica| replica_addresses.contains(replica) || was_moved_to(replica, true))
            && (!moves.is_empty() || replica_addresses.iter().all(|replica| replicas.contains(replica)));
        if !is_known {
            unknown.push(shard);
        }
    }
    Ok(unknown)
}

/// Waits until the services route by an epoch. Returns those that do not in time, each with its state.
///
/// A service that is down is not waited for: its next start reads the new file, and whether it still has a connection
/// to an instance is asked of the instance before it is stopped. One that does not report its epoch counts as
/// outdated if `unknown_epochs_count` is set.
///
/// # Errors
/// Returns an error under the same conditions as [`consumer_states`].
pub async fn wait_for_consumers(
    context: &RebalanceContext<'_>,
    map: &ShardMap,
    unknown_epochs_count: bool,
) -> Result<Vec<String>> {
    let mut outdated = Vec::new();
    let check = async || {
        let states = consumer_states(context, map, false).await?.into_iter();
        outdated = states
            .filter_map(|(host, _, state)| match state.service {
                ConsumerService::Running { epoch } if epoch < map.epoch.0 => {
                    Some(format!("{host} routes by epoch {epoch}"))
                }
                ConsumerService::UnknownEpoch { reason: why } if unknown_epochs_count => {
                    Some(format!("the service on {host} does not report its epoch ({why})"))
                }
                _ => None,
            })
            .collect::<Vec<String>>();
        anyhow::Ok(outdated.is_empty().then_some(()))
    };
    poll_until_async(Instant::now() + MAP_NOTICE_TIMEOUT, SERVICE_POLL_INTERVAL, check).await?;
    Ok(outdated)
}

/// Writes the present placements into the authored map under an epoch above its own and above that of any consumer, and
/// publishes the map to all consumers. If the map has these placements already, it is only published.
///
/// # Errors
/// Returns an error if the map cannot be written, or a consumer did not take it (named; the map is then published for
/// the others).
pub async fn publish_map(context: &RebalanceContext<'_>, placements: &[ShardPlacement]) -> Result<ShardMap> {
    publish_map_with_replica_count(context, placements, None).await
}

/// Publishes as [`publish_map`], and sets the number of replicas that the map asks for.
///
/// # Errors
/// Returns an error under the same conditions as [`publish_map`].
pub async fn publish_map_with_replica_count(
    context: &RebalanceContext<'_>,
    placements: &[ShardPlacement],
    replica_count: Option<u16>,
) -> Result<ShardMap> {
    let (map, text) = context.map_file.read_with_text()?;
    let highest = published_epoch(context, &map).await?;
    let is_current =
        |place: &ShardPlacement| map.find_shard(place.shard).is_some_and(|entry| entry.placement() == *place);
    let done = placements.iter().all(is_current) && (replica_count.is_none() || replica_count == map.replicas);
    let map = if done && map.epoch.0 >= highest {
        map
    } else {
        let next = Epoch(map.epoch.0.max(highest)).next();
        let text = set_placements(&text, placements, next).and_then(|text| match replica_count {
            Some(replicas) => set_replica_count(&text, replicas),
            None => Ok(text),
        });
        let text = text.map_err(|error| anyhow!("{error}"))?;
        context.map_file.replace(&text)?;
        ShardMap::parse(&text).map_err(|_| anyhow!("the edited map is broken"))?
    };
    let hosts = reachable_consumers(context, &map)?;
    let results = context.hosts.fleet.map_parallel(&hosts, |host| publish_to_consumer(context, &map, host)).await;
    let failed: Vec<String> = hosts
        .iter()
        .zip(results)
        .filter_map(|(host, result)| result.err().map(|error| format!("{host}: {error:#}")))
        .collect();
    if !failed.is_empty() {
        bail!("epoch {} did not reach all consumers: {}", map.epoch.0, failed.join("; "));
    }
    Ok(map)
}

/// Returns a reason for each consumer that cannot take the next map, such as one that was never provisioned. Changes
/// nothing.
///
/// # Errors
/// Returns an error under the same conditions as [`published_epoch`].
pub async fn check_consumers(context: &RebalanceContext<'_>, map: &ShardMap) -> Result<Vec<String>> {
    // Later than any that is published: another operator may have published maps that this one does not have.
    let published = published_epoch(context, map).await?;
    let next = ShardMap { epoch: Epoch(map.epoch.0.max(published)).next(), ..map.clone() };
    let hosts = reachable_consumers(context, map)?;
    let results = context.hosts.fleet.map_parallel(&hosts, |host| plan_consumer(context, &next, host)).await;
    let mut reasons = Vec::new();
    for (host, result) in hosts.iter().zip(results) {
        let obstacles = match result {
            Ok(plan) => plan
                .changes
                .into_iter()
                .filter(|change| change.action == Action::Unknown)
                .map(|change| format!("{}: {}", change.resource, change.reason.unwrap_or_default()))
                .collect(),
            Err(error) => vec![format!("{error:#}")],
        };
        reasons.extend(
            obstacles
                .iter()
                .map(|reason| format!("{host} cannot take the shard map: {reason}; run `dunlin provision {host}`")),
        );
    }
    Ok(reasons)
}

/// Plans the `shard_map` steps of a consumer for a map.
async fn plan_consumer(context: &RebalanceContext<'_>, map: &ShardMap, host: &str) -> Result<CatalogPlan> {
    let session = context.hosts.get_session(host)?;
    let compiled = context
        .templates
        .compiler(map, ShardStep::Map)?
        .compile_host(host, &session.hello.facts)
        .map_err(|found| to_diagnostics_error(&found))?;
    session.add_blobs(&compiled.contents);
    // All consumers get a published map, also from a run that was asked to stop.
    let result = session.call(compiled.catalog, &|_| {}, &CancellationToken::new()).await;
    result.map_err(|error| anyhow!(error.message))
}

async fn publish_to_consumer(context: &RebalanceContext<'_>, map: &ShardMap, host: &str) -> Result<()> {
    let plan = plan_consumer(context, map, host).await?;
    let plays: BTreeSet<usize> = plan.changes.iter().map(|change| change.step.play).collect();
    for play_index in plays {
        let request = ApplyPlay { play_index, run: format!("epoch {}", map.epoch.0) };
        let result = context.hosts.get_session(host)?.call(request, &|_| {}, &CancellationToken::new()).await?;
        if let Some(failed) = result.failure {
            bail!("{}: {}", failed.resource, failed.error);
        }
    }
    Ok(())
}
