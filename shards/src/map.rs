//! The authored shard map, `inventories/<env>/shards.toml`: which host runs which shard, written by people and by
//! moves.
//!
//! Reading it finds all mistakes at once, each with its place; editing it keeps comments and order.

use std::{fmt, ops::Range};

use serde::{Deserialize, Serialize};

use crate::slot::{Slot, SlotRange};

mod check;
mod coverage;
pub mod edit;
mod parse;
mod raw_shard;

pub(crate) use coverage::SlotCoverage;

/// The version of a map: one more with every published change. A consumer never accepts a lower one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(
    /// The number, at most `i64::MAX` because TOML has no larger integers.
    pub u64,
);

impl Epoch {
    /// Returns the epoch of the next published change.
    pub fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a shard. It listens on `port_base + id` wherever it runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShardId(
    /// The number.
    pub u16,
);

impl ShardId {
    /// Returns the name of the shard's own ACL user, `s017` for shard 17. With a user per shard, a client with an old
    /// map cannot write to another shard that took over a port.
    pub fn acl_user(self) -> String {
        format!("s{:03}", self.0)
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for ShardId {
    type Err = std::num::ParseIntError;

    /// Reads the number.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// A whole map: every slot belongs to exactly one shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardMap {
    /// The identity of the cluster; a consumer never accepts the map of another one.
    pub cluster: String,
    /// The version of this map.
    pub epoch: Epoch,
    /// Shard `n` listens on `port_base + n`.
    pub port_base: u16,
    /// Desired number of replicas per shard, if the map sets it.
    pub replicas: Option<u16>,
    /// The shards, in the order of the file.
    pub shards: Vec<Shard>,
}

/// A shard and its placement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// Its number, unique in the map.
    pub id: ShardId,
    /// The slots it owns, in the order of the file.
    pub slots: Vec<SlotRange>,
    /// The host of the primary, by its inventory name.
    pub host: String,
    /// The hosts of its replicas, by their inventory names; the primary's is not among them.
    pub replicas: Vec<String>,
    /// The planner must not move the shard.
    pub pinned: bool,
}

/// Actual or desired placement of a shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardPlacement {
    /// The shard.
    pub shard: ShardId,
    /// The host of the primary, by its inventory name.
    pub host: String,
    /// The hosts of its replicas.
    pub replicas: Vec<String>,
}

/// An error in a map.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct MapError {
    /// Place as byte offsets into the text; `None` if the error has no single place.
    pub span: Option<Range<usize>>,
    /// Description of the error.
    pub message: String,
    /// Suggested correction.
    pub help: Option<String>,
}

impl Shard {
    /// Returns the placement of the shard.
    pub fn placement(&self) -> ShardPlacement {
        ShardPlacement { shard: self.id, host: self.host.clone(), replicas: self.replicas.clone() }
    }
}

impl ShardMap {
    /// Reads a map from the text of the authored file; `Err` holds every mistake, in the order of the text.
    pub fn parse(text: &str) -> Result<ShardMap, Vec<MapError>> {
        parse::parse_map(text)
    }

    /// Returns the shard that owns a slot. `None` cannot happen for a map that was parsed.
    pub fn shard_for_slot(&self, slot: Slot) -> Option<&Shard> {
        self.shards.iter().find(|shard| shard.slots.iter().any(|range| range.contains(slot)))
    }

    /// Returns the shard with this number.
    pub fn find_shard(&self, id: ShardId) -> Option<&Shard> {
        self.shards.iter().find(|shard| shard.id == id)
    }

    /// Returns the shards whose primary runs on `host`.
    pub fn shards_on<'a>(&'a self, host: &'a str) -> impl Iterator<Item = &'a Shard> {
        self.shards.iter().filter(move |shard| shard.host == host)
    }

    /// Returns the shards that have a replica on `host`.
    pub fn replicas_on<'a>(&'a self, host: &'a str) -> impl Iterator<Item = &'a Shard> {
        self.shards.iter().filter(move |shard| shard.replicas.iter().any(|replica| replica == host))
    }

    /// Returns the shards that have fewer replicas than the map sets.
    pub fn underreplicated_shards(&self) -> impl Iterator<Item = &Shard> {
        self.shards.iter().filter(|shard| shard.replicas.len() < usize::from(self.replicas.unwrap_or(0)))
    }

    /// Returns the port on which a shard listens, on every host.
    ///
    /// For a parsed map every shard's port fits; a number that is in no map saturates at 65535.
    pub fn port_of(&self, id: ShardId) -> u16 {
        self.port_base.saturating_add(id.0)
    }
}
