//! Where apply works: contents by digest, and what is owed to the system at the end (a reload of systemd).

use anyhow::{Context, Result};

use super::exec::Exec;
use crate::plan::Digest;

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
    reload_owed: bool,
}

impl<'a> Site<'a> {
    /// A site on this host.
    pub fn new(blobs: &'a dyn Blobs) -> Self {
        Self { blobs, reload_owed: false }
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
        self.reload_owed = true;
    }

    /// Lets systemd read its unit files again, if a step changed one since the last time.
    ///
    /// # Errors
    /// What `systemctl daemon-reload` said.
    pub fn settle_reload(&mut self) -> Result<()> {
        if self.reload_owed {
            Exec::new("systemctl").arg("daemon-reload").run().context("reloading systemd's units")?;
            self.reload_owed = false;
        }
        Ok(())
    }
}
