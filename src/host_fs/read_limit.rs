//! Reads files up to a limit, whatever size they claim or grow to.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::PathError;

/// The longest text that is read whole: configurations, ACL files, files that a `line` edits. In bytes.
pub const MAX_TEXT_BYTES: u64 = 16 << 20;

/// Reads an open file whole, if it has at most `limit` bytes. `path` is for messages.
///
/// # Errors
/// Returns an error if the file is larger, also if it grows meanwhile, or on an I/O error.
pub fn read_limited(file: &File, limit: u64, path: &Path) -> Result<Vec<u8>, PathError> {
    let error = |source| PathError::io("read", path, source);
    let size = file.metadata().map_err(error)?.len();
    let too_large = |size| PathError::TooLarge { path: path.to_owned(), size, limit };
    if size > limit {
        return Err(too_large(size));
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(error)?;
    if bytes.len() as u64 > limit {
        return Err(too_large(bytes.len() as u64));
    }
    Ok(bytes)
}
