//! Publishing a new epoch: first the authored map, then the routing file of every consumer, by atomic rename. And which
//! epoch the consumers have.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use dunlin_shards::map::edit::{ask_for_replicas, place_shards};
use dunlin_shards::{Epoch, Placement, ShardMap};
use tokio_util::sync::CancellationToken;

use super::Ground;
use super::ground::{read_map, shard_id, told};
use crate::atomic_file::{Attributes, existing_mode, write_atomically};
use crate::poll::poll_until_async;
use crate::wire::provision::Apply;
use crate::wire::shard::{self, Consumer, ConsumerState, MoveState, Published, Service};
use crate::wire::{Reply, Request};

/// How long services may take to notice a new map.
const MAP_NOTICE_TIMEOUT: Duration = Duration::from_secs(10);
const SERVICE_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The hosts whose plays have a `shard_map` step, without those that the run goes without.
///
/// # Errors
/// Mistakes in map, inventory or playbook.
pub fn consumers(ground: &Ground<'_>, map: &ShardMap) -> Result<Vec<String>> {
    let mut hosts = all_consumers(ground, map)?;
    hosts.retain(|host| !ground.absent.contains(host));
    Ok(hosts)
}

/// The consumers that do not answer: they keep the map that they have.
///
/// # Errors
/// As [`consumers`].
pub fn unreached(ground: &Ground<'_>, map: &ShardMap) -> Result<Vec<String>> {
    let mut hosts = all_consumers(ground, map)?;
    hosts.retain(|host| ground.absent.contains(host));
    Ok(hosts)
}

fn all_consumers(ground: &Ground<'_>, map: &ShardMap) -> Result<Vec<String>> {
    let compiler = ground.compiler(map, &["shard_map"])?;
    let publishing = |play: &&crate::playbook::Play| play.steps.iter().any(|step| step.kind.name == "shard_map");
    let plays = ground.playbook.plays.iter().enumerate().filter(|(_, play)| publishing(play));
    let mut hosts: Vec<String> = plays.flat_map(|(number, _)| compiler.hosts_of(number)).map(str::to_owned).collect();
    hosts.sort_unstable();
    hosts.dedup();
    Ok(hosts)
}

/// What each consumer has: its host's name, its file, its state; where it has the shards only `with_places`.
///
/// # Errors
/// As [`consumers`], or a host does not answer.
pub async fn states(
    ground: &Ground<'_>,
    map: &ShardMap,
    with_places: bool,
) -> Result<Vec<(String, PathBuf, ConsumerState)>> {
    let hosts = consumers(ground, map)?;
    let compiler = ground.compiler(map, &["shard_map"])?;
    let look = async |host: &String| -> Result<Vec<(String, PathBuf, ConsumerState)>> {
        let facts = &ground.session(host)?.hello.facts;
        let compiled = compiler.compile(host, facts).map_err(|found| told(&found))?;
        let steps = compiled.catalogue.plays.iter().flat_map(|play| &play.steps);
        let asked: Vec<Consumer> = steps
            .filter_map(|step| {
                let url = step.desired.get("version_url").and_then(|url| url.as_str()).map(str::to_owned);
                Some(Consumer { file: step.desired.get("dest")?.as_str()?.into(), version_url: url, with_places })
            })
            .collect();
        let request = shard::Request::Consumers(asked.clone());
        let shard::Reply::Consumers(states) = ground.ask(host, request, &|_, _| {}).await? else {
            bail!("{host}: an answer that does not fit");
        };
        Ok(asked.into_iter().zip(states).map(|(asked, state)| (host.clone(), asked.file, state)).collect())
    };
    let mut found = Vec::new();
    for answer in ground.fleet.each(&hosts, look).await {
        found.extend(answer?);
    }
    Ok(found)
}

/// The highest epoch that any consumer has; 0 where none has a map.
///
/// # Errors
/// As [`states`]; or a consumer has the map of another cluster.
pub async fn published(ground: &Ground<'_>, map: &ShardMap) -> Result<u64> {
    let mut highest = 0;
    for (host, path, state) in states(ground, map, false).await? {
        if let Some((cluster, epoch)) = state.file {
            if cluster != map.cluster {
                bail!("{host}: {} is the map of cluster {cluster}, not of {}", path.display(), map.cluster);
            }
            highest = highest.max(epoch);
        }
    }
    Ok(highest)
}

/// The shards that are published under a later epoch than the map's at places which neither the map nor an open move
/// accounts for: whoever published them has a newer map, which nothing may be published over.
///
/// # Errors
/// As [`states`].
pub async fn unaccounted(ground: &Ground<'_>, map: &ShardMap, open: &[&MoveState]) -> Result<Vec<u32>> {
    let states = states(ground, map, true).await?;
    let epoch = |state: &ConsumerState| state.file.as_ref().map_or(0, |(_, epoch)| *epoch);
    let latest = states.into_iter().map(|(_, _, state)| state).max_by_key(epoch);
    let Some(latest) = latest.filter(|state| epoch(state) > map.epoch.0) else { return Ok(Vec::new()) };
    let mut unknown = Vec::new();
    for Published { shard, primary, replicas } in latest.places {
        let Some(entry) = map.shard(shard_id(shard)?) else { continue };
        let address = |host: &String| ground.address(map, shard, host);
        let (owner, known) = (address(&entry.host)?, entry.replicas.iter().map(address).collect::<Result<Vec<_>>>()?);
        let moves: Vec<&MoveState> = open.iter().copied().filter(|state| state.shard == shard).collect();
        let went = |to: &String, replica: bool| moves.iter().any(|state| state.replica == replica && state.to == *to);
        let is_known = (primary == owner || went(&primary, false))
            && replicas.iter().all(|replica| known.contains(replica) || went(replica, true))
            && (!moves.is_empty() || known.iter().all(|replica| replicas.contains(replica)));
        if !is_known {
            unknown.push(shard);
        }
    }
    Ok(unknown)
}

/// Waits until the services route by an epoch; those that do not by then are named, each with what it does instead.
///
/// A service that is down is not waited for: its next start reads the new file, and whether it still has a connection
/// to an instance is asked of the instance before it is stopped. One that does not tell its epoch counts where
/// `unclear_counts`.
///
/// # Errors
/// As [`states`].
pub async fn left_behind(ground: &Ground<'_>, map: &ShardMap, unclear_counts: bool) -> Result<Vec<String>> {
    let mut behind = Vec::new();
    let check = async || {
        let states = states(ground, map, false).await?.into_iter();
        behind = states
            .filter_map(|(host, _, state)| match state.service {
                Service::Runs { epoch } if epoch < map.epoch.0 => Some(format!("{host} routes by epoch {epoch}")),
                Service::Unclear { why } if unclear_counts => {
                    Some(format!("the service on {host} does not tell its epoch ({why})"))
                }
                _ => None,
            })
            .collect::<Vec<String>>();
        anyhow::Ok(behind.is_empty().then_some(()))
    };
    poll_until_async(Instant::now() + MAP_NOTICE_TIMEOUT, SERVICE_POLL_INTERVAL, check).await?;
    Ok(behind)
}

/// Writes where shards' copies are now into the authored map under an epoch that is higher than its own and than that of
/// any consumer, and brings it to all consumers. A map that says so already is only brought to the consumers.
///
/// # Errors
/// The map cannot be written, or a consumer did not take it (named; the map is then published for the others).
pub async fn publish(ground: &Ground<'_>, places: &[Placement]) -> Result<ShardMap> {
    publish_asking(ground, places, None).await
}

/// [`publish`], where the map is to ask for a number of replicas from then on.
///
/// # Errors
/// As [`publish`].
pub async fn publish_asking(ground: &Ground<'_>, places: &[Placement], replicas: Option<u16>) -> Result<ShardMap> {
    let (map, text) = read_map(&ground.map_file)?;
    let highest = published(ground, &map).await?;
    let is_there = |place: &Placement| map.shard(place.shard).is_some_and(|entry| entry.placement() == *place);
    let done = places.iter().all(is_there) && (replicas.is_none() || replicas == map.replicas);
    let map = if done && map.epoch.0 >= highest {
        map
    } else {
        let next = Epoch(map.epoch.0.max(highest)).next();
        let text = place_shards(&text, places, next).and_then(|text| match replicas {
            Some(replicas) => ask_for_replicas(&text, replicas),
            None => Ok(text),
        });
        let text = text.map_err(|error| anyhow!("{error}"))?;
        replace(&ground.map_file, &text)?;
        ShardMap::parse(&text).map_err(|_| anyhow!("the edited map is broken"))?
    };
    let hosts = consumers(ground, &map)?;
    let results = ground.fleet.each(&hosts, |host| consumer(ground, &map, host)).await;
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

async fn consumer(ground: &Ground<'_>, map: &ShardMap, host: &str) -> Result<()> {
    let session = ground.session(host)?;
    let compiled =
        ground.compiler(map, &["shard_map"])?.compile(host, &session.hello.facts).map_err(|found| told(&found))?;
    session.offer(&compiled.contents);
    let plays = compiled.catalogue.plays.len();
    // A map that is out is brought to everybody, also by a run that was asked to stop.
    let on = CancellationToken::new();
    session.request(Request::Plan(compiled.catalogue), &|_| {}, &on).await?;
    for play in 0..plays {
        let request = Request::Apply(Apply { play, run: format!("epoch {}", map.epoch.0) });
        match session.request(request, &|_| {}, &on).await? {
            Reply::Applied(applied) => {
                if let Some(failed) = applied.failed {
                    bail!("{}: {}", failed.resource, failed.error);
                }
            }
            _ => bail!("an answer that does not fit"),
        }
    }
    Ok(())
}

/// Replaces a file atomically and durably; it keeps its mode, and a new one is for its owner alone.
///
/// # Errors
/// As [`write_atomically`].
pub fn replace(path: &Path, text: &str) -> Result<()> {
    let mode = existing_mode(path).with_context(|| path.display().to_string())?.unwrap_or(0o600);
    write_atomically(path, text.as_bytes(), &Attributes::synced(mode))
}
