//! What a host is to serve: a release, and the units, configuration and checks that go with it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{ReleaseFile, ReleaseManifest, ReleaseVersion, ServiceName, SharedPath};
use crate::plan::{Digest, digest_json};

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
    /// True to reload it instead, where the release is all that changes and the unit has a reload command.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reload_on_release: bool,
    /// Name of the template file of which this unit is an instance: `app@.service` of `app@1.service`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
}

impl UnitFile {
    /// Returns the name of the unit's file, which the instances of a template share.
    pub fn file_name(&self) -> &str {
        self.template.as_deref().unwrap_or(&self.name)
    }
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
    /// `GET` by HTTP/1.1 without encryption; the status decides, and a text in the body if one is expected.
    Http {
        /// `http://HOST[:PORT]/PATH`.
        url: String,
        /// The status that is wanted.
        status: u16,
        /// Text that the body must contain.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expect: Option<String>,
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
    /// Files and folders that all releases share; each release has links to them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared: Vec<SharedPath>,
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
        let files = self.manifest.files.iter().flat_map(ReleaseFile::contents).map(|(digest, _)| digest);
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
    /// The run of dunlin, for the history.
    pub run: String,
}
