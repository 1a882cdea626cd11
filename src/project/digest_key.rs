//! The key of an inventory under which plans show digests of secrets: 32 random bytes that no plan contains.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, Result};

use super::Project;
use crate::plan::DigestKey;
use crate::private_file::read_private_text;

/// Beside `secrets.toml`: for plans that are saved on one machine and applied on another.
const SHARED_FILE: &str = "digest.key";
const KEY_BYTES: usize = 32;

/// Reads the inventory's key: `digest.key` in its folder, or the one of this machine in `.dunlin`, created
/// on first use. If it cannot be saved, the key is valid for this run only: plans that were saved under it are not
/// accepted again.
///
/// # Errors
/// Returns an error if a key file cannot be read or is not valid, or the system has no random numbers.
pub fn load_digest_key(project: &Project) -> Result<DigestKey> {
    let name = project.inventory.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let own = project.root.join(".dunlin").join(format!("digest-{name}.key"));
    for path in [project.inventory.join(SHARED_FILE), own.clone()] {
        if let Some(key) = read_key(&path)? {
            return Ok(key);
        }
    }
    let mut random = [0; KEY_BYTES];
    let mut filled = 0;
    while filled < KEY_BYTES {
        let more = rustix::rand::getrandom(&mut random[filled..], rustix::rand::GetRandomFlags::empty());
        filled += more.context("the operating system provides no random numbers")?;
    }
    let key = DigestKey::from_random(&random);
    // Another command may have made one just now.
    Ok(if create_key_file(&own, &key).is_err() { read_key(&own)?.unwrap_or(key) } else { key })
}

fn read_key(path: &Path) -> Result<Option<DigestKey>> {
    // With the key, anyone can try guesses of a secret on its digest, and seal a plan.
    let Some(text) = read_private_text(path)? else { return Ok(None) };
    DigestKey::parse(&text).map(Some).with_context(|| {
        format!("{}: not a key (64 hexadecimal digits); remove the file to create a new one", path.display())
    })
}

fn create_key_file(path: &Path, key: &DigestKey) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(format!("{}\n", key.as_str()).as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_one_in_the_inventory_is_preferred() {
        let folder = tempfile::tempdir().unwrap();
        let project = Project::with_defaults(folder.path());
        let own = load_digest_key(&project).unwrap();
        assert_eq!(load_digest_key(&project).unwrap(), own);
        let path = folder.path().join(".dunlin/digest-example.key");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::create_dir_all(&project.inventory).unwrap();
        let shared = DigestKey::from_random(b"shared");
        let shared_path = project.inventory.join("digest.key");
        std::fs::write(&shared_path, shared.as_str()).unwrap();
        let set_mode = |mode| std::fs::set_permissions(&shared_path, std::fs::Permissions::from_mode(mode)).unwrap();
        set_mode(0o644);
        let refused = load_digest_key(&project).unwrap_err().to_string();
        assert!(refused.contains("lets other users read the key; run chmod 600"), "{refused}");
        set_mode(0o600);
        assert_eq!(load_digest_key(&project).unwrap(), shared);
        std::fs::write(project.inventory.join("digest.key"), "short").unwrap();
        assert!(load_digest_key(&project).unwrap_err().to_string().contains("not a key"));
    }
}
