//! Files and folders that all releases of a service share: in `shared`, with a link in each release.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{ReleaseManifest, ReleasePath};

/// Name of the folder beside `releases` that has the shared files and folders.
pub const SHARED_DIR: &str = "shared";

/// A file or folder that all releases share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedPath {
    /// Its path in the release and in the shared folder.
    pub path: ReleasePath,
    /// True to create it as a folder where it is missing; otherwise as an empty file.
    pub is_folder: bool,
}

/// A shared path as it is on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedShared {
    /// True if the shared folder has it.
    pub exists: bool,
    /// False if the release is on the host without the link to it.
    pub is_linked: bool,
}

impl SharedPath {
    /// Returns the target of the link in the release, relative to the link.
    pub fn link_target(&self) -> PathBuf {
        let folders_above = self.path.as_str().split('/').count() + 1;
        let above: PathBuf = std::iter::repeat_n("..", folders_above).collect();
        above.join(SHARED_DIR).join(self.path.as_str())
    }

    /// Returns the first content of a release that is at this path, below it, or in place of a folder above it.
    pub fn find_conflict<'m>(&self, manifest: &'m ReleaseManifest) -> Option<&'m ReleasePath> {
        let shared = Path::new(self.path.as_str());
        let is_at_or_below = |path: &&ReleasePath| Path::new(path.as_str()).starts_with(shared);
        let files = manifest.files.iter().map(|file| &file.path).chain(manifest.links.iter().map(|link| &link.path));
        let mut above = files.clone().filter(|path| shared.starts_with(path.as_str()));
        let folders = manifest.folders.iter().map(|folder| &folder.path);
        files.chain(folders).find(is_at_or_below).or_else(|| above.next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_from_the_release_to_the_shared_folder() {
        let target = |path: &str| {
            let path = ReleasePath::new(path).unwrap();
            SharedPath { path, is_folder: true }.link_target().display().to_string()
        };
        assert_eq!(target("uploads"), "../../shared/uploads");
        assert_eq!(target("config/local.toml"), "../../../shared/config/local.toml");
    }
}
