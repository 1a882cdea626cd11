//! Contents in a file instead of in memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::plan::Digest;

/// Contents by digest, in a file without a name: it is gone when the process ends.
#[derive(Debug)]
pub struct ContentFile {
    file: File,
    /// Offset and length of each content, in bytes.
    ranges: BTreeMap<Digest, (u64, usize)>,
    length: u64,
}

impl ContentFile {
    /// Creates an empty file on the file system of a folder; in the folder for temporary files if it is not writable.
    ///
    /// # Errors
    /// No file can be created.
    pub fn create(folder: &Path) -> io::Result<Self> {
        let file = tempfile::tempfile_in(folder).or_else(|_| tempfile::tempfile())?;
        Ok(Self { file, ranges: BTreeMap::new(), length: 0 })
    }

    /// Returns the number of bytes that the file may still grow by.
    ///
    /// # Errors
    /// The file system does not tell.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.file)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Adds a content under its digest, which is not checked.
    ///
    /// # Errors
    /// The content cannot be written.
    pub fn add_content(&mut self, digest: &Digest, bytes: &[u8]) -> io::Result<()> {
        if !self.ranges.contains_key(digest) {
            self.file.write_all(bytes)?;
            self.ranges.insert(digest.clone(), (self.length, bytes.len()));
            self.length += bytes.len() as u64;
        }
        Ok(())
    }

    /// Returns whether there is a content of that digest.
    pub fn has_content(&self, digest: &Digest) -> bool {
        self.ranges.contains_key(digest)
    }

    /// Returns the content of that digest, if there is one.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read_content(&self, digest: &Digest) -> io::Result<Option<Vec<u8>>> {
        self.read_beginning(digest, usize::MAX)
    }

    /// Returns up to `max` bytes of the beginning of a content, if there is one of that digest.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read_beginning(&self, digest: &Digest, max: usize) -> io::Result<Option<Vec<u8>>> {
        let Some(&(offset, length)) = self.ranges.get(digest) else { return Ok(None) };
        let mut bytes = vec![0; length.min(max)];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(Some(bytes))
    }
}
