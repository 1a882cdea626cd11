//! Jumps: names become hosts of the inventory.

use std::collections::HashMap;

use super::diagnostic::{Diagnostic, Diagnostics};
use super::draft::{Connection, HostDraft, JumpDraft};
use super::graph;
use super::host::Jump;

/// The jump of each host; reports names that are no host, and circles.
pub(super) fn jumps(
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
