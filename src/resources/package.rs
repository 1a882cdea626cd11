//! `package`: Debian packages, by apt.
//!
//! Does not change: packages that it does not name (an install that would remove any is refused by apt), configuration
//! files that were changed by hand. A second run is a no-op because the installed versions come from dpkg's status
//! file; apt is only queried for missing packages, and never updates its lists unless `update_cache = true`.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use super::apt::{self, PackageVersions};
use super::mode::Presence;
use super::{ApplyContext, BlobSource, Diff, HostView, ReadOutcome, Resource, UnitState, de_string};
use crate::duration::parse_timeout;
use crate::plan::AttributeChange;

/// Desired state of packages.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackageResource {
    /// Package names, with `=version` for a specific version.
    pub names: Vec<String>,
    /// `"absent"` removes them; their configuration files stay.
    #[serde(default)]
    pub state: Presence,
    /// Objects that the packages install and later steps rely on: `path /etc/redis`, `user redis`, `group redis`, `unit
    /// redis-server.service`.
    #[serde(default)]
    pub provides: Vec<String>,
    /// Update apt's package lists before an install.
    #[serde(default, deserialize_with = "de_string::required")]
    pub update_cache: bool,
    /// `false`: the install neither starts nor enables services of the packages.
    #[serde(default = "default_true", deserialize_with = "de_string::required")]
    pub start: bool,
    /// Also install recommended packages.
    #[serde(default, deserialize_with = "de_string::required")]
    pub install_recommends: bool,
    /// Time limit of each call of apt-get, such as `1h`; 30 minutes without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
}

/// Observed packages.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ObservedPackages {
    /// Installed versions; a package that is not installed has none.
    installed: BTreeMap<String, Option<String>>,
    /// Versions that apt offers of the packages to install.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    available: BTreeMap<String, PackageVersions>,
    /// Packages that a removal removes, with their versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    removed: Vec<(String, String)>,
}

impl Resource for PackageResource {
    const KIND: &'static str = "package";
    type Observed = ObservedPackages;

    fn key(&self) -> String {
        self.names.join(" ")
    }

    fn exclusive_claims(&self) -> Vec<String> {
        self.requested_versions().map(|(name, _)| format!("package {name}")).collect()
    }

    fn validate(&self) -> Result<(), String> {
        self.timeout()?;
        if self.names.is_empty() {
            return Err("`names` is empty".to_owned());
        }
        for (name, version) in self.requested_versions() {
            apt::check_package_name(name)?;
            match version {
                Some(version) if self.state == Presence::Absent => {
                    return Err(format!("{name} is removed in any version: leave out \"={version}\""));
                }
                Some(version) => apt::check_package_version(version)?,
                None => {}
            }
        }
        let kinds = ["path ", "user ", "group ", "unit "];
        if let Some(what) = self.provides.iter().find(|what| !kinds.iter().any(|kind| what.starts_with(kind))) {
            return Err(format!(
                "`provides` has entries such as \"path /etc/redis\" or \"user redis\", not \"{what}\""
            ));
        }
        Ok(())
    }

    fn read(&self, view: &mut HostView) -> Result<ReadOutcome<ObservedPackages>> {
        let mut installed = BTreeMap::new();
        for (name, _) in self.requested_versions() {
            installed.insert(name.to_owned(), view.package_version(name)?);
        }
        let mut observed = ObservedPackages { installed, available: BTreeMap::new(), removed: Vec::new() };
        let due: Vec<&str> = self.outdated_packages(&observed).map(|(name, _)| name).collect();
        if due.is_empty() {
            return Ok(ReadOutcome::Known(observed));
        }
        match self.state {
            Presence::Present => observed.available = apt::query_versions(&due)?,
            Presence::Absent if due.iter().any(|name| observed.installed[*name].as_deref() == Some("")) => {
                return Ok(ReadOutcome::UnknownUntilApply("an earlier step installs it".to_owned()));
            }
            Presence::Absent => observed.removed = apt::simulate_removal(&due, apt::DEFAULT_TIMEOUT)?,
        }
        Ok(ReadOutcome::Known(observed))
    }

    fn diff(&self, observed: &ObservedPackages, _blobs: &dyn BlobSource) -> Result<Diff> {
        if self.state == Presence::Absent {
            if self.outdated_packages(observed).next().is_none() {
                return Ok(Diff::none());
            }
            let gone = observed.removed.iter().map(|(name, version)| AttributeChange::to_absent(name, version));
            return Ok(Diff::remove(gone.collect()));
        }
        let mut changes = Vec::new();
        let mut is_new = true;
        for (name, version) in self.outdated_packages(observed) {
            let to = self.available_version(name, version, observed.available.get(name))?;
            changes.push(match observed.installed.get(name).and_then(Option::as_deref) {
                None => AttributeChange::from_absent(name, to),
                Some(from) => {
                    is_new = false;
                    AttributeChange::new(name, from, to)
                }
            });
        }
        Ok(if is_new && !changes.is_empty() { Diff::add(changes) } else { Diff::change(changes) })
    }

    fn predict_state(&self, view: &mut HostView) {
        let mut missing = Vec::new();
        for (name, version) in self.requested_versions() {
            let now = view.package_version(name).ok().flatten();
            if now.is_none() {
                missing.push(name);
            }
            let then = version.map(str::to_owned).or(now).unwrap_or_default();
            view.predict_package(name, (self.state == Presence::Present).then_some(then));
        }
        if self.state == Presence::Absent || missing.is_empty() {
            return;
        }
        view.predict_install(&missing.join(", "), &self.provides);
        if !self.start {
            for unit in self.provides.iter().filter_map(|what| what.strip_prefix("unit ")) {
                view.predict_unit(unit, UnitState::new_disabled());
            }
        }
    }

    fn apply(&self, observed: &ObservedPackages, _context: &mut ApplyContext) -> Result<()> {
        let due: Vec<String> =
            self.outdated_packages(observed).map(|(name, version)| apt::package_argument(name, version)).collect();
        let timeout = self.timeout().map_err(anyhow::Error::msg)?;
        if self.state == Presence::Absent {
            return apt::remove_packages(&due, timeout);
        }
        if self.update_cache {
            apt::update_lists(timeout)?;
        }
        if self.start {
            return apt::install_packages(&due, self.install_recommends, timeout);
        }
        let quiet = apt::ServiceStartBlock::activate()?;
        let installed = apt::install_packages(&due, self.install_recommends, timeout);
        quiet.deactivate()?;
        installed?;
        let new = self
            .outdated_packages(observed)
            .filter(|(name, _)| observed.installed.get(*name).is_some_and(Option::is_none));
        apt::disable_units(&new.map(|(name, _)| name).collect::<Vec<_>>())
    }
}

impl PackageResource {
    fn timeout(&self) -> Result<Duration, String> {
        parse_timeout(self.timeout.as_deref(), apt::DEFAULT_TIMEOUT)
    }

    /// Returns the names and, if one is fixed, the versions.
    fn requested_versions(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.names.iter().map(|name| match name.split_once('=') {
            Some((name, version)) => (name, Some(version)),
            None => (name.as_str(), None),
        })
    }

    /// Returns the packages that differ from the desired state.
    fn outdated_packages<'a>(
        &'a self,
        observed: &'a ObservedPackages,
    ) -> impl Iterator<Item = (&'a str, Option<&'a str>)> {
        self.requested_versions().filter(move |(name, version)| {
            let now = observed.installed.get(*name).and_then(Option::as_deref);
            match (self.state, now) {
                (Presence::Present, Some(now)) => version.is_some_and(|version| version != now),
                (Presence::Present, None) => true,
                (Presence::Absent, now) => now.is_some(),
            }
        })
    }

    /// Returns the version that an install will give.
    fn available_version(&self, name: &str, version: Option<&str>, offer: Option<&PackageVersions>) -> Result<String> {
        let versions = offer.map_or(&[][..], |offer| &offer.versions);
        match (version, offer.and_then(|offer| offer.candidate.clone())) {
            (Some(version), _) if self.update_cache || versions.iter().any(|offered| offered == version) => {
                Ok(version.to_owned())
            }
            (None, Some(candidate)) => Ok(candidate),
            (None, None) if self.update_cache => Ok("the version in the updated lists".to_owned()),
            (Some(version), _) if !versions.is_empty() => {
                bail!("apt offers {name} in version {}, not {version}", versions.join(", "))
            }
            _ => bail!("apt has no package {name}; `update_cache = true` updates its lists first"),
        }
    }
}

fn default_true() -> bool {
    true
}
