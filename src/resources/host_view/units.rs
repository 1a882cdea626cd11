//! systemd units: their state from `systemctl show`, and whether they are enabled, from the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::HostView;
use crate::process::Program;

/// Folder in which `systemctl enable` creates links.
const UNIT_LINK_DIR: &str = "/etc/systemd/system";

/// A systemd unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitState {
    /// A unit file, or the template of an instance, exists.
    pub found: bool,
    /// The unit is masked.
    pub masked: bool,
    /// `enabled`, `disabled`, `static` … as systemd's `UnitFileState` says.
    pub enabled: String,
    /// `active`, `inactive`, `failed`, `activating` … as systemd's `ActiveState` says.
    pub active: String,
}

impl UnitState {
    /// Returns the state of a unit without a unit file.
    pub fn absent() -> Self {
        Self { found: false, masked: false, enabled: String::new(), active: "inactive".to_owned() }
    }

    /// Returns the state of a new unit file, which was not used yet.
    pub fn new_disabled() -> Self {
        Self { found: true, masked: false, enabled: "disabled".to_owned(), active: "inactive".to_owned() }
    }
}

/// Returns the template of an instance: `shard@.service` for `shard@7.service`.
pub fn template_of(unit: &str) -> Option<String> {
    let (name, rest) = unit.split_once('@')?;
    let (instance, suffix) = rest.rsplit_once('.')?;
    (!instance.is_empty()).then(|| format!("{name}@.{suffix}"))
}

pub(super) fn read_units(names: &BTreeSet<String>) -> Result<BTreeMap<String, UnitState>> {
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let asked = Program::short("systemctl")
        .args(["show", "--property=Id,Names,LoadState,UnitFileState,ActiveState", "--"])
        .args(names)
        .run()
        .context("reading the state of units from systemd")?;
    let blocks = parse_units(&String::from_utf8_lossy(&asked));
    let links = EnableLinks::read_links(Path::new(UNIT_LINK_DIR));
    let blocks = blocks.into_iter().zip(names).map(|(state, name)| links.correct_state(name, state));
    // systemd answers in the order of the question; the names are ours, since an alias answers with another Id.
    Ok(names.iter().cloned().zip(blocks).collect())
}

/// The units that have a link from `*.wants`, `*.requires`, `*.upholds` or an alias: what `enable` makes.
///
/// systemd caches a unit's `UnitFileState` from the first query until its next reload, and a reload costs more
/// than all the rest of enabling a unit; so the links are read from the disk, which needs no reload.
struct EnableLinks(BTreeSet<String>);

impl EnableLinks {
    fn read_links(folder: &Path) -> Self {
        let mut found = BTreeSet::new();
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if [".wants", ".requires", ".upholds"].iter().any(|suffix| name.ends_with(suffix)) {
                let inside = fs::read_dir(&path).into_iter().flatten().flatten();
                found.extend(inside.map(|link| link.file_name().to_string_lossy().into_owned()));
            } else if let Ok(target) = fs::read_link(&path)
                && let Some(unit) = target.file_name().map(|unit| unit.to_string_lossy().into_owned())
                // A link of the same name brings a unit file from elsewhere: that is `linked`.
                && unit != name
            {
                found.insert(unit);
            }
        }
        Self(found)
    }

    /// Corrects the state that systemd reports if it is older than systemd's last reload.
    fn correct_state(&self, name: &str, mut state: UnitState) -> UnitState {
        match (state.enabled.as_str(), self.0.contains(name)) {
            ("disabled", true) => state.enabled = "enabled".to_owned(),
            ("enabled", false) => state.enabled = "disabled".to_owned(),
            _ => {}
        }
        state
    }
}

/// Parses the output of `systemctl show`, one state per paragraph.
fn parse_units(shown: &str) -> Vec<UnitState> {
    let parse = |block: &str| {
        let mut state = UnitState::absent();
        for line in block.lines() {
            match line.split_once('=') {
                Some(("LoadState", value)) => {
                    state.found = value != "not-found";
                    state.masked = value == "masked";
                }
                Some(("UnitFileState", value)) => state.enabled = value.to_owned(),
                Some(("ActiveState", value)) => state.active = value.to_owned(),
                _ => {}
            }
        }
        state
    };
    shown.split("\n\n").filter(|block| !block.trim().is_empty()).map(parse).collect()
}

impl HostView {
    /// Returns a systemd unit. An instance of a template that an earlier step provides counts as existing.
    ///
    /// # Errors
    /// Returns an error if systemd does not answer.
    pub fn unit_state(&mut self, name: &str) -> Result<UnitState> {
        if let Some(expected) = self.predicted_units.get(name) {
            return Ok(expected.clone());
        }
        if !self.known_units.contains_key(name) {
            let mut read = read_units(&BTreeSet::from([name.to_owned()]))?;
            self.known_units.append(&mut read);
        }
        let mut state = self.known_units.get(name).cloned().unwrap_or_else(UnitState::absent);
        let template = template_of(name).and_then(|template| self.predicted_units.get(&template));
        match template {
            Some(template) if template.found && !state.found => state = UnitState::new_disabled(),
            Some(template) if !template.found => state.found = false,
            _ => {}
        }
        Ok(state)
    }

    /// Records the predicted state of a unit.
    pub fn predict_unit(&mut self, name: &str, state: UnitState) {
        self.predicted_units.insert(name.to_owned(), state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn show_output_is_parsed_per_unit() {
        let shown = "Id=a.service\nLoadState=loaded\nActiveState=active\nUnitFileState=enabled\n\nId=b.service\nLoadState=not-found\nActiveState=inactive\nUnitFileState=\n";
        let units = parse_units(shown);
        assert_eq!(units.len(), 2);
        assert!(units[0].found && units[0].active == "active" && units[0].enabled == "enabled");
        assert_eq!(units[1], UnitState::absent());
    }

    #[test]
    fn enable_links_override_systemd() {
        let folder = tempfile::tempdir().unwrap();
        let wants = folder.path().join("multi-user.target.wants");
        fs::create_dir(&wants).unwrap();
        std::os::unix::fs::symlink("/lib/systemd/system/a@.service", wants.join("a@1.service")).unwrap();
        std::os::unix::fs::symlink("/lib/systemd/system/b.service", folder.path().join("alias.service")).unwrap();
        std::os::unix::fs::symlink("/opt/c.service", folder.path().join("c.service")).unwrap();
        let links = EnableLinks::read_links(folder.path());
        let said = |enabled: &str| UnitState { enabled: enabled.to_owned(), ..UnitState::new_disabled() };
        let seen = |name: &str, enabled: &str| links.correct_state(name, said(enabled)).enabled;
        assert_eq!(seen("a@1.service", "disabled"), "enabled");
        assert_eq!(seen("a@2.service", "enabled"), "disabled");
        assert_eq!(seen("b.service", "enabled"), "enabled");
        assert_eq!(seen("c.service", "linked"), "linked");
        assert_eq!(seen("d.service", "static"), "static");
    }

    #[test]
    fn an_instance_has_a_template() {
        assert_eq!(template_of("shard@7.service").as_deref(), Some("shard@.service"));
        assert_eq!(template_of("shard@.service"), None);
        assert_eq!(template_of("redis-server.service"), None);
    }
}
