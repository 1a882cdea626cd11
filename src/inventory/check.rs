//! Findings that need the whole inventory: clashing names, forgotten tables, doubled addresses, contradicting
//! variables.

use std::collections::{HashMap, HashSet};

use super::diagnostic::{Diagnostic, Diagnostics};
use super::host::{HostGroup, InventoryHost};
use super::raw::{ConnectionSettings, RawGroup, RawHost};
use super::source::Located;
use super::validate;

/// Checks the names of groups: well formed, not reserved, not the name of a host.
pub(super) fn check_group_names(groups: &[RawGroup], hosts: &HashMap<String, usize>, found: &mut Diagnostics) {
    for group in groups {
        let name = &group.name;
        if let Err(message) = validate::check_group(&name.value) {
            found.push(Diagnostic::error_at(&name.origin, message));
        }
        if name.value == "all" {
            for entry in group.members.iter().chain(&group.children).filter(|entry| entry.origin.span.is_some()).take(1)
            {
                let message =
                    "`all` always contains every host; only variables and connection settings are allowed here";
                found.push(Diagnostic::error_at(&entry.origin, message));
            }
        }
        if name.value.starts_with("zone_") {
            let message = format!("`{}`: names with `zone_` are reserved", name.value);
            let help = "set `zone` on the hosts: the group then exists by itself";
            found.push(Diagnostic::error_at(&name.origin, message).with_help(help));
        }
        if hosts.contains_key(&name.value) {
            let message = format!("`{}` is the name of a group and of a host", name.value);
            found.push(
                Diagnostic::error_at(&name.origin, message)
                    .with_help("rename one of them: a selector could mean either"),
            );
        }
    }
}

/// Warns about hosts without a table, whose name is their address: next to hosts that have a table, it was more likely
/// forgotten than meant.
pub(super) fn warn_missing_host_tables(
    groups: &[RawGroup],
    hosts: &[(RawHost, ConnectionSettings)],
    index: &HashMap<String, usize>,
    found: &mut Diagnostics,
) {
    let mut reported: HashSet<&str> = HashSet::new();
    for group in groups {
        let of = |member: &Located<String>| index.get(&member.value).map(|at| &hosts[*at]);
        if !group.members.iter().filter_map(of).any(|(host, _)| host.has_address) {
            continue;
        }
        for member in &group.members {
            // A member whose own draft begins where the group names it has no table.
            let Some((host, connection)) = of(member) else { continue };
            let bare = !host.has_address && member.origin.span.is_some() && connection.ssh_config.is_none();
            if bare && reported.insert(&member.value) {
                let message = format!("host `{0}` has no address, so `{0}` itself is taken for it", member.value);
                let help =
                    format!("add [hosts.{}] with its `address`, as other hosts of this group have", member.value);
                found.push(Diagnostic::error_at(&member.origin, message).as_warning().with_help(help));
            }
        }
    }
}

/// Warns about two hosts with the same address and port: mostly a table that was copied.
pub(super) fn warn_duplicate_addresses(hosts: &[InventoryHost], found: &mut Diagnostics) {
    let mut places: HashMap<(String, Option<u16>), &InventoryHost> = HashMap::with_capacity(hosts.len());
    for host in hosts {
        let place = (host.address.to_ascii_lowercase(), host.port);
        match places.get(&place) {
            Some(other) if other.jump == host.jump => found.push(
                Diagnostic::error_at(&host.origin, format!("`{}` has the address of `{}`", host.name, other.name))
                    .as_warning()
                    .with_help(format!("`{}` is at {}", other.name, other.origin)),
            ),
            Some(_) => {}
            None => {
                places.insert(place, host);
            }
        }
    }
}

/// Warns where groups of one depth set a variable to different values on a host and nothing narrower decides.
pub(super) fn warn_conflicting_vars(groups: &[HostGroup], hosts: &[InventoryHost], found: &mut Diagnostics) {
    let mut setters: HashMap<(&str, usize), Vec<usize>> = HashMap::new();
    for (index, group) in groups.iter().enumerate() {
        for name in group.vars.keys() {
            setters.entry((name, group.depth)).or_default().push(index);
        }
    }
    setters.retain(|(name, _), at| {
        at.iter().any(|index| groups[*index].vars[*name].value != groups[at[0]].vars[*name].value)
    });
    if setters.is_empty() {
        return;
    }
    let names: HashSet<&str> = setters.keys().map(|(name, _)| *name).collect();
    let mut reported: HashSet<(&str, usize, usize)> = HashSet::new();
    for host in hosts {
        for name in &names {
            if host.vars.contains_key(*name) {
                continue;
            }
            let mut setting = host.groups.iter().rev().filter(|group| groups[**group].vars.contains_key(*name));
            let Some(winner) = setting.next() else { continue };
            let winning_group = &groups[*winner];
            let differs = |group: &&usize| groups[**group].vars[*name].value != winning_group.vars[*name].value;
            let Some(loser) = setting.take_while(|group| groups[**group].depth == winning_group.depth).find(differs)
            else {
                continue;
            };
            let losing_group = &groups[*loser];
            if !reported.insert((name, *winner, *loser)) {
                continue;
            }
            let message = format!(
                "`{name}` has two values on `{}`: group `{}` wins over `{}` by its name only",
                host.name, winning_group.name, losing_group.name
            );
            let help = format!(
                "set it on the host, or in one of the groups only; the other is at {}",
                losing_group.vars[*name].origin
            );
            found.push(Diagnostic::error_at(&winning_group.vars[*name].origin, message).as_warning().with_help(help));
        }
    }
}
