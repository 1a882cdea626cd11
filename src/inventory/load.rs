//! Reading an inventory folder.

use std::path::Path;

use super::diagnostic::{Diagnostic, Diagnostics};
use super::host::Inventory;
use super::known_hosts::KnownHosts;
use super::raw::RawInventory;
use super::read::read_source;
use super::source::SourceFile;
use super::{ansible, dynamic, hosts_toml, resolve, secrets};

/// Result of a load: an inventory unless there was an error, and the findings, sorted by place.
#[derive(Debug)]
pub struct LoadedInventory {
    /// The inventory; `None` where [`Self::diagnostics`] holds an error.
    pub inventory: Option<Inventory>,
    /// Errors and warnings.
    pub diagnostics: Diagnostics,
}

impl Inventory {
    /// Reads a folder: `hosts.toml`, an executable `hosts` (Ansible's dynamic inventory), or both, `secrets.toml` and
    /// `known_hosts`.
    /// Where both name a host or group, `hosts.toml` wins field by field. Opens no connection; a dynamic inventory is
    /// run.
    pub fn load_folder(dir: &Path) -> LoadedInventory {
        let mut found = Diagnostics::new();
        let mut draft = RawInventory::default();
        let path = dir.join("hosts.toml");
        let has_static = match read_source(&path) {
            Ok(None) => false,
            Ok(Some(file)) => {
                draft = hosts_toml::read_hosts_toml(&file, dir, &mut found);
                true
            }
            Err(error) => {
                found.push(error);
                true
            }
        };
        match dynamic::find_program(dir) {
            Ok(Some(program)) => draft.merge_source(ansible::run_script(&program, dir, &mut found)),
            Ok(None) if has_static => {}
            Ok(None) => found.push(
                Diagnostic::error_at_path(dir, "no inventory here: neither `hosts.toml` nor an executable `hosts`")
                    .with_help(
                        "run in a folder of a project (below its dunlin.toml), or name an inventory: -i inventories/production",
                    ),
            ),
            Err(error) => found.push(error),
        }
        let secrets = secrets::read_secrets(dir, &mut found);
        let known_hosts = KnownHosts::read(dir, &mut found);
        resolve_and_check(draft, dir, secrets, known_hosts, found)
    }

    /// Reads the text of a `hosts.toml` alone, as if it stood at `path`.
    pub fn parse_hosts_toml(path: &Path, text: &str) -> LoadedInventory {
        let mut found = Diagnostics::new();
        let dir = path.parent().unwrap_or(Path::new("."));
        let draft = hosts_toml::read_hosts_toml(&SourceFile::new(path, text), dir, &mut found);
        resolve_and_check(draft, dir, secrets::Secrets::default(), KnownHosts::default(), found)
    }

    /// Reads the output of a dynamic inventory alone, as if the program stood at `path`.
    pub fn parse_dynamic_output(path: &Path, output: &[u8]) -> LoadedInventory {
        let mut found = Diagnostics::new();
        let dir = path.parent().unwrap_or(Path::new("."));
        let draft = ansible::parse_output(output, &SourceFile::new(path, ""), dir, &mut found);
        let draft = draft.unwrap_or_else(|error| {
            found.push(error);
            RawInventory::default()
        });
        resolve_and_check(draft, dir, secrets::Secrets::default(), KnownHosts::default(), found)
    }
}

fn resolve_and_check(
    draft: RawInventory,
    dir: &Path,
    secrets: secrets::Secrets,
    known_hosts: KnownHosts,
    mut found: Diagnostics,
) -> LoadedInventory {
    let mut inventory = resolve::resolve_inventory(draft, dir, secrets, &mut found);
    known_hosts.add_keys(&mut inventory.hosts);
    found.sort();
    let inventory = (!found.has_errors()).then_some(inventory);
    LoadedInventory { inventory, diagnostics: found }
}
