//! Who reads the map on a host, and which epoch they have.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A consumer of the map: a `shard_map` step of the playbook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consumer {
    /// Where the map stands.
    pub file: PathBuf,
    /// Where the service that reads it tells its `map_epoch`; asked on this host.
    pub version_url: Option<String>,
    /// Is it to be told where its map has the shards?
    #[serde(default)]
    pub with_places: bool,
}

/// Where a consumer's map has the copies of a shard, `ip:port`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
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
    pub file: Option<(String, u64)>,
    /// Where it has the shards, where that was asked for.
    #[serde(default)]
    pub places: Vec<Published>,
    /// The service that reads it.
    pub service: Service,
}

/// A service that reads the map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "service", rename_all = "snake_case")]
pub enum Service {
    /// The playbook does not say where to ask.
    NotAsked,
    /// It routes by that epoch.
    Runs {
        /// The epoch.
        epoch: u64,
    },
    /// Nobody listens there.
    Down,
    /// Somebody listens, but what the epoch is was not told.
    Unclear {
        /// What was found.
        why: String,
    },
}
