//! Consumers of the shard map on a host, and their epochs.

use std::path::PathBuf;

use dunlin_shards::{InstanceAddress, ShardId};
use serde::{Deserialize, Serialize};

/// Describes a consumer of the map: a `shard_map` step of the playbook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapConsumer {
    /// Path of the map.
    pub file: PathBuf,
    /// URL that returns the `map_epoch` of the service; requested on this host.
    pub status_url: Option<String>,
    /// True to report the placements in the map too.
    #[serde(default)]
    pub with_placements: bool,
}

/// Placement of a shard in a consumer's map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedShard {
    /// The shard.
    pub shard: ShardId,
    /// Its primary.
    pub primary: InstanceAddress,
    /// Its replicas.
    pub replicas: Vec<InstanceAddress>,
}

/// Describes the observed state of a consumer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerState {
    /// Cluster and epoch of the file; `None` without a map.
    pub map_version: Option<(String, u64)>,
    /// Placements in the map, if requested.
    #[serde(default)]
    pub placements: Vec<PublishedShard>,
    /// The service that reads it.
    pub service: ConsumerService,
}

/// State of a service that reads the map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "service", rename_all = "snake_case")]
pub enum ConsumerService {
    /// The playbook sets no URL for the epoch.
    NotConfigured,
    /// The service routes by this epoch.
    Running {
        /// The epoch.
        epoch: u64,
    },
    /// No service listens at the URL.
    Down,
    /// A service listens, but returned no epoch.
    UnknownEpoch {
        /// Reason why the epoch is unknown.
        reason: String,
    },
}
