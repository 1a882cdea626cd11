//! Rebalancing: moves of shards between hosts.

pub mod host;
