//! Finds file systems without the space for what a deploy writes to them: `releases`, the records, units and
//! configuration may each be on another one.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::statvfs;

use crate::deploy::host::contents::count_bytes_to_write;
use crate::deploy::host::layout::{ServiceLayout, has_content};
use crate::deploy::host::service_manager::ServiceManager;
use crate::protocol::deploy::DesiredState;

/// Bytes that stay free for the journal.
const RESERVED_BYTES: u64 = 16 << 20;
/// Inodes that stay free besides those of the release's files.
const RESERVED_INODES: u64 = 100;

/// The space that a deploy needs on one file system.
#[derive(Debug, Default)]
struct SpaceNeed {
    /// A folder on the file system.
    folder: PathBuf,
    bytes: u64,
    reserved_bytes: u64,
    inodes: u64,
}

/// Returns the file systems that are too full; none if the deploy writes nothing.
///
/// # Errors
/// Returns an error if the releases or a file system cannot be read.
pub(super) fn find_missing_space(
    layout: &ServiceLayout,
    services: &dyn ServiceManager,
    desired: &DesiredState,
) -> Result<Vec<String>> {
    let needs = list_needs(layout, services, desired)?;
    if needs.iter().all(|need| need.bytes == 0) {
        return Ok(Vec::new());
    }
    let mut by_device: BTreeMap<u64, SpaceNeed> = BTreeMap::new();
    for need in needs {
        let folder = need.folder.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("/"));
        let device = fs::metadata(folder).with_context(|| folder.display().to_string())?.dev();
        let first = || SpaceNeed { folder: folder.to_owned(), ..SpaceNeed::default() };
        let total = by_device.entry(device).or_insert_with(first);
        total.bytes = total.bytes.saturating_add(need.bytes);
        total.reserved_bytes = total.reserved_bytes.saturating_add(need.reserved_bytes);
        total.inodes = total.inodes.saturating_add(need.inodes);
    }
    let mut problems = Vec::new();
    for need in by_device.values() {
        problems.extend(need.find_problems()?);
    }
    Ok(problems)
}

fn list_needs(layout: &ServiceLayout, services: &dyn ServiceManager, desired: &DesiredState) -> Result<Vec<SpaceNeed>> {
    let release = SpaceNeed {
        folder: layout.releases_dir(),
        bytes: count_bytes_to_write(layout, desired)?,
        inodes: desired.manifest.files.len() as u64,
        ..SpaceNeed::default()
    };
    let records = SpaceNeed {
        folder: layout.records_dir(),
        reserved_bytes: RESERVED_BYTES,
        inodes: RESERVED_INODES,
        ..SpaceNeed::default()
    };
    let units = desired.config.units.iter().map(|unit| {
        let path = services.unit_dir().join(unit.file_name());
        (path, unit.size, &unit.digest)
    });
    let configs = desired.config.configs.iter().map(|config| (config.dest.clone(), config.size, &config.digest));
    // A file is written beside the one that it replaces.
    let written = units.chain(configs).filter(|(path, size, digest)| !has_content(path, *size, digest));
    let files = written.map(|(path, bytes, _)| SpaceNeed { folder: path, bytes, inodes: 1, ..SpaceNeed::default() });
    Ok([release, records].into_iter().chain(files).collect())
}

impl SpaceNeed {
    /// Compares with what the file system has.
    fn find_problems(&self) -> Result<Vec<String>> {
        let Self { folder, bytes, reserved_bytes, inodes } = self;
        let stat = statvfs(folder).with_context(|| format!("reading the free space of {}", folder.display()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        let mut problems = Vec::new();
        if free < bytes.saturating_add(*reserved_bytes) {
            let reserve = match reserved_bytes {
                0 => String::new(),
                bytes => format!(", and {bytes} must stay free"),
            };
            let folder = folder.display();
            problems.push(format!("{folder} has {free} bytes free; the release needs {bytes} bytes{reserve}"));
        }
        // Some file systems have no fixed number of inodes and report 0.
        if stat.f_files > 0 && stat.f_favail < *inodes {
            problems.push(format!(
                "{} has {} inodes free; the release needs {inodes}",
                folder.display(),
                stat.f_favail
            ));
        }
        Ok(problems)
    }
}
