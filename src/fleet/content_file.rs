//! Contents in a file instead of in memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::plan::Digest;
use crate::protocol::frame;
use crate::token_bucket::TokenBucket;

/// Contents by digest, in a file without a name: it is gone when the process ends. Each is compressed once for all
/// hosts, when the first of them needs it.
#[derive(Debug)]
pub struct ContentFile {
    /// The contents as they are, one behind another.
    plain: File,
    /// Number of bytes in `plain`.
    plain_length: u64,
    /// Compressed contents, in the order in which hosts needed them.
    compressed: File,
    /// Number of bytes in `compressed`.
    compressed_length: AtomicU64,
    contents: BTreeMap<Digest, StoredContent>,
    /// Limits the rate at which the contents are sent, to all hosts together.
    pub bandwidth: TokenBucket,
}

/// The places of a content in the files.
#[derive(Debug)]
struct StoredContent {
    plain: FileRange,
    /// Set once a host has needed it.
    compressed: Mutex<Option<FileRange>>,
}

/// A part of a file.
#[derive(Clone, Copy, Debug)]
struct FileRange {
    offset: u64,
    /// Bytes.
    length: usize,
}

impl FileRange {
    fn read(self, file: &File) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.length];
        file.read_exact_at(&mut bytes, self.offset)?;
        Ok(bytes)
    }
}

impl ContentFile {
    /// Creates an empty file on the file system of a folder; in the folder for temporary files if it is not writable.
    ///
    /// # Errors
    /// Returns an error if no file can be created.
    pub fn create(folder: &Path) -> io::Result<Self> {
        let create_file = || tempfile::tempfile_in(folder).or_else(|_| tempfile::tempfile());
        Ok(Self {
            plain: create_file()?,
            plain_length: 0,
            compressed: create_file()?,
            compressed_length: AtomicU64::new(0),
            contents: BTreeMap::new(),
            bandwidth: TokenBucket::default(),
        })
    }

    /// Returns the number of bytes that the file may still grow by.
    ///
    /// # Errors
    /// Returns an error if the file system does not tell.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.plain)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Adds a content under its digest, which is not checked.
    ///
    /// # Errors
    /// Returns an error if the content cannot be written.
    pub fn add_content(&mut self, digest: &Digest, bytes: &[u8]) -> io::Result<()> {
        if !self.has_content(digest) {
            self.plain.write_all_at(bytes, self.plain_length)?;
            let plain = FileRange { offset: self.plain_length, length: bytes.len() };
            self.contents.insert(digest.clone(), StoredContent { plain, compressed: Mutex::default() });
            self.plain_length += bytes.len() as u64;
        }
        Ok(())
    }

    /// Returns whether there is a content of that digest.
    pub fn has_content(&self, digest: &Digest) -> bool {
        self.contents.contains_key(digest)
    }

    /// Returns the frame that carries the content of that digest, if there is one.
    ///
    /// # Errors
    /// Returns an error if the content cannot be read, or its compressed form not be written.
    pub fn read_frame(&self, digest: &Digest) -> io::Result<Option<Vec<u8>>> {
        let Some(content) = self.contents.get(digest) else { return Ok(None) };
        let compressed = self.compress_once(content)?;
        frame::encode_compressed_blob(digest, content.plain.length as u64, &compressed).map(Some)
    }

    /// Returns a content compressed; compresses it if no host has needed it yet.
    fn compress_once(&self, content: &StoredContent) -> io::Result<Vec<u8>> {
        let mut place = content.compressed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(range) = *place {
            drop(place);
            return range.read(&self.compressed);
        }
        let compressed = frame::compress_content(&content.plain.read(&self.plain)?)?;
        let offset = self.compressed_length.fetch_add(compressed.len() as u64, Ordering::Relaxed);
        self.compressed.write_all_at(&compressed, offset)?;
        *place = Some(FileRange { offset, length: compressed.len() });
        Ok(compressed)
    }

    /// Returns up to `max` bytes of the beginning of a content, if there is one of that digest.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read.
    pub fn read_beginning(&self, digest: &Digest, max: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(content) = self.contents.get(digest) else { return Ok(None) };
        let length = content.plain.length.min(usize::try_from(max).unwrap_or(usize::MAX));
        FileRange { length, ..content.plain }.read(&self.plain).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::frame::{Frame, Receiver};

    #[test]
    fn contents_are_sent_as_they_were_added() {
        let mut contents = ContentFile::create(&std::env::temp_dir()).unwrap();
        let texts = [b"".to_vec(), b"one".repeat(1000), b"another".to_vec()];
        for text in &texts {
            contents.add_content(&Digest::of_bytes(text), text).unwrap();
        }
        // Each twice: compressed, and as it was compressed for the host before.
        for text in texts.iter().chain(&texts) {
            let digest = Digest::of_bytes(text);
            let frame = contents.read_frame(&digest).unwrap().unwrap();
            match frame::read_frame(&mut frame.as_slice(), Receiver::Agent).unwrap() {
                Some(Frame::Blob(blob)) => assert_eq!(blob.unpack().unwrap(), (digest.clone(), text.clone())),
                other => panic!("{other:?}"),
            }
            assert_eq!(contents.read_beginning(&digest, 3).unwrap().unwrap(), text[..text.len().min(3)]);
        }
        assert_eq!(contents.read_frame(&Digest::of_bytes(b"unknown")).unwrap(), None);
    }
}
