//! Pending handlers, recorded on the host so that no failure, kill or reboot loses a restart.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::atomic_file::{Attributes, write_atomically};
use crate::lock::state_folder;

/// The notified handlers, by play and name.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PendingHandlers {
    handlers: BTreeSet<String>,
}

/// Returns the path of the file: an agent without root has its own, as only root can read root's.
fn pending_handlers_file() -> PathBuf {
    state_folder().join("pending.json")
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
        let file = pending_handlers_file();
        match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("{} is broken", file.display())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| file.display().to_string()),
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
        let (folder, file) = (state_folder(), pending_handlers_file());
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        if self.handlers.is_empty() {
            return match fs::remove_file(&file) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    Err(error).with_context(|| file.display().to_string())
                }
                _ => Ok(()),
            };
        }
        write_atomically(&file, &serde_json::to_vec(self)?, &Attributes::with_mode(0o600))
    }
}
