//! Draft → inventory: resolves the groups of each host, and the settings and variables that apply to it.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::check::{check_group_names, warn_conflicting_vars, warn_duplicate_addresses, warn_missing_host_tables};
use super::diagnostic::{Diagnostic, Diagnostics};
use super::host::{HostGroup, Inventory, InventoryHost, ProxyJump};
use super::merge::{host_order, merge_groups, merge_hosts};
use super::proxy_jump::resolve_jumps;
use super::raw::{ConnectionSettings, RawGroup, RawHost, RawInventory};
use super::secrets::Secrets;
use super::source::{Located, Origin};
use super::{graph, validate};

/// Puts the inventory together. Usable only where nothing found is an error.
pub(super) fn resolve_inventory(
    draft: RawInventory,
    dir: &Path,
    secrets: Secrets,
    found: &mut Diagnostics,
) -> Inventory {
    let RawInventory { defaults, default_vars, groups, hosts } = draft;
    let hosts = merge_hosts(hosts);
    let groups = merge_groups(groups);
    let order = host_order(&hosts, &groups);
    let (hosts, host_index) = collect_hosts(hosts, order, found);
    let group_index: HashMap<String, usize> =
        groups.iter().enumerate().map(|(index, group)| (group.name.value.clone(), index)).collect();
    check_group_names(&groups, &host_index, found);
    let mut joined = resolve_groups(&groups, &host_index, &group_index, hosts.len(), found);
    let memberships = groups_by_host(&joined, hosts.len());
    let hosts: Vec<(RawHost, ConnectionSettings)> = hosts
        .into_iter()
        .zip(&memberships)
        .map(|(host, member_of)| {
            let mut effective = defaults.clone();
            member_of.iter().for_each(|group| effective.override_with(&groups[*group].connection));
            effective.override_with(&host.connection);
            (host, effective)
        })
        .collect();
    warn_missing_host_tables(&groups, &hosts, &host_index, found);
    for (group, draft) in joined.iter_mut().zip(groups) {
        group.vars = draft.vars;
    }
    let jumps = resolve_jumps(&hosts, &host_index, found);
    let hosts: Vec<InventoryHost> = hosts
        .into_iter()
        .zip(jumps)
        .zip(memberships)
        .map(|(((draft, connection), jump), groups)| build_host(draft, connection, jump, groups))
        .collect();
    let zones = collect_zones(&hosts);
    let zone_groups = zones.keys().map(|zone| format!("zone_{zone}")).collect();
    warn_duplicate_addresses(&hosts, found);
    warn_conflicting_vars(&joined, &hosts, found);
    Inventory {
        dir: dir.to_owned(),
        hosts,
        host_index,
        groups: joined,
        group_index,
        zones,
        zone_groups,
        default_vars,
        secrets,
    }
}

fn collect_zones(hosts: &[InventoryHost]) -> BTreeMap<String, Vec<usize>> {
    let mut zones: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (index, host) in hosts.iter().enumerate() {
        if let Some(zone) = &host.zone {
            zones.entry(zone.clone()).or_default().push(index);
        }
    }
    zones
}

fn collect_hosts(
    drafts: Vec<RawHost>,
    order: Vec<Located<String>>,
    found: &mut Diagnostics,
) -> (Vec<RawHost>, HashMap<String, usize>) {
    let mut tables: HashMap<String, RawHost> = drafts.into_iter().map(|host| (host.name.value.clone(), host)).collect();
    let mut hosts = Vec::with_capacity(order.len());
    let mut index = HashMap::with_capacity(order.len());
    for name in order {
        if let Err(message) = validate::check_host(&name.value) {
            found.push(Diagnostic::error_at(&name.origin, message));
        } else if name.value == "all" {
            let message = "`all` is reserved: it selects every host";
            found.push(Diagnostic::error_at(&name.origin, message));
        }
        index.insert(name.value.clone(), hosts.len());
        hosts.push(tables.remove(&name.value).unwrap_or_else(|| RawHost::with_name(name)));
    }
    (hosts, index)
}

fn resolve_groups(
    drafts: &[RawGroup],
    host_index: &HashMap<String, usize>,
    group_index: &HashMap<String, usize>,
    host_count: usize,
    found: &mut Diagnostics,
) -> Vec<HostGroup> {
    let successors: Vec<Vec<usize>> = drafts.iter().map(|group| resolve_children(group, group_index, found)).collect();
    let (order, cycles) = graph::topological_order(&successors);
    for cycle in cycles {
        let path: Vec<&str> = cycle.iter().map(|index| drafts[*index].name.value.as_str()).collect();
        let (parent, child) = (&drafts[cycle[cycle.len() - 2]], path[path.len() - 1]);
        let origin = parent.children.iter().find(|entry| entry.value == child).map(|entry| &entry.origin);
        let message = format!("groups form a cycle: {}", path.join(" → "));
        found.push(Diagnostic::error_at(origin.unwrap_or(&parent.name.origin), message));
    }
    let mut members: Vec<Vec<usize>> =
        drafts.iter().map(|group| direct_members(group, host_index, host_count, found)).collect();
    for parent in order.iter().rev() {
        let mut all = std::mem::take(&mut members[*parent]);
        successors[*parent].iter().for_each(|child| all.extend(&members[*child]));
        all.sort_unstable();
        all.dedup();
        members[*parent] = all;
    }
    let depths = graph::node_depths(&successors, &order);
    let joined = drafts.iter().zip(members).zip(depths).map(|((draft, members), depth)| HostGroup {
        name: draft.name.value.clone(),
        origin: draft.name.origin.clone(),
        depth: if draft.name.value == "all" { 0 } else { depth },
        children: draft.children.iter().map(|child| child.value.clone()).collect(),
        vars: Default::default(),
        members,
    });
    joined.collect()
}

fn resolve_children(group: &RawGroup, index: &HashMap<String, usize>, found: &mut Diagnostics) -> Vec<usize> {
    // Every group is below `all` already; its children, which Ansible lists, would only deepen them all.
    if group.name.value == "all" {
        return Vec::new();
    }
    let mut known = Vec::with_capacity(group.children.len());
    for child in &group.children {
        match index.get(&child.value) {
            Some(_) if child.value == "all" => {
                let message = "`all` cannot be the child of a group";
                found.push(Diagnostic::error_at(&child.origin, message));
            }
            Some(at) => known.push(*at),
            None => {
                let message = format!("no group `{}`, named as a child of `{}`", child.value, group.name.value);
                let names = index.keys().map(String::as_str);
                found.push(Diagnostic::error_at(&child.origin, message).suggest_nearest(&child.value, names));
            }
        }
    }
    known
}

fn direct_members(
    group: &RawGroup,
    index: &HashMap<String, usize>,
    host_count: usize,
    found: &mut Diagnostics,
) -> Vec<usize> {
    if group.name.value == "all" {
        return (0..host_count).collect();
    }
    let mut first: HashMap<&str, &Origin> = HashMap::with_capacity(group.members.len());
    let mut reported: Option<&Origin> = None;
    let mut members = Vec::with_capacity(group.members.len());
    for member in &group.members {
        match first.get(member.value.as_str()) {
            // One message per entry, independent of the number of duplicate names in its range.
            Some(earlier) if reported != Some(&member.origin) => {
                let message = format!("host `{}` is listed twice in group `{}`", member.value, group.name.value);
                found.push(
                    Diagnostic::error_at(&member.origin, message).with_help(format!("the first time at {earlier}")),
                );
                reported = Some(&member.origin);
            }
            Some(_) => {}
            None => {
                first.insert(&member.value, &member.origin);
                members.extend(index.get(&member.value));
            }
        }
    }
    members
}

/// Returns the groups of each host, lowest precedence first: by depth, then by name.
fn groups_by_host(groups: &[HostGroup], host_count: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..groups.len()).collect();
    order.sort_by_key(|index| (groups[*index].depth, &groups[*index].name));
    let mut memberships = vec![Vec::new(); host_count];
    for group in order {
        for host in &groups[group].members {
            memberships[*host].push(group);
        }
    }
    memberships
}

fn build_host(
    draft: RawHost,
    connection: ConnectionSettings,
    jump: Option<ProxyJump>,
    groups: Vec<usize>,
) -> InventoryHost {
    InventoryHost {
        address: draft.address.map_or_else(|| draft.name.value.clone(), |address| address.value),
        name: draft.name.value,
        origin: draft.name.origin,
        port: connection.port.map(|port| port.value),
        user: connection.user.map(|user| user.value),
        become_root: connection.become_root.is_some_and(|flag| flag.value),
        key: connection.key.map(|key| key.value),
        host_keys: draft.host_keys,
        jump,
        zone: draft.zone.map(|zone| zone.value),
        memory: draft.memory.map(|memory| memory.value),
        weight: draft.weight.map_or(1.0, |weight| weight.value),
        drain: draft.drain,
        ssh_config: connection.ssh_config.map(|path| path.value),
        connect_timeout: connection.connect_timeout.map(|timeout| timeout.value),
        vars: draft.vars,
        groups,
    }
}
