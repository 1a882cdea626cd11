//! A map at one epoch, ready for use: the owner of each slot, and the nodes of each shard.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::{
    Options,
    node::{Node, Role},
};
use crate::{
    map::ShardId,
    routing::{Route, Routing, RoutingError},
    slot::Slot,
};

/// A map in use.
pub(super) struct Table {
    pub(super) routing: Arc<Routing>,
    owners: Vec<u16>,
    targets: Vec<Arc<Target>>,
}

/// One shard, and where its requests go.
pub(super) struct Target {
    pub(super) id: ShardId,
    pub(super) user: String,
    primary: Arc<Node>,
    current: RwLock<Arc<Node>>,
    /// The nodes that a ROLE named, kept for the back-off of their connections.
    learned: Mutex<Vec<Arc<Node>>>,
    /// One asks, the others wait and find the answer.
    asking: tokio::sync::Mutex<()>,
}

impl Table {
    /// Makes a map usable. Connections of an earlier map to the same nodes go on; those to other nodes end with it.
    pub(super) fn new(routing: Routing, options: &Options, earlier: Option<&Table>) -> Result<Table, RoutingError> {
        let owners = routing.owners()?;
        let target = |route: &Route| {
            let earlier = earlier.and_then(|table| table.targets.iter().find(|target| target.id == route.id));
            Target::new(route, options, earlier.map(Arc::as_ref)).map(Arc::new)
        };
        let targets = routing.shards.iter().map(target).collect::<Result<_, _>>()?;
        Ok(Table { routing: Arc::new(routing), owners, targets })
    }

    /// The owner of a slot. A table is only made of a map in which each slot has one.
    pub(super) fn target(&self, slot: Slot) -> &Arc<Target> {
        &self.targets[usize::from(self.owners[usize::from(slot.0)])]
    }

    /// All shards, by number.
    pub(super) fn targets(&self) -> &[Arc<Target>] {
        &self.targets
    }
}

impl Target {
    fn new(route: &Route, options: &Options, earlier: Option<&Target>) -> Result<Target, RoutingError> {
        let earlier = earlier.filter(|target| target.user == route.user);
        let primary = match earlier.and_then(|target| target.known(&route.primary)) {
            Some(node) => node,
            None => Arc::new(Node::new(&route.primary, &route.user, options).ok_or_else(|| {
                RoutingError::Invalid(format!("\"{}\" of shard {} is not host:port", route.primary, route.id))
            })?),
        };
        Ok(Target {
            id: route.id,
            user: route.user.clone(),
            current: RwLock::new(primary.clone()),
            primary,
            learned: Mutex::new(Vec::new()),
            asking: tokio::sync::Mutex::new(()),
        })
    }

    /// Where requests go now.
    pub(super) fn node(&self) -> Arc<Node> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// After a refusal at `node`: asks it for its role, and goes where that points. Where it says nothing, a learned
    /// owner is forgotten, and the map's primary is the next to be asked. Returns whether requests go elsewhere now.
    pub(super) async fn reconsider(&self, node: &Arc<Node>, options: &Options) -> bool {
        let _asking = self.asking.lock().await;
        if !Arc::ptr_eq(&self.node(), node) {
            return false;
        }
        let next = match node.role().await {
            Some(Role::Master) => return false,
            Some(Role::ReplicaOf(address)) => match self.known_or_new(&address, options) {
                Some(next) => next,
                None => return false,
            },
            None => self.primary.clone(),
        };
        let moved = !Arc::ptr_eq(&next, node);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = next;
        moved
    }

    fn known(&self, address: &str) -> Option<Arc<Node>> {
        if self.primary.address == address {
            return Some(self.primary.clone());
        }
        let learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        learned.iter().find(|node| node.address == address).cloned()
    }

    fn known_or_new(&self, address: &str, options: &Options) -> Option<Arc<Node>> {
        if let Some(node) = self.known(address) {
            return Some(node);
        }
        let node = Arc::new(Node::new(address, &self.user, options)?);
        self.learned.lock().unwrap_or_else(PoisonError::into_inner).push(node.clone());
        Some(node)
    }
}
