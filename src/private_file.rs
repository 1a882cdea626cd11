//! Reads files with keys, which only their owner may read.

use std::fs::File;
use std::io::{Error, ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Longest file with a key, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Reads a file with a key; `None` if it does not exist. The mode is that of the opened file, so that no other file can
/// take its place between the check and the read.
///
/// # Errors
/// Returns an error if the file cannot be read, is not a regular file, is not UTF-8, or other users can read it.
pub fn read_private_text(path: &Path) -> Result<Option<String>> {
    let with_path = || path.display().to_string();
    let file = match open_regular(path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        file => file.with_context(with_path)?,
    };
    let mode = file.metadata().with_context(with_path)?.permissions().mode() & 0o7777;
    ensure!(mode & 0o077 == 0, "{0}: mode {mode:04o} lets other users read the key; run chmod 600 {0}", path.display());
    let mut text = String::new();
    file.take(MAX_BYTES).read_to_string(&mut text).with_context(with_path)?;
    Ok(Some(text))
}

/// Opens a regular file. The open of anything else, such as a pipe, could wait for ever.
fn open_regular(path: &Path) -> Result<File, Error> {
    if std::fs::metadata(path)?.is_file() { File::open(path) } else { Err(Error::other("not a regular file")) }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        assert_eq!(read_private_text(&path).unwrap(), None);
        fs::write(&path, "key\n").unwrap();
        for (mode, is_refused) in [(0o600, false), (0o400, false), (0o604, true), (0o640, true), (0o620, true)] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let read = read_private_text(&path);
            assert_eq!(read.is_err(), is_refused, "{mode:o}: {read:?}");
        }
        let refused = read_private_text(folder.path()).unwrap_err();
        assert!(format!("{refused:#}").ends_with("not a regular file"), "{refused:#}");
    }
}
