//! Reads a source file once: its size, its digest, and the chunks in which it is sent.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};
use fastcdc::v2020::StreamCDC;

use super::MAX_CHUNK_BYTES;
use crate::plan::{Digest, DigestHasher};
use crate::protocol::deploy::FileChunk;

/// Shortest chunk, in bytes; a shorter file is one content.
const MIN_CHUNK_BYTES: usize = 32 << 10;
/// Average length of a chunk, in bytes: a list of them takes less than a thousandth of the file.
const AVERAGE_CHUNK_BYTES: usize = 128 << 10;

/// The content of a file.
pub(super) struct FileContent {
    /// Bytes.
    pub size: u64,
    /// SHA-256 of its bytes.
    pub sha256: Digest,
    /// Its chunks, in order; empty for a file of one chunk.
    pub chunks: Vec<FileChunk>,
}

/// Cuts a file into chunks at places that its bytes determine: a change moves no later cut.
///
/// # Errors
/// Returns an error if the file cannot be read.
pub(super) fn read_content(path: &Path) -> Result<FileContent> {
    let shown = || path.display().to_string();
    let file = File::open(path).with_context(shown)?;
    let (mut hasher, mut chunks, mut size) = (DigestHasher::default(), Vec::new(), 0);
    for chunk in StreamCDC::new(file, MIN_CHUNK_BYTES, AVERAGE_CHUNK_BYTES, MAX_CHUNK_BYTES) {
        let bytes = chunk.with_context(shown)?.data;
        hasher.update(&bytes);
        size += bytes.len() as u64;
        chunks.push(FileChunk { sha256: Digest::of_bytes(&bytes), size: bytes.len() as u64 });
    }
    if chunks.len() == 1 {
        chunks.clear();
    }
    Ok(FileContent { size, sha256: hasher.finish(), chunks })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_change_leaves_most_chunks_as_they_are() {
        // Numbers without a pattern, the same in each run.
        let mut state = 1_u64;
        let mut bytes: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .take(8 << 20)
        .collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &bytes).unwrap();
        let before = read_content(file.path()).unwrap();
        assert_eq!(before.chunks.iter().map(|chunk| chunk.size).sum::<u64>(), bytes.len() as u64);
        assert!(before.chunks.len() > 20, "{} chunks", before.chunks.len());
        // Inserted at the beginning of the second MiB: everything behind it moves.
        bytes.splice(1 << 20..1 << 20, *b"inserted");
        std::fs::write(file.path(), &bytes).unwrap();
        let after = read_content(file.path()).unwrap();
        assert_eq!(after.sha256, Digest::of_bytes(&bytes));
        let new: u64 = after.chunks.iter().filter(|chunk| !before.chunks.contains(chunk)).map(|chunk| chunk.size).sum();
        assert!(new <= 2 * MAX_CHUNK_BYTES as u64, "{new} bytes are new");
        for small in [&b""[..], b"one"] {
            std::fs::write(file.path(), small).unwrap();
            let content = read_content(file.path()).unwrap();
            assert_eq!(
                (content.size, content.sha256, content.chunks.len()),
                (small.len() as u64, Digest::of_bytes(small), 0)
            );
        }
    }
}
