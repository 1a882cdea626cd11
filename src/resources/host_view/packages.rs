//! Installed packages, as dpkg's status file has them.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;

use anyhow::{Context, Result};

pub(super) fn read_dpkg() -> Result<BTreeMap<String, String>> {
    match fs::read_to_string("/var/lib/dpkg/status") {
        Ok(status) => Ok(parse_dpkg(&status)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(error).context("reading /var/lib/dpkg/status"),
    }
}

/// Installed packages and their versions, from dpkg's status file (paragraphs of `Package:`, `Status:`, `Version:`).
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_installed_packages_are_listed() {
        let status = "Package: a\nStatus: install ok installed\nVersion: 1\n\nPackage: b\nStatus: deinstall ok config-files\nVersion: 2\n";
        assert_eq!(parse_dpkg(status), BTreeMap::from([("a".to_owned(), "1".to_owned())]));
    }
}
