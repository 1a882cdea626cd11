//! Handlers that were notified and have not run: kept on the host, so that no failure, kill or reboot loses a restart.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::atomic_file::{Attributes, write_atomically};

const FOLDER: &str = "/var/lib/dunlin";
const FILE: &str = "/var/lib/dunlin/pending.json";

/// The notified handlers, by play and name.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pending {
    owed: BTreeSet<String>,
}

/// How a handler is named in the file.
pub fn key(play: &str, handler: &str) -> String {
    format!("{play} / {handler}")
}

impl Pending {
    /// What the file says; nothing where there is none.
    ///
    /// # Errors
    /// It cannot be read or is broken.
    pub fn load() -> Result<Self> {
        match fs::read(FILE) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("{FILE} is broken")),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).context(FILE),
        }
    }

    /// Is this handler owed?
    pub fn owes(&self, play: &str, handler: &str) -> bool {
        self.owed.contains(&key(play, handler))
    }

    /// Notes handlers before the step that notifies them changes anything; durable when it returns.
    ///
    /// # Errors
    /// The disk said no; the step must not be applied then.
    pub fn note(&mut self, play: &str, handlers: &[String]) -> Result<()> {
        let before = self.owed.len();
        self.owed.extend(handlers.iter().map(|handler| key(play, handler)));
        if self.owed.len() == before { Ok(()) } else { self.store() }
    }

    /// Strikes out handlers that ran.
    ///
    /// # Errors
    /// The disk said no: they may run once more.
    pub fn settle(&mut self, play: &str, handlers: &[String]) -> Result<()> {
        let before = self.owed.len();
        for handler in handlers {
            self.owed.remove(&key(play, handler));
        }
        if self.owed.len() == before { Ok(()) } else { self.store() }
    }

    fn store(&self) -> Result<()> {
        fs::create_dir_all(FOLDER).context(FOLDER)?;
        if self.owed.is_empty() {
            return match fs::remove_file(FILE) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error).context(FILE),
                _ => Ok(()),
            };
        }
        write_atomically(Path::new(FILE), &serde_json::to_vec(self)?, &Attributes::synced(0o600))
    }
}
