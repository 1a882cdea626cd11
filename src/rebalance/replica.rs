//! Creates replicas: where there was none, or in the place of another one. The primary serves all the while.
//!
//! The new replica is created, synced and verified; then the map names it; then the one that it replaces is retired,
//! which is a live replica up to then. If a run is interrupted before the map names the new one, it is finished or
//! removed; after that, the replaced one is an orphan instance, which `shards repair` retires.

use anyhow::{Context, Result, bail};
use dunlin_shards::{InstanceAddress, ShardId, ShardMap, ShardPlacement};
use tokio::sync::Mutex;

use super::connected_hosts::ProgressFn;
use super::finish::{ApplyOptions, FinishContext, MoveResult, Retirement, report_phase, retire_instance};
use super::{RebalanceContext, publish};
use crate::protocol::call;
use crate::protocol::shard::{MinReplicasRequest, MoveRecord, MoveSpec, MoveState, Operation, PreflightRequest};

/// A replica to create.
#[derive(Clone, Copy, Debug)]
pub struct ReplicaChange<'a> {
    /// The shard.
    pub shard: ShardId,
    /// The host whose replica it replaces.
    pub replaced_host: Option<&'a str>,
    /// The host that it is created on.
    pub new_host: &'a str,
}

/// Creates a replica; the one that it replaces is retired once the map is published.
///
/// # Errors
/// Returns an error if a step failed; a repeated call resumes there.
pub async fn create_replica(
    context: &RebalanceContext<'_>,
    change: ReplicaChange<'_>,
    run: &str,
    finish: &FinishContext<'_>,
) -> Result<MoveResult> {
    let map = context.map_file.read()?;
    copy_and_finish(context, replica_spec(context, &map, run, change)?, change, finish).await
}

async fn copy_and_finish(
    context: &RebalanceContext<'_>,
    spec: MoveSpec,
    change: ReplicaChange<'_>,
    finish: &FinishContext<'_>,
) -> Result<MoveResult> {
    let begin = std::time::Instant::now();
    let mut result = MoveResult::default();
    let copied =
        context.hosts.call_host(change.new_host, call::CreateReplica(spec.clone()), finish.on_progress).await?;
    (result.bytes, result.gap_us) = (copied.bytes, copied.longest_wait_us());
    result.retire_blocked = finish_replica(context, &spec, change, finish).await?;
    result.seconds = begin.elapsed().as_secs_f64();
    Ok(result)
}

/// Publishes the map after the copy, closes the new replica's journal and retires the old one. Returns the reason if
/// the retirement has to wait.
async fn finish_replica(
    context: &RebalanceContext<'_>,
    spec: &MoveSpec,
    change: ReplicaChange<'_>,
    finish: &FinishContext<'_>,
) -> Result<Option<String>> {
    report_phase(spec, change.new_host, "publish", finish.on_progress);
    let map = {
        let _turn = finish.publish_lock.lock().await;
        let current = context.map_file.read()?;
        publish::publish_map(context, &[placement_with_replica(&current, change)?]).await?
    };
    let mut named = spec.clone();
    named.record.epoch = map.epoch.0;
    context.hosts.call_host(change.new_host, call::CommitReplica(named), &|_, _| {}).await?;
    let retire_blocked = match change.replaced_host {
        Some(old) => {
            report_phase(spec, change.new_host, "retire", finish.on_progress);
            let retirement = orphan_retirement(context, &map, &spec.header.run, spec.header.shard, old)?;
            retire_instance(context, &map, &retirement, finish.options).await?
        }
        None => None,
    };
    report_phase(spec, change.new_host, "done", finish.on_progress);
    Ok(retire_blocked)
}

/// A replica that the map does not name, on its way out.
///
/// # Errors
/// Returns an error if the playbook makes no instances on that host.
pub fn orphan_retirement<'a>(
    context: &RebalanceContext<'_>,
    map: &ShardMap,
    run: &'a str,
    shard: ShardId,
    host: &'a str,
) -> Result<Retirement<'a>> {
    let entry = map.find_shard(shard).with_context(|| format!("there is no shard {shard}"))?;
    let map_with_orphan = map_with_replicas(
        map,
        &placement_with_replica(map, ReplicaChange { shard, replaced_host: None, new_host: host })?,
    );
    let instance = context.desired_instance(&map_with_orphan, shard, host)?;
    Ok(Retirement { run, shard, host, primary: context.hosts.instance_address(map, shard, &entry.host)?, instance })
}

/// The making of a replica as its host is asked for it.
///
/// # Errors
/// Returns an error if the playbook makes no such instance there.
pub fn replica_spec(
    context: &RebalanceContext<'_>,
    map: &ShardMap,
    run: &str,
    change: ReplicaChange<'_>,
) -> Result<MoveSpec> {
    let ReplicaChange { shard, replaced_host: old, new_host: new } = change;
    let entry = map.find_shard(shard).with_context(|| format!("there is no shard {shard}"))?;
    let after = map_with_replicas(map, &placement_with_replica(map, change)?);
    Ok(MoveSpec {
        header: context.hosts.step_header(new, shard, run),
        record: MoveRecord {
            operation: Operation::CreateReplica {
                replaces: old.map(|host| context.hosts.instance_address(map, shard, host)).transpose()?,
            },
            from: context.hosts.instance_address(map, shard, &entry.host)?,
            to: context.hosts.instance_address(map, shard, new)?,
            epoch: map.epoch.next().0,
            app_user: entry.id.acl_user(),
            instance: context.desired_instance(&after, shard, new)?,
            min_replicas: None,
            operator: context.options.operator.clone(),
            throttle: context.options.throttle_limits(),
        },
        source_file_requires_replicas: false,
        limits: context.options.move_limits(),
    })
}

/// Returns the check of a new replica before it is created.
///
/// # Errors
/// Returns an error if the playbook makes no such instance there.
pub fn preflight_request(
    context: &RebalanceContext<'_>,
    map: &ShardMap,
    run: &str,
    change: ReplicaChange<'_>,
) -> Result<PreflightRequest> {
    let placement = current_placement(map, change.shard)?;
    let source_replicas = placement
        .replicas
        .iter()
        .map(|host| context.hosts.instance_address(map, change.shard, host))
        .collect::<Result<_>>()?;
    let spec = replica_spec(context, map, run, change)?;
    Ok(PreflightRequest { spec, source_replicas, pending_changes: Vec::new() })
}

/// A shard's copies with a replica on the new host, in the old one's place.
///
/// # Errors
/// Returns an error if there is no such shard, or its primary is on that host.
pub fn placement_with_replica(map: &ShardMap, change: ReplicaChange<'_>) -> Result<ShardPlacement> {
    let ReplicaChange { shard, replaced_host: old, new_host: new } = change;
    let mut placement = current_placement(map, shard)?;
    if placement.host == new {
        bail!("the primary of shard {shard} is on {new}; a replica is made on another host");
    }
    let is_there = placement.replicas.iter().any(|host| host == new);
    match placement.replicas.iter().position(|host| Some(host.as_str()) == old) {
        Some(at) if is_there => drop(placement.replicas.remove(at)),
        Some(at) => placement.replicas[at] = new.to_owned(),
        None if is_there => {}
        None => placement.replicas.push(new.to_owned()),
    }
    Ok(placement)
}

fn current_placement(map: &ShardMap, shard: ShardId) -> Result<ShardPlacement> {
    let entry = map.find_shard(shard).with_context(|| format!("there is no shard {shard}"))?;
    Ok(entry.placement())
}

/// The map with a shard's copies there, and the next epoch.
fn map_with_replicas(map: &ShardMap, placement: &ShardPlacement) -> ShardMap {
    let mut after = map.clone();
    for entry in after.shards.iter_mut().filter(|entry| entry.id == placement.shard) {
        entry.replicas.clone_from(&placement.replicas);
    }
    after.epoch = after.epoch.next();
    after
}

/// Sets `min-replicas-to-write` of a shard's primary to the playbook's `min_replicas`, once the replicas are attached.
///
/// # Errors
/// Returns an error if too few replicas are attached, or the instance is not a primary.
pub async fn set_min_replicas(context: &RebalanceContext<'_>, map: &ShardMap, shard: ShardId, run: &str) -> Result<()> {
    let entry = map.find_shard(shard).with_context(|| format!("there is no shard {shard}"))?;
    let host = &entry.host;
    let instance = context.desired_instance(map, shard, host)?;
    let request = MinReplicasRequest {
        header: context.hosts.step_header(host, shard, run),
        address: context.hosts.instance_address(map, shard, host)?,
        replicas: required_replicas(&instance),
        instance,
    };
    context.hosts.call_host(host, call::SetMinReplicas(request), &|_, _| {}).await
}

/// Returns the `min_replicas` of an instance of the playbook.
pub fn required_replicas(instance: &serde_json::Value) -> u32 {
    instance["min_replicas"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The hosts that the making of a replica concerns, by its journal: that of the one which is replaced, and its own.
///
/// # Errors
/// Returns an error if one of the hosts is not in the inventory.
pub fn find_replica_hosts<'g>(
    context: &'g RebalanceContext<'_>,
    state: &MoveState,
) -> Result<(Option<&'g str>, &'g str)> {
    let host = |address: &InstanceAddress| {
        context
            .hosts
            .host_at_address(address)
            .with_context(|| format!("shard {}: {address} is not in the inventory", state.shard))
    };
    let Operation::CreateReplica { replaces } = &state.record.operation else {
        bail!("shard {}: the move to {} creates no replica", state.shard, state.record.to)
    };
    Ok((replaces.as_ref().map(host).transpose()?, host(&state.record.to)?))
}

/// Brings the making of a replica to its end. Returns why the replaced one could not be retired yet, where that is so.
///
/// # Errors
/// Returns an error if its primary has changed before the map named it, or a step failed.
pub async fn resume_replica(
    context: &RebalanceContext<'_>,
    state: &MoveState,
    on_progress: ProgressFn<'_>,
) -> Result<Option<String>> {
    let map = context.map_file.read()?;
    let (replaced_host, new_host) = find_replica_hosts(context, state)?;
    let change = ReplicaChange { shard: state.shard, replaced_host, new_host };
    let mut spec = replica_spec(context, &map, &state.run, change)?;
    spec.record.throttle = context.options.throttle.apply_to(state.record.throttle);
    let finish = FinishContext {
        publish_lock: &Mutex::new(()),
        options: ApplyOptions { ignore_unknown_epochs: true, ..ApplyOptions::default() },
        on_progress,
    };
    if placement_with_replica(&map, change)? == current_placement(&map, state.shard)? {
        return finish_replica(context, &spec, change, &finish).await;
    }
    if spec.record.from != state.record.from {
        let MoveRecord { from, to, .. } = &state.record;
        bail!(
            "shard {} has moved to {}, but {to} follows {from}; dunlin shards abort removes that replica",
            state.shard,
            spec.record.from
        );
    }
    Ok(copy_and_finish(context, spec, change, &finish).await?.retire_blocked)
}

/// Removes a replica that the map does not name yet.
///
/// # Errors
/// Returns an error if a later map than ours is out and may name it, or a step failed.
pub async fn abort_replica(context: &RebalanceContext<'_>, state: &MoveState) -> Result<()> {
    let map = context.map_file.read()?;
    let (replaced_host, new_host) = find_replica_hosts(context, state)?;
    let published = publish::published_epoch(context, &map).await?;
    if published > map.epoch.0 {
        bail!(
            "epoch {published} is published, {} has only {}: bring it up to date, it may name the replica",
            context.map_file.path.display(),
            map.epoch
        );
    }
    let change = ReplicaChange { shard: state.shard, replaced_host, new_host };
    let mut spec = replica_spec(context, &map, &state.run, change)?;
    spec.record.from.clone_from(&state.record.from);
    context.hosts.call_host(new_host, call::Abort(spec), &|_, _| {}).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_replaces_another() {
        let text = "cluster=\"x\"\nepoch=1\nport_base=7000\n[[shard]]\nid=0\nslots=\"0-16383\"\nhost=\"a\"\nreplicas=[\"b\",\"c\"]\n";
        let map = ShardMap::parse(text).unwrap();
        let replicas = |old, new| {
            placement_with_replica(&map, ReplicaChange { shard: ShardId(0), replaced_host: old, new_host: new })
                .map(|place| place.replicas)
        };
        assert_eq!(replicas(Some("b"), "d").unwrap(), ["d", "c"]);
        assert_eq!(replicas(None, "d").unwrap(), ["b", "c", "d"]);
        // Asked again, and after the map was published.
        assert_eq!(replicas(Some("x"), "b").unwrap(), ["b", "c"]);
        assert_eq!(replicas(Some("b"), "c").unwrap(), ["c"]);
        let refused = replicas(Some("b"), "a").unwrap_err();
        crate::messages::check("replica-on-its-primary", [("b to a", refused)]);
    }
}
