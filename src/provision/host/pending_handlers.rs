//! Pending handlers, recorded on the host so that no failure, kill or reboot loses a restart.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::atomic_file::{Attributes, write_atomically};

const STATE_DIR: &str = "/var/lib/dunlin";
const PENDING_HANDLERS_FILE: &str = "/var/lib/dunlin/pending.json";

/// The notified handlers, by play and name.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PendingHandlers {
    handlers: BTreeSet<String>,
}

/// Returns the key of a handler in the file.
pub fn handler_key(play: &str, handler: &str) -> String {
    format!("{play} / {handler}")
}

impl PendingHandlers {
    /// Reads the file; without a file, no handler is pending.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read or is not valid.
    pub fn load_file() -> Result<Self> {
        match fs::read(PENDING_HANDLERS_FILE) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("{PENDING_HANDLERS_FILE} is broken")),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).context(PENDING_HANDLERS_FILE),
        }
    }

    /// Returns whether the handler is pending.
    pub fn is_pending(&self, play: &str, handler: &str) -> bool {
        self.handlers.contains(&handler_key(play, handler))
    }

    /// Notes handlers before the step that notifies them changes anything; durable when it returns.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written; the step must then not be applied.
    pub fn add_handlers(&mut self, play: &str, handlers: &[String]) -> Result<()> {
        let before = self.handlers.len();
        self.handlers.extend(handlers.iter().map(|handler| handler_key(play, handler)));
        if self.handlers.len() == before { Ok(()) } else { self.save() }
    }

    /// Strikes out handlers that ran.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written: the handlers may then run again.
    pub fn mark_handlers_done(&mut self, play: &str, handlers: &[String]) -> Result<()> {
        let before = self.handlers.len();
        for handler in handlers {
            self.handlers.remove(&handler_key(play, handler));
        }
        if self.handlers.len() == before { Ok(()) } else { self.save() }
    }

    fn save(&self) -> Result<()> {
        fs::create_dir_all(STATE_DIR).context(STATE_DIR)?;
        if self.handlers.is_empty() {
            return match fs::remove_file(PENDING_HANDLERS_FILE) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error).context(PENDING_HANDLERS_FILE),
                _ => Ok(()),
            };
        }
        write_atomically(Path::new(PENDING_HANDLERS_FILE), &serde_json::to_vec(self)?, &Attributes::with_mode(0o600))
    }
}
