//! Decides whether the file `hosts` of an inventory folder is a program that may be run.
//!
//! The kernel runs a file without `#!` and without the magic number of a program only with the help of a shell, line by
//! line: an INI inventory with a host named `reboot` would reboot this machine. Such a file is refused.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::diagnostic::Diagnostic;

/// Number of bytes that are looked at to say what a file is.
const SAMPLE_BYTES: u64 = 4096;
/// The first bytes of a program.
const ELF_MAGIC: &[u8] = b"\x7fELF";

/// Returns the path of an executable `hosts`; `None` if there is no such file.
///
/// # Errors
/// Returns an error if the file cannot be read, is not executable, or is not a program.
pub(super) fn find_program(dir: &Path) -> Result<Option<PathBuf>, Diagnostic> {
    let path = dir.join("hosts");
    let unreadable = |error: std::io::Error| Diagnostic::error_at_path(&path, format!("cannot be read: {error}"));
    let metadata = match std::fs::metadata(&path) {
        Ok(metadata) if metadata.is_file() => metadata,
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    let mut sample = Vec::new();
    match File::open(&path) {
        Ok(file) => drop(file.take(SAMPLE_BYTES).read_to_end(&mut sample).map_err(unreadable)?),
        Err(error) => return Err(unreadable(error)),
    }
    if !(sample.starts_with(b"#!") || sample.starts_with(ELF_MAGIC)) {
        let format = describe_format(&sample);
        let message = format!("is not a program: it begins with neither `#!` nor the bytes of an executable{format}");
        return Err(Diagnostic::error_at_path(&path, message).with_help(
            "write the hosts into `hosts.toml`, or into a script that prints Ansible's dynamic inventory as JSON",
        ));
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        return Err(Diagnostic::error_at_path(&path, "a dynamic inventory must be executable")
            .with_help(format!("chmod +x {}", path.display())));
    }
    Ok(Some(path))
}

/// Returns what else a file seems to be, for a message.
fn describe_format(sample: &[u8]) -> &'static str {
    let text = String::from_utf8_lossy(sample);
    let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with(['#', ';']));
    match first {
        Some(line) if line.starts_with('[') && line.ends_with(']') => {
            "; it looks like an Ansible INI inventory, which dunlin does not read"
        }
        Some(line) if line == "---" || line.ends_with(':') => {
            "; it looks like an Ansible YAML inventory, which dunlin does not read"
        }
        Some(line) if line.contains("ansible_") => {
            "; it looks like an Ansible INI inventory, which dunlin does not read"
        }
        _ => "",
    }
}
