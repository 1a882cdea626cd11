//! systemd units, as `systemctl show` tells them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::resources::exec::Exec;

/// A systemd unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitState {
    /// Is there a unit file (or an instance's template)?
    pub found: bool,
    /// Is it masked?
    pub masked: bool,
    /// `enabled`, `disabled`, `static` … as systemd's `UnitFileState` says.
    pub enabled: String,
    /// `active`, `inactive`, `failed`, `activating` … as systemd's `ActiveState` says.
    pub active: String,
}

impl UnitState {
    /// No unit file of that name.
    pub fn absent() -> Self {
        Self { found: false, masked: false, enabled: String::new(), active: "inactive".to_owned() }
    }

    /// A unit file that was put there and not used yet.
    pub fn fresh() -> Self {
        Self { found: true, masked: false, enabled: "disabled".to_owned(), active: "inactive".to_owned() }
    }
}

/// The template of an instance: `shard@.service` for `shard@7.service`.
pub fn template_of(unit: &str) -> Option<String> {
    let (name, rest) = unit.split_once('@')?;
    let (instance, suffix) = rest.rsplit_once('.')?;
    (!instance.is_empty()).then(|| format!("{name}@.{suffix}"))
}

pub(super) fn read_units(names: &BTreeSet<String>) -> Result<BTreeMap<String, UnitState>> {
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let asked = Exec::new("systemctl")
        .args(["show", "--property=Id,Names,LoadState,UnitFileState,ActiveState", "--"])
        .args(names)
        .run()
        .context("asking systemd for the state of units")?;
    let blocks = parse_units(&String::from_utf8_lossy(&asked));
    // systemd answers in the order of the question; the names are ours, since an alias answers with another Id.
    Ok(names.iter().cloned().zip(blocks).collect())
}

/// One state for each paragraph of `systemctl show`.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_told_apart() {
        let shown = "Id=a.service\nLoadState=loaded\nActiveState=active\nUnitFileState=enabled\n\nId=b.service\nLoadState=not-found\nActiveState=inactive\nUnitFileState=\n";
        let units = parse_units(shown);
        assert_eq!(units.len(), 2);
        assert!(units[0].found && units[0].active == "active" && units[0].enabled == "enabled");
        assert_eq!(units[1], UnitState::absent());
    }

    #[test]
    fn an_instance_has_a_template() {
        assert_eq!(template_of("shard@7.service").as_deref(), Some("shard@.service"));
        assert_eq!(template_of("shard@.service"), None);
        assert_eq!(template_of("redis-server.service"), None);
    }
}
