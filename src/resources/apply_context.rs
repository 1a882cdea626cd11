//! Context of apply: contents by digest, and the pending reload of systemd.

use std::collections::BTreeSet;

use anyhow::{Context, Result};

use crate::plan::{Digest, DigestKey};
use crate::process::Program;

/// Contents by digest.
pub trait BlobSource {
    /// Fetches several contents at once; `read_blob` then answers without waiting.
    ///
    /// # Errors
    /// Returns an error if the contents are not available.
    fn fetch_blobs(&self, _digests: &[Digest]) -> Result<()> {
        Ok(())
    }

    /// Requests contents that `read_blob` reads later, without waiting for them.
    fn request_blobs(&self, _digests: &[Digest]) {}

    /// Drops a content that is not needed again from memory.
    fn discard_blob(&self, _digest: &Digest) {}

    /// Returns the key under which digests are shown, if there is one.
    fn digest_key(&self) -> Option<&DigestKey> {
        None
    }

    /// Returns the content with this digest.
    ///
    /// # Errors
    /// Returns an error if no content has that digest.
    fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>>;
}

/// Services that apply uses besides the desired and the observed state.
pub struct ApplyContext<'a> {
    blobs: &'a dyn BlobSource,
    have_units_changed: bool,
    are_states_stale: bool,
    upcoming_enables: Vec<String>,
    enabled_units: BTreeSet<String>,
}

impl<'a> ApplyContext<'a> {
    /// Creates the context.
    pub fn new(blobs: &'a dyn BlobSource) -> Self {
        Self {
            blobs,
            have_units_changed: false,
            are_states_stale: false,
            upcoming_enables: Vec::new(),
            enabled_units: BTreeSet::new(),
        }
    }

    /// Returns the content with this digest.
    ///
    /// # Errors
    /// Returns an error if no content has that digest.
    pub fn read_content(&self, digest: &Digest) -> Result<Vec<u8>> {
        self.blobs.read_blob(digest)
    }

    /// Returns the contents.
    pub fn blobs(&self) -> &dyn BlobSource {
        self.blobs
    }

    /// Notes that systemd must read its unit files again before the next unit is started, and at the end.
    pub fn require_reload(&mut self) {
        self.have_units_changed = true;
    }

    /// Sets the units that the steps right after this one enable: one call of `systemctl` enables them all.
    pub fn set_upcoming_enables(&mut self, units: Vec<String>) {
        self.upcoming_enables = units;
    }

    /// Enables a unit at boot. systemd needs no reload for this; a pending reload happens after it.
    ///
    /// # Errors
    /// Returns the error of `systemctl enable`.
    pub fn enable_unit(&mut self, unit: &str) -> Result<()> {
        if self.enabled_units.contains(unit) {
            return Ok(());
        }
        let mut units = vec![unit.to_owned()];
        units.append(&mut self.upcoming_enables);
        let enable = |units: &[String]| {
            Program::short("systemctl").args(["enable", "--quiet", "--no-reload", "--"]).args(units).run().map(drop)
        };
        // If it fails for one of them, the step of that unit reports it.
        if enable(&units).is_err() {
            units.truncate(1);
            enable(&units).with_context(|| format!("systemctl enable {unit}"))?;
        }
        self.enabled_units.extend(units);
        self.are_states_stale |= !self.have_units_changed;
        Ok(())
    }

    /// Notes that systemd may still report the old state of an enabled or disabled unit: one reload at the end is
    /// enough.
    pub fn require_refresh(&mut self) {
        self.are_states_stale = true;
    }

    /// Reloads systemd's unit files before a unit is started, if a step changed one since the last reload. Returns
    /// whether it did.
    ///
    /// # Errors
    /// Returns the error of `systemctl daemon-reload`.
    pub fn flush_unit_changes(&mut self) -> Result<bool> {
        if !self.have_units_changed {
            return Ok(false);
        }
        Program::short("systemctl").arg("daemon-reload").run().context("reloading systemd's units")?;
        (self.have_units_changed, self.are_states_stale) = (false, false);
        Ok(true)
    }

    /// Reloads systemd's unit files at the end, if a reload is pending.
    ///
    /// # Errors
    /// Returns the error of `systemctl daemon-reload`.
    pub fn flush_reload(&mut self) -> Result<()> {
        self.have_units_changed |= self.are_states_stale;
        self.flush_unit_changes().map(drop)
    }
}
