//! Contents in a file instead of in memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::plan::Digest;
use crate::protocol::frame;
use crate::token_bucket::TokenBucket;

/// Contents by digest, in a file without a name: it is gone when the process ends. Each is compressed once, for all
/// hosts.
#[derive(Debug)]
pub struct ContentFile {
    file: File,
    contents: BTreeMap<Digest, StoredContent>,
    /// Bytes of the file.
    file_length: u64,
    /// Limits the rate at which the contents are sent, to all hosts together.
    pub bandwidth: TokenBucket,
}

/// The place of a content in the file.
#[derive(Debug)]
struct StoredContent {
    offset: u64,
    /// Bytes in the file.
    compressed_length: usize,
    /// Bytes of the content.
    length: u64,
}

impl ContentFile {
    /// Creates an empty file on the file system of a folder; in the folder for temporary files if it is not writable.
    ///
    /// # Errors
    /// No file can be created.
    pub fn create(folder: &Path) -> io::Result<Self> {
        let file = tempfile::tempfile_in(folder).or_else(|_| tempfile::tempfile())?;
        Ok(Self { file, contents: BTreeMap::new(), file_length: 0, bandwidth: TokenBucket::default() })
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
    /// The content cannot be compressed or written.
    pub fn add_content(&mut self, digest: &Digest, bytes: &[u8]) -> io::Result<()> {
        if !self.has_content(digest) {
            let compressed = frame::compress_content(bytes)?;
            self.file.write_all(&compressed)?;
            let (offset, compressed_length, length) = (self.file_length, compressed.len(), bytes.len() as u64);
            self.contents.insert(digest.clone(), StoredContent { offset, compressed_length, length });
            self.file_length += compressed_length as u64;
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
    /// The file cannot be read.
    pub fn read_frame(&self, digest: &Digest) -> io::Result<Option<Vec<u8>>> {
        let Some(content) = self.contents.get(digest) else { return Ok(None) };
        frame::encode_compressed_blob(digest, content.length, &self.read_compressed(content)?).map(Some)
    }

    /// Returns up to `max` bytes of the beginning of a content, if there is one of that digest.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read_beginning(&self, digest: &Digest, max: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(content) = self.contents.get(digest) else { return Ok(None) };
        frame::decompress_beginning(&self.read_compressed(content)?, max).map(Some)
    }

    fn read_compressed(&self, content: &StoredContent) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; content.compressed_length];
        self.file.read_exact_at(&mut bytes, content.offset)?;
        Ok(bytes)
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
        for text in &texts {
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
