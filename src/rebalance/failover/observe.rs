//! Asking the hosts that answer: their copies, and primaries as seen from everywhere.

use std::collections::BTreeMap;

use anyhow::Result;
use dunlin_shards::{ShardId, ShardMap};

use super::{ClusterView, CopyView, FailoverScope, MoveStage, OpenMove, ShardView};
use crate::inventory::InventoryHost;
use crate::protocol::call;
use crate::protocol::shard::failover::{ProbeResult, ProbeTarget, ReplicaProbeRequest};
use crate::protocol::shard::{MovePhase, MoveState, ReplicationRole, default_journal_dir};
use crate::rebalance::observation::Observation;
use crate::rebalance::resume::{LatestMoves, MoveStatus, list_latest_moves, move_status};
use crate::rebalance::{RebalanceContext, observe};

/// Observes all shards from the hosts that answer. Primaries in the scope of the failover are probed from every host.
///
/// # Errors
/// Returns an error if a host that was connected does not answer.
pub async fn observe_cluster(
    context: &RebalanceContext<'_>,
    map: &ShardMap,
    hosts: &[&InventoryHost],
    scope: &FailoverScope,
) -> Result<ClusterView> {
    let moves = list_latest_moves(context).await?;
    let mut targets: BTreeMap<String, Vec<ProbeTarget>> = BTreeMap::new();
    for entry in &map.shards {
        let id = entry.id;
        let primary = context.hosts.instance_address(map, id, &entry.host)?;
        let is_in_scope = match scope {
            FailoverScope::Hosts(hosts) => hosts.contains(&entry.host),
            FailoverScope::Shards(shards) => shards.contains(&id),
        };
        let copies: Vec<&String> = std::iter::once(&entry.host).chain(&entry.replicas).collect();
        for host in context.hosts.sessions.keys() {
            if !is_in_scope && !copies.contains(&host) {
                continue;
            }
            // Where the map names no copy, there may be one all the same.
            let address = context.hosts.instance_address(map, id, host)?;
            let target = ProbeTarget { shard: id, address, primary: (*host != entry.host).then(|| primary.clone()) };
            targets.entry(host.clone()).or_default().push(target);
        }
    }
    let probes = probe_hosts(context, &targets).await?;
    let observation = observe::build_observation(context, map, hosts, &BTreeMap::new());
    let Observation { hosts, .. } = observation;
    Ok(ClusterView {
        cluster: map.cluster.clone(),
        epoch: map.epoch.0,
        replica_count: map.replicas,
        unreachable_hosts: context.hosts.unreachable.clone(),
        shards: map
            .shards
            .iter()
            .map(|entry| build_shard_view(context, map, entry, &probes, &moves))
            .collect::<Result<_>>()?,
        hosts: hosts.into_iter().filter(|host| !context.hosts.unreachable.contains(&host.name)).collect(),
    })
}

/// By host and shard.
type ProbeResults = BTreeMap<(String, ShardId), ProbeResult>;

fn build_shard_view(
    context: &RebalanceContext<'_>,
    map: &ShardMap,
    entry: &dunlin_shards::Shard,
    probes: &ProbeResults,
    moves: &LatestMoves,
) -> Result<ShardView> {
    let id = entry.id;
    let copy = |host: &String| -> Result<CopyView> {
        let address = context.hosts.instance_address(map, id, host)?;
        let unreachable = ProbeResult { shard: id, address: address.clone(), ..ProbeResult::default() };
        let probe = probes.get(&(host.clone(), id)).cloned().unwrap_or(unreachable);
        Ok(CopyView { host: host.clone(), address, probe })
    };
    let copies = std::iter::once(&entry.host).chain(&entry.replicas).map(copy).collect::<Result<Vec<_>>>()?;
    let other_hosts_where = |what: &dyn Fn(&ProbeResult) -> bool| -> Vec<String> {
        let others = probes.iter().filter(|((host, shard), _)| *shard == id && copies.iter().all(|c| c.host != *host));
        others.filter(|(_, seen)| what(seen)).map(|((host, _), _)| host.clone()).collect()
    };
    let witnesses = other_hosts_where(&|seen| matches!(seen.primary_role, ReplicationRole::Primary { .. }));
    let own_primary = &copies[0].address;
    let mut orphans = other_hosts_where(
        &|seen| matches!(&seen.role, ReplicationRole::Replica { primary, .. } if primary == own_primary),
    );
    let open_move = moves.get(&id).and_then(|(host, state)| open_move(host, state, move_status(context, map, state)));
    // The copy of a move may have followed a relay instead, which ended with its agent.
    if let Some(moving) =
        open_move.as_ref().filter(|moving| moving.stage == MoveStage::Copied && !orphans.contains(&moving.to))
        && other_hosts_where(&|seen| matches!(seen.role, ReplicationRole::Replica { .. })).contains(&moving.to)
    {
        orphans.push(moving.to.clone());
    }
    Ok(ShardView { id, copies, witnesses, orphans, open_move })
}

/// A move that prevents a failover, or has to be aborted for it.
fn open_move(to: &str, state: &MoveState, status: MoveStatus) -> Option<OpenMove> {
    let is_promoted = matches!(state.phase, MovePhase::Promote | MovePhase::OpenTarget | MovePhase::Finalize);
    let is_demoted = is_promoted || state.phase == MovePhase::DemoteSource;
    let stage = match status {
        // What soaks is a replica that the map does not name.
        MoveStatus::Finished | MoveStatus::SourceKept | MoveStatus::FailoverInterrupted | MoveStatus::Promoted => {
            return None;
        }
        MoveStatus::FinishedElsewhere if !state.record.operation.creates_replica() => MoveStage::CutOver,
        // After a restart, a target that was not opened is a primary too.
        MoveStatus::CutOver if is_promoted => MoveStage::CutOver,
        MoveStatus::ReplicaBuilding => MoveStage::Copied,
        MoveStatus::Copying | MoveStatus::Undecided if !is_demoted => MoveStage::Copied,
        _ => MoveStage::Undecided,
    };
    Some(OpenMove { to: to.to_owned(), stage })
}

async fn probe_hosts(
    context: &RebalanceContext<'_>,
    targets: &BTreeMap<String, Vec<ProbeTarget>>,
) -> Result<ProbeResults> {
    let hosts: Vec<(&String, &Vec<ProbeTarget>)> = targets.iter().collect();
    let probe_host = async |(host, places): &(&String, &Vec<ProbeTarget>)| -> Result<Vec<ProbeResult>> {
        let credentials = context.hosts.credentials.clone();
        let survey =
            ReplicaProbeRequest { targets: (*places).clone(), credentials, journal_dir: default_journal_dir() };
        context.hosts.call_host(host, call::ProbeReplicas(survey), &|_, _| {}).await
    };
    let mut probes = ProbeResults::new();
    for ((host, _), answer) in hosts.iter().zip(context.hosts.fleet.map_parallel(&hosts, probe_host).await) {
        probes.extend(answer?.into_iter().map(|seen| (((*host).clone(), seen.shard), seen)));
    }
    Ok(probes)
}
