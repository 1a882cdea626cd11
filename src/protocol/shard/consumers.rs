//! Who reads the map on a host, and which epoch they have.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A consumer of the map: a `shard_map` step of the playbook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapConsumer {
    /// Where the map stands.
    pub file: PathBuf,
    /// Where the service that reads it tells its `map_epoch`; asked on this host.
    pub status_url: Option<String>,
    /// Is it to be told where its map has the shards?
    #[serde(default)]
    pub with_placements: bool,
}

/// Where a consumer's map has the copies of a shard, `ip:port`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedShard {
    /// The shard.
    pub shard: u32,
    /// Its primary.
    pub primary: String,
    /// Its replicas.
    pub replicas: Vec<String>,
}

/// What a consumer has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerState {
    /// Cluster and epoch of the file; nothing where there is no map.
    pub map_version: Option<(String, u64)>,
    /// Where it has the shards, where that was asked for.
    #[serde(default)]
    pub placements: Vec<PublishedShard>,
    /// The service that reads it.
    pub service: ConsumerService,
}

/// A service that reads the map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "service", rename_all = "snake_case")]
pub enum ConsumerService {
    /// The playbook does not say where to ask.
    NotConfigured,
    /// It routes by that epoch.
    Running {
        /// The epoch.
        epoch: u64,
    },
    /// Nobody listens there.
    Down,
    /// Somebody listens, but what the epoch is was not told.
    UnknownEpoch {
        /// What was found.
        reason: String,
    },
}
