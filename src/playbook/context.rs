//! Context of templates, placeholders and conditions: the variables, and dunlin's own names beside them.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};
use tera::{Context, Tera, Value};

use super::decoys::{TaintedContext, make_decoys};
use super::shards::ShardContext;
use crate::inventory::{Diagnostic, Inventory, InventoryHost, Origin, Vars};
use crate::protocol::HostFacts;

/// The names that no variable may take.
pub(super) const RESERVED_NAMES: [&str; 10] =
    ["host", "groups", "hosts", "facts", "secrets", "item", "shards_here", "shards", "shard_map", "play"];

/// Creates the error for a variable that takes one of dunlin's own names.
pub(super) fn reserved_name_error(name: &str, origin: &Origin) -> Option<Diagnostic> {
    let message = || format!("`{name}` is reserved: dunlin sets it");
    RESERVED_NAMES.contains(&name).then(|| Diagnostic::error_at(origin, message()))
}

/// Returns the names in a context. The engine does not expose them, but lists them in the error for an undefined one.
pub(super) fn context_names(context: &Context) -> Vec<String> {
    let error_text = Tera::new().render_str("{{ __ }}", context, false).err().map(|error| error.to_string());
    let listed = error_text.as_deref().and_then(|said| said.lines().next()?.split_once("variables: "));
    listed.map(|(_, names)| names.split(", ").map(str::to_owned).collect()).unwrap_or_default()
}

/// Context that is the same for every host, built once.
pub(super) struct FleetContext {
    groups: Value,
    hosts: Value,
    /// Absent where there are none: then the name itself is not defined, and the message can say why.
    secrets: Option<Value>,
    /// Values that replace the secrets to find out what depends on them.
    decoys: Option<Value>,
    shards: Option<ShardContext>,
}

impl FleetContext {
    pub(super) fn new(inventory: &Inventory, secrets: &Json, shards: Option<ShardContext>) -> Self {
        let names = |hosts: Vec<&InventoryHost>| hosts.iter().map(|host| host.name.clone()).collect::<Vec<_>>();
        let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for group in inventory.groups().iter().map(|group| group.name.as_str()).chain(["all"]) {
            groups.insert(group.to_owned(), inventory.hosts_in(group).map(names).unwrap_or_default());
        }
        for zone in inventory.zones() {
            let group = format!("zone_{zone}");
            let members = inventory.hosts_in(&group).map(names).unwrap_or_default();
            groups.insert(group, members);
        }
        let hosts: BTreeMap<&str, Json> = inventory
            .hosts()
            .iter()
            .map(|host| {
                let vars = vars_to_json(&inventory.merged_vars(&host.name));
                (host.name.as_str(), json!({"address": host.address, "zone": host.zone, "vars": vars}))
            })
            .collect();
        Self {
            groups: Value::from_serializable(&groups),
            hosts: Value::from_serializable(&hosts),
            secrets: secrets.as_object().filter(|all| !all.is_empty()).map(Value::from_serializable),
            decoys: secrets
                .as_object()
                .filter(|all| !all.is_empty())
                .map(|_| Value::from_serializable(&make_decoys(secrets))),
            shards,
        }
    }

    /// Builds the context of one host, without the variables of a play.
    pub(super) fn host_context(
        &self,
        inventory: &Inventory,
        host: &InventoryHost,
        facts: &HostFacts,
    ) -> TaintedContext {
        let real = self.build_context(inventory, host, facts);
        let decoy = self.decoys.as_ref().map(|decoys| {
            let mut context = real.clone();
            context.insert_value("secrets", decoys.clone());
            context
        });
        TaintedContext { real, decoy }
    }

    fn build_context(&self, inventory: &Inventory, host: &InventoryHost, facts: &HostFacts) -> Context {
        let mut context = Context::new();
        for (name, var) in inventory.merged_vars(&host.name) {
            context.insert_value(name, Value::from_serializable(&var.value));
        }
        let about = json!({
            "name": host.name, "address": host.address, "zone": host.zone,
            "groups": inventory.groups_of(&host.name), "memory": host.memory.map(|memory| memory.0),
        });
        context.insert("host", &about);
        context.insert("facts", facts);
        context.insert_value("groups", self.groups.clone());
        context.insert_value("hosts", self.hosts.clone());
        if let Some(secrets) = &self.secrets {
            context.insert_value("secrets", secrets.clone());
        }
        if let Some(shards) = &self.shards {
            context.insert_value("shards", shards.all_shards.clone());
            context.insert_value("shard_map", shards.map_info.clone());
            context.insert_value("shards_here", shards.shards_on_host(&host.name));
        }
        context
    }
}

fn vars_to_json(vars: &Vars) -> Json {
    vars.iter().map(|(name, var)| (name.clone(), var.value.to_json())).collect()
}
