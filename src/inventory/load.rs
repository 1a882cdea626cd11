//! Reading an inventory folder.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::diagnostic::{Diagnostic, Diagnostics};
use super::draft::Draft;
use super::host::Inventory;
use super::read::read_source;
use super::source::SourceFile;
use super::{ansible, hosts_toml, join, secrets};

/// What a load gave: an inventory unless there was an error, and everything that was found, sorted by place.
#[derive(Debug)]
pub struct Loaded {
    /// The inventory; `None` where [`Self::diagnostics`] holds an error.
    pub inventory: Option<Inventory>,
    /// Errors and warnings.
    pub diagnostics: Diagnostics,
}

impl Inventory {
    /// Reads a folder: `hosts.toml`, an executable `hosts` (Ansible's dynamic inventory), or both, and `secrets.toml`.
    /// Where both name a host or group, `hosts.toml` wins field by field. Opens no connection; a dynamic inventory is run.
    pub fn load(dir: &Path) -> Loaded {
        let mut found = Diagnostics::new();
        let mut draft = Draft::default();
        let path = dir.join("hosts.toml");
        let has_static = match read_source(&path) {
            Ok(None) => false,
            Ok(Some(file)) => {
                draft = hosts_toml::read(&file, dir, &mut found);
                true
            }
            Err(error) => {
                found.push(error);
                true
            }
        };
        let script = dir.join("hosts");
        match std::fs::metadata(&script) {
            Ok(meta) if meta.is_file() && meta.permissions().mode() & 0o111 != 0 => {
                draft.append(ansible::run(&script, dir, &mut found));
            }
            Ok(meta) if meta.is_file() => found.push(
                Diagnostic::path(&script, "a dynamic inventory must be executable")
                    .help(format!("chmod +x {}", script.display())),
            ),
            Err(error) if error.kind() != ErrorKind::NotFound => {
                found.push(Diagnostic::path(&script, format!("cannot be read: {error}")));
            }
            _ if !has_static => found.push(
                Diagnostic::path(dir, "no inventory here: neither `hosts.toml` nor an executable `hosts`")
                    .help("name a folder with -i, for example -i inventories/production"),
            ),
            _ => {}
        }
        let secrets = secrets::read(dir, &mut found);
        finish(draft, (dir, secrets), found)
    }

    /// Reads the text of a `hosts.toml` alone, as if it stood at `path`.
    pub fn from_text(path: &Path, text: &str) -> Loaded {
        let mut found = Diagnostics::new();
        let dir = path.parent().unwrap_or(Path::new("."));
        let draft = hosts_toml::read(&SourceFile::new(path, text), dir, &mut found);
        finish(draft, (dir, secrets::Secrets::default()), found)
    }
}

fn finish(draft: Draft, (dir, secrets): (&Path, secrets::Secrets), mut found: Diagnostics) -> Loaded {
    let inventory = join::join(draft, dir, secrets, &mut found);
    found.sort();
    let inventory = (!found.has_errors()).then_some(inventory);
    Loaded { inventory, diagnostics: found }
}
