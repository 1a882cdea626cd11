//! The inputs of a rebalance: connected hosts, the authored map, the templates of instances, and options.

use anyhow::{Context, Result};
use dunlin_shards::{ShardId, ShardMap};
use serde_json::Value;

use super::connected_hosts::ConnectedHosts;
use super::instance_templates::InstanceTemplates;
use super::map_file::{MapFile, map_after_move};
use crate::protocol::shard::{MoveLimits, MoveRecord, MoveSpec, Operation};
use crate::protocol::throttle::{ThrottleLimits, ThrottleOverrides};

/// The inputs of a rebalance.
pub struct RebalanceContext<'a> {
    /// The connected hosts.
    pub hosts: ConnectedHosts<'a>,
    /// The authored map.
    pub map_file: MapFile,
    /// The templates of instances and maps.
    pub templates: InstanceTemplates<'a>,
    /// The options.
    pub options: MoveOptions,
}

/// Options of all moves of a run.
#[derive(Clone, Debug)]
pub struct MoveOptions {
    /// Operator, for the journals of the hosts.
    pub operator: String,
    /// Limits of the throttle that the command line sets.
    pub throttle: ThrottleOverrides,
    /// Allow a move that re-encodes data because the target's listpack limits differ from the source's.
    pub allow_reencoding: bool,
}

impl MoveOptions {
    /// Returns the limits of a move.
    pub fn move_limits(&self) -> MoveLimits {
        MoveLimits { allow_reencoding: self.allow_reencoding, ..MoveLimits::default() }
    }

    /// Returns the limits that protect the source's clients, of a move that begins.
    pub fn throttle_limits(&self) -> ThrottleLimits {
        self.throttle.apply_to(ThrottleLimits::default())
    }
}

impl RebalanceContext<'_> {
    /// Returns the desired instance of a shard on a connected host under a map, and offers its contents to the host.
    ///
    /// # Errors
    /// Returns an error if the playbook makes no such instance there, or the host is not connected.
    pub fn desired_instance(&self, map: &ShardMap, shard: ShardId, host: &str) -> Result<Value> {
        self.templates.desired_instance(map, shard, host, self.hosts.get_session(host)?)
    }

    /// Returns the move of a shard as the target's host is asked for it.
    ///
    /// # Errors
    /// Returns an error if the playbook makes no such instance there.
    pub fn move_spec(&self, map: &ShardMap, run: &str, shard: ShardId, to: &str) -> Result<MoveSpec> {
        let from = map.find_shard(shard).with_context(|| format!("there is no shard {shard}"))?;
        let after = map_after_move(map, shard, to)?;
        let address = |host: &str| self.hosts.instance_address(map, shard, host);
        let others = from.replicas.iter().filter(|replica| *replica != to);
        let other_replicas = others.map(|host| address(host)).collect::<Result<_>>()?;
        Ok(MoveSpec {
            header: self.hosts.step_header(to, shard, run),
            record: MoveRecord {
                operation: Operation::Relocate { other_replicas },
                from: address(&from.host)?,
                to: address(to)?,
                epoch: after.epoch.0,
                app_user: from.id.acl_user(),
                instance: self.desired_instance(&after, shard, to)?,
                min_replicas: None,
                operator: self.options.operator.clone(),
                throttle: self.options.throttle_limits(),
            },
            source_file_requires_replicas: false,
            limits: self.options.move_limits(),
        })
    }
}
