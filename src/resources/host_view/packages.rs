//! Installed packages, as dpkg's status file has them.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;

use anyhow::{Context, Result};

use super::{HostView, ProvidedBy};

pub(super) fn read_dpkg() -> Result<BTreeMap<String, String>> {
    match fs::read_to_string("/var/lib/dpkg/status") {
        Ok(status) => Ok(parse_dpkg(&status)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(error).context("reading /var/lib/dpkg/status"),
    }
}

/// Parses installed packages and their versions from dpkg's status file (paragraphs of `Package:`, `Status:`,
/// `Version:`).
fn parse_dpkg(status: &str) -> BTreeMap<String, String> {
    let mut installed = BTreeMap::new();
    let (mut name, mut version, mut is_installed) = ("", "", false);
    for line in status.lines().chain([""]) {
        if let Some(value) = line.strip_prefix("Package: ") {
            name = value;
        } else if let Some(value) = line.strip_prefix("Version: ") {
            version = value;
        } else if let Some(value) = line.strip_prefix("Status: ") {
            is_installed = value.ends_with(" ok installed");
        } else if line.is_empty() {
            if is_installed && !name.is_empty() {
                installed.insert(name.to_owned(), version.to_owned());
            }
            (name, version, is_installed) = ("", "", false);
        }
    }
    installed
}

impl HostView {
    /// Returns the version of an installed package, empty if an earlier step installs any version; `None` if it is not
    /// installed.
    ///
    /// # Errors
    /// Returns an error if dpkg's status file cannot be read.
    pub fn package_version(&mut self, name: &str) -> Result<Option<String>> {
        if let Some(expected) = self.predicted_packages.get(name) {
            return Ok(expected.clone());
        }
        if self.dpkg_versions.is_none() {
            self.dpkg_versions = Some(read_dpkg()?);
        }
        Ok(self.dpkg_versions.as_ref().and_then(|dpkg| dpkg.get(name).cloned()))
    }

    /// Records a package that will be installed (empty: in any version) or removed (`None`).
    pub fn predict_package(&mut self, name: &str, version: Option<String>) {
        self.predicted_packages.insert(name.to_owned(), version);
    }

    /// Records that a package will be installed, and the objects that it provides: `path /etc/redis`, `user redis`,
    /// `unit redis-server.service`.
    pub fn predict_install(&mut self, package: &str, provides: &[String]) {
        self.pending_packages.push(package.to_owned());
        for what in provides {
            self.provided.push((what.clone(), package.to_owned()));
        }
    }

    /// Returns the package of an earlier step that provides an object (`path …`, `user …`, `unit …`).
    pub fn provided_by(&self, what: &str) -> Option<ProvidedBy> {
        let found = self.provided.iter().find(|(thing, _)| thing == what);
        found.map(|(_, package)| ProvidedBy { package: package.clone() })
    }

    /// Returns the packages that earlier steps will install.
    pub fn announced_packages(&self) -> &[String] {
        &self.pending_packages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_installed_packages_are_listed() {
        let status = "Package: a\nStatus: install ok installed\nVersion: 1\n\nPackage: b\nStatus: deinstall ok config-files\nVersion: 2\n";
        assert_eq!(parse_dpkg(status), BTreeMap::from([("a".to_owned(), "1".to_owned())]));
    }
}
