//! The journal: JSON lines, appended and synced, that say what was going to be done and how it ended.
//!
//! A line counts once its newline is on the disk. A crash can leave a torn last line: readers pass over it, and the
//! next append begins on a line of its own.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A journal that is open for appending.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
}

impl Journal {
    /// Opens a journal, and makes it and its folder where they are missing.
    ///
    /// # Errors
    /// What the system said, with the path.
    pub fn open(path: &Path) -> Result<Self> {
        let folder = path.parent().with_context(|| format!("{} has no folder", path.display()))?;
        if !folder.is_dir() {
            fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
            sync(folder.parent().unwrap_or(folder))?;
        }
        let is_new = !path.exists();
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)
            .with_context(|| format!("opening the journal {}", path.display()))?;
        if is_new {
            sync(folder)?;
        }
        let mut text = Vec::new();
        file.read_to_end(&mut text).with_context(|| format!("reading the journal {}", path.display()))?;
        if text.last().is_some_and(|&byte| byte != b'\n') {
            file.write_all(b"\n").with_context(|| format!("mending the journal {}", path.display()))?;
        }
        Ok(Self { file, path: path.to_owned() })
    }

    /// Appends one entry and waits until it is on the disk.
    ///
    /// # Errors
    /// What the system said: the entry then does not count, and what it announces must not be done.
    pub fn append<T: Serialize>(&mut self, entry: &T) -> Result<()> {
        self.note(entry)?;
        self.file.sync_data().with_context(|| format!("syncing the journal {}", self.path.display()))
    }

    /// Appends one entry without waiting for the disk: it outlives the process, perhaps not the host.
    ///
    /// # Errors
    /// What the system said.
    pub fn note<T: Serialize>(&mut self, entry: &T) -> Result<()> {
        let mut line = serde_json::to_vec(entry).context("a journal entry as JSON")?;
        line.push(b'\n');
        self.file.write_all(&line).with_context(|| format!("writing the journal {}", self.path.display()))
    }
}

/// All whole entries of a journal, oldest first; none where there is no journal. Lines that are no entry (torn by a
/// crash) are passed over.
///
/// # Errors
/// The file is there but cannot be read.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("reading the journal {}", path.display())),
    };
    Ok(text.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
}

fn sync(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|dir| dir.sync_all()).with_context(|| format!("syncing {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_and_a_torn_line_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/move.jsonl");
        assert_eq!(read::<u32>(&path).unwrap(), Vec::<u32>::new());
        Journal::open(&path).unwrap().append(&1).unwrap();
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"[2, ").unwrap();
        assert_eq!(read::<u32>(&path).unwrap(), [1]);
        Journal::open(&path).unwrap().append(&3).unwrap();
        assert_eq!(read::<u32>(&path).unwrap(), [1, 3]);
    }
}
