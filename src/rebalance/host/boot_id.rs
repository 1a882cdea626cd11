//! The boot ID of the host: journal entries without a sync may be lost on a reboot.

use anyhow::{Context, Result};

/// Reads the boot ID, which changes with each boot.
///
/// # Errors
/// Returns an error if the kernel does not provide it.
pub fn read_boot_id() -> Result<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").context("reading the host's boot id")?;
    Ok(id.trim().to_owned())
}
