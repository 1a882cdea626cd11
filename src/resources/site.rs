//! Where apply works: contents by digest, and what is owed to the system at the end (a reload of systemd).

use std::collections::BTreeSet;

use anyhow::{Context, Result};

use crate::plan::Digest;
use crate::process::Program;

/// Contents by digest.
pub trait Blobs {
    /// Fetches several at once, where they come from afar; `get` then answers without waiting.
    ///
    /// # Errors
    /// They cannot be had.
    fn prefetch(&self, _digests: &[Digest]) -> Result<()> {
        Ok(())
    }

    /// The bytes of that digest.
    ///
    /// # Errors
    /// There are none of that digest.
    fn get(&self, digest: &Digest) -> Result<Vec<u8>>;
}

/// What apply is given besides the desired and the observed state.
pub struct Site<'a> {
    blobs: &'a dyn Blobs,
    units_changed: bool,
    states_stale: bool,
    ahead: Vec<String>,
    enabled: BTreeSet<String>,
}

impl<'a> Site<'a> {
    /// A site on this host.
    pub fn new(blobs: &'a dyn Blobs) -> Self {
        Self { blobs, units_changed: false, states_stale: false, ahead: Vec::new(), enabled: BTreeSet::new() }
    }

    /// The bytes of that digest.
    ///
    /// # Errors
    /// There are none of that digest.
    pub fn content(&self, digest: &Digest) -> Result<Vec<u8>> {
        self.blobs.get(digest)
    }

    /// All contents.
    pub fn blobs(&self) -> &dyn Blobs {
        self.blobs
    }

    /// Notes that systemd must read its unit files again before the next unit is started, and at the end.
    pub fn owe_reload(&mut self) {
        self.units_changed = true;
    }

    /// Tells which units the steps right behind this one are going to enable: that is done in one go with its own.
    pub fn expect_enables(&mut self, units: Vec<String>) {
        self.ahead = units;
    }

    /// Has a unit start with the host. systemd needs no reload for that; where one is owed anyway, it comes after this.
    ///
    /// # Errors
    /// What `systemctl enable` said.
    pub fn enable(&mut self, unit: &str) -> Result<()> {
        if self.enabled.contains(unit) {
            return Ok(());
        }
        let mut units = vec![unit.to_owned()];
        units.append(&mut self.ahead);
        let enable = |units: &[String]| {
            Program::new("systemctl").args(["enable", "--quiet", "--no-reload", "--"]).args(units).run().map(drop)
        };
        // If it fails for one of them, that one's own step is to say so.
        if enable(&units).is_err() {
            units.truncate(1);
            enable(&units).with_context(|| format!("systemctl enable {unit}"))?;
        }
        self.enabled.extend(units);
        self.states_stale |= !self.units_changed;
        Ok(())
    }

    /// Notes that systemd may still tell the old state of an enabled or disabled unit: one reload at the end is enough.
    pub fn owe_refresh(&mut self) {
        self.states_stale = true;
    }

    /// Before a unit is started: lets systemd read its unit files again, if a step changed one since the last time.
    /// Tells whether it did.
    ///
    /// # Errors
    /// What `systemctl daemon-reload` said.
    pub fn settle_units(&mut self) -> Result<bool> {
        if !self.units_changed {
            return Ok(false);
        }
        Program::new("systemctl").arg("daemon-reload").run().context("reloading systemd's units")?;
        (self.units_changed, self.states_stale) = (false, false);
        Ok(true)
    }

    /// At the end: lets systemd read its unit files again, if anything is owed.
    ///
    /// # Errors
    /// What `systemctl daemon-reload` said.
    pub fn settle_reload(&mut self) -> Result<()> {
        self.units_changed |= self.states_stale;
        self.settle_units().map(drop)
    }
}
