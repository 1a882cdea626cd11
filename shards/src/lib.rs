//! Slots, shard maps, epochs, routing and the Redis connections of a sharded service.
//!
//! In reading order: [`slot`] (where a key belongs), [`map`] (the map a person writes), [`routing`] (the map a service
//! reads), [`connections`] (the connections of a service). Used by the dunlin command line and by services;
//! knows neither inventories nor web frameworks.

pub mod address;
pub mod connections;
pub mod map;
pub mod routing;
pub mod slot;

pub use address::{InstanceAddress, InvalidAddress};
pub use connections::{AppliedState, ConnectionOptions, RetryPolicy, ShardConnections, ShardError, build_client};
pub use map::{Epoch, MapError, Shard, ShardId, ShardMap, ShardPlacement};
pub use routing::{Route, Routing, RoutingError};
pub use slot::{SLOT_COUNT, Slot, SlotRange, slot_for_key};
