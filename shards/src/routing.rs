//! The map as services read it: addresses instead of inventory names, one line per shard, published by dunlin with an
//! atomic rename (for example as `/etc/timeline/shards.toml`).

use std::{fmt::Write, path::Path};

use serde::Deserialize;

use crate::{
    address::InstanceAddress,
    map::{Epoch, ShardId, ShardMap, SlotCoverage},
    slot::SlotRange,
};

const PUBLISHED_HEADER: &str = "# published by dunlin; edits are overwritten\n";

/// Addresses of the shards of a cluster at one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routing {
    /// The identity of the cluster.
    pub cluster: String,
    /// The version of this routing.
    pub epoch: Epoch,
    /// The shards, by number. Their slots cover `0-16383` without overlap.
    pub shards: Vec<Route>,
}

/// Addresses of one shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The shard.
    pub id: ShardId,
    /// The slots it owns.
    pub slots: Vec<SlotRange>,
    /// The address of the primary, `10.0.0.1:7000` or `[fd00::1]:7000`.
    pub primary: String,
    /// The addresses of the replicas.
    pub replicas: Vec<String>,
    /// The ACL user that may use this shard, and no other.
    pub user: String,
}

/// Error of a routing that could not be built.
#[derive(Debug, thiserror::Error)]
pub enum RoutingError {
    /// A host of the map has no address.
    #[error("host {host} of shard {shard} has no address")]
    NoAddress {
        /// The shard that the map puts there.
        shard: ShardId,
        /// The host.
        host: String,
    },
    /// The text is not TOML of the right shape.
    #[error("the published shard map is not readable")]
    Toml(#[from] toml::de::Error),
    /// The text is TOML, but not a map.
    #[error("the published shard map is not valid: {0}")]
    Invalid(String),
    /// The CA for TLS has no valid certificate.
    #[error("the CA for TLS to the shards is not valid")]
    InvalidCa(#[source] redis::RedisError),
    /// The file cannot be read.
    #[error("the published shard map {path} could not be read")]
    Read {
        /// The file.
        path: String,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
}

#[derive(Deserialize)]
struct PublishedMap {
    cluster: String,
    epoch: Epoch,
    shard: Vec<PublishedRoute>,
}

#[derive(Deserialize)]
struct PublishedRoute {
    id: ShardId,
    slots: String,
    primary: String,
    #[serde(default)]
    replicas: Vec<String>,
    user: String,
}

impl Routing {
    /// Builds the routing of an authored map. `address_of` gives the address of an inventory host (without a port), as
    /// services reach it; a host without one is an error.
    pub fn from_map(map: &ShardMap, address_of: impl Fn(&str) -> Option<String>) -> Result<Routing, RoutingError> {
        let locate = |id: ShardId, host: &str| match address_of(host) {
            Some(address) => Ok(InstanceAddress::new(address, map.port_of(id)).to_string()),
            None => Err(RoutingError::NoAddress { shard: id, host: host.to_owned() }),
        };
        let mut shards = Vec::with_capacity(map.shards.len());
        for shard in &map.shards {
            shards.push(Route {
                id: shard.id,
                slots: shard.slots.clone(),
                primary: locate(shard.id, &shard.host)?,
                replicas: shard.replicas.iter().map(|host| locate(shard.id, host)).collect::<Result<_, _>>()?,
                user: shard.id.acl_user(),
            });
        }
        shards.sort_by_key(|route| route.id);
        Ok(Routing { cluster: map.cluster.clone(), epoch: map.epoch, shards })
    }

    /// Returns the text to publish: one line per shard, the same for the same routing.
    pub fn to_toml(&self) -> String {
        let mut text = String::from(PUBLISHED_HEADER);
        let quote = |value: &str| toml::Value::String(value.to_owned()).to_string();
        // writing to a String cannot fail
        let _ = writeln!(text, "cluster = {}\nepoch = {}\nshard = [", quote(&self.cluster), self.epoch);
        for route in &self.shards {
            let replicas: Vec<String> = route.replicas.iter().map(|replica| quote(replica)).collect();
            let _ = writeln!(
                text,
                "  {{ id = {}, slots = {}, primary = {}, replicas = [{}], user = {} }},",
                route.id,
                quote(&SlotRange::format_list(&route.slots)),
                quote(&route.primary),
                replicas.join(", "),
                quote(&route.user),
            );
        }
        text.push_str("]\n");
        text
    }

    /// Reads what [`Routing::to_toml`] writes. Keys it does not know are left alone: an older service reads a newer
    /// file.
    pub fn parse(text: &str) -> Result<Routing, RoutingError> {
        let file: PublishedMap = toml::from_str(text)?;
        let mut shards = file.shard.into_iter().map(PublishedRoute::into_route).collect::<Result<Vec<_>, _>>()?;
        shards.sort_by_key(|route| route.id);
        let routing = Routing { cluster: file.cluster, epoch: file.epoch, shards };
        routing.check_routes()?;
        Ok(routing)
    }

    /// Reads a published file.
    pub fn load_file(path: &Path) -> Result<Routing, RoutingError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| RoutingError::Read { path: path.display().to_string(), source })?;
        Routing::parse(&text)
    }

    /// Returns the route of a shard.
    pub fn find_route(&self, id: ShardId) -> Option<&Route> {
        self.shards.binary_search_by_key(&id, |route| route.id).ok().map(|index| &self.shards[index])
    }

    /// Returns for each slot the index of its owner in [`Routing::shards`].
    pub(crate) fn slot_owners(&self) -> Result<Vec<u16>, RoutingError> {
        let coverage = SlotCoverage::from_ranges(self.shards.iter().map(|route| route.slots.as_slice()));
        if let Some(overlap) = coverage.overlaps().first() {
            let (first, second) = (self.shards[overlap.first].id, self.shards[overlap.second].id);
            let slots = overlap.slots;
            return Err(RoutingError::Invalid(format!("slots {slots} belong to shard {first} and to shard {second}")));
        }
        let holes = coverage.find_gaps();
        if !holes.is_empty() {
            let holes = SlotRange::format_list(&holes);
            return Err(RoutingError::Invalid(format!("no shard owns the slots {holes}")));
        }
        Ok(coverage.into_owners())
    }

    fn check_routes(&self) -> Result<(), RoutingError> {
        if let Some(pair) = self.shards.windows(2).find(|pair| pair[0].id == pair[1].id) {
            return Err(RoutingError::Invalid(format!("shard {} is listed twice", pair[0].id)));
        }
        for route in &self.shards {
            for address in std::iter::once(&route.primary).chain(&route.replicas) {
                if !address.parse::<InstanceAddress>().is_ok_and(|address| address.port != 0) {
                    let message = format!("\"{address}\" of shard {} is not host:port", route.id);
                    return Err(RoutingError::Invalid(message));
                }
            }
        }
        self.slot_owners().map(drop)
    }
}

impl PublishedRoute {
    fn into_route(self) -> Result<Route, RoutingError> {
        let slots = SlotRange::parse_list(&self.slots)
            .map_err(|message| RoutingError::Invalid(format!("shard {}: {message}", self.id)))?;
        Ok(Route { id: self.id, slots, primary: self.primary, replicas: self.replicas, user: self.user })
    }
}
