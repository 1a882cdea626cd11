//! Draft → inventory: what concerns several entries at once. Names that clash, unknown children, cycles, jumps,
//! contradicting variables.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use super::diagnostic::{Diagnostic, Diagnostics};
use super::draft::{Connection, Draft, GroupDraft, HostDraft, JumpDraft};
use super::host::{Group, Host, Inventory, Jump};
use super::secrets::Secrets;
use super::source::{Located, Origin};
use super::{graph, name};

/// Puts the inventory together. Usable only where nothing found is an error.
pub(super) fn join(draft: Draft, dir: &Path, secrets: Secrets, found: &mut Diagnostics) -> Inventory {
    let Draft { defaults, default_vars, groups, hosts } = draft;
    let hosts = merge_hosts(hosts);
    let groups = merge_groups(groups);
    let order = host_order(&hosts, &groups);
    let (hosts, host_index) = all_hosts(hosts, order, found);
    let group_index: HashMap<String, usize> =
        groups.iter().enumerate().map(|(index, group)| (group.name.value.clone(), index)).collect();
    check_names(&groups, &host_index, found);
    let mut joined = join_groups(&groups, &host_index, &group_index, (hosts.len(), found));
    let memberships = memberships(&joined, hosts.len());
    let hosts: Vec<(HostDraft, Connection)> = hosts
        .into_iter()
        .zip(&memberships)
        .map(|(host, member_of)| {
            let mut effective = defaults.clone();
            member_of.iter().for_each(|group| effective.overlay(&groups[*group].connection));
            effective.overlay(&host.connection);
            (host, effective)
        })
        .collect();
    missing_tables(&groups, &hosts, &host_index, found);
    for (group, draft) in joined.iter_mut().zip(groups) {
        group.vars = draft.vars;
    }
    let jumps = jumps(&hosts, &host_index, found);
    let hosts: Vec<Host> = hosts
        .into_iter()
        .zip(jumps)
        .zip(memberships)
        .map(|((host, jump), groups)| finish(host, jump, groups))
        .collect();
    let mut zones: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (index, host) in hosts.iter().enumerate() {
        if let Some(zone) = &host.zone {
            zones.entry(zone.clone()).or_default().push(index);
        }
    }
    let zone_groups = zones.keys().map(|zone| format!("zone_{zone}")).collect();
    same_place(&hosts, found);
    contradictions(&joined, &hosts, found);
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

/// The same host from a further source: what the earlier one says stands.
fn merge_hosts(drafts: Vec<HostDraft>) -> Vec<HostDraft> {
    let mut index: HashMap<String, usize> = HashMap::with_capacity(drafts.len());
    let mut merged: Vec<HostDraft> = Vec::with_capacity(drafts.len());
    for draft in drafts {
        match index.get(&draft.name.value) {
            None => {
                index.insert(draft.name.value.clone(), merged.len());
                merged.push(draft);
            }
            Some(at) => {
                let first = &mut merged[*at];
                let mut connection = draft.connection;
                connection.overlay(&first.connection);
                first.connection = connection;
                first.address = first.address.take().or(draft.address);
                if first.host_keys.is_empty() {
                    first.host_keys = draft.host_keys;
                }
                first.zone = first.zone.take().or(draft.zone);
                first.memory = first.memory.take().or(draft.memory);
                first.weight = first.weight.take().or(draft.weight);
                first.drain |= draft.drain;
                draft.vars.into_iter().for_each(|(name, var)| {
                    first.vars.entry(name).or_insert(var);
                });
            }
        }
    }
    merged
}

/// The same group from a further source: hosts and children add up, what else the earlier one says stands.
fn merge_groups(drafts: Vec<GroupDraft>) -> Vec<GroupDraft> {
    let mut index: HashMap<String, usize> = HashMap::with_capacity(drafts.len());
    let mut merged: Vec<GroupDraft> = Vec::with_capacity(drafts.len());
    for draft in drafts {
        match index.get(&draft.name.value) {
            None => {
                index.insert(draft.name.value.clone(), merged.len());
                merged.push(draft);
            }
            Some(at) => {
                let first = &mut merged[*at];
                let known: HashSet<String> = first.members.iter().map(|member| member.value.clone()).collect();
                first.members.extend(draft.members.into_iter().filter(|member| !known.contains(&member.value)));
                first.children.extend(draft.children);
                let mut connection = draft.connection;
                connection.overlay(&first.connection);
                first.connection = connection;
                draft.vars.into_iter().for_each(|(name, var)| {
                    first.vars.entry(name).or_insert(var);
                });
            }
        }
    }
    merged
}

/// Every mention of a host, in the order of the files. What has no place (a dynamic inventory) comes last.
fn host_order(hosts: &[HostDraft], groups: &[GroupDraft]) -> Vec<Located<String>> {
    let members = groups.iter().flat_map(|group| &group.members);
    let mut mentions: Vec<Located<String>> = members.chain(hosts.iter().map(|host| &host.name)).cloned().collect();
    mentions.sort_by_key(|mention| mention.origin.span.as_ref().map_or(usize::MAX, |span| span.start));
    let mut seen = HashSet::with_capacity(mentions.len());
    mentions.retain(|mention| seen.insert(mention.value.clone()));
    mentions
}

fn all_hosts(
    drafts: Vec<HostDraft>,
    order: Vec<Located<String>>,
    found: &mut Diagnostics,
) -> (Vec<HostDraft>, HashMap<String, usize>) {
    let mut tables: HashMap<String, HostDraft> =
        drafts.into_iter().map(|host| (host.name.value.clone(), host)).collect();
    let mut hosts = Vec::with_capacity(order.len());
    let mut index = HashMap::with_capacity(order.len());
    for name in order {
        if let Err(message) = name::check_host(&name.value) {
            found.push(Diagnostic::on(&name.origin, message));
        } else if name.value == "all" {
            let message = "`all` is reserved: it stands for every host";
            found.push(Diagnostic::on(&name.origin, message));
        }
        index.insert(name.value.clone(), hosts.len());
        hosts.push(tables.remove(&name.value).unwrap_or_else(|| HostDraft::named(name)));
    }
    (hosts, index)
}

fn check_names(groups: &[GroupDraft], hosts: &HashMap<String, usize>, found: &mut Diagnostics) {
    for group in groups {
        let name = &group.name;
        if let Err(message) = name::check_group(&name.value) {
            found.push(Diagnostic::on(&name.origin, message));
        }
        if name.value == "all" {
            for entry in group.members.iter().chain(&group.children).filter(|entry| entry.origin.span.is_some()).take(1)
            {
                let message = "`all` holds every host by itself; only variables and connection settings go here";
                found.push(Diagnostic::on(&entry.origin, message));
            }
        }
        if name.value.starts_with("zone_") {
            let message = format!("`{}`: names with `zone_` are reserved", name.value);
            let help = "set `zone` on the hosts: the group then exists by itself";
            found.push(Diagnostic::on(&name.origin, message).help(help));
        }
        if hosts.contains_key(&name.value) {
            let message = format!("`{}` is the name of a group and of a host", name.value);
            found.push(Diagnostic::on(&name.origin, message).help("rename one of them: a selector could mean either"));
        }
    }
}

fn join_groups(
    drafts: &[GroupDraft],
    host_index: &HashMap<String, usize>,
    group_index: &HashMap<String, usize>,
    (host_count, found): (usize, &mut Diagnostics),
) -> Vec<Group> {
    let successors: Vec<Vec<usize>> = drafts.iter().map(|group| children(group, group_index, found)).collect();
    let (order, cycles) = graph::order(&successors);
    for cycle in cycles {
        let path: Vec<&str> = cycle.iter().map(|index| drafts[*index].name.value.as_str()).collect();
        let (parent, child) = (&drafts[cycle[cycle.len() - 2]], path[path.len() - 1]);
        let origin = parent.children.iter().find(|entry| entry.value == child).map(|entry| &entry.origin);
        let message = format!("groups contain each other: {}", path.join(" → "));
        found.push(Diagnostic::on(origin.unwrap_or(&parent.name.origin), message));
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
    let depths = graph::depths(&successors, &order);
    let joined = drafts.iter().zip(members).zip(depths).map(|((draft, members), depth)| Group {
        name: draft.name.value.clone(),
        origin: draft.name.origin.clone(),
        depth: if draft.name.value == "all" { 0 } else { depth },
        children: draft.children.iter().map(|child| child.value.clone()).collect(),
        vars: Default::default(),
        members,
    });
    joined.collect()
}

fn children(group: &GroupDraft, index: &HashMap<String, usize>, found: &mut Diagnostics) -> Vec<usize> {
    // Every group is below `all` already; its children, which Ansible lists, would only deepen them all.
    if group.name.value == "all" {
        return Vec::new();
    }
    let mut known = Vec::with_capacity(group.children.len());
    for child in &group.children {
        match index.get(&child.value) {
            Some(_) if child.value == "all" => {
                let message = "`all` cannot be the child of a group";
                found.push(Diagnostic::on(&child.origin, message));
            }
            Some(at) => known.push(*at),
            None => {
                let message = format!("no group `{}`, named as a child of `{}`", child.value, group.name.value);
                let names = index.keys().map(String::as_str);
                found.push(Diagnostic::on(&child.origin, message).suggest(&child.value, names));
            }
        }
    }
    known
}

fn direct_members(
    group: &GroupDraft,
    index: &HashMap<String, usize>,
    host_count: usize,
    found: &mut Diagnostics,
) -> Vec<usize> {
    if group.name.value == "all" {
        return (0..host_count).collect();
    }
    let mut first: HashMap<&str, &Origin> = HashMap::with_capacity(group.members.len());
    let mut said: Option<&Origin> = None;
    let mut members = Vec::with_capacity(group.members.len());
    for member in &group.members {
        match first.get(member.value.as_str()) {
            // One message per entry, however many names of its range are there twice.
            Some(earlier) if said != Some(&member.origin) => {
                let message = format!("host `{}` stands twice in group `{}`", member.value, group.name.value);
                found.push(Diagnostic::on(&member.origin, message).help(format!("the first time at {earlier}")));
                said = Some(&member.origin);
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

/// The groups of each host, lowest precedence first: by depth, then by name.
fn memberships(groups: &[Group], host_count: usize) -> Vec<Vec<usize>> {
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

/// A host without a table is its own address; beside hosts that have one, that is more likely forgotten than meant.
fn missing_tables(
    groups: &[GroupDraft],
    hosts: &[(HostDraft, Connection)],
    index: &HashMap<String, usize>,
    found: &mut Diagnostics,
) {
    let mut said: HashSet<&str> = HashSet::new();
    for group in groups {
        let of = |member: &Located<String>| index.get(&member.value).map(|at| &hosts[*at]);
        if !group.members.iter().filter_map(of).any(|(host, _)| host.address.is_some()) {
            continue;
        }
        for member in &group.members {
            // A member whose own draft begins where the group names it has no table.
            let Some((host, connection)) = of(member) else { continue };
            let bare = host.address.is_none() && member.origin.span.is_some() && connection.ssh_config.is_none();
            if bare && said.insert(&member.value) {
                let message = format!("host `{0}` has no address, so `{0}` itself is taken for it", member.value);
                let help =
                    format!("add [hosts.{}] with its `address`, as other hosts of this group have", member.value);
                found.push(Diagnostic::on(&member.origin, message).warning().help(help));
            }
        }
    }
}

fn jumps(
    hosts: &[(HostDraft, Connection)],
    index: &HashMap<String, usize>,
    found: &mut Diagnostics,
) -> Vec<Option<Jump>> {
    let mut jumps: Vec<Option<Jump>> = hosts.iter().map(|host| jump(host, index, found)).collect();
    let target = |jump: &Option<Jump>| match jump {
        Some(Jump::Host(name)) => index.get(name).copied(),
        _ => None,
    };
    // A jump that came from a wider scope does not apply to the jump hosts themselves.
    for at in 0..jumps.len() {
        let inherited = hosts[at].0.connection.jump.is_none();
        if inherited && target(&jumps[at]) == Some(at) {
            jumps[at] = None;
        }
    }
    let successors: Vec<Vec<usize>> = jumps.iter().map(|jump| target(jump).into_iter().collect()).collect();
    for cycle in graph::order(&successors).1 {
        let path: Vec<&str> = cycle.iter().map(|at| hosts[*at].0.name.value.as_str()).collect();
        let origin = cycle.iter().find_map(|at| hosts[*at].1.jump.as_ref()).map(|jump| &jump.origin);
        let message = format!("jumps lead in a circle: {}", path.join(" → "));
        found.push(
            Diagnostic::on(origin.unwrap_or(&hosts[cycle[0]].0.name.origin), message)
                .help("`jump = false` in a host's table says that it is reached directly"),
        );
    }
    jumps
}

fn jump(
    (host, connection): &(HostDraft, Connection),
    index: &HashMap<String, usize>,
    found: &mut Diagnostics,
) -> Option<Jump> {
    let jump = connection.jump.as_ref()?;
    match &jump.value {
        JumpDraft::Off => None,
        JumpDraft::Name(name) if index.contains_key(name) => Some(Jump::Host(name.clone())),
        JumpDraft::Name(name) if name.contains(['.', ':']) || connection.ssh_config.is_some() => {
            Some(Jump::Address { user: None, host: name.clone(), port: None })
        }
        JumpDraft::Name(name) => {
            let message = format!("no host `{name}` to jump over");
            let diagnostic = Diagnostic::on(&jump.origin, message)
                .help("name a host of this inventory, write user@host:port, or set `ssh_config` if it stands there");
            let others = index.keys().map(String::as_str).filter(|other| *other != host.name.value);
            found.push(diagnostic.suggest(name, others));
            None
        }
        JumpDraft::Address { user, host, port } => {
            Some(Jump::Address { user: user.clone(), host: host.clone(), port: *port })
        }
    }
}

fn finish((draft, connection): (HostDraft, Connection), jump: Option<Jump>, groups: Vec<usize>) -> Host {
    Host {
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

/// Two hosts with one address and port are mostly a table that was copied.
fn same_place(hosts: &[Host], found: &mut Diagnostics) {
    let mut places: HashMap<(String, Option<u16>), &Host> = HashMap::with_capacity(hosts.len());
    for host in hosts {
        let place = (host.address.to_ascii_lowercase(), host.port);
        match places.get(&place) {
            Some(other) if other.jump == host.jump => found.push(
                Diagnostic::on(&host.origin, format!("`{}` has the address of `{}`", host.name, other.name))
                    .warning()
                    .help(format!("`{}` is at {}", other.name, other.origin)),
            ),
            Some(_) => {}
            None => {
                places.insert(place, host);
            }
        }
    }
}

/// Warns where groups of one depth set a variable to different values on a host and nothing narrower decides.
fn contradictions(groups: &[Group], hosts: &[Host], found: &mut Diagnostics) {
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
    let mut said: HashSet<(&str, usize, usize)> = HashSet::new();
    for host in hosts {
        for name in &names {
            if host.vars.contains_key(*name) {
                continue;
            }
            let mut setting = host.groups.iter().rev().filter(|group| groups[**group].vars.contains_key(*name));
            let Some(winner) = setting.next() else { continue };
            let won = &groups[*winner];
            let differs = |group: &&usize| groups[**group].vars[*name].value != won.vars[*name].value;
            let Some(loser) = setting.take_while(|group| groups[**group].depth == won.depth).find(differs) else {
                continue;
            };
            let lost = &groups[*loser];
            if !said.insert((name, *winner, *loser)) {
                continue;
            }
            let message = format!(
                "`{name}` has two values on `{}`: group `{}` wins over `{}` by its name only",
                host.name, won.name, lost.name
            );
            let help = format!(
                "set it on the host, or in one of the groups only; the other is at {}",
                lost.vars[*name].origin
            );
            found.push(Diagnostic::on(&won.vars[*name].origin, message).warning().help(help));
        }
    }
}
