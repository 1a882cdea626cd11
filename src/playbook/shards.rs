//! The shard map as templates see it: `shards`, `shard_map`, and `shards_here` of each host.

use std::collections::BTreeMap;

use dunlin_shards::{Routing, RoutingError, Shard, ShardMap, SlotRange};
use serde_json::{Value as Json, json};
use tera::Value;

use super::shard_map_file;
use crate::inventory::Inventory;

/// The parts of a context that come from the shard map.
pub(super) struct ShardContext {
    /// Every shard as `{id, slots, port, user, host, primary, replicas}`; an instance on a host also has `role`,
    /// `replica_of` and `maxmemory`.
    pub all_shards: Value,
    /// `{cluster, epoch, published}`.
    pub map_info: Value,
    /// The text that consumers read.
    pub published_map: String,
    shards_by_host: BTreeMap<String, Value>,
    empty_list: Value,
}

impl ShardContext {
    /// Works out the addresses.
    ///
    /// # Errors
    /// Returns an error if the map names a host that is not in the inventory.
    pub(super) fn new(map: &ShardMap, inventory: &Inventory) -> Result<Self, RoutingError> {
        let routing = Routing::from_map(map, |name| inventory.find_host(name).map(|host| host.address.clone()))?;
        let published = routing.to_toml();
        let mut here: BTreeMap<String, Vec<Json>> = BTreeMap::new();
        let mut all = Vec::with_capacity(map.shards.len());
        for shard in &map.shards {
            let route = routing.find_route(shard.id).expect("a routing has every shard of its map");
            let seen = shard_to_json(map, shard, &route.primary, &route.replicas);
            here.entry(shard.host.clone()).or_default().push(instance_on_host(
                seen.clone(),
                &shard.host,
                "primary",
                inventory,
            ));
            for replica in &shard.replicas {
                here.entry(replica.clone()).or_default().push(instance_on_host(
                    seen.clone(),
                    replica,
                    "replica",
                    inventory,
                ));
            }
            all.push(seen);
        }
        let about = json!({"cluster": map.cluster, "epoch": map.epoch.0, "published": published});
        Ok(Self {
            all_shards: Value::from_serializable(&all),
            map_info: Value::from_serializable(&about),
            published_map: published,
            shards_by_host: here.into_iter().map(|(host, list)| (host, Value::from_serializable(&list))).collect(),
            empty_list: Value::from_serializable(&Vec::<Json>::new()),
        })
    }

    /// Returns the instances that belong on a host, primaries and replicas, in the order of the map.
    pub(super) fn shards_on_host(&self, host: &str) -> Value {
        self.shards_by_host.get(host).unwrap_or(&self.empty_list).clone()
    }
}

fn shard_to_json(map: &ShardMap, shard: &Shard, primary: &str, replicas: &[String]) -> Json {
    json!({
        "id": shard.id.0,
        "port": map.port_of(shard.id),
        "user": shard.id.acl_user(),
        "slots": SlotRange::format_list(&shard.slots),
        "host": shard.host,
        "primary": primary,
        "replicas": replicas,
    })
}

/// Returns an instance on one host: its role, the instance that it follows, and the bytes that it may use there (if the
/// host's variable sets them).
fn instance_on_host(mut shard: Json, host: &str, role: &str, inventory: &Inventory) -> Json {
    shard["role"] = role.into();
    shard["replica_of"] = if role == "replica" { shard["primary"].clone() } else { "".into() };
    if let Some(memory) = shard_map_file::shard_memory_limit(inventory, host) {
        shard["maxmemory"] = memory.0.into();
    }
    shard
}
