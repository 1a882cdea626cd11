//! Hosts of the inventory as targets of the transport, with those that are jumped over.

use std::time::Duration;

use crate::inventory::{Host, Inventory, Jump};
use crate::transport::{Target, Via};

/// How long a connection may take where the inventory says nothing.
const CONNECT: Duration = Duration::from_secs(10);

/// The targets for these hosts.
pub fn targets(inventory: &Inventory, hosts: &[&Host]) -> Vec<Target> {
    let mut wanted: Vec<&Host> = hosts.to_vec();
    let mut next = 0;
    while let Some(host) = wanted.get(next).copied() {
        if let Some(Jump::Host(name)) = &host.jump
            && let Some(jump) = inventory.host(name)
            && !wanted.iter().any(|known| known.name == jump.name)
        {
            wanted.push(jump);
        }
        next += 1;
    }
    wanted.into_iter().map(target).collect()
}

/// One host as a target.
pub fn target(host: &Host) -> Target {
    let via = host.jump.as_ref().map(|jump| match jump {
        Jump::Host(name) => Via::Target(name.clone()),
        Jump::Address { user, host, port } => {
            let user = user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
            let port = port.map(|port| format!(":{port}")).unwrap_or_default();
            Via::Destination(format!("{user}{host}{port}"))
        }
    });
    Target {
        name: host.name.clone(),
        address: host.address.clone(),
        port: host.port,
        user: host.user.clone(),
        key: host.key.clone(),
        host_keys: host.host_keys.iter().map(|key| key.value.to_string()).collect(),
        via,
        ssh_config: host.ssh_config.clone(),
        become_root: host.become_root,
        connect_timeout: host.connect_timeout.unwrap_or(CONNECT),
    }
}
