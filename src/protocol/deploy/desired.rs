//! What a host is to serve: a release's files, and the units, configuration and checks that go with it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{ReleasePath, ReleaseVersion, ServiceName};
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
/// artefact.
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
    /// Its target: relative and inside the release, or an absolute path in [`SYSTEM_FOLDERS`].
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

    /// Checks that the link stays inside its release. `..` may only be at the beginning of the target: behind the name of
    /// another link it would go up from where that one leads.
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
    /// Its owner, if it is not the agent's account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<FileOwner>,
}

impl ReleaseManifest {
    /// The digest of the manifest: two releases with the same one are the same.
    pub fn digest(&self) -> Digest {
        digest_json(self)
    }

    /// Returns the text of `manifest.json`, which is signed.
    ///
    /// # Errors
    /// The manifest cannot be written as JSON.
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

    /// Bytes of all files.
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }
}

/// A unit file, rendered for one host; it goes into the system's unit folder, mode 0644.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitFile {
    /// Its name with suffix: `timeline-api.service`.
    pub name: String,
    /// SHA-256 of its text.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// True to start it at boot.
    pub start_at_boot: bool,
    /// True to restart it with a new release; otherwise it only has to be running (sockets, timers).
    pub restart_on_release: bool,
}

/// A configuration file outside of the release, rendered for one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigFile {
    /// Absolute path of the file.
    pub dest: PathBuf,
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// The owning user.
    pub owner: String,
    /// The owning group.
    pub group: String,
    /// True to show only its digest and length.
    pub sensitive: bool,
}

/// Health check of a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// The probe; without it the units only have to be active.
    pub probe: Option<HealthProbe>,
    /// Milliseconds until it counts as failed.
    pub timeout_ms: u64,
    /// Milliseconds between two probes.
    pub interval_ms: u64,
    /// Milliseconds for which the service must stay healthy, with the same processes, before the switch counts.
    pub steady_ms: u64,
}

/// Probe of the service on its own host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthProbe {
    /// `GET` by HTTP/1.1 without encryption; the status line decides.
    Http {
        /// `http://HOST[:PORT]/PATH`.
        url: String,
        /// The status that is wanted.
        status: u16,
    },
    /// A connection that is accepted.
    Tcp {
        /// `HOST:PORT`.
        address: String,
    },
    /// A command that ends with status 0.
    Command {
        /// Program and arguments; see [`ServiceConfig::user`].
        argv: Vec<String>,
    },
}

/// Commands around the switch on each host: a load balancer's drain, a notice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchHooks {
    /// Run one after another before anything of the old release is touched; a failure leaves it serving.
    pub before: Vec<Vec<String>>,
    /// Run after the active release was found healthy, also after a return to the old one. The host counts as out of
    /// rotation until they have succeeded.
    pub after: Vec<Vec<String>>,
    /// Milliseconds until a hook is ended and counts as failed.
    pub timeout_ms: u64,
}

impl SwitchHooks {
    /// Default time limit of a hook, in milliseconds.
    pub const DEFAULT_TIMEOUT_MS: u64 = 120_000;
}

impl Default for SwitchHooks {
    fn default() -> Self {
        Self { before: Vec::new(), after: Vec::new(), timeout_ms: Self::DEFAULT_TIMEOUT_MS }
    }
}

/// Everything but the files of a release: kept on the host with the release, so that a return needs no controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceConfig {
    /// Units, in the order in which they are started.
    pub units: Vec<UnitFile>,
    /// Configuration files.
    pub configs: Vec<ConfigFile>,
    /// The health check.
    pub health: HealthCheck,
    /// Hooks.
    pub hooks: SwitchHooks,
    /// User that runs commands (hooks, tasks, a health command); defaults to the agent's own user. A program
    /// with a `/` in its name that is no absolute path is one of the release; commands run in the release's folder.
    pub user: Option<String>,
    /// Set on the state that served before dunlin deployed the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopted: Option<AdoptedService>,
}

/// Describes a service that dunlin did not deploy, so that a host can return to it. Its files stay where they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptedService {
    /// Target of its `current` link, as written; without it there was no link.
    pub current_link: Option<PathBuf>,
}

impl ServiceConfig {
    /// The digest that names this setup on the host.
    pub fn digest(&self) -> Digest {
        digest_json(self)
    }

    /// The digests of all texts it puts on the host.
    pub fn blob_digests(&self) -> impl Iterator<Item = &Digest> {
        self.units.iter().map(|unit| &unit.digest).chain(self.configs.iter().map(|config| &config.digest))
    }
}

/// Desired state of a service on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredState {
    /// The release's files.
    pub manifest: ReleaseManifest,
    /// Units, configuration and checks on this host.
    pub config: ServiceConfig,
    /// The signature that the host checks before it writes anything.
    #[serde(default)]
    pub signature_check: SignatureCheck,
}

/// The public keys for a release, and its signature.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignatureCheck {
    /// Public keys of minisign; one of them must fit. Empty: nothing is checked.
    pub public_keys: Vec<String>,
    /// Signature of the manifest, as minisign writes it.
    pub signature: Option<String>,
}

impl DesiredState {
    /// The name of this state.
    pub fn to_release_target(&self) -> ReleaseTarget {
        ReleaseTarget { version: self.manifest.version.clone(), config_digest: self.config.digest() }
    }

    /// Returns the target of the `current` link in this state; `None` if there is no link.
    pub fn link_target(&self) -> Option<PathBuf> {
        match &self.config.adopted {
            Some(adopted) => adopted.current_link.clone(),
            None => Some(Path::new("releases").join(self.manifest.version.as_str())),
        }
    }

    /// The digests of all contents, sorted, each once.
    pub fn blob_digests(&self) -> Vec<Digest> {
        let files = self.manifest.files.iter().map(|file| &file.sha256);
        let mut all: Vec<Digest> = files.chain(self.config.blob_digests()).cloned().collect();
        all.sort();
        all.dedup();
        all
    }
}

/// A release together with the setup it was, is or will be switched to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseTarget {
    /// The release.
    pub version: ReleaseVersion,
    /// [`ServiceConfig::digest`].
    pub config_digest: Digest,
}

/// Names the service of a request and its operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRef {
    /// The service.
    pub service: ServiceName,
    /// Its folder: absolute, in normal form, not `/`.
    pub base_dir: PathBuf,
    /// Operator, for the lock and the history: `alice@laptop`.
    pub operator: String,
}

/// Returns true for an absolute path in normal form, below `/`.
pub fn is_normalized_absolute(path: &Path) -> bool {
    let Some(rest) = path.to_str().and_then(|text| text.strip_prefix('/')) else { return false };
    !rest.chars().any(char::is_control) && rest.split('/').all(|part| !matches!(part, "" | "." | ".."))
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

    #[test]
    fn absolute_paths_are_in_normal_form() {
        for good in ["/srv/x", "/a", "/etc/systemd/..x"] {
            assert!(is_normalized_absolute(Path::new(good)), "{good}");
        }
        for bad in ["", "/", "a", "/a/", "/a/../b", "/a//b", "/./a", "/a\n"] {
            assert!(!is_normalized_absolute(Path::new(bad)), "{bad:?}");
        }
    }
}
