//! Memory and disk space of the target's host.

use std::fs;

use anyhow::{Context, Result};

use super::super::disk_space::{existing_data_dir, free_bytes};
use super::IssueList;
use crate::protocol::shard::{MoveNeeds, PreflightRule};
use crate::resources::redis_shard::RedisShard;
use crate::resources::redis_shard::conf::RedisConf;

/// Measures what a copy with this many bytes of data needs: memory for the data, a rewrite of the append-only file and
/// the backlog; disk space for twice the data, the file and its successor.
///
/// # Errors
/// Returns an error if the host does not report free space.
pub fn measure_needs(data_bytes: u64, instance: &RedisShard, conf: &RedisConf) -> Result<MoveNeeds> {
    let directory = existing_data_dir(instance);
    let context = || format!("the file system of {}", directory.display());
    Ok(MoveNeeds {
        data_bytes,
        memory_bytes: data_bytes + data_bytes / 2 + conf.last_bytes("repl-backlog-size").unwrap_or(1 << 20),
        available_memory_bytes: read_meminfo("MemAvailable:")?,
        disk_bytes: 2 * data_bytes,
        free_disk_bytes: free_bytes(instance)?,
        file_system: rustix::fs::stat(directory).with_context(context)?.st_dev,
    })
}

/// Checks the memory for the data, the copy's buffers, and a rewrite of the append-only file.
pub fn check_memory(needs: &MoveNeeds, conf: &RedisConf, issues: &mut IssueList) {
    let MoveNeeds { data_bytes: used, memory_bytes: needed, available_memory_bytes: available, .. } = *needs;
    if let Some(limit) = conf.last_bytes("maxmemory").filter(|&limit| limit > 0 && limit < used) {
        issues.add_issue(
            PreflightRule::Memory,
            format!("the copy will use {used} bytes, the target's maxmemory is {limit}"),
        );
    }
    if available < needed {
        issues.add_issue(
            PreflightRule::Memory,
            format!("the target's host has {available} bytes available, the copy needs {needed}"),
        );
    }
    let overcommit = fs::read_to_string("/proc/sys/vm/overcommit_memory").unwrap_or_default();
    let is_risky = match overcommit.trim() {
        "1" => false,
        "2" => true,
        _ => available < 2 * used,
    };
    if is_risky {
        let setting = overcommit.trim();
        issues.add_issue(
            PreflightRule::Overcommit,
            format!("vm.overcommit_memory is {setting}: the fork to save {used} bytes may fail; set it to 1"),
        );
    }
}

fn read_meminfo(name: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("{name} in meminfo"))?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().context("a number in /proc/meminfo")?;
    Ok(kilobytes * 1024)
}

/// Checks the disk space for the file and, during a rewrite, its successor.
pub fn check_disk(needs: &MoveNeeds, instance: &RedisShard) -> Option<String> {
    let MoveNeeds { disk_bytes: needed, free_disk_bytes: free, .. } = *needs;
    let directory = existing_data_dir(instance).display();
    (free < needed).then(|| format!("{directory} has {free} bytes free, the copy needs {needed}"))
}
