//! Reads the text files of a project. A file that does not exist is one answer; a file that exists but cannot be read
//! is always an error, so that no caller can mistake it for an absent one.

use std::io::{ErrorKind, Read as _};
use std::path::Path;

use super::diagnostic::Diagnostic;
use super::source::SourceFile;

/// Longest text file, in bytes.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Reads a text file. Returns `None` only if there is no file of that name.
///
/// # Errors
/// Returns an error if the file cannot be read or is not UTF-8; the diagnostic names the path, and the position of the
/// first wrong byte.
pub fn read_source(path: &Path) -> Result<Option<SourceFile>, Diagnostic> {
    read(path, |path, text| SourceFile::new(path, text))
}

/// Reads a text file whose lines must not be shown in diagnostics. Returns `None` only if there is no file of that
/// name.
///
/// # Errors
/// Returns an error under the same conditions as [`read_source`].
pub fn read_secret_source(path: &Path) -> Result<Option<SourceFile>, Diagnostic> {
    read(path, |path, text| SourceFile::new_concealed(path, text))
}

fn read(path: &Path, to_source: impl FnOnce(&Path, String) -> SourceFile) -> Result<Option<SourceFile>, Diagnostic> {
    let bytes = match read_bytes(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // A symbolic link without its target is a file that cannot be read, not an absent one.
            return match std::fs::symlink_metadata(path) {
                Ok(_) => {
                    Err(Diagnostic::error_at_path(path, "cannot be read: the symbolic link points to a missing file"))
                }
                Err(_) => Ok(None),
            };
        }
        Err(error) => return Err(Diagnostic::error_at_path(path, format!("cannot be read: {error}"))),
    };
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(to_source(path, text))),
        Err(error) => {
            let start = error.utf8_error().valid_up_to();
            let byte = error.as_bytes()[start];
            // All text before the first wrong byte keeps its offsets, so the position is right in the lossy text too.
            let file = to_source(path, String::from_utf8_lossy(error.as_bytes()).into_owned());
            let span = start..start + char::REPLACEMENT_CHARACTER.len_utf8();
            let message = format!("cannot be read: the byte 0x{byte:02x} is not valid UTF-8");
            Err(Diagnostic::error_at_span(&file, span, message).with_help("save the file in the encoding UTF-8"))
        }
    }
}

/// Reads a file up to a limit. Only of a regular file is the end certain: a pipe may have none.
fn read_bytes(path: &Path) -> std::io::Result<Vec<u8>> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() && !metadata.is_dir() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(std::io::Error::other(format!("it has more than {MAX_FILE_BYTES} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::{read_secret_source, read_source};

    #[test]
    fn only_a_missing_file_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("text"), "a = 1\n").unwrap();
        std::os::unix::fs::symlink("nowhere", path("link")).unwrap();
        assert_eq!(read_source(&path("absent")), Ok(None));
        assert_eq!(read_source(&path("text")).unwrap().unwrap().text(), "a = 1\n");
        for broken in [folder.path().to_owned(), path("link"), path("text/below")] {
            let error = read_source(&broken).unwrap_err().to_string();
            assert!(error.contains("cannot be read"), "{error}");
            assert!(error.contains(broken.to_str().unwrap()), "{error}");
        }
    }

    #[test]
    fn a_file_without_an_end_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let large = folder.path().join("large");
        std::fs::File::create(&large).unwrap().set_len(4 << 30).unwrap();
        let error = read_source(&large).unwrap_err().to_string();
        assert!(error.contains("more than 16777216 bytes"), "{error}");
        let error = read_source(std::path::Path::new("/dev/zero")).unwrap_err().to_string();
        assert!(error.contains("not a regular file"), "{error}");
    }

    #[test]
    fn a_byte_that_is_not_utf8_has_its_position() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("latin1");
        std::fs::write(&path, b"a = 1\nb = 2 # f\xfcr\n").unwrap();
        let error = read_source(&path).unwrap_err();
        assert_eq!(error.origin.line_col(), Some((2, 10)));
        assert!(error.message.contains("0xfc"), "{}", error.message);
        assert!(!read_secret_source(&path).unwrap_err().render(false).contains("b = 2"), "a secret's line is shown");
    }
}
