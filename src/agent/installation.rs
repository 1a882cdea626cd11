//! The agent's binary on a host: installed under the name of its digest; old ones are removed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::plan::Digest;

/// Number of binaries that stay: those of the versions that controllers used last.
const KEPT_BINARIES: usize = 3;
/// Age at which an incomplete upload is removed; the longest one takes minutes.
const MAX_UPLOAD_AGE: Duration = Duration::from_secs(3600);

/// Renames `HASH.12345` to `HASH` if the hash matches, and removes old binaries beside it; otherwise removes the file.
///
/// # Errors
/// Returns an error if the binary is incomplete, or if it cannot be renamed.
pub fn install_self(pushed: &Path, binary: &Digest) -> io::Result<()> {
    let installed = pushed.with_extension("");
    if installed.file_name().is_some_and(|name| name == binary.as_str()) {
        fs::rename(pushed, &installed)?;
        if let Some(folder) = installed.parent() {
            remove_old_binaries(folder, &installed);
        }
        return Ok(());
    }
    fs::remove_file(pushed)?;
    Err(io::Error::other("the binary is incomplete"))
}

/// Notes that an installed binary is in use: the ones used last stay.
pub fn mark_used(installed: &Path) {
    // Where the file cannot be touched, it counts as older than it is.
    if let Ok(file) = fs::File::open(installed) {
        file.set_modified(SystemTime::now()).ok();
    }
}

/// Removes all but the binaries used last. One that still runs stays usable until its agent ends.
fn remove_old_binaries(folder: &Path, installed: &Path) {
    let mut binaries: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        // Of the entry itself: a link is none of ours.
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        let Ok(modified) = metadata.modified() else { continue };
        match name.to_str().and_then(parse_name) {
            Some(BinaryName::Installed) if metadata.is_file() && path != installed => binaries.push((modified, path)),
            Some(BinaryName::Upload) if metadata.is_file() && is_abandoned(modified) => drop(fs::remove_file(&path)),
            _ => {}
        }
    }
    binaries.sort_unstable();
    let surplus = binaries.len().saturating_sub(KEPT_BINARIES - 1);
    for (_, path) in &binaries[..surplus] {
        fs::remove_file(path).ok();
    }
}

fn is_abandoned(modified: SystemTime) -> bool {
    modified.elapsed().is_ok_and(|age| age > MAX_UPLOAD_AGE)
}

enum BinaryName {
    Installed,
    Upload,
}

/// Recognizes `HASH` and `HASH.12345`.
fn parse_name(name: &str) -> Option<BinaryName> {
    let (hash, number) = name.split_once('.').map_or((name, None), |(hash, number)| (hash, Some(number)));
    if hash.len() != 64 || !hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    match number {
        None => Some(BinaryName::Installed),
        Some(number) if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(BinaryName::Upload)
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_is_installed_only_under_its_own_hash() {
        let folder = tempfile::tempdir().unwrap();
        let arrive = |bytes: &[u8], named: &Digest| {
            let arrived = folder.path().join(format!("{named}.4711"));
            fs::write(&arrived, bytes).unwrap();
            (
                install_self(&arrived, &Digest::of_bytes(bytes)),
                arrived.exists(),
                folder.path().join(named.as_str()).exists(),
            )
        };
        let whole = Digest::of_bytes(b"whole");
        let (cut, is_left, is_settled) = arrive(b"who", &whole);
        assert!(cut.is_err() && !is_left && !is_settled);
        let (settled, is_left, is_settled) = arrive(b"whole", &whole);
        assert!(settled.is_ok() && !is_left && is_settled);
    }

    #[test]
    fn old_binaries_and_abandoned_uploads_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let create = |name: &str, age_s: u64| {
            let path = folder.path().join(name);
            fs::write(&path, name).unwrap();
            fs::File::open(&path).unwrap().set_modified(SystemTime::now() - Duration::from_secs(age_s)).unwrap();
            path
        };
        let versions: Vec<_> =
            (1..=5).map(|age| create(Digest::of_bytes(&[u8::try_from(age).unwrap()]).as_str(), age * 1000)).collect();
        let new = Digest::of_bytes(b"new");
        let abandoned = create(&format!("{new}.1"), 7200);
        let arriving = create(&format!("{new}.2"), 5);
        let foreign = create("notes.txt", 100_000);
        mark_used(&versions[4]);
        let pushed = folder.path().join(format!("{new}.3"));
        fs::write(&pushed, b"new").unwrap();
        install_self(&pushed, &new).unwrap();
        assert_eq!(versions.iter().map(|path| path.exists()).collect::<Vec<_>>(), [true, false, false, false, true]);
        assert!(folder.path().join(new.as_str()).exists() && arriving.exists() && foreign.exists());
        assert!(!abandoned.exists());
    }
}
