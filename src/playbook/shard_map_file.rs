//! Reads `shards.toml` beside `hosts.toml` and checks it against the inventory.

use std::path::Path;

use dunlin_shards::ShardMap;
use toml::Spanned;
use toml::de::DeValue;

use crate::inventory::{
    ByteSize, Diagnostic, Diagnostics, Inventory, InventoryHost, Origin, SourceFile, fields, read_source,
};
use crate::plan::format_count;

/// The variable that says what one shard may use, `"256MiB"`.
pub(super) const SHARD_MEMORY_VAR: &str = "shard_maxmemory";

/// Reads the map of an inventory's folder and holds it against the inventory; also gives its text, for edits. `None`
/// where there is none, or none that can be used. Shards on unknown hosts are reported and removed.
pub fn load_shard_map(
    dir: &Path,
    inventory: Option<&Inventory>,
    found: &mut Diagnostics,
) -> Option<(ShardMap, SourceFile)> {
    let path = dir.join("shards.toml");
    let file = match read_source(&path) {
        Ok(file) => file?,
        Err(error) => {
            found.push(error);
            return None;
        }
    };
    let map = match ShardMap::parse(file.text()) {
        Ok(map) => map,
        Err(errors) => {
            for error in errors {
                let origin = Origin { file: file.clone(), span: error.span };
                let diagnostic = Diagnostic::error_at(&origin, error.message);
                found.push(match error.help {
                    Some(help) => diagnostic.with_help(help),
                    None => diagnostic,
                });
            }
            return None;
        }
    };
    let Some(inventory) = inventory else { return Some((map, file)) };
    check_placements(&file, inventory, found);
    check_memory(&map, inventory, found);
    Some((without_unknown_hosts(map, inventory), file))
}

/// Returns the map without shards on unknown hosts. The hosts are reported; further findings about them would be noise.
fn without_unknown_hosts(mut map: ShardMap, inventory: &Inventory) -> ShardMap {
    let is_known = |name: &String| inventory.find_host(name).is_some();
    map.shards.retain(|shard| is_known(&shard.host));
    map.shards.iter_mut().for_each(|shard| shard.replicas.retain(is_known));
    map
}

/// Reports hosts that the inventory does not have, and replicas that would fail together with their primary.
fn check_placements(file: &SourceFile, inventory: &Inventory, found: &mut Diagnostics) {
    let root = fields::parse_table(file, found);
    let Some(DeValue::Array(shards)) = root.get_ref().get("shard").map(Spanned::get_ref) else { return };
    for shard in shards.iter().filter_map(|shard| shard.get_ref().as_table()) {
        let primary = shard.get("host").and_then(|host| find_known_host(file, host, inventory, found));
        let replicas = shard.get("replicas").and_then(|list| list.get_ref().as_array());
        for replica in replicas.into_iter().flat_map(|list| list.iter()) {
            let Some(host) = find_known_host(file, replica, inventory, found) else { continue };
            let Some(primary) = primary.filter(|primary| primary.name != host.name) else { continue };
            if let (Some(zone), true) = (&host.zone, host.zone == primary.zone) {
                let message = format!("the replica is in zone {zone}, like the primary on {}", primary.name);
                found.push(
                    Diagnostic::error_at_span(file, replica.span(), message)
                        .with_help("put it on a host of another zone"),
                );
            }
        }
    }
}

fn find_known_host<'i>(
    file: &SourceFile,
    name: &Spanned<DeValue<'_>>,
    inventory: &'i Inventory,
    found: &mut Diagnostics,
) -> Option<&'i InventoryHost> {
    let text = name.get_ref().as_str()?;
    let host = inventory.find_host(text);
    if host.is_none() {
        let known = inventory.hosts().iter().map(|host| host.name.as_str());
        let message = format!("no host `{text}` in this inventory");
        found.push(Diagnostic::error_at_span(file, name.span(), message).suggest_nearest(text, known));
    }
    host
}

/// Checks that the memory limits of a host's shards fit into the host's memory.
fn check_memory(map: &ShardMap, inventory: &Inventory, found: &mut Diagnostics) {
    for host in inventory.hosts() {
        let count = map.shards_on(&host.name).count() + map.replicas_on(&host.name).count();
        let (Some(memory), Some(each)) = (host.memory, shard_memory_limit(inventory, &host.name)) else { continue };
        let all = ByteSize(each.0.saturating_mul(count as u64));
        if all > memory {
            let message = format!(
                "{} of {each} may use {} on {}, which has {memory} for them",
                format_count(count, "shard"),
                all.to_human(),
                host.name
            );
            found.push(Diagnostic::error_at(&host.origin, message).as_warning().with_help(format!(
                "lower `{SHARD_MEMORY_VAR}`, raise `memory`, or move shards: dunlin shard-rebalance"
            )));
        }
    }
}

/// Returns the memory limit of one shard on a host, from its variable.
pub(super) fn shard_memory_limit(inventory: &Inventory, host: &str) -> Option<ByteSize> {
    let vars = inventory.merged_vars(host);
    match vars.get(SHARD_MEMORY_VAR)?.value.to_json() {
        serde_json::Value::String(text) => text.parse().ok(),
        other => other.as_u64().map(ByteSize),
    }
}
