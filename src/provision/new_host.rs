//! A new host: its place in the inventory, and whether it can be provisioned.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};

use crate::atomic_file::{Attributes, existing_mode, write_atomically};
use crate::inventory::{Inventory, LoadedInventory, NewHost, add_host};
use crate::project::Project;
use crate::protocol::Hello;

/// The change of `hosts.toml` that adds a host.
#[derive(Debug)]
pub struct NewHostChange {
    /// The file.
    pub path: PathBuf,
    /// Its text.
    pub before: String,
    /// Its text with the host; the same if it has the host.
    pub after: String,
}

impl NewHostChange {
    /// Plans the change of a project's inventory.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, or the host does not fit into it.
    pub fn plan(project: &Project, host: &NewHost) -> Result<Self> {
        let path = project.inventory.join("hosts.toml");
        let before = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let after = add_host(&before, host).map_err(|error| anyhow!("{}: {error}", path.display()))?;
        Ok(Self { path, before, after })
    }

    /// Returns whether the inventory has the host.
    pub fn is_empty(&self) -> bool {
        self.before == self.after
    }

    /// Reads the file with the host.
    pub fn load_changed(&self) -> LoadedInventory {
        Inventory::parse_hosts_toml(&self.path, &self.after)
    }

    /// Writes the file.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written.
    pub fn write(&self) -> Result<()> {
        let mode = existing_mode(&self.path)?.unwrap_or(0o644);
        write_atomically(&self.path, self.after.as_bytes(), &Attributes::with_mode(mode))
    }
}

/// A host that cannot be provisioned.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{host} cannot be provisioned: {}", .reasons.join("; "))]
pub struct IneligibleHostError {
    /// The host.
    pub host: String,
    /// The reasons.
    pub reasons: Vec<String>,
}

/// Checks that a host can be provisioned, by what its agent reports.
///
/// # Errors
/// Returns an error if the agent is not root, or the host has another operating system or init.
pub fn ensure_eligible(host: &str, hello: &Hello) -> Result<(), IneligibleHostError> {
    let facts = &hello.facts;
    let mut reasons = Vec::new();
    if hello.uid != 0 {
        reasons.push("the agent does not run as root: set become = true and allow sudo".to_owned());
    }
    if !facts.systemd {
        reasons.push("systemd does not run as PID 1".to_owned());
    }
    if facts.os.family != "debian" {
        reasons.push(format!(
            "the operating system is {} {}, which is not of the Debian family",
            facts.os.id, facts.os.version
        ));
    }
    if reasons.is_empty() {
        return Ok(());
    }
    Err(IneligibleHostError { host: host.to_owned(), reasons })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Digest;
    use crate::protocol::{HostFacts, OsFacts, PROTOCOL_VERSION, SystemLoad};

    #[test]
    fn a_host_that_cannot_be_provisioned_is_refused_with_all_reasons() {
        let hello = |uid, systemd, family: &str| {
            let os = OsFacts { family: family.to_owned(), id: "arch".to_owned(), ..OsFacts::default() };
            Hello {
                protocol_version: PROTOCOL_VERSION,
                version: String::new(),
                binary_digest: Digest::of_bytes(b""),
                uid,
                facts: HostFacts { os, systemd, ..HostFacts::default() },
                load: SystemLoad::default(),
            }
        };
        assert_eq!(ensure_eligible("web-1", &hello(0, true, "debian")), Ok(()));
        let count = |uid, systemd, family| {
            ensure_eligible("web-1", &hello(uid, systemd, family)).map_err(|error| error.reasons.len())
        };
        for (uid, systemd, family) in [(1000, true, "debian"), (0, false, "debian"), (0, true, "arch")] {
            assert_eq!(count(uid, systemd, family), Err(1), "{uid} {systemd} {family}");
        }
        assert_eq!(count(1000, false, "arch"), Err(3));
    }
}
