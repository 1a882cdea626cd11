//! The health of shards' copies: replicas that lag, are down or follow another instance, instances that the map does
//! not name, and primaries whose `min-replicas-to-write` differs from the playbook. `shards status` shows it, `shards
//! repair` repairs what needs no decision.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use dunlin_shards::{InstanceAddress, ShardId, ShardMap};
use serde::Serialize;
use serde_json::json;

use super::finish::{ApplyOptions, retire_instance};
use super::instance_templates::{ShardStep, to_diagnostics_error};
use super::observation::Observation;
use super::replica::{orphan_retirement, required_replicas, set_min_replicas};
use super::{RebalanceContext, publish};
use crate::protocol::call;
use crate::protocol::shard::{MoveState, ObserveInstances, ObservedInstance, ReplicationRole};

/// Health of the replicas, and of instances that the map does not name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaHealth {
    /// The replicas of the map, by shard and in its order.
    pub replicas: Vec<ReplicaStatus>,
    /// Instances that neither the map nor an open move names.
    pub orphans: Vec<OrphanInstance>,
    /// Primaries that need another number of replicas than the playbook says; none where a move of the shard is open.
    pub min_replicas_mismatches: Vec<MinReplicasMismatch>,
}

/// A replica of the map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReplicaStatus {
    /// The shard.
    pub shard: ShardId,
    /// Its host.
    pub host: String,
    /// State of the replica.
    #[serde(flatten)]
    pub state: ReplicaState,
}

/// State of a replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ReplicaState {
    /// Follows its primary.
    Follows {
        /// Bytes of the stream that the primary had a moment before and it has not; 0: it keeps up.
        behind_bytes: u64,
    },
    /// Replication link to its primary is down.
    LinkDown,
    /// Follows another instance.
    FollowsWrongPrimary {
        /// The instance that it follows.
        primary: InstanceAddress,
    },
    /// The instance is a primary itself.
    IsPrimary,
    /// No instance answers: it is down, or was never created.
    Missing {
        /// Error of the connection.
        reason: String,
    },
}

/// An instance that the map does not name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OrphanInstance {
    /// The shard.
    pub shard: ShardId,
    /// Its host.
    pub host: String,
    /// The instance that it follows; none for a primary.
    pub follows: Option<InstanceAddress>,
    /// True if it follows the shard's primary: it then has no data that the primary lacks.
    pub follows_primary: bool,
    /// True if it is a primary that accepts writes without a replica.
    pub accepts_writes: bool,
}

/// A primary that needs another number of replicas than it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MinReplicasMismatch {
    /// The shard.
    pub shard: ShardId,
    /// Its `min-replicas-to-write`.
    pub actual: u64,
    /// Value in the playbook.
    pub expected: u32,
}

impl ReplicaState {
    /// Returns whether it follows its primary without delay.
    pub fn is_in_sync(&self) -> bool {
        matches!(self, Self::Follows { behind_bytes: 0 })
    }
}

impl ReplicaHealth {
    /// Adds the health of replicas to the shards of an observation.
    pub fn add_to_observation(&self, observation: &mut Observation) {
        for shard in &mut observation.shards {
            let replicas: Vec<_> = self.replicas.iter().filter(|replica| replica.shard == shard.id).collect();
            if !replicas.is_empty() {
                shard.details.insert("replicas".to_owned(), json!(replicas));
            }
        }
    }

    /// Returns whether `shards repair` has something to do.
    pub fn needs_repair(&self) -> bool {
        self.count_repairs() > 0
    }

    /// Returns how many instances `shards repair` retires, archives or sets.
    pub fn count_repairs(&self) -> usize {
        let orphans = self.orphans.iter().filter(|orphan| orphan.follows_primary || orphan.follows.is_none());
        orphans.count() + self.min_replicas_mismatches.len()
    }

    /// Returns the number of replicas of the map on a host.
    pub fn count_on_host(&self, host: &str) -> usize {
        self.replicas.iter().filter(|replica| replica.host == host).count()
    }
}

/// Observes the copies, after the primaries: a replica that keeps up has everything that its primary had then. Changes
/// nothing. `hosts` are the hosts that may have shards.
///
/// # Errors
/// Returns an error if a host does not answer, or the map names a host that is not in the inventory.
pub async fn check_replicas(
    context: &RebalanceContext<'_>,
    map: &ShardMap,
    hosts: &[&str],
    primaries: &BTreeMap<ShardId, ObservedInstance>,
    open_moves: &[&MoveState],
) -> Result<ReplicaHealth> {
    let answers = context.hosts.fleet.map_parallel(hosts, |host| observe_non_primaries(context, map, host)).await;
    let mut observed_by_host: BTreeMap<(ShardId, &str), ObservedInstance> = BTreeMap::new();
    for (host, answer) in hosts.iter().zip(answers) {
        observed_by_host.extend(answer?.into_iter().map(|observed| ((observed.shard, *host), observed)));
    }
    let moving_addresses: BTreeSet<&InstanceAddress> =
        open_moves.iter().flat_map(|state| [&state.record.from, &state.record.to]).collect();
    let mut health = ReplicaHealth {
        min_replicas_mismatches: find_min_replicas_mismatches(context, map, primaries, open_moves)?,
        ..ReplicaHealth::default()
    };
    for entry in &map.shards {
        let shard = entry.id;
        let primary_address = context.hosts.instance_address(map, shard, &entry.host)?;
        let offset = primaries.get(&shard).map_or(0, |primary| role_offset(&primary.role));
        for host in &entry.replicas {
            let state = observed_by_host.get(&(shard, host.as_str())).map_or_else(
                || ReplicaState::Missing { reason: missing_reason(context, host) },
                |observed| replica_state(observed, &primary_address, offset),
            );
            health.replicas.push(ReplicaStatus { shard, host: host.clone(), state });
        }
        let orphan_hosts = hosts.iter().filter(|host| !entry.replicas.iter().any(|replica| replica == *host));
        for host in orphan_hosts {
            let Some(observed) = observed_by_host.get(&(shard, host)) else { continue };
            if observed.error.is_some() || moving_addresses.contains(&observed.address) {
                continue;
            }
            let of = match &observed.role {
                ReplicationRole::Replica { primary: of, .. } => Some(of.clone()),
                _ => None,
            };
            let is_replica = of.as_ref() == Some(&primary_address);
            let accepts_writes = of.is_none() && observed.min_replicas == 0;
            health.orphans.push(OrphanInstance {
                shard,
                host: (*host).to_owned(),
                follows: of,
                follows_primary: is_replica,
                accepts_writes,
            });
        }
    }
    Ok(health)
}

/// Explains why nothing was observed on a host that the map names.
fn missing_reason(context: &RebalanceContext<'_>, host: &str) -> String {
    if context.hosts.unreachable.contains(host) {
        return format!("{host} cannot be reached");
    }
    "no play of the playbook has redis_shard steps for that host".to_owned()
}

/// Observes all shards on a host whose primary is elsewhere, whether or not the map has a replica there.
async fn observe_non_primaries(
    context: &RebalanceContext<'_>,
    map: &ShardMap,
    host: &str,
) -> Result<Vec<ObservedInstance>> {
    let others = map.shards.iter().filter(|entry| entry.host != host).map(|entry| entry.id);
    let instances =
        others.map(|shard| Ok((shard, context.hosts.instance_address(map, shard, host)?))).collect::<Result<_>>()?;
    let request =
        ObserveInstances { instances, credentials: context.hosts.credentials.clone(), window_ms: 0, sampled_keys: 0 };
    context.hosts.call_host(host, call::Observe(request), &|_, _| {}).await
}

fn role_offset(role: &ReplicationRole) -> u64 {
    match role {
        ReplicationRole::Primary { offset, .. } | ReplicationRole::Replica { offset, .. } => *offset,
        ReplicationRole::Unreachable => 0,
    }
}

fn replica_state(observed: &ObservedInstance, primary: &InstanceAddress, primary_offset: u64) -> ReplicaState {
    if let Some(why) = &observed.error {
        return ReplicaState::Missing { reason: why.clone() };
    }
    match &observed.role {
        ReplicationRole::Replica { primary: of, .. } if of != primary => {
            ReplicaState::FollowsWrongPrimary { primary: of.clone() }
        }
        ReplicationRole::Replica { link_is_up: false, .. } => ReplicaState::LinkDown,
        ReplicationRole::Replica { offset, .. } => {
            ReplicaState::Follows { behind_bytes: primary_offset.saturating_sub(*offset) }
        }
        ReplicationRole::Primary { .. } => ReplicaState::IsPrimary,
        ReplicationRole::Unreachable => ReplicaState::Missing { reason: "it did not answer".to_owned() },
    }
}

fn find_min_replicas_mismatches(
    context: &RebalanceContext<'_>,
    map: &ShardMap,
    primaries: &BTreeMap<ShardId, ObservedInstance>,
    open_moves: &[&MoveState],
) -> Result<Vec<MinReplicasMismatch>> {
    let compiler = context.templates.compiler(map, ShardStep::Instance)?;
    let hosts: BTreeSet<&str> = map.shards.iter().map(|entry| entry.host.as_str()).collect();
    let mut found = Vec::new();
    for host in hosts.into_iter().filter(|host| !context.hosts.unreachable.contains(*host)) {
        let compiled = compiler
            .compile_host(host, &context.hosts.get_session(host)?.hello.facts)
            .map_err(|found| to_diagnostics_error(&found))?;
        for step in compiled.catalog.plays.iter().flat_map(|play| &play.steps) {
            let id = step.desired["id"].as_str().and_then(|id| id.parse::<ShardId>().ok());
            let Some((shard, primary)) = id.and_then(|id| Some((id, primaries.get(&id)?))) else { continue };
            let here = map.shards.iter().any(|entry| entry.id == shard && entry.host == host);
            let (needs, wanted) = (primary.min_replicas, required_replicas(&step.desired));
            if here && needs != u64::from(wanted) && open_moves.iter().all(|state| state.shard != shard) {
                found.push(MinReplicasMismatch { shard, actual: needs, expected: wanted });
            }
        }
    }
    found.sort_unstable_by_key(|unlike| unlike.shard);
    Ok(found)
}

/// Result of [`reconcile_instances`]: sentences by shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReconcileOutcome {
    /// Descriptions of the changes that were made.
    pub changed: Vec<(ShardId, String)>,
    /// Changes that are not possible yet, with the reason; all instances serve as before.
    pub unresolved: Vec<(ShardId, String)>,
}

/// Brings primaries and orphans to the state of map and playbook: retires an orphan that follows its primary, and sets
/// the number of replicas that a primary requires. A lower number is set before an orphan is retired.
///
/// # Errors
/// Returns an error if a consumer has a newer map, which may name instances that this map does not.
pub async fn reconcile_instances(
    context: &RebalanceContext<'_>,
    health: &ReplicaHealth,
    run: &str,
) -> Result<ReconcileOutcome> {
    let map = context.map_file.read()?;
    let published = publish::published_epoch(context, &map).await?;
    if published > map.epoch.0 {
        bail!("epoch {published} is published, {} has only {}", context.map_file.path.display(), map.epoch);
    }
    let ReconcileOutcome { mut changed, mut unresolved } = ReconcileOutcome::default();
    for MinReplicasMismatch { shard, actual: needs, expected: wanted } in &health.min_replicas_mismatches {
        if u64::from(*wanted) < *needs && !context.hosts.unreachable.is_empty() {
            // A host that is missing may serve the shard: this primary then waits for a replica for a good reason.
            unresolved
                .push((*shard, format!("min-replicas-to-write of its primary stays {needs} until all hosts answer")));
            continue;
        }
        match set_min_replicas(context, &map, *shard, run).await {
            Ok(()) => changed.push((*shard, format!("min-replicas-to-write of the primary is {wanted} now"))),
            Err(error) => {
                unresolved
                    .push((*shard, format!("min-replicas-to-write of the primary is not {wanted} yet: {error:#}")));
            }
        }
    }
    let options = ApplyOptions { ignore_unknown_epochs: true, ..ApplyOptions::default() };
    for OrphanInstance { shard, host, .. } in health.orphans.iter().filter(|stray| stray.follows_primary) {
        if unresolved.iter().any(|(other, _)| other == shard) {
            continue;
        }
        // The primary may count on it.
        let mut named = health.replicas.iter().filter(|replica| replica.shard == *shard);
        if let Some(replica) = named.find(|replica| !matches!(replica.state, ReplicaState::Follows { .. })) {
            unresolved.push((
                *shard,
                format!("the instance on {host} stays: the replica on {} is not healthy", replica.host),
            ));
            continue;
        }
        let retired = match orphan_retirement(context, &map, run, *shard, host) {
            Ok(retirement) => retire_instance(context, &map, &retirement, options).await,
            Err(error) => Err(error),
        };
        match retired {
            Ok(None) => changed.push((*shard, format!("the instance on {host} is retired"))),
            Ok(Some(why)) => unresolved.push((*shard, format!("the instance on {host} stays: {why}"))),
            Err(error) => unresolved.push((*shard, format!("the instance on {host} stays: {error:#}"))),
        }
    }
    Ok(ReconcileOutcome { changed, unresolved })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_compared_with_its_primary() {
        let follows = |of: &str, linked, offset| ObservedInstance {
            role: ReplicationRole::Replica { primary: InstanceAddress::new(of, 1), link_is_up: linked, offset },
            ..ObservedInstance::default()
        };
        let down = ObservedInstance { error: Some("refused".to_owned()), ..ObservedInstance::default() };
        let master = ObservedInstance {
            role: ReplicationRole::Primary { offset: 9, replicas: 0 },
            ..ObservedInstance::default()
        };
        for (observed, wanted, good) in [
            (follows("a", true, 9), ReplicaState::Follows { behind_bytes: 0 }, true),
            (follows("a", true, 12), ReplicaState::Follows { behind_bytes: 0 }, true),
            (follows("a", true, 4), ReplicaState::Follows { behind_bytes: 5 }, false),
            (follows("a", false, 9), ReplicaState::LinkDown, false),
            (follows("b", true, 9), ReplicaState::FollowsWrongPrimary { primary: InstanceAddress::new("b", 1) }, false),
            (master, ReplicaState::IsPrimary, false),
            (down, ReplicaState::Missing { reason: "refused".to_owned() }, false),
        ] {
            let state = replica_state(&observed, &InstanceAddress::new("a", 1), 9);
            assert_eq!((state.is_in_sync(), state), (good, wanted));
        }
    }
}
