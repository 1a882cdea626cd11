//! A map at one epoch, ready for use: the owner of each slot, and the nodes of each shard.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::{
    ConnectionOptions,
    shard_client::{NodeRole, ShardClient},
};
use crate::{
    map::ShardId,
    routing::{Route, Routing, RoutingError},
    slot::Slot,
};

/// A map in use.
pub(super) struct RoutingTable {
    pub(super) routing: Arc<Routing>,
    slot_owners: Vec<u16>,
    targets: Vec<Arc<ShardTarget>>,
}

/// A shard and the destination of its requests.
pub(super) struct ShardTarget {
    pub(super) id: ShardId,
    pub(super) user: String,
    primary: Arc<ShardClient>,
    current_client: RwLock<Arc<ShardClient>>,
    /// Nodes that a ROLE named, stored for the back-off of their connections.
    learned_clients: Mutex<Vec<Arc<ShardClient>>>,
    /// Lock of the role query: one task queries, the others wait and use its result.
    role_query: tokio::sync::Mutex<()>,
}

impl RoutingTable {
    /// Makes a map usable. Connections of an earlier map to the same nodes go on; those to other nodes end with it.
    pub(super) fn new(
        routing: Routing,
        options: &ConnectionOptions,
        earlier: Option<&RoutingTable>,
    ) -> Result<RoutingTable, RoutingError> {
        let owners = routing.slot_owners()?;
        let target = |route: &Route| {
            let earlier = earlier.and_then(|table| table.targets.iter().find(|target| target.id == route.id));
            ShardTarget::new(route, options, earlier.map(Arc::as_ref)).map(Arc::new)
        };
        let targets = routing.shards.iter().map(target).collect::<Result<_, _>>()?;
        Ok(RoutingTable { routing: Arc::new(routing), slot_owners: owners, targets })
    }

    /// Returns the owner of a slot. A table is only built from a map in which each slot has an owner.
    pub(super) fn target_for_slot(&self, slot: Slot) -> &Arc<ShardTarget> {
        &self.targets[usize::from(self.slot_owners[usize::from(slot.0)])]
    }

    /// Returns the shards, by number.
    pub(super) fn targets(&self) -> &[Arc<ShardTarget>] {
        &self.targets
    }
}

impl ShardTarget {
    fn new(
        route: &Route,
        options: &ConnectionOptions,
        earlier: Option<&ShardTarget>,
    ) -> Result<ShardTarget, RoutingError> {
        let earlier = earlier.filter(|target| target.user == route.user);
        let primary = match earlier.and_then(|target| target.known_client(&route.primary)) {
            Some(node) => node,
            None => Arc::new(ShardClient::new(&route.primary, &route.user, options).ok_or_else(|| {
                RoutingError::Invalid(format!("\"{}\" of shard {} is not host:port", route.primary, route.id))
            })?),
        };
        Ok(ShardTarget {
            id: route.id,
            user: route.user.clone(),
            current_client: RwLock::new(primary.clone()),
            primary,
            learned_clients: Mutex::new(Vec::new()),
            role_query: tokio::sync::Mutex::new(()),
        })
    }

    /// Returns the client that currently receives requests.
    pub(super) fn active_client(&self) -> Arc<ShardClient> {
        self.current_client.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks `node` for its role after it refused a request, and sends further requests where that points. If it does
    /// not answer, a learned owner is forgotten, and the map's primary is queried next. Returns whether the destination
    /// of requests has changed.
    pub(super) async fn update_from_role(&self, node: &Arc<ShardClient>, options: &ConnectionOptions) -> bool {
        let _asking = self.role_query.lock().await;
        if !Arc::ptr_eq(&self.active_client(), node) {
            return false;
        }
        let next = match node.query_role().await {
            Some(NodeRole::Primary) => return false,
            Some(NodeRole::ReplicaOf(address)) => match self.client_for(&address, options) {
                Some(next) => next,
                None => return false,
            },
            None => self.primary.clone(),
        };
        let moved = !Arc::ptr_eq(&next, node);
        *self.current_client.write().unwrap_or_else(PoisonError::into_inner) = next;
        moved
    }

    fn known_client(&self, address: &str) -> Option<Arc<ShardClient>> {
        if self.primary.address == address {
            return Some(self.primary.clone());
        }
        let learned = self.learned_clients.lock().unwrap_or_else(PoisonError::into_inner);
        learned.iter().find(|node| node.address == address).cloned()
    }

    fn client_for(&self, address: &str, options: &ConnectionOptions) -> Option<Arc<ShardClient>> {
        if let Some(node) = self.known_client(address) {
            return Some(node);
        }
        let node = Arc::new(ShardClient::new(address, &self.user, options)?);
        self.learned_clients.lock().unwrap_or_else(PoisonError::into_inner).push(node.clone());
        Some(node)
    }
}
