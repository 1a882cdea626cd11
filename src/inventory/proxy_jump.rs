//! Resolves the names of jump hosts to hosts of the inventory.

use std::collections::{HashMap, HashSet};

use super::diagnostic::{Diagnostic, Diagnostics};
use super::graph;
use super::host::ProxyJump;
use super::raw::{ConnectionSettings, RawHost, RawJump};
use super::source::Located;

/// Resolves the jump of each host; reports names that are not hosts, and cycles.
pub(super) fn resolve_jumps(
    hosts: &[(RawHost, ConnectionSettings)],
    index: &HashMap<String, usize>,
    found: &mut Diagnostics,
) -> Vec<Option<ProxyJump>> {
    let mut reported = HashSet::new();
    let mut jumps: Vec<Option<ProxyJump>> = hosts
        .iter()
        .map(|host| match resolve_jump(host, index) {
            Ok(jump) => jump,
            Err(unknown) => {
                // One that comes from a wider scope would be looked up, and said, for every host.
                if reported.insert(unknown.origin.span.as_ref().map(|span| span.start)) {
                    found.push(unknown_jump_host_error(host, &unknown, index));
                }
                None
            }
        })
        .collect();
    let target = |jump: &Option<ProxyJump>| match jump {
        Some(ProxyJump::Host(name)) => index.get(name).copied(),
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
    for cycle in graph::topological_order(&successors).1 {
        let path: Vec<&str> = cycle.iter().map(|at| hosts[*at].0.name.value.as_str()).collect();
        let origin = cycle.iter().find_map(|at| hosts[*at].1.jump.as_ref()).map(|jump| &jump.origin);
        let message = format!("jump hosts form a cycle: {}", path.join(" → "));
        found.push(
            Diagnostic::error_at(origin.unwrap_or(&hosts[cycle[0]].0.name.origin), message)
                .with_help("`jump = false` in a host's table says that it is reached directly"),
        );
    }
    jumps
}

/// Resolves the jump of one host; `Err` holds a name that is not a host.
fn resolve_jump(
    (_, connection): &(RawHost, ConnectionSettings),
    index: &HashMap<String, usize>,
) -> Result<Option<ProxyJump>, Located<String>> {
    let Some(jump) = &connection.jump else { return Ok(None) };
    match &jump.value {
        RawJump::Disabled => Ok(None),
        RawJump::Name(name) if index.contains_key(name) => Ok(Some(ProxyJump::Host(name.clone()))),
        RawJump::Name(name) if name.contains(['.', ':']) || connection.ssh_config.is_some() => {
            Ok(Some(ProxyJump::Address { user: None, host: name.clone(), port: None }))
        }
        RawJump::Name(name) => Err(Located::new(name.clone(), jump.origin.clone())),
        RawJump::Address { user, host, port } => {
            Ok(Some(ProxyJump::Address { user: user.clone(), host: host.clone(), port: *port }))
        }
    }
}

fn unknown_jump_host_error(
    (host, _): &(RawHost, ConnectionSettings),
    name: &Located<String>,
    index: &HashMap<String, usize>,
) -> Diagnostic {
    let others = index.keys().map(String::as_str).filter(|other| *other != host.name.value);
    Diagnostic::error_at(&name.origin, format!("unknown jump host `{}`", name.value))
        .with_help("name a host of this inventory, write user@host:port, or set `ssh_config` if the file defines it")
        .suggest_nearest(&name.value, others)
}
