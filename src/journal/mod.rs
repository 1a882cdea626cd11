//! Journals: files of JSON lines, appended and synced, that record an operation's steps so that another process can
//! continue after a crash.
//!
//! An entry counts once its newline is on the disk. A crash can leave a torn last line; readers ignore it, and the next
//! writer removes it. Any other line that is not an entry is an error: recovery decides by the entries, and a missing
//! one would change what it decides.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::atomic_file::sync_folder;
use crate::lock::file_lock::{Access, lock_within};

/// Time to wait for another process that has the journal open for appending. One that ends a copy after its agent has it
/// for a moment.
const LOCK_TIMEOUT: Duration = Duration::from_secs(3);

/// Describes why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process has it open for appending.
    #[error("another process writes the journal {}", path.display())]
    Locked {
        /// The journal.
        path: PathBuf,
    },
    /// A line that is not the last one is not an entry, or the last one is an entry of an unknown kind.
    #[error(
        "{}:{line}: not a journal entry ({reason}); if a newer dunlin wrote it, use that version; otherwise the file is \
         damaged: correct or remove this line",
        path.display()
    )]
    Damaged {
        /// The journal.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The parser's message.
        reason: serde_json::Error,
    },
    /// The journal cannot be read or written.
    #[error("cannot {action} the journal {}", path.display())]
    Io {
        /// Operation that failed: `open`, `read`, `write` …
        action: &'static str,
        /// The journal.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// A journal that is open for appending, by this process alone.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    /// The length of all whole entries, in bytes.
    length: u64,
    /// Set if a failed append may have left part of an entry after the last whole one.
    is_torn: bool,
}

impl Journal {
    /// Opens a journal, and creates it and its folder where they are missing. A torn last line is removed.
    ///
    /// # Errors
    /// Fails where another process has it open (after a short wait: it may be ending just now), and on I/O errors.
    pub fn open(path: &Path) -> Result<Self> {
        let folder = path.parent().with_context(|| format!("{} has no folder", path.display()))?;
        if !folder.is_dir() {
            // Journals say what root did, and where: only root reads them.
            let mut builder = fs::DirBuilder::new();
            let made = builder.recursive(true).mode(0o700).create(folder);
            made.with_context(|| format!("cannot create {}", folder.display()))?;
            sync_folder(folder.parent().unwrap_or(folder))?;
        }
        let is_new = !path.exists();
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path);
        let mut journal = Self {
            file: file.map_err(|source| io_error("open", path, source))?,
            path: path.to_owned(),
            length: 0,
            is_torn: true,
        };
        if is_new {
            sync_folder(folder)?;
        }
        // Before the file is looked at: what another process is appending just now is not a torn line.
        if !lock_within(&journal.file, Access::Exclusive, LOCK_TIMEOUT)
            .map_err(|source| journal.error("lock", source))?
        {
            return Err(JournalError::Locked { path: path.to_owned() }.into());
        }
        let mut text = Vec::new();
        journal.file.read_to_end(&mut text).map_err(|source| journal.error("read", source))?;
        journal.length = whole_entries(&text).len() as u64;
        journal.is_torn = journal.length < text.len() as u64;
        journal.remove_torn_line()?;
        Ok(journal)
    }

    /// Appends one entry and waits until it is on the disk.
    ///
    /// # Errors
    /// Fails on I/O errors: the entry then does not count, and the step that it announces must not be taken.
    pub fn append<T: Serialize>(&mut self, entry: &T) -> Result<()> {
        let before = self.length;
        self.append_unsynced(entry)?;
        if let Err(source) = self.file.sync_data() {
            // The entry may be on the disk or not. It must not count later, when the step was not taken.
            self.length = before;
            self.is_torn = true;
            self.remove_torn_line().ok();
            return Err(self.error("sync", source).into());
        }
        Ok(())
    }

    /// Appends one entry without waiting for the disk: it outlives the process, but perhaps not a power failure.
    ///
    /// # Errors
    /// Returns an error on I/O errors; the entry then does not count.
    pub fn append_unsynced<T: Serialize>(&mut self, entry: &T) -> Result<()> {
        let mut line = serde_json::to_vec(entry).context("cannot write a journal entry as JSON")?;
        line.push(b'\n');
        self.remove_torn_line()?;
        if let Err(source) = self.file.write_all(&line) {
            // A part may have been written (a full disk): an entry behind it would be lost to every reader.
            self.is_torn = true;
            self.remove_torn_line().ok();
            return Err(self.error("write", source).into());
        }
        self.length += line.len() as u64;
        Ok(())
    }

    /// Cuts off what a failed append or a crash left behind the last whole entry.
    fn remove_torn_line(&mut self) -> Result<(), JournalError> {
        if self.is_torn {
            let cut = self.file.set_len(self.length).and_then(|()| self.file.sync_data());
            cut.map_err(|source| self.error("remove the torn last line of", source))?;
            self.is_torn = false;
        }
        Ok(())
    }

    /// Returns all entries, oldest first, the process' own included.
    ///
    /// # Errors
    /// Returns an error under the same conditions as `read`.
    pub fn entries<T: DeserializeOwned>(&mut self) -> Result<Vec<T>, JournalError> {
        let mut text = Vec::new();
        let read = self.file.rewind().and_then(|()| self.file.read_to_end(&mut text));
        read.map_err(|source| self.error("read", source))?;
        parse(&text, &self.path)
    }

    fn error(&self, action: &'static str, source: io::Error) -> JournalError {
        io_error(action, &self.path, source)
    }
}

/// Reads all whole entries of a journal, oldest first; there are none where there is no journal. A torn last line is
/// ignored: another process may be writing it.
///
/// # Errors
/// Returns an error if the file exists but cannot be read, or if any other line is not an entry of this kind.
pub fn read_entries<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, JournalError> {
    match fs::read(path) {
        Ok(text) => parse(&text, path),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(io_error("read", path, source)),
    }
}

fn parse<T: DeserializeOwned>(text: &[u8], path: &Path) -> Result<Vec<T>, JournalError> {
    let mut entries = Vec::new();
    for (index, line) in whole_entries(text).split_inclusive(|&byte| byte == b'\n').enumerate() {
        let entry = serde_json::from_slice(line);
        entries.push(entry.map_err(|reason| JournalError::Damaged {
            path: path.to_owned(),
            line: index + 1,
            reason,
        })?);
    }
    Ok(entries)
}

/// Returns the text without a torn last line: one without a newline, or one that is not JSON, since a crash can also
/// leave a line whose first blocks were never written.
///
/// A last line that is JSON is never torn. If it is not an entry of a known kind, a newer version wrote it, and
/// ignoring it would mean to forget an announced step.
fn whole_entries(text: &[u8]) -> &[u8] {
    let Some((b'\n', lines)) = text.split_last() else { return &text[..line_start(text)] };
    let last = line_start(lines);
    let is_json = serde_json::from_slice::<IgnoredAny>(&lines[last..]).is_ok();
    if is_json { text } else { &text[..last] }
}

/// Returns where the last line begins, which has no newline of its own.
fn line_start(text: &[u8]) -> usize {
    text.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1)
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> JournalError {
    JournalError::Io { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
