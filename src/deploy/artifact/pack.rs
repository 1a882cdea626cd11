//! Writes an archive from the source files to a file, without reading a whole file into memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::{FILES_DIR, MANIFEST_NAME};
use crate::plan::DigestHasher;
use crate::protocol::deploy::{ReleaseManifest, ReleasePath};

/// zstd's level: fixed, since the bytes depend on it.
const COMPRESSION_LEVEL: i32 = 9;

/// Writes the archive of a release.
///
/// # Errors
/// Returns an error if a source cannot be read or has changed since it was described, or the archive cannot be written.
pub(super) fn pack_archive(
    manifest: &ReleaseManifest,
    sources: &BTreeMap<ReleasePath, PathBuf>,
    out: &File,
) -> Result<()> {
    let mut encoder = zstd::stream::write::Encoder::new(BufWriter::new(out), COMPRESSION_LEVEL)?;
    encoder.include_checksum(true)?;
    let mut archive = tar::Builder::new(encoder);
    let json = manifest.to_json()?;
    append_entry(&mut archive, MANIFEST_NAME, 0o644, json.len() as u64, json.as_slice())?;
    for file in &manifest.files {
        let source = sources.get(&file.path).with_context(|| format!("{} has no source", file.path))?;
        let shown = || source.display().to_string();
        let mut reader = HashingReader {
            source: File::open(source).with_context(shown)?.take(file.size),
            hasher: DigestHasher::default(),
        };
        append_entry(&mut archive, &format!("{FILES_DIR}/{}", file.path), file.mode, file.size, &mut reader)
            .with_context(shown)?;
        ensure!(reader.hasher.finish() == file.sha256, "{} changed while it was packaged", shown());
    }
    archive.into_inner()?.finish()?.flush()?;
    Ok(())
}

fn append_entry(
    archive: &mut tar::Builder<impl Write>,
    path: &str,
    mode: u32,
    size: u64,
    bytes: impl Read,
) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    archive.append_data(&mut header, path, bytes)
}

/// Returns whether two files have the same bytes.
pub(super) fn have_same_bytes(one: &Path, other: &Path) -> io::Result<bool> {
    use crate::plan::Digest;
    let digest = |path: &Path| File::open(path).and_then(Digest::of_reader);
    Ok(one.metadata()?.len() == other.metadata()?.len() && digest(one)? == digest(other)?)
}

/// Computes the digest of what is read through it.
struct HashingReader<R> {
    source: R,
    hasher: DigestHasher,
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(into)?;
        self.hasher.update(&into[..read]);
        Ok(read)
    }
}
