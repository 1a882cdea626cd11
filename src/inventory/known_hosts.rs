//! `known_hosts` in an inventory folder: pinned public keys in the format of ssh, for hosts without a `host_key`, such
//! as those of a dynamic inventory.

use std::collections::HashMap;
use std::path::Path;

use super::diagnostic::{Diagnostic, Diagnostics};
use super::host::InventoryHost;
use super::host_key::{HostKey, HostKeyError};
use super::hosts_toml::host_key_error;
use super::read::read_source;
use super::source::{Located, Origin, SourceFile};

/// Keys by host name or address, as the file gives it: `web-01`, `10.0.0.1`, `[10.0.0.1]:2222`.
#[derive(Default)]
pub(super) struct KnownHosts {
    keys: HashMap<String, Vec<Located<HostKey>>>,
}

impl KnownHosts {
    /// Reads the file of a folder; a folder without one has no further keys.
    pub fn read(dir: &Path, found: &mut Diagnostics) -> Self {
        let mut known = Self::default();
        match read_source(&dir.join("known_hosts")) {
            Ok(Some(file)) => {
                let mut start = 0;
                for line in file.text().split_inclusive('\n') {
                    known.add_line(&file, start, line, found);
                    start += line.len();
                }
            }
            Ok(None) => {}
            Err(error) => found.push(error),
        }
        known
    }

    /// Pins the keys of hosts that have none: by their name, else by their address and port.
    pub fn add_keys(&self, hosts: &mut [InventoryHost]) {
        for host in hosts.iter_mut().filter(|host| host.host_keys.is_empty()) {
            let address = match host.port {
                None | Some(22) => host.address.clone(),
                Some(port) => format!("[{}]:{port}", host.address),
            };
            if let Some(keys) = self.keys.get(&host.name).or_else(|| self.keys.get(&address)) {
                host.host_keys.clone_from(keys);
            }
        }
    }

    fn add_line(&mut self, file: &SourceFile, start: usize, line: &str, found: &mut Diagnostics) {
        let text = line.trim();
        if text.is_empty() || text.starts_with('#') {
            return;
        }
        let origin = Origin::at_span(file, start..start + line.trim_end().len());
        let mut warn = |message: &str| found.push(Diagnostic::error_at(&origin, message).as_warning());
        if text.starts_with('@') {
            return warn("lines with a marker are not supported; the line is ignored");
        }
        let (names, key) = text.split_once([' ', '\t']).unwrap_or((text, ""));
        if names.starts_with('|') {
            return warn("hashed names are not supported; the line is ignored");
        }
        if names.contains(['*', '?', '!']) {
            return warn("patterns are not supported; the line is ignored");
        }
        match key.trim_start().replace('\t', " ").parse::<HostKey>() {
            Ok(key) => {
                for name in names.split(',') {
                    self.keys.entry(name.to_owned()).or_default().push(Located::new(key.clone(), origin.clone()));
                }
            }
            Err(HostKeyError::UnknownAlgorithm(name)) => {
                warn(&format!("`{name}` is not a host key type; the line is ignored"))
            }
            Err(error) => found.push(host_key_error(&origin, &error)),
        }
    }
}
