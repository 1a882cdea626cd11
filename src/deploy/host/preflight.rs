//! Finds what would stop a deploy on this host, before anything is written.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::statvfs;

use super::activate::config_meta;
use super::layout::ServiceLayout;
use super::stage::missing_contents;
use crate::plan::Digest;
use crate::protocol::deploy::DesiredState;
use crate::resources::{PathMeta, atomic_file};

/// Bytes that stay free for the journal and the configuration.
const RESERVED_BYTES: u64 = 16 << 20;
/// Inodes that stay free besides those of the release's files.
const RESERVED_INODES: u64 = 100;

/// Returns the reasons for which this host cannot take the release: accounts, space and inodes. Writes nothing.
pub(super) fn find_problems(layout: &ServiceLayout, desired: &DesiredState) -> Result<Vec<String>> {
    let mut problems = find_missing_accounts(desired);
    problems.extend(find_missing_space(layout, desired)?);
    Ok(problems)
}

fn find_missing_accounts(desired: &DesiredState) -> Vec<String> {
    let mut problems = Vec::new();
    for config in &desired.config.configs {
        if let Err(error) = atomic_file::resolve_ids(&config_meta(config)) {
            problems.push(format!("{}: {error:#}", config.dest.display()));
        }
    }
    if let Some(user) = &desired.config.user {
        let meta = PathMeta { mode: 0, owner: user.clone(), group: "root".to_owned() };
        problems.extend(atomic_file::resolve_ids(&meta).err().map(|error| format!("hooks and tasks: {error:#}")));
    }
    problems
}

fn find_missing_space(layout: &ServiceLayout, desired: &DesiredState) -> Result<Vec<String>> {
    let missing = missing_contents(layout, desired)?;
    let files = desired.manifest.files.iter().map(|file| (&file.sha256, file.size));
    let units = desired.config.units.iter().map(|unit| (&unit.digest, unit.size));
    let configs = desired.config.configs.iter().map(|config| (&config.digest, config.size));
    let sizes: BTreeMap<&Digest, u64> = files.chain(units).chain(configs).collect();
    let bytes: u64 = missing.iter().filter_map(|digest| sizes.get(digest)).sum();
    if bytes == 0 {
        return Ok(Vec::new());
    }
    let folder = layout.root().ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("/"));
    let stat = statvfs(folder).with_context(|| format!("reading the free space of {}", folder.display()))?;
    let (free, needed) = (stat.f_bavail.saturating_mul(stat.f_frsize), bytes.saturating_add(RESERVED_BYTES));
    let mut problems = Vec::new();
    if free < needed {
        problems.push(format!(
            "{} has {free} bytes free; the release needs {bytes} bytes, and {RESERVED_BYTES} must stay free",
            folder.display()
        ));
    }
    let inodes = desired.manifest.files.len() as u64 + RESERVED_INODES;
    // Some file systems have no fixed number of inodes and report 0.
    if stat.f_files > 0 && stat.f_favail < inodes {
        problems.push(format!("{} has {} inodes free; the release needs {inodes}", folder.display(), stat.f_favail));
    }
    Ok(problems)
}
