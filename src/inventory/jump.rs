//! Jumps: names become hosts of the inventory.

use std::collections::{HashMap, HashSet};

use super::diagnostic::{Diagnostic, Diagnostics};
use super::draft::{Connection, HostDraft, JumpDraft};
use super::graph;
use super::host::Jump;
use super::source::Located;

/// The jump of each host; reports names that are no host, and circles.
pub(super) fn jumps(
    hosts: &[(HostDraft, Connection)],
    index: &HashMap<String, usize>,
    found: &mut Diagnostics,
) -> Vec<Option<Jump>> {
    let mut said = HashSet::new();
    let mut jumps: Vec<Option<Jump>> = hosts
        .iter()
        .map(|host| match jump(host, index) {
            Ok(jump) => jump,
            Err(unknown) => {
                // One that comes from a wider scope would be looked up, and said, for every host.
                if said.insert(unknown.origin.span.as_ref().map(|span| span.start)) {
                    found.push(no_such_host(host, &unknown, index));
                }
                None
            }
        })
        .collect();
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

/// `Err` holds a name that is no host.
fn jump(
    (_, connection): &(HostDraft, Connection),
    index: &HashMap<String, usize>,
) -> Result<Option<Jump>, Located<String>> {
    let Some(jump) = &connection.jump else { return Ok(None) };
    match &jump.value {
        JumpDraft::Off => Ok(None),
        JumpDraft::Name(name) if index.contains_key(name) => Ok(Some(Jump::Host(name.clone()))),
        JumpDraft::Name(name) if name.contains(['.', ':']) || connection.ssh_config.is_some() => {
            Ok(Some(Jump::Address { user: None, host: name.clone(), port: None }))
        }
        JumpDraft::Name(name) => Err(Located::new(name.clone(), jump.origin.clone())),
        JumpDraft::Address { user, host, port } => {
            Ok(Some(Jump::Address { user: user.clone(), host: host.clone(), port: *port }))
        }
    }
}

fn no_such_host(
    (host, _): &(HostDraft, Connection),
    name: &Located<String>,
    index: &HashMap<String, usize>,
) -> Diagnostic {
    let others = index.keys().map(String::as_str).filter(|other| *other != host.name.value);
    Diagnostic::on(&name.origin, format!("no host `{}` to jump over", name.value))
        .help("name a host of this inventory, write user@host:port, or set `ssh_config` if it stands there")
        .suggest(&name.value, others)
}
