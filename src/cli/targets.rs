//! Hosts of the inventory as SSH targets, with their jump hosts.

use std::time::Duration;

use crate::inventory::{Inventory, InventoryHost, ProxyJump};
use crate::transport::{JumpHost, SshTarget};

/// Connection timeout if the inventory has none.
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Returns the targets of these hosts and of their jump hosts.
pub fn resolve_targets(inventory: &Inventory, hosts: &[&InventoryHost]) -> Vec<SshTarget> {
    let mut needed: Vec<&InventoryHost> = hosts.to_vec();
    let mut next = 0;
    while let Some(host) = needed.get(next).copied() {
        if let Some(ProxyJump::Host(name)) = &host.jump
            && let Some(jump) = inventory.find_host(name)
            && !needed.iter().any(|known| known.name == jump.name)
        {
            needed.push(jump);
        }
        next += 1;
    }
    needed.into_iter().map(to_target).collect()
}

/// Converts a host to a target.
pub fn to_target(host: &InventoryHost) -> SshTarget {
    let via = host.jump.as_ref().map(|jump| match jump {
        ProxyJump::Host(name) => JumpHost::Target(name.clone()),
        ProxyJump::Address { user, host, port } => {
            let user = user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
            let port = port.map(|port| format!(":{port}")).unwrap_or_default();
            JumpHost::Destination(format!("{user}{host}{port}"))
        }
    });
    SshTarget {
        name: host.name.clone(),
        address: host.address.clone(),
        port: host.port,
        user: host.user.clone(),
        identity_file: host.key.clone(),
        host_keys: host.host_keys.iter().map(|key| key.value.to_string()).collect(),
        jump: via,
        ssh_config: host.ssh_config.clone(),
        become_root: host.become_root,
        connect_timeout: host.connect_timeout.unwrap_or(DEFAULT_CONNECT_TIMEOUT),
    }
}
