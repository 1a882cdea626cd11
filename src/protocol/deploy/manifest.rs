//! The manifest of a release: its origin, files, links and folders.

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{ReleasePath, ReleaseVersion, ServiceName, is_normalized_absolute};
use crate::plan::{Digest, digest_json};

/// The manifest's format.
pub const MANIFEST_FORMAT: u32 = 1;

/// Manifest of a release; the first entry of its artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseManifest {
    /// [`MANIFEST_FORMAT`].
    pub format_version: u32,
    /// The service.
    pub service: ServiceName,
    /// The release's version.
    pub version: ReleaseVersion,
    /// Revision and build settings of its sources, if they have any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<ReleaseOrigin>,
    /// Its files, sorted by path, each path once.
    pub files: Vec<ReleaseFile>,
    /// Its symbolic links, sorted by path, each path once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<ReleaseLink>,
    /// Its empty folders, sorted by path, each path once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub folders: Vec<ReleaseFolder>,
}

/// Revision and build settings of the sources of a release. No time of the build: the same sources give the same
/// artifact.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseOrigin {
    /// The git revision, as hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Time of the revision, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision_time: Option<u64>,
    /// Set if the sources differed from the revision.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_modified: bool,
    /// The target triple that Cargo built for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// SHA-256 of the `Cargo.lock` of the build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock_digest: Option<Digest>,
}

/// A symbolic link of a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseLink {
    /// Its path inside the release.
    pub path: ReleasePath,
    /// Its target: relative and inside the release, or an absolute path in a folder of the system, such as `/usr`.
    pub target: String,
}

/// Folders of the operating system to which a link of a release may lead, as the `bin/python3` of a virtual environment
/// does.
pub const SYSTEM_FOLDERS: [&str; 6] = ["/usr/", "/bin/", "/sbin/", "/lib/", "/lib64/", "/opt/"];

/// An empty folder of a release; its mode is 0755.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseFolder {
    /// Its path inside the release.
    pub path: ReleasePath,
    /// Its owner, if it is not the agent's account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<FileOwner>,
}

/// The accounts to which a file of a release belongs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileOwner {
    /// Name of the owning user.
    pub user: String,
    /// Name of the owning group.
    pub group: String,
}

/// Returns true for a text that may be the name of an account.
pub fn is_account_name(name: &str) -> bool {
    let is_valid = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    !name.is_empty() && !name.starts_with('-') && name.chars().all(is_valid)
}

impl ReleaseLink {
    /// Returns true if the link leads out of the release, into a folder of the operating system.
    pub fn is_absolute(&self) -> bool {
        self.target.starts_with('/')
    }

    /// Checks that the link stays inside its release. `..` may only be at the beginning of the target: behind the name
    /// of another link it would go up from where that one leads.
    ///
    /// # Errors
    /// Returns the reason if it does not.
    pub fn check_target(&self) -> Result<(), String> {
        let error = |reason: &str| Err(format!("the link {} to {:?} {reason}", self.path, self.target));
        if self.target.chars().any(char::is_control) || self.target.len() > 1024 {
            return error("has no valid target");
        }
        if self.is_absolute() {
            let is_system = is_normalized_absolute(Path::new(&self.target))
                && SYSTEM_FOLDERS.iter().any(|folder| self.target.starts_with(folder));
            return if is_system {
                Ok(())
            } else {
                error("is absolute and leads to no folder of the operating system")
            };
        }
        let parts: Vec<&str> = self.target.split('/').collect();
        let up = parts.iter().take_while(|part| **part == "..").count();
        if up > self.path.as_str().matches('/').count() {
            return error("leads out of the release");
        }
        if up == parts.len() || parts[up..].iter().any(|part| matches!(*part, "" | "." | "..")) {
            return error("has empty parts, or `.` or `..` behind a name");
        }
        Ok(())
    }
}

/// Describes one file of a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseFile {
    /// Its path inside the release.
    pub path: ReleasePath,
    /// Permission bits, 0 to 0o777.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of its bytes.
    pub sha256: Digest,
    /// The chunks of a large file, in order; empty for a file that is one content.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chunks: Vec<FileChunk>,
    /// Its owner, if it is not the agent's account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<FileOwner>,
}

/// A part of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileChunk {
    /// SHA-256 of its bytes.
    pub sha256: Digest,
    /// Bytes.
    pub size: u64,
}

impl ReleaseFile {
    /// Returns digest and size in bytes of the contents that are sent for the file, in order: its chunks, else the
    /// file.
    pub fn contents(&self) -> impl Iterator<Item = (&Digest, u64)> {
        let whole = self.chunks.is_empty().then_some((&self.sha256, self.size));
        self.chunks.iter().map(|chunk| (&chunk.sha256, chunk.size)).chain(whole)
    }
}

impl ReleaseManifest {
    /// Returns the digest of the manifest: two releases with the same digest are identical.
    pub fn digest(&self) -> Digest {
        digest_json(self)
    }

    /// Returns the text of `manifest.json`, which is signed.
    ///
    /// # Errors
    /// Returns an error if the manifest cannot be written as JSON.
    pub fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        let mut json = serde_json::to_vec_pretty(self)?;
        json.push(b'\n');
        Ok(json)
    }

    /// Returns the owners of files and folders, each once.
    pub fn owners(&self) -> BTreeSet<&FileOwner> {
        let files = self.files.iter().filter_map(|file| file.owner.as_ref());
        files.chain(self.folders.iter().filter_map(|folder| folder.owner.as_ref())).collect()
    }

    /// Returns the bytes of all files.
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_inside_their_release() {
        let check = |path: &str, target: &str| {
            ReleaseLink { path: ReleasePath::new(path).unwrap(), target: target.to_owned() }.check_target()
        };
        for (path, target) in [
            ("bin/python", "python3"),
            ("bin/python3", "/usr/bin/python3"),
            ("lib64", "lib"),
            ("a/b/c", "../../x"),
            ("lib.so", "lib.so.1"),
        ] {
            assert_eq!(check(path, target), Ok(()));
        }
        let bad = [
            ("a", "/etc/passwd"),
            ("a", "/usr/../etc/passwd"),
            ("a", "/usr/"),
            ("a", "/usrlocal"),
            ("a", "../x"),
            ("a/b", "../../x"),
            ("a/b", "c/../../../x"),
            ("a/b", ".."),
            ("a", ""),
        ];
        for (path, target) in bad {
            assert!(check(path, target).is_err(), "{path} -> {target}");
        }
    }
}
