//! Finds TCP ports of a service on which a process of another unit listens.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result};

/// State of a listening socket in `/proc/net/tcp`.
const LISTEN_STATE: &str = "0A";

/// The units and processes of the service.
pub(super) struct OwnUnits {
    /// Names of the units.
    pub names: Vec<String>,
    /// Their main processes.
    pub main_pids: BTreeSet<u32>,
}

/// A process that listens on a port.
struct PortHolder {
    pid: u32,
    /// Its unit, such as `nginx.service`, or the name of its program.
    name: String,
    is_own: bool,
}

/// Returns a problem for each port on which only processes of other units listen. Sockets whose process cannot be found
/// are passed over: an agent without root sees its own processes only.
pub(super) fn find_taken_ports(service: &str, ports: &[u16], own_units: &OwnUnits) -> Result<Vec<String>> {
    let mut sockets = BTreeMap::new();
    for (file, is_required) in [("/proc/net/tcp", true), ("/proc/net/tcp6", false)] {
        match fs::read_to_string(file) {
            Ok(table) => sockets.extend(parse_listeners(&table, ports)),
            Err(error) if is_required => return Err(error).context(file),
            Err(_) => {}
        }
    }
    let mut holders: BTreeMap<u16, Vec<PortHolder>> = BTreeMap::new();
    if !sockets.is_empty() {
        for (port, pid) in find_processes(&sockets)? {
            holders.entry(port).or_default().push(describe_process(pid, own_units));
        }
    }
    let taken = holders.into_iter().filter_map(|(port, holders)| {
        let holder = holders.first().filter(|_| holders.iter().all(|holder| !holder.is_own))?;
        Some(format!(
            "port {port} is in use by {} (process {}); stop it, or set `ports` in the recipe to the ports of {service}",
            holder.name, holder.pid
        ))
    });
    Ok(taken.collect())
}

/// Returns the inodes of listening sockets, with their ports. A socket on one address of the network is passed over:
/// the service may listen on another address.
fn parse_listeners(table: &str, ports: &[u16]) -> BTreeMap<u64, u16> {
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (address, port) = fields.get(1)?.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok().filter(|port| ports.contains(port))?;
        let is_local =
            address.chars().all(|c| c == '0') || address == "0100007F" || address == "00000000000000000000000001000000";
        (is_local && *fields.get(3)? == LISTEN_STATE).then_some((fields.get(9)?.parse().ok()?, port))
    };
    table.lines().filter_map(parse).collect()
}

/// Returns the ports and the processes that have their sockets open.
fn find_processes(sockets: &BTreeMap<u64, u16>) -> Result<BTreeSet<(u16, u32)>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc").context("/proc")? {
        let entry = entry.context("/proc")?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // The process may end meanwhile, or belong to another user.
        let Ok(files) = fs::read_dir(entry.path().join("fd")) else { continue };
        for file in files.flatten() {
            let Ok(target) = fs::read_link(file.path()) else { continue };
            let target = target.to_string_lossy();
            let inode = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')?.parse().ok());
            if let Some(port) = inode.and_then(|inode: u64| sockets.get(&inode)) {
                found.insert((*port, pid));
            }
        }
    }
    Ok(found)
}

fn describe_process(pid: u32, own_units: &OwnUnits) -> PortHolder {
    if pid == 1 {
        // systemd holds the sockets of all socket units.
        let is_own = own_units.names.iter().any(|unit| unit.ends_with(".socket"));
        return PortHolder { pid, name: "a socket unit of systemd".to_owned(), is_own };
    }
    let unit = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok().and_then(|text| parse_unit(&text));
    let is_own = match &unit {
        Some(unit) => own_units.names.contains(unit),
        // Some containers hide the units of processes.
        None => is_descendant(pid, &own_units.main_pids),
    };
    let program = || fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned();
    PortHolder { pid, name: unit.unwrap_or_else(program), is_own }
}

/// Returns the unit of a process from its `/proc/PID/cgroup`.
fn parse_unit(cgroup: &str) -> Option<String> {
    // With both versions of cgroups, the line of the second one may have no unit.
    let lines = cgroup.lines().filter(|line| line.starts_with("0::") || line.contains(":name=systemd:"));
    let mut parts = lines.filter_map(|line| line.splitn(3, ':').nth(2)).flat_map(|path| path.split('/'));
    parts.find(|part| part.ends_with(".service") || part.ends_with(".scope")).map(str::to_owned)
}

/// Returns whether the process is one of `ancestors` or was started by one of them.
fn is_descendant(pid: u32, ancestors: &BTreeSet<u32>) -> bool {
    let parent = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()?;
        (parent > 1).then_some(parent)
    };
    std::iter::successors(Some(pid), parent).any(|pid| ancestors.contains(&pid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_on_all_addresses_or_on_the_own_host_are_found() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1\n\
            1: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12 1\n\
            2: 0500000A:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 13 1\n\
            3: 0100007F:1F90 0100007F:0050 01 00000000:00000000 00:00000000 00000000     0        0 14 1\n\
            4: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 15 1\n";
        assert_eq!(parse_listeners(table, &[8080, 8081]), BTreeMap::from([(11, 8080), (12, 8081)]));
    }

    #[test]
    fn the_unit_of_a_process_is_read_from_its_cgroup() {
        assert_eq!(parse_unit("0::/system.slice/shop.service/worker\n").unwrap(), "shop.service");
        assert_eq!(parse_unit("2:cpu:/\n1:name=systemd:/user.slice/session-3.scope\n").unwrap(), "session-3.scope");
        assert_eq!(parse_unit("1:name=systemd:/system.slice/shop.service\n0::/\n").unwrap(), "shop.service");
        assert_eq!(parse_unit("0::/\n1:name=systemd:/system.slice/shop.service\n").unwrap(), "shop.service");
        assert_eq!(parse_unit("0::/\n"), None);
    }

    #[test]
    fn a_port_of_another_process_is_a_problem() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let own_units = |pid: u32| OwnUnits { names: Vec::new(), main_pids: BTreeSet::from([pid]) };
        let problems = find_taken_ports("shop", &[port], &own_units(u32::MAX)).unwrap();
        assert_eq!(problems.len(), 1);
        assert!(problems[0].starts_with(&format!("port {port} is in use by ")), "{problems:?}");
        drop(listener);
        assert_eq!(find_taken_ports("shop", &[port], &own_units(u32::MAX)).unwrap(), Vec::<String>::new());
        assert!(is_descendant(std::process::id(), &BTreeSet::from([std::process::id()])));
        assert!(!is_descendant(std::process::id(), &BTreeSet::from([u32::MAX])));
    }
}
