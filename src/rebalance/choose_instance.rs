//! The operator's choice between the instances of a move that recovery cannot decide: the other instance is archived,
//! then the chosen one is opened and the map published.

use anyhow::{Result, bail, ensure};
use dunlin_shards::ShardId;

use super::connected_hosts::ProgressFn;
use super::map_file::placement_after_move;
use super::resume::{map_with_primary_on, recorded_spec};
use super::{RebalanceContext, publish};
use crate::protocol::call;
use crate::protocol::shard::failover::{ArchivedInstance, InstanceRef};
use crate::protocol::shard::{InstanceChoice, MoveState, Operation, RecoveryResult};

/// A choice between the instances of a move, with their hosts.
#[derive(Clone, Debug)]
pub struct HostChoice {
    /// The choice as the target's host is asked for it.
    pub choice: InstanceChoice,
    /// Host of the instance that keeps its writes.
    pub chosen_host: String,
    /// Host of the other instance.
    pub discarded_host: String,
}

impl HostChoice {
    /// Returns the choice of the instance on a host.
    ///
    /// # Errors
    /// Returns an error if the move is none of a primary, or the host is neither its source nor its target.
    pub fn from_host(context: &RebalanceContext<'_>, state: &MoveState, host: &str) -> Result<Self> {
        let (shard, record) = (state.shard, &state.record);
        ensure!(
            matches!(record.operation, Operation::Relocate { .. }),
            "shard {shard}: the open operation is a {}; `dunlin shards resume` finishes it",
            record.operation.as_str()
        );
        let sides = context.hosts.host_at_address(&record.from).zip(context.hosts.host_at_address(&record.to));
        let Some((from, to)) = sides else {
            bail!("shard {shard}: {} or {} is not in the inventory", record.from, record.to)
        };
        let (chosen, discarded_host) = match host {
            _ if host == to => (&record.to, from),
            _ if host == from => (&record.from, to),
            _ => bail!("shard {shard} is being moved from {from} to {to}; {host} has no instance of it"),
        };
        let map = context.map_file.read()?;
        Ok(Self {
            choice: InstanceChoice { spec: recorded_spec(context, &map, state, to)?, chosen: chosen.clone() },
            chosen_host: host.to_owned(),
            discarded_host: discarded_host.to_owned(),
        })
    }

    /// Returns the shard.
    pub fn shard(&self) -> ShardId {
        self.choice.spec.header.shard
    }

    fn target_host(&self) -> &str {
        if self.choice.chooses_target() { &self.chosen_host } else { &self.discarded_host }
    }
}

/// Returns the reason why recovery cannot decide the move. Changes nothing.
///
/// # Errors
/// Returns an error if recovery can decide it, or an instance does not answer.
pub async fn assess_choice(context: &RebalanceContext<'_>, choice: &HostChoice) -> Result<String> {
    let call = call::AssessChoice(choice.choice.clone());
    let result = context.hosts.call_host(choice.target_host(), call, &|_, _| {}).await?;
    undecided_reason(choice, result)
}

/// Records the choice, stops the other instance and archives its files.
///
/// # Errors
/// Returns the errors of [`assess_choice`], or the error of the other instance's host.
pub async fn discard_other_instance(
    context: &RebalanceContext<'_>,
    choice: &HostChoice,
    on_progress: ProgressFn<'_>,
) -> Result<ArchivedInstance> {
    let call = call::ChooseInstance(choice.choice.clone());
    undecided_reason(choice, context.hosts.call_host(choice.target_host(), call, on_progress).await?)?;
    let (map, shard, host) = (context.map_file.read()?, choice.shard(), &choice.discarded_host);
    let request = InstanceRef {
        header: context.hosts.step_header(host, shard, &choice.choice.spec.header.run),
        address: choice.choice.discarded().clone(),
        primary: choice.choice.chosen.clone(),
        epoch: map.epoch.0,
        instance: context.desired_instance(&map_with_primary_on(&map, shard, host), shard, host)?,
    };
    context.hosts.call_host(host, call::DiscardInstance(request), on_progress).await
}

/// Opens the chosen instance, and publishes the map if it names another host.
///
/// # Errors
/// Returns an error if the instance cannot be opened, a replica does not follow it, or the map cannot be published.
pub async fn open_chosen_instance(
    context: &RebalanceContext<'_>,
    choice: &HostChoice,
    on_progress: ProgressFn<'_>,
) -> Result<()> {
    let call = call::OpenChosenInstance(choice.choice.clone());
    match context.hosts.call_host(choice.target_host(), call, on_progress).await? {
        RecoveryResult::Undecided { reason } => bail!("{reason}"),
        RecoveryResult::AtTarget { follow_ups, .. } if !follow_ups.is_empty() => bail!("{}", follow_ups.join("; ")),
        RecoveryResult::AtTarget { .. } | RecoveryResult::AtSource { .. } => {}
    }
    let (map, shard) = (context.map_file.read()?, choice.shard());
    if map.find_shard(shard).is_some_and(|entry| entry.host != choice.chosen_host) {
        publish::publish_map(context, &[placement_after_move(&map, shard, &choice.chosen_host)?]).await?;
    }
    Ok(())
}

fn undecided_reason(choice: &HostChoice, result: RecoveryResult) -> Result<String> {
    let (address, reason) = match result {
        RecoveryResult::Undecided { reason } => return Ok(reason),
        RecoveryResult::AtSource { reason } => (&choice.choice.spec.record.from, reason),
        RecoveryResult::AtTarget { reason, .. } => (&choice.choice.spec.record.to, reason),
    };
    bail!(
        "recovery can decide this move: {address} has all writes ({reason}); run `dunlin shards resume` without --keep"
    )
}
